"""One unit of work: a run of utterances goes in, one shard per feature set comes out.

    jobs ──decode threads, bounded──▶ waveform, face crops ──windows sorted by length──▶ encoder ─▶ rows ─▶ shards

A task holds no open handle and pickles small, so any Dask scheduler can carry it to any process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mer.cache import Fate, FeatureSequence, FeatureSpec, MerError, ShardInfo, ShardRow, write_shard
from mer.stages.encoders.batching import Encoding, begin_lane, find_budget, lanes_of
from mer.stages.interfaces import Encoder, EncoderInput, LoadedEncoder
from mer.stages.speech.transcribe import NOTHING

from .decoding import Decoded, TaskSettings
from .isolation import decode_apart
from .jobs import Job

logger = logging.getLogger("mer.extract")

WINDOW_BATCHES = 4
"""Batches' worth of clips, for each that runs at once, that are sorted by length together: more wastes memory, fewer
wastes padding."""


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
class ShardTask:
    """A run of utterances and the feature sets to make of them."""

    jobs: tuple[Job, ...]
    sets: tuple[EncodingSet, ...]


@dataclass
class ShardReport:
    """What a task did."""

    clips: int = 0
    failed: int = 0
    """Utterances with at least one failed modality."""
    media_seconds: float = 0.0
    shards: list[tuple[str, ShardInfo]] = field(default_factory=list)
    """Feature-set name and shard."""
    media_notes: list[str] = field(default_factory=list)
    """What was odd about a file that could be read, with the utterance's id."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Thread seconds per stage: decode, faces, encode, write, and idle (waiting for decoded clips)."""

    def spend(self, stage: str, seconds: float) -> None:
        """Add time to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


_TOLD: set[str] = set()
"""Faults of ours that were told of in this process."""

OnClip = Callable[[bool, float], None]
"""Called as utterances are finished with: whether any modality failed, and the seconds of media."""


def run_task(
    task: ShardTask, settings: TaskSettings, on_clip: OnClip | None = None, stop: threading.Event | None = None
) -> ShardReport:
    """Make every shard of a task; when `stop` is set it is left at the next clip."""
    report = ShardReport(clips=len(task.jobs))
    clips = _Clips(task, report, on_clip, stop)
    windows = {made.name: _Window(made, settings, clips, report) for made in task.sets}
    try:
        _fill(task, settings, clips, windows, report)
    finally:
        for window in windows.values():
            for begun in window.begun:
                begun.encoding.cancel()
    _write(task, clips.rows, report)
    return report


class _Clips:
    """The rows of a task's utterances as they come in, one per feature set."""

    def __init__(
        self, task: ShardTask, report: ShardReport, on_clip: OnClip | None, stop: threading.Event | None
    ) -> None:
        self._jobs = task.jobs
        self._report = report
        self._on_clip = on_clip
        self._stop = stop
        self._decoded = [Decoded()] * len(task.jobs)
        self.rows: dict[str, list[ShardRow | None]] = {made.name: [None] * len(task.jobs) for made in task.sets}

    def leave_if_stopped(self) -> None:
        """Raise when the run was interrupted or failed elsewhere."""
        if self._stop is not None and self._stop.is_set():
            raise MerError("interrupted")

    def tell_once(self, position: int, trace: str) -> None:
        """Log the traceback of a fault of ours, with the clip it showed with; the same fault again is not told."""
        fault = trace.rstrip().rpartition("\n")[2]
        if fault not in _TOLD:
            _TOLD.add(fault)
            logger.error("a fault of mer showed with %s; please report it:\n%s", self._jobs[position].key, trace)

    def take(self, position: int, decoded: Decoded) -> None:
        """Keep what is known of an utterance before it is encoded, without its sound and pictures."""
        self._decoded[position] = replace(decoded, waveform=None, faces=None)
        self._report.media_seconds += decoded.duration_seconds
        self._report.media_notes.extend(f"{self._jobs[position].key}: {note}" for note in decoded.media_notes)

    def finish(
        self, made: EncodingSet, position: int, fate: Fate, reason: str = "", sequence: FeatureSequence | None = None
    ) -> None:
        """Make the row of one set; the last one finishes the utterance."""
        job, decoded = self._jobs[position], self._decoded[position]
        note: dict[str, Any] = {}
        if seconds := decoded.own_seconds.get(made.modality):
            note["duration_seconds"] = round(seconds, 3)
        if decoded.media_notes and made.modality != "text":
            note["media"] = list(decoded.media_notes)
        if job.heard is not None and made.modality == "text":
            note["heard"] = dict(job.heard)
        if sequence is not None:
            note |= sequence.note
        self.rows[made.name][position] = ShardRow(job.key, job.source(made.modality), fate, reason, sequence, note)
        rows = [of_set[position] for of_set in self.rows.values()]
        if self._on_clip is not None and all(row is not None for row in rows):
            failed = any(row is not None and row.fate == Fate.FAILED for row in rows)
            self._on_clip(failed, decoded.duration_seconds)


