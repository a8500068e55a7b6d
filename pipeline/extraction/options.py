"""What the user asked of `mer extract`: what decides the numbers, and, apart from it, how the work is carried out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mer.cache.source import refuse_url
from mer.stages.media.limits import MediaLimits


@dataclass(frozen=True)
class ExtractOptions:
    """Which corpus, which utterances, which features. Everything here may enter a spec or the provenance."""

    corpus: str
    root: Path | None = None
    out: Path | None = None
    """Catalogue to write; None means `cache/<corpus>.h5`."""
    encoders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Per modality the names, hub ids or folders of its encoders; an absent modality is not extracted."""
    preset: str = ""
    layers: Mapping[str, str] = field(default_factory=dict)
    """Per modality `last`, `-4:`, a list such as `6,9,12`, or `all`."""
    precision: str = "auto"
    """`float32`, `bfloat16`, or `auto`: bfloat16 on a GPU, float32 elsewhere."""
    dtype: str = "float16"
    face_fps: float = 5.0
    face_policy: str = "speaking"
    face_detector: str = "auto"
    """`auto`, `yunet`, `cascade`, or the path of a YuNet ONNX file."""
    channel: str | None = None
    """`center`, `mean` or `first`; None takes the corpus' own."""
    max_audio_seconds: float | None = None
    """Sound longer than this is encoded in overlapping chunks; None takes the encoder's default."""
    encoder_options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Per modality further options of its encoders, such as `{"audio": {"window": "30s"}}`."""
    split: str | None = None
    limit: int | None = None
    retry_failed: bool = False
    transcribe: str | None = None
    """Whisper checkpoint that writes the transcript of clips without one."""
    language: str | None = None
    """What is spoken, as a code such as `de`; None lets the recogniser find out."""
    trust_remote_code: bool = False
    corpus_options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, place in (("--root", self.root), ("--out", self.out)):
            if place is not None:
                refuse_url(place, name)

    @property
    def catalogue(self) -> Path:
        """Path of the catalogue this run writes."""
        return self.out if self.out is not None else Path("cache") / f"{self.corpus.rpartition(':')[2]}.h5"

    def recorded(self) -> dict[str, Any]:
        """What the provenance keeps of the request: nothing of this machine, so that equal runs leave equal bytes."""
        chosen = {
            key: value
            for key, value in dataclasses.asdict(self).items()
            if key not in {"root", "out", "retry_failed"} and value not in (None, "", {}, False)
        }
        chosen["encoders"] = {modality: [_name_of(name) for name in names] for modality, names in self.encoders.items()}
        chosen["face_detector"] = _name_of(self.face_detector)
        if self.transcribe:
            chosen["transcribe"] = _name_of(self.transcribe)
        return chosen


@dataclass(frozen=True)
class Execution:
    """How the work is carried out. Nothing here can change a number, so nothing here is ever hashed."""

    device: str = "auto"
    workers: int = 0
    """Processes on this machine; 0 works in this process."""
    scheduler: str | None = None
    """Address of a running Dask scheduler."""
    decode_threads: int = 0
    """Clips decoded at once in one process; 0 chooses by the number of cores."""
    budget: int | None = None
    """Upper bound on one batch in the encoder's own units; None lets it be found."""
    keep_faces: bool = False
    max_failures: int | None = None
    """Failed utterances tolerated before the exit code is 1; None tolerates any number short of all."""
    isolated: bool = True
    """Whether clips are decoded in helper processes."""
    clip_timeout_seconds: float | None = None
    """Longest time for decoding one clip; None lets it grow with the clip's length."""
    limits: MediaLimits = field(default_factory=MediaLimits)
    """What a clip may ask for."""
    check: bool = False
    """Read what is there to the last byte, also what this machine wrote or checked before."""


def _name_of(place: str) -> str:
    """Name of a folder or file of this machine; a known name or hub id as it is."""
    path = Path(place).expanduser()
    return path.resolve().name if place and path.exists() else place
