"""One unit of work: a run of utterances goes in, one shard per feature set comes out.

    jobs ──decode threads, bounded──▶ waveform, face crops ──windows sorted by length──▶ encoder ─▶ rows ─▶ shards

A task holds no open handle and pickles small, so any Dask scheduler can carry it to any process.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import xxhash

from mer.cache import Fate, FeatureSequence, FeatureSpec, MerError, ShardInfo, ShardRow, canonical_json, write_shard
from mer.stages.protocols import Encoder, EncoderInput, FaceCrops, LoadedEncoder, Waveform

STOP = threading.Event()
"""Set when the user interrupts; tasks leave at the next clip."""

WINDOW_BATCHES = 4
"""Batches' worth of clips that are sorted by length together: more wastes memory, fewer wastes padding."""


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

    def source(self, modality: str) -> bytes:
        """Digest of what this utterance gives to a modality, 16 bytes."""
        return self.text_source if modality == "text" else self.media_source


def digest_of(value: object) -> bytes:
    """Digest of a JSON-able value, 16 bytes."""
    return xxhash.xxh3_128_digest(canonical_json(value).encode())


@dataclass(frozen=True)
class EncodingSet:
    """One feature set to make."""

    name: str
    encoder: Encoder
    spec: FeatureSpec
    folder: str

    @property
    def modality(self) -> str:
        return self.spec.modality


@dataclass(frozen=True)
class Task:
    """A run of utterances and the feature sets to make of them."""

    jobs: tuple[Job, ...]
    sets: tuple[EncodingSet, ...]


@dataclass(frozen=True)
class Tools:
    """How every task of a run decodes and encodes."""

    channel: str
    face_fps: float
    finder: Any = None
    """`mer.stages.faces.FaceFinder`, or None when no face set is made."""
    keep_faces: str | None = None
    device: str = "cpu"
    budget: int | None = None
    decode_threads: int = 2
    torch_threads: int = 0
    """Threads torch may use in one process; 0 leaves torch's own choice."""


@dataclass
class TaskReport:
    """What a task did."""

    clips: int = 0
    failed: int = 0
    """Utterances with at least one failed modality."""
    media_seconds: float = 0.0
    shards: list[tuple[str, ShardInfo]] = field(default_factory=list)
    """Feature-set name and shard."""
    reasons: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Thread seconds per stage: decode, faces, encode, write, and idle (waiting for decoded clips)."""

    def spend(self, stage: str, seconds: float) -> None:
        """Add time to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


@dataclass
class Decoded:
    """Inputs of one utterance, or why there are none."""

    waveform: Waveform | None = None
    faces: FaceCrops | None = None
    sound_fate: tuple[Fate, str] = (Fate.OK, "")
    face_fate: tuple[Fate, str] = (Fate.OK, "")
    duration_seconds: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)


def run_task(task: Task, tools: Tools, on_clip: Callable[[bool, float], None] | None = None) -> TaskReport:
    """Make every shard of a task. `on_clip(failed, media_seconds)` is called as utterances are finished with."""
    report = TaskReport(clips=len(task.jobs))
    rows: dict[str, list[ShardRow | None]] = {made.name: [None] * len(task.jobs) for made in task.sets}
    windows = {made.name: _Window(made, tools, rows[made.name], task.jobs, report) for made in task.sets}
    wanted = {made.modality for made in task.sets}
    for position, decoded in _decode_ahead(task.jobs, wanted, tools, report):
        job = task.jobs[position]
        for made in task.sets:
            windows[made.name].take(position, *_input_of(made.modality, job, decoded), decoded.duration_seconds)
        report.media_seconds += decoded.duration_seconds
        if on_clip is not None:
            fates = [row.fate for made in task.sets if (row := rows[made.name][position]) is not None]
            on_clip(Fate.FAILED in fates, decoded.duration_seconds)
    for window in windows.values():
        window.flush()
    _write(task, rows, report)
    return report


def _write(task: Task, rows: dict[str, list[ShardRow | None]], report: TaskReport) -> None:
    started = time.perf_counter()
    failed = set()
    for made in task.sets:
        finished = [row for row in rows[made.name] if row is not None]
        report.shards.append((made.name, write_shard(Path(made.folder), made.spec, finished)))
        for row in finished:
            if row.fate == Fate.FAILED:
                failed.add(row.key)
                report.reasons.append(row.reason)
    report.failed = len(failed)
    report.spend("write", time.perf_counter() - started)


