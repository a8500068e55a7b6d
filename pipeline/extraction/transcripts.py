"""Machine-made transcripts for clips without one, remembered beside the shards by the digest of their sound."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mer.cache import Fate, atomic_write
from mer.stages.utterance import Utterance

from ..terminal.console import progress_bar
from .decoding import TaskSettings, decode
from .jobs import Job, digest_of
from .local_state import side_folder

CLIPS_AT_ONCE = 8


class Transcripts:
    """What a speech recogniser wrote down of a corpus, in one JSON file; None where there was nothing to hear.

    With `again` it is forgotten which clips could not be heard.
    """

    def __init__(self, catalogue: Path, model: str, again: bool = False) -> None:
        self.model = model
        self._path = side_folder(catalogue) / f"transcripts-{re.sub('[^A-Za-z0-9._-]+', '-', model)}.json"
        known = _remembered(self._path)
        self._texts = {source: text for source, text in known.items() if text is not None or not again}

    def waiting(self, jobs: Sequence[Job]) -> list[Job]:
        """Utterances with a clip and without a transcript that were not listened to yet."""
        return [
            job
            for job in jobs
            if job.text is None and (job.picture or job.sound) and job.media_source.hex() not in self._texts
        ]

    def listen(self, jobs: Sequence[Job], settings: TaskSettings) -> None:
        """Write down what is said in the clips that wait."""
        waiting = self.waiting(jobs)
        with progress_bar("transcribing", len(waiting)) as bar:
            for start in range(0, len(waiting), CLIPS_AT_ONCE):
                chunk = waiting[start : start + CLIPS_AT_ONCE]
                self._texts.update(_transcribe(chunk, settings, self.model))
                with atomic_write(self._path) as temporary:
                    temporary.write_text(json.dumps(self._texts, ensure_ascii=False, sort_keys=True), "utf-8")
                bar.advance(len(chunk))

    def give(self, utterances: Sequence[Utterance], jobs: Sequence[Job]) -> tuple[list[Utterance], list[Job]]:
        """Give its transcript to every utterance that has none of its own, marked as machine-made."""
        heard = [self._texts.get(job.media_source.hex()) if job.text is None else None for job in jobs]
        made = [
            utterance if text is None else replace(utterance, text=text, machine_text=True)
            for utterance, text in zip(utterances, heard, strict=True)
        ]
        return made, [
            replace(job, text=utterance.text, text_source=digest_of(utterance.text))
            for utterance, job in zip(made, jobs, strict=True)
        ]


def _remembered(path: Path) -> dict[str, str | None]:
    """Content of the file; a damaged one costs listening again, nothing else."""
    try:
        content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError:
        content = {}
    known = content if isinstance(content, dict) else {}
    return {source: text for source, text in known.items() if text is None or isinstance(text, str)}


def _transcribe(jobs: Sequence[Job], settings: TaskSettings, model: str) -> dict[str, str | None]:
    from mer.stages.speech.transcribe import transcribe

    heard = {job.media_source.hex(): decode(job, {"audio"}, settings) for job in jobs}
    usable = {
        source: decoded.waveform
        for source, decoded in heard.items()
        if decoded.sound_fate[0] == Fate.OK and decoded.waveform is not None
    }
    texts = transcribe(list(usable.values()), model, settings.device) if usable else []
    return dict.fromkeys(heard) | dict(zip(usable, texts, strict=True))
