"""From an utterance of the corpus to what its encoders are given: the sound, and the crops of one face.

Every trouble of one utterance becomes its fate; nothing here raises for a bad clip.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from mer.cache import Fate, MerError
from mer.stages.faces.crop_cache import crops_path, load_crops, save_crops
from mer.stages.interfaces import SAMPLE_RATE_HZ, FaceCrops, Waveform
from mer.stages.media.limits import MediaLimits
from mer.stages.media.reader import media_digest, read_media
from mer.stages.media.request import Media, MediaRequest

from .jobs import Job, SeenFile, stamp_of

RESAMPLER = "soxr_hq"


def sound_inputs(channel: str) -> dict[str, Any]:
    """How a waveform is made of a clip: the inputs of an audio spec."""
    return {"sample_rate_hz": SAMPLE_RATE_HZ, "channel": channel, "resampler": RESAMPLER}


FateOf = tuple[Fate, str]
ReadMedia = Callable[..., Media]
OUR_FAULTS = (TypeError, AttributeError, NameError, LookupError, AssertionError, ImportError)
"""What a clip should never cause: where one of these comes from is told, once."""
OK: FateOf = (Fate.OK, "")


@dataclass(frozen=True)
class TaskSettings:
    """How every task of a run decodes and encodes."""

    channel: str
    face_fps: float
    finder: Any = None
    """`mer.stages.faces.finder.FaceFinder`, or None when no face set is made."""
    face_inputs: Mapping[str, Any] = field(default_factory=dict)
    """How crops are made: the face inputs of the specs."""
    keep_faces: str | None = None
    """Folder in which crops are kept for the next face encoder; None keeps none."""
    device: str = "cpu"
    budget: int | None = None
    decode_threads: int = 2
    torch_threads: int = 0
    """Threads torch may use in one process; 0 leaves torch's own choice."""
    limits: MediaLimits = field(default_factory=MediaLimits)
    """What a clip may ask for."""
    isolated: bool = True
    """Whether clips are decoded in helper processes."""
    clip_timeout_seconds: float | None = None
    """Longest time that a helper has for one clip; None lets it grow with the clip's length."""


@dataclass
class Decoded:
    """Inputs of one utterance, or why there are none."""

    waveform: Waveform | None = None
    faces: FaceCrops | None = None
    sound_fate: FateOf = OK
    face_fate: FateOf = OK
    duration_seconds: float = 0.0
    own_seconds: dict[str, float] = field(default_factory=dict)
    """Modality to the length of its own stream, which does not depend on what else is read."""
    media_notes: tuple[str, ...] = ()
    """What was odd about the files, such as packets that were left out."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Thread seconds spent on `decode` and `faces`."""
    traceback: str = ""
    """Where an exception came from that no clip should cause: a fault of ours, to be told once."""


def decode(
    job: Job, media: set[str], settings: TaskSettings, on_length: Callable[[float], None] | None = None
) -> Decoded:
    """Read what `media` (of `audio`, `face`) asks for of one utterance; any trouble with it is its fate.

    `on_length` is told the seconds of each file that is going to be read.

    Raises
    ------
    MerError
        If it meets trouble that is not the utterance's own: the face finder cannot be loaded, the disk is full.
    """
    if job.picture is None and job.sound is None:
        return _without_media(Fate.MISSING, "the corpus has no clip of it")
    if job.known_bad:
        return _without_media(Fate.FAILED, f"known to be bad: {job.known_bad}")
    started = time.perf_counter()
    decoded = Decoded()
    kept = _kept_crops(job, settings) if "face" in media else None
    if kept is not None:
        _take_crops(kept, "", decoded)
        media = media - {"face"}
    if not media:
        return decoded
    watch = _Watch(loaded_finder(settings.finder).watch(job.face_region)) if "face" in media else None
    read = partial(read_media, limits=settings.limits, on_length=on_length)
    try:
        _read_files(job, settings, decoded, watch, read)
    except Exception as error:  # the boundary: nothing that is done with a clip ends the run
        return _undone(error)
    finally:
        if watch is not None:
            watch.watcher.close()
    if any(map(_changed, job.seen)):  # its features would stand under the digest of what it was before
        return _without_media(Fate.FAILED, "its file changed while the run went on; run the same command again")
    if watch is not None and watch.kept is not None and settings.keep_faces:
        save_crops(_crops_path(job, settings), watch.kept)
    watching = watch.seconds if watch is not None else 0.0
    decoded.seconds = {"decode": time.perf_counter() - started - watching, "faces": watching}
    return decoded


def _changed(seen: SeenFile) -> bool:
    """Whether a file has another content than when its digest was read; one that is gone has a fate of its own."""
    path = Path(seen.path)
    try:
        return stamp_of(path.stat()) != seen.stamp and media_digest(path) != seen.digest
    except (OSError, MerError):
        return False


def _undone(error: Exception) -> Decoded:
    """What is known of an utterance whose handling ended in an exception."""
    told = "there is not enough memory for it" if isinstance(error, MemoryError) else " ".join(str(error).split())
    undone = _without_media(Fate.FAILED, f"it cannot be used: {told or type(error).__name__}")
    if isinstance(error, OUR_FAULTS):
        undone.traceback = "".join(traceback.format_exception(error))
    return undone


def _read_files(job: Job, settings: TaskSettings, decoded: Decoded, watch: _Watch | None, read: ReadMedia) -> None:
    if job.sound is not None:
        _read_apart(job, settings, decoded, watch, read)
        return
    found, fate = _try(job.picture, lambda path: read(path, _request(job, settings, watch), *_sinks(watch)))
    _take_sound(found, fate, decoded)
    _take_picture(found, fate, decoded, watch)