def _input_of(modality: str, job: Job, decoded: Decoded) -> tuple[EncoderInput | None, Fate, str]:
    """Return what one encoder gets of an utterance, or its fate when it gets nothing."""
    if modality == "text":
        if job.text is None:
            return None, Fate.MISSING, "the corpus has no transcript"
        if not job.text.strip():
            return None, Fate.MISSING, "the transcript is empty"
        return job.text, Fate.OK, ""
    if modality == "audio":
        return decoded.waveform, *decoded.sound_fate
    return decoded.faces, *decoded.face_fate


class _Window:
    """Inputs of one feature set that wait to be encoded together, sorted by length."""

    def __init__(
        self, made: EncodingSet, tools: Tools, rows: list[ShardRow | None], jobs: Sequence[Job], report: TaskReport
    ) -> None:
        self.made = made
        self.tools = tools
        self.rows = rows
        self.jobs = jobs
        self.report = report
        self.positions: list[int] = []
        self.items: list[EncoderInput] = []
        self.notes: list[dict[str, Any]] = []
        self.cost = 0

    def take(self, position: int, item: EncoderInput | None, fate: Fate, reason: str, duration_seconds: float) -> None:
        """Add one utterance: its input, or the fate it has without one."""
        note = {"duration_seconds": round(duration_seconds, 3)} if duration_seconds else {}
        if item is None:
            self._finish(position, fate, reason, None, note)
            return
        loaded, budget = loaded_encoder(self.made, self.tools)
        self.positions.append(position)
        self.items.append(item)
        self.notes.append(note)
        self.cost += loaded.cost(item)
        if self.cost >= WINDOW_BATCHES * budget:
            self.flush()

    def flush(self) -> None:
        """Encode what waits."""
        if not self.items:
            return
        from mer.stages.encoders.batching import encode_batched

        started = time.perf_counter()
        loaded, budget = loaded_encoder(self.made, self.tools)
        with _device_lock(self.tools.device):
            results = encode_batched(loaded, self.items, budget)
        for position, result, note in zip(self.positions, results, self.notes, strict=True):
            if isinstance(result, FeatureSequence):
                self._finish(position, Fate.OK, "", result, note)
            else:
                self._finish(position, Fate.FAILED, f"encoding failed: {result}", None, note)
        self.positions, self.items, self.notes, self.cost = [], [], [], 0
        self.report.spend(f"encode {self.made.modality}", time.perf_counter() - started)

    def _finish(
        self, position: int, fate: Fate, reason: str, sequence: FeatureSequence | None, note: dict[str, Any]
    ) -> None:
        job = self.jobs[position]
        if sequence is not None:
            note = {**note, **sequence.note}
        self.rows[position] = ShardRow(job.key, job.source(self.made.modality), fate, reason, sequence, note)


# --- decoding ahead -----------------------------------------------------------------------------------------------


def _decode_ahead(
    jobs: Sequence[Job], wanted: set[str], tools: Tools, report: TaskReport
) -> Iterator[tuple[int, Decoded]]:
    """Yield decoded utterances in order while the next few are being decoded by threads."""
    media = wanted & {"audio", "face"}
    if not media:
        for position in range(len(jobs)):
            _leave_if_stopped()
            yield position, Decoded()
        return
    ahead: deque[tuple[int, Future[Decoded]]] = deque()
    with ThreadPoolExecutor(max_workers=tools.decode_threads, thread_name_prefix="decode") as pool:
        try:
            for position, job in enumerate(jobs):
                ahead.append((position, pool.submit(decode, job, media, tools)))
                if len(ahead) > 2 * tools.decode_threads:
                    yield _next_decoded(ahead, report)
            while ahead:
                yield _next_decoded(ahead, report)
        finally:
            for _, waiting in ahead:
                waiting.cancel()


def _next_decoded(ahead: deque[tuple[int, Future[Decoded]]], report: TaskReport) -> tuple[int, Decoded]:
    _leave_if_stopped()
    position, future = ahead.popleft()
    started = time.perf_counter()
    decoded = future.result()
    report.spend("idle", time.perf_counter() - started)
    for stage, seconds in decoded.seconds.items():
        report.spend(stage, seconds)
    return position, decoded


def decode(job: Job, media: set[str], tools: Tools) -> Decoded:
    """Read the sound and faces of one utterance; every trouble becomes a fate."""
    if job.picture is None and job.sound is None:
        return _without_media(Fate.MISSING, "the corpus has no clip of it")
    if job.known_bad:
        return _without_media(Fate.FAILED, f"known to be bad: {job.known_bad}")
    absent = [path for path in (job.picture, job.sound) if path is not None and not os.path.isfile(path)]
    if absent:
        return _without_media(Fate.MISSING, f"file not found: {Path(absent[0]).name}")
    try:
        return _decode_media(job, media, tools)
    except MerError as error:
        return _without_media(Fate.FAILED, _impersonal(str(error), job))