def _fill(
    task: ShardTask, settings: TaskSettings, clips: _Clips, windows: Mapping[str, _Window], report: ShardReport
) -> None:
    """Decode and encode every utterance of a task."""
    wanted = {made.modality for made in task.sets}
    for position, decoded in _decode_ahead(task.jobs, wanted, settings, clips, report):
        clips.take(position, decoded)
        for made in task.sets:
            windows[made.name].take(position, *_input_of(made.modality, task.jobs[position], decoded))
    for window in windows.values():
        window.flush()
    for window in windows.values():
        while window.begun:
            window.finish_first()


def _write(task: ShardTask, rows: dict[str, list[ShardRow | None]], report: ShardReport) -> None:
    started = time.perf_counter()
    failed = set()
    for made in task.sets:
        finished = [row for row in rows[made.name] if row is not None]
        report.shards.append((made.name, write_shard(Path(made.folder), made.spec, finished)))
        for row in finished:
            if row.fate == Fate.FAILED:
                failed.add(row.key)
    report.failed = len(failed)
    report.spend("write", time.perf_counter() - started)


def _input_of(modality: str, job: Job, decoded: Decoded) -> tuple[EncoderInput | None, Fate, str]:
    """Return what one encoder gets of an utterance, or its fate when it gets nothing."""
    if modality == "text":
        if job.text is None:
            return None, Fate.MISSING, "the corpus has no transcript"
        if not job.text.strip():
            return None, Fate.MISSING, "the transcript is empty" if job.heard is None else NOTHING
        return job.text, Fate.OK, ""
    if modality == "audio":
        return decoded.waveform, *decoded.sound_fate
    return decoded.faces, *decoded.face_fate


@dataclass(frozen=True)
class _Begun:
    """A window that is being encoded."""

    encoding: Encoding
    positions: list[int]


class _Window:
    """Inputs of one feature set that wait to be encoded together, sorted by length."""

    def __init__(self, made: EncodingSet, settings: TaskSettings, clips: _Clips, report: ShardReport) -> None:
        self.made = made
        self.settings = settings
        self.clips = clips
        self.report = report
        self.positions: list[int] = []
        self.items: list[EncoderInput] = []
        self.cost = 0
        self.begun: deque[_Begun] = deque()

    def take(self, position: int, item: EncoderInput | None, fate: Fate, reason: str) -> None:
        """Add one utterance: its input, or the fate it has without one."""
        if item is None:
            self.clips.finish(self.made, position, fate, reason)
            return
        loaded, budget = loaded_encoder(self.made, self.settings)
        try:
            self.cost += loaded.cost(item)
        except Exception as error:  # such as a token that the model does not know: the trouble of one utterance
            self.clips.finish(self.made, position, Fate.FAILED, f"encoding failed: {error}")
            return
        self.positions.append(position)
        self.items.append(item)
        room = WINDOW_BATCHES * lanes_of(loaded, self.settings.torch_threads) * budget
        if self.cost >= room and self.made.modality != "text":  # transcripts weigh nothing: a shard's sort together
            self.flush()

    def flush(self) -> None:
        """Begin to encode what waits, and finish what was begun before: one window encodes, one decodes."""
        if not self.items:
            return
        loaded, budget = loaded_encoder(self.made, self.settings)
        encoding = Encoding(loaded, self.items, budget, encoding_threads(loaded, self.settings))
        self.begun.append(_Begun(encoding, self.positions))
        self.positions, self.items, self.cost = [], [], 0
        while len(self.begun) > 1:
            self.finish_first()

    def finish_first(self) -> None:
        """Wait for the window that was begun first, batch by batch."""
        begun = self.begun[0]
        for place, result in begun.encoding.finished():
            self.clips.leave_if_stopped()
            if isinstance(result, FeatureSequence):
                self.clips.finish(self.made, begun.positions[place], Fate.OK, sequence=result)
            else:
                self.clips.finish(self.made, begun.positions[place], Fate.FAILED, f"encoding failed: {result}")
        self.report.spend(f"encode {self.made.modality}", begun.encoding.seconds)
        self.begun.popleft()


