"""Machine-made transcripts for clips without one, remembered beside the shards by the digest of their sound."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from mer.cache import Fate, atomic_write
from mer.stages.utterance import Utterance

from ..terminal.console import progress_bar
from .decoding import TaskSettings, decode
from .jobs import Job, digest_of
from .local_state import side_folder

CLIPS_AT_ONCE = 8

Entry: TypeAlias = dict[str, Any]
"""`text`, and under `heard` segments and scores; those of earlier versions have a text alone."""


class Transcripts:
    """What a speech recogniser wrote down of a corpus, in one JSON file; None where the sound could not be read.

    With `again` it is forgotten which clips could not be read.
    """

    def __init__(self, catalogue: Path, model: str, again: bool = False, language: str | None = None) -> None:
        self.model = model
        self.language = language
        name = f"{model}-{language}" if language else model
        self._path = side_folder(catalogue) / f"transcripts-{re.sub('[^A-Za-z0-9._-]+', '-', name)}.json"
        known = _remembered(self._path)
        self._texts = {source: entry for source, entry in known.items() if entry is not None or not again}

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
                self._texts.update(transcribe_jobs(chunk, settings, self.model, self.language))
                with atomic_write(self._path) as temporary:
                    temporary.write_text(json.dumps(self._texts, ensure_ascii=False, sort_keys=True), "utf-8")
                bar.advance(len(chunk))

    def give(self, utterances: Sequence[Utterance], jobs: Sequence[Job]) -> tuple[list[Utterance], list[Job]]:
        """Give its transcript to every utterance that has none of its own, marked as machine-made.

        The text is empty where nobody was heard.
        """
        entries = [self._texts.get(job.media_source.hex()) if job.text is None else None for job in jobs]
        made = [
            utterance if entry is None else replace(utterance, text=entry["text"], machine_text=True)
            for utterance, entry in zip(utterances, entries, strict=True)
        ]
        return made, [
            replace(
                job,
                text=utterance.text,
                text_source=digest_of(utterance.text),
                heard=None if entry is None else entry.get("heard"),
            )
            for utterance, job, entry in zip(made, jobs, entries, strict=True)
        ]


def _remembered(path: Path) -> dict[str, Entry | None]:
    """Content of the file; a damaged one costs listening again, nothing else."""
    try:
        content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError):
        content = {}
    known = content if isinstance(content, dict) else {}
    plain = {source: {"text": entry} if isinstance(entry, str) else entry for source, entry in known.items()}
    return {source: entry for source, entry in plain.items() if entry is None or _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict) and isinstance(entry.get("text"), str) and isinstance(entry.get("heard", {}), Mapping)
    )


def transcribe_jobs(
    jobs: Sequence[Job], settings: TaskSettings, model: str, language: str | None = None
) -> dict[str, Entry | None]:
    """Listen to some clips; what was heard by the digest of their media, None where the sound could not be read."""
    from mer.stages.speech.transcribe import listen

    decoded = {job.media_source.hex(): decode(job, {"audio"}, settings) for job in jobs}
    usable = {
        source: one.waveform
        for source, one in decoded.items()
        if one.sound_fate[0] == Fate.OK and one.waveform is not None
    }
    written = listen(list(usable.values()), model, settings.device, language) if usable else []
    entries: dict[str, Entry | None] = dict.fromkeys(decoded)
    for source, heard in zip(usable, written, strict=True):
        segments = {"segments": [list(segment) for segment in heard.segments]} if heard.segments else {}
        entries[source] = {"text": heard.text, "heard": heard.note | segments}
    return entries