def _impersonal(reason: str, job: Job) -> str:
    """Take the machine's folders, and the clip's own name, out of a reason: it is stored beside the clip's id."""
    for path in filter(None, (job.picture, job.sound)):
        reason = reason.replace(f"clip {path}", "the clip").replace(path, "the clip")
    return reason


def _without_media(fate: Fate, reason: str) -> Decoded:
    return Decoded(sound_fate=(fate, reason), face_fate=(fate, reason))


def _decode_media(job: Job, media: set[str], tools: Tools) -> Decoded:
    """Read sound and picture in one pass, or in two where the corpus keeps them in files of their own."""
    started = time.perf_counter()
    if "face" not in media or job.picture is None:
        read = _read(job, tools, None)
        decoded = _heard(read, read.duration_seconds)
        decoded.face_fate = (Fate.MISSING, "the corpus has no picture of it")
        decoded.seconds["decode"] = time.perf_counter() - started
        return decoded
    watch = _Watch(loaded_finder(tools.finder).watch(job.face_region))
    seen = _read(job, tools, watch)
    apart = job.sound is not None
    decoded = _heard(_read(job, tools, None) if apart else seen, seen.duration_seconds)
    decoded.seconds["decode"] = time.perf_counter() - started - watch.seconds
    started = time.perf_counter()
    decoded.faces, decoded.face_fate = _followed(watch.watcher.finish(decoded.waveform), seen.picture_problem)
    decoded.seconds["faces"] = watch.seconds + time.perf_counter() - started
    return decoded


class _Watch:
    """Hands frames to a face watcher and counts the seconds it takes."""

    def __init__(self, watcher: Any) -> None:
        self.watcher = watcher
        self.seconds = 0.0

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


def _read(job: Job, tools: Tools, watch: _Watch | None) -> Any:
    """Read the sound file of a job, or, with `watch`, its picture (and the sound in the same file)."""
    from mer.stages.media import MediaRequest, read_media

    if watch is None and job.sound is not None:
        return read_media(Path(job.sound), MediaRequest(channel=tools.channel))
    request = MediaRequest(channel=tools.channel, start_seconds=job.start_seconds, end_seconds=job.end_seconds)
    if watch is None:
        return read_media(Path(str(job.picture)), request)
    request = replace(request, sound=job.sound is None, frames_fps=tools.face_fps, grey_fps=tools.finder.grey_fps)
    return read_media(Path(str(job.picture)), request, watch.frame, watch.grey if tools.finder.grey_fps else None)


def _heard(read: Any, duration_seconds: float) -> Decoded:
    decoded = Decoded(waveform=read.waveform, duration_seconds=duration_seconds)
    if read.waveform is None:
        decoded.sound_fate = _fate_of_problem(read.sound_problem, "the clip has no sound")
    return decoded


def _fate_of_problem(problem: str, otherwise: str) -> tuple[Fate, str]:
    """A stream that is not there is missing; one that is there and cannot be read has failed."""
    if not problem or problem.startswith("no "):
        return Fate.MISSING, problem or otherwise
    return Fate.FAILED, problem


def _followed(crops: FaceCrops, problem: str) -> tuple[FaceCrops | None, tuple[Fate, str]]:
    if crops.valid.any():
        return crops, (Fate.OK, "")
    if problem:
        return None, _fate_of_problem(problem, "the clip has no picture")
    return None, (Fate.MISSING, f"no face found in {len(crops.valid)} frames")


def _leave_if_stopped() -> None:
    if STOP.is_set():
        raise MerError("interrupted")


# --- what a process keeps between tasks ----------------------------------------------------------------------------

_LOADED: dict[tuple[str, str], tuple[LoadedEncoder, int]] = {}
_FINDERS: dict[Any, Any] = {}
_LOADING = threading.Lock()
_DEVICE_LOCKS: dict[str, threading.Lock] = {}


def loaded_encoder(made: EncodingSet, tools: Tools) -> tuple[LoadedEncoder, int]:
    """Encoder of a feature set on this process' device, loaded once, with its batch budget."""
    from mer.stages.encoders.batching import find_budget

    place = (made.name, tools.device)
    with _LOADING:
        if place not in _LOADED:
            loaded = made.encoder.load(tools.device)
            _LOADED[place] = (loaded, tools.budget or find_budget(loaded, made.modality, tools.device))
        return _LOADED[place]


def loaded_finder(finder: Any) -> Any:
    """Face finder of this process, loaded once."""
    with _LOADING:
        if finder not in _FINDERS:
            _FINDERS[finder] = finder.load()
        return _FINDERS[finder]


def _device_lock(device: str) -> threading.Lock:
    with _LOADING:
        return _DEVICE_LOCKS.setdefault(device, threading.Lock())
