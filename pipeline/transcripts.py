"""Machine-made transcripts for clips without one, remembered beside the shards by the digest of their sound."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mer.cache import Fate, atomic_write, shard_folder
from mer.stages.utterance import Utterance

from .console import progress_bar
from .decoding import Job, Tools, decode, digest_of

CLIPS_AT_ONCE = 8


def with_transcripts(
    utterances: Sequence[Utterance], jobs: Sequence[Job], tools: Tools, model: str, catalogue: Path
) -> tuple[list[Utterance], list[Job]]:
    """Give a transcript to every utterance that has sound and no text, and mark it as machine-made."""
    memory = _Memory(shard_folder(catalogue, "x").parent / f"transcripts-{re.sub('[^A-Za-z0-9._-]+', '-', model)}.json")
    silent = [job for job in jobs if job.text is None and job.media_source.hex() not in memory.texts]
    with progress_bar("transcribing", len(silent)) as bar:
        for start in range(0, len(silent), CLIPS_AT_ONCE):
            chunk = silent[start : start + CLIPS_AT_ONCE]
            memory.texts.update(_transcribe(chunk, tools, model))
            memory.save()
            bar.advance(len(chunk))
    made = [
        replace(utterance, text=memory.texts[job.media_source.hex()], machine_text=True)
        if job.text is None and job.media_source.hex() in memory.texts
        else utterance
        for utterance, job in zip(utterances, jobs, strict=True)
    ]
    return made, [
        replace(job, text=utterance.text, text_source=digest_of(utterance.text))
        for utterance, job in zip(made, jobs, strict=True)
    ]


def _transcribe(jobs: Sequence[Job], tools: Tools, model: str) -> dict[str, str]:
    from mer.stages.transcribe import transcribe

    heard = [(job, decode(job, {"audio"}, tools)) for job in jobs]
    usable = [(job, decoded.waveform) for job, decoded in heard if decoded.sound_fate[0] == Fate.OK]
    waveforms = [waveform for _, waveform in usable if waveform is not None]
    if not waveforms:
        return {}
    texts = transcribe(waveforms, model, tools.device)
    return {job.media_source.hex(): text for (job, _), text in zip(usable, texts, strict=True)}


class _Memory:
    """Transcripts by media digest, in one JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: dict[str, str] = json.loads(path.read_text("utf-8")) if path.is_file() else {}

    def save(self) -> None:
        """Write the transcripts down."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self.texts, ensure_ascii=False, sort_keys=True), "utf-8")