def _read_apart(job: Job, settings: TaskSettings, decoded: Decoded, watch: _Watch | None, read: ReadMedia) -> None:
    """Read sound and picture from files of their own; trouble with one leaves the other alone."""
    heard, fate = _try(job.sound, lambda path: read(path, MediaRequest(channel=settings.channel)))
    _take_sound(heard, fate, decoded)
    if watch is None:
        return
    if job.picture is None:
        decoded.face_fate = (Fate.MISSING, "the corpus has no picture of it")
        return
    request = replace(_request(job, settings, watch), sound=False)
    seen, fate = _try(job.picture, lambda path: read(path, request, *_sinks(watch)))
    decoded.media_notes += () if seen is None else seen.notes
    _take_picture(seen, fate, decoded, watch)


def _request(job: Job, settings: TaskSettings, watch: _Watch | None) -> MediaRequest:
    request = MediaRequest(channel=settings.channel, start_seconds=job.start_seconds, end_seconds=job.end_seconds)
    return (
        request if watch is None else replace(request, frames_fps=settings.face_fps, grey_fps=settings.finder.grey_fps)
    )


def _sinks(watch: _Watch | None) -> tuple[Callable[[float, Any], None] | None, Callable[[float, Any], None] | None]:
    return (None, None) if watch is None else (watch.frame, watch.grey)


def _try(path: str | None, read: Callable[[Path], Media]) -> tuple[Media | None, FateOf]:
    """Read a file, or say why it cannot be read."""
    if path is None or not os.path.exists(path) or os.path.isdir(path):
        return None, (Fate.MISSING, f"file not found: {Path(str(path)).name}")
    try:
        return read(Path(path)), OK
    except MerError as error:
        return None, (Fate.FAILED, _impersonal(str(error), path))


def _impersonal(reason: str, path: str) -> str:
    """Take the machine's folders, and the clip's own name, out of a reason: it is stored beside the clip's id."""
    return reason.replace(f"clip {path}", "the clip").replace(path, "the clip")


def _take_sound(read: Media | None, fate: FateOf, decoded: Decoded) -> None:
    if read is None:
        decoded.sound_fate = fate
        return
    decoded.waveform = read.waveform
    decoded.own_seconds["audio"] = 0.0 if read.waveform is None else len(read.waveform) / SAMPLE_RATE_HZ
    decoded.duration_seconds = read.duration_seconds
    decoded.media_notes += read.notes
    if read.waveform is None:
        decoded.sound_fate = _fate_of_problem(read.sound_problem, "the clip has no sound")


def _take_picture(read: Media | None, fate: FateOf, decoded: Decoded, watch: _Watch | None) -> None:
    if watch is None:
        return
    if read is None:
        decoded.face_fate = fate
        return
    decoded.duration_seconds = decoded.duration_seconds or read.duration_seconds
    crops = watch.finish(decoded.waveform)
    crops = replace(crops, note={**crops.note, "duration_seconds": round(read.picture_seconds, 3)})
    if not read.picture_problem:  # a clip whose picture cannot be read is looked at again next time
        watch.kept = crops
    _take_crops(crops, read.picture_problem, decoded)


def _take_crops(crops: FaceCrops, problem: str, decoded: Decoded) -> None:
    decoded.own_seconds["face"] = crops.note["duration_seconds"]
    if crops.valid.any():
        decoded.faces = crops
    elif problem:
        decoded.face_fate = _fate_of_problem(problem, "the clip has no picture")
    else:
        decoded.face_fate = (Fate.MISSING, f"no face found in {len(crops.valid)} frames")


def _crops_path(job: Job, settings: TaskSettings) -> Path:
    return crops_path(Path(str(settings.keep_faces)), job.media_source, settings.face_inputs)


def _kept_crops(job: Job, settings: TaskSettings) -> FaceCrops | None:
    return load_crops(_crops_path(job, settings)) if settings.keep_faces else None


def _fate_of_problem(problem: str, otherwise: str) -> FateOf:
    """A stream that is not there is missing; one that is there and cannot be read has failed."""
    if not problem or problem.startswith("no "):
        return Fate.MISSING, problem or otherwise
    return Fate.FAILED, problem


def _without_media(fate: Fate, reason: str) -> Decoded:
    return Decoded(sound_fate=(fate, reason), face_fate=(fate, reason))


class _Watch:
    """A face watcher that counts the seconds it takes."""

    def __init__(self, watcher: Any) -> None:
        self.watcher = watcher
        self.seconds = 0.0
        self.kept: FaceCrops | None = None
        """Crops worth keeping for the next face encoder."""

    def frame(self, time_seconds: float, picture: Any) -> None:
        """Take a sampled colour frame."""
        started = time.perf_counter()
        self.watcher.add(time_seconds, picture)
        self.seconds += time.perf_counter() - started

    def grey(self, time_seconds: float, picture: Any) -> None:
        """Take a grey frame between the sampled ones."""
        started = time.perf_counter()
        self.watcher.add_grey(time_seconds, picture)
        self.seconds += time.perf_counter() - started

    def finish(self, waveform: Waveform | None) -> FaceCrops:
        """Choose the person and cut the crops."""
        started = time.perf_counter()
        crops: FaceCrops = self.watcher.finish(waveform)
        self.seconds += time.perf_counter() - started
        return crops


_FINDERS: dict[Any, Any] = {}
_LOADING = threading.Lock()


def loaded_finder(finder: Any) -> Any:
    """Face finder of this process, loaded once."""
    with _LOADING:
        if finder not in _FINDERS:
            _FINDERS[finder] = finder.load()
        return _FINDERS[finder]