# --- decoding ahead -----------------------------------------------------------------------------------------------


def _decode_ahead(
    jobs: Sequence[Job], wanted: set[str], settings: TaskSettings, clips: _Clips, report: ShardReport
) -> Iterator[tuple[int, Decoded]]:
    """Yield decoded utterances in order while the next few are being decoded by threads."""
    media = wanted & {"audio", "face"}
    if not media:
        for position in range(len(jobs)):
            clips.leave_if_stopped()
            yield position, Decoded()
        return
    ahead: deque[tuple[int, Future[Decoded]]] = deque()
    with ThreadPoolExecutor(max_workers=settings.decode_threads, thread_name_prefix="decode") as pool:
        try:
            for position, job in enumerate(jobs):
                ahead.append((position, pool.submit(decode_apart, job, media, settings)))
                if len(ahead) > 2 * settings.decode_threads:
                    yield _next_decoded(ahead, clips, report)
            while ahead:
                yield _next_decoded(ahead, clips, report)
        finally:
            for _, waiting in ahead:
                waiting.cancel()


def _next_decoded(ahead: deque[tuple[int, Future[Decoded]]], clips: _Clips, report: ShardReport) -> tuple[int, Decoded]:
    clips.leave_if_stopped()
    position, future = ahead.popleft()
    started = time.perf_counter()
    decoded = future.result()
    report.spend("idle", time.perf_counter() - started)
    for stage, seconds in decoded.seconds.items():
        report.spend(stage, seconds)
    if decoded.traceback:
        clips.tell_once(position, decoded.traceback)
    return position, decoded


# --- what a process keeps between tasks ----------------------------------------------------------------------------

_LOADED: dict[tuple[str, str], tuple[LoadedEncoder, int]] = {}
_LOADING = threading.Lock()
_LANES: dict[tuple[str, int], Executor] = {}


def loaded_encoder(made: EncodingSet, settings: TaskSettings) -> tuple[LoadedEncoder, int]:
    """Encoder of a feature set on this process' device, loaded once, with its batch budget."""
    place = (made.name, settings.device)
    with _LOADING:
        if place not in _LOADED:
            loaded = made.encoder.load(settings.device)
            _LOADED[place] = (loaded, settings.budget or find_budget(loaded, made.modality, settings.device))
        return _LOADED[place]


def load_encoders(sets: Sequence[EncodingSet], settings: TaskSettings) -> None:
    """Load several encoders before the budget of any is measured, and before any batch runs beside a measurement.

    What one leaves free of a GPU's memory is known only when the weights of all are there.
    """
    with _LOADING:
        fresh = {}
        for made in sets:
            place = (made.name, settings.device)
            if place not in _LOADED and place not in fresh:
                fresh[place] = (made.encoder.load(settings.device), made.modality)
        for place, (loaded, modality) in fresh.items():
            _LOADED[place] = (loaded, settings.budget or find_budget(loaded, modality, settings.device))


def encoding_threads(loaded: LoadedEncoder, settings: TaskSettings) -> Executor:
    """Threads in which all tasks of this process encode, as many as `lanes_of` says."""
    count = lanes_of(loaded, settings.torch_threads)
    place = (settings.device, count)
    share = max(1, settings.torch_threads // count) if settings.torch_threads else 0
    with _LOADING:
        if place not in _LANES:
            _LANES[place] = ThreadPoolExecutor(count, f"encode-{settings.device}", begin_lane, (settings.device, share))
        return _LANES[place]
