"""One utterance to encode: where its inputs lie and what identifies them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import xxhash

from mer.cache import MerError, canonical_json
from mer.stages.utterance import Utterance


def digest_of(value: object) -> bytes:
    """Digest of a JSON-able value, 16 bytes."""
    return xxhash.xxh3_128_digest(canonical_json(value).encode())


def stamp_of(found: os.stat_result) -> tuple[int, ...]:
    """Facts of a file of which one changes when it is written or replaced, also when its time is set back."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


@dataclass(frozen=True)
class SeenFile:
    """A file as it was when its digest was read."""

    path: str
    stamp: tuple[int, ...]
    """What changes with the content, as `stamp_of` gives it."""
    digest: bytes


@dataclass(frozen=True)
class Job:
    """One utterance to encode: where its inputs lie and what identifies them."""

    key: str
    text: str | None
    picture: str | None
    """Absolute path of the clip, or None when the corpus has none."""
    sound: str | None
    """Absolute path of a separate sound file; None means the sound is in the clip."""
    start_seconds: float | None
    end_seconds: float | None
    face_region: tuple[float, float, float, float] | None
    known_bad: str
    text_source: bytes
    media_source: bytes
    seen: tuple[SeenFile, ...] = ()
    """The files as they were when their digests were read."""
    heard: Mapping[str, Any] | None = None
    """Times and scores of a transcript that a recogniser wrote; None where there is none of that kind."""

    def source(self, modality: str) -> bytes:
        """Digest of what this utterance gives to a modality, 16 bytes."""
        return self.text_source if modality == "text" else self.media_source


def job_of(
    utterance: Utterance,
    root: Path,
    digests: Mapping[Path, bytes | None],
    seen: Mapping[Path, SeenFile] = MappingProxyType({}),
) -> Job:
    """Turn an utterance into a job, with the digests of what it gives to the encoders."""
    picture = media_path(root, utterance.media)
    sound = media_path(root, utterance.sound_media)
    place = [(digests.get(path) or b"").hex() if path is not None else None for path in (picture, sound)]
    media = [*place, utterance.start_seconds, utterance.end_seconds, utterance.face_region, utterance.known_bad]
    return Job(
        key=utterance.key,
        text=utterance.text,
        picture=str(picture) if picture is not None else None,
        sound=str(sound) if sound is not None else None,
        start_seconds=utterance.start_seconds,
        end_seconds=utterance.end_seconds,
        face_region=utterance.face_region,
        known_bad=utterance.known_bad,
        text_source=digest_of(utterance.text),
        media_source=digest_of(media),
        seen=tuple(seen[path] for path in (picture, sound) if path is not None and path in seen),
    )


def media_path(root: Path, relative: str | None) -> Path | None:
    """Path of a corpus file.

    Raises
    ------
    MerError
        If the path would leave the corpus folder.
    """
    if relative is None:
        return None
    path = root / relative
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise MerError(f"media path {relative!r} leaves the corpus folder {root}; give a path inside it")
    return path
