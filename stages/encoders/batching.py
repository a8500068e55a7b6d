"""Cutting batches by a budget, halving them when the device's memory is not enough, and finding that budget."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from mer.cache import FeatureSequence, MerError

from ..interfaces import EncoderInput, LoadedEncoder

T = TypeVar("T")

CPU_BUDGETS = {"text": 384, "audio": 48_000, "face": 16}
"""Tokens, audio samples, face crops. A CPU gains nothing from larger ones; docs/encoders.md has the figures."""
OVERHEAD_SHARE = 24
"""A batch costs, before its first item, about one part in 24 of a full one; docs/extraction.md has the measurement."""
MOST_LANES = 4
"""Batches encoded side by side on a CPU; each holds its own activations."""
GPU_LANES = 2
"""Batches in flight on a GPU: one computes while the other's inputs and features are prepared and copied."""
MEMORY_SHARE = 0.7
"""Share of a GPU's free memory that all batches in flight may use."""
GPU_BUDGETS = {"text": 65_536, "audio": 9_600_000, "face": 1024}
"""Upper bounds of what the memory probe may choose: beyond these a batch is already long enough to fill a device."""

log = logging.getLogger("mer.encoders")


def cut_batches(costs: Sequence[int], budget: int, padded: bool = True) -> list[list[int]]:
    """Cut items into the batches that take the least time, padding and the overhead of each batch counted.

    Items are sorted by cost, the most costly first, so that a device that is too small shows it at once. No batch's
    size exceeds the budget; an item over it is a batch of its own.

    Parameters
    ----------
    costs
        Cost of every item.
    budget
        Greatest size of a batch of several items.
    padded
        Whether the items of a batch are padded to the longest one. The size of a batch is its longest item times their
        number, or the sum of its items.

    Returns
    -------
    list of list of int
        Positions in `costs`, each exactly once.

    Notes
    -----
    A batch takes as long as its size and a fixed overhead, `budget / OVERHEAD_SHARE`, together. The best cut of the
    first j sorted items ends in some batch [i, j) behind the best cut of the first i; all j are gone through once.
    """
    order = sorted(range(len(costs)), key=lambda index: (-costs[index], index))
    sorted_costs = np.maximum(1, np.array([costs[index] for index in order], np.int64))
    before = np.concatenate([[0], np.cumsum(sorted_costs)])
    overhead = max(1, budget // OVERHEAD_SHARE)
    least = np.zeros(len(order) + 1, np.int64)
    begins = np.zeros(len(order) + 1, np.int64)
    first = 0
    for stop in range(1, len(order) + 1):
        starts = np.arange(first, stop)
        sizes = sorted_costs[starts] * (stop - starts) if padded else before[stop] - before[starts]
        fitting = (sizes <= budget) | (starts == stop - 1)
        first += int(fitting.argmax())
        sizes = sizes[fitting]
        total = least[first:stop] + sizes + overhead
        begins[stop] = first + int(total.argmin())
        least[stop] = total.min()
    batches: list[list[int]] = []
    stop = len(order)
    while stop:
        batches.append(order[begins[stop] : stop])
        stop = int(begins[stop])
    return batches[::-1]


class OutOfMemoryOnce:
    """Says once per process that batches are being halved."""

    said = False

    def say(self, size: int) -> None:
        """Log that a batch of `size` items did not fit."""
        if not self.said:
            self.said = True
            log.warning(
                "a batch of %d items does not fit the device's memory: halving such batches (told once; --budget N "
                "makes them smaller from the start)",
                size,
            )


_once = OutOfMemoryOnce()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the device's memory is full."""
    # cuBLAS takes its workspace past PyTorch's allocator and has a name of its own for it.
    full = ("CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in full)


class Sharing:
    """Who runs on a device at the moment: several batches side by side, or one that needs all of the memory."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: set[int] = set()
        """Threads with a batch on the device."""
        self._alone: int | None = None

    @contextmanager
    def beside_others(self) -> Iterator[None]:
        """Run side by side; waits while another thread runs alone."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: self._alone is None)
            self._running.add(me)
        try:
            yield
        finally:
            with self._changed:
                self._running.discard(me)
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run with nobody beside; waits until the other threads are through with their batches."""
        me = threading.get_ident()
        if self._alone == me:
            yield
            return
        with self._changed:
            beside = me in self._running
            self._running.discard(me)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._alone is None)
            self._alone = me
            self._changed.wait_for(lambda: not self._running)
        try:
            yield
        finally:
            with self._changed:
                self._alone = None
                if beside:
                    self._running.add(me)
                self._changed.notify_all()


_sharing = Sharing()


def run_halving(items: Sequence[T], run: Callable[[Sequence[T]], None]) -> None:
    """Call `run` on all items, in halves of halves where the device's memory is not enough.

    Raises
    ------
    MerError
        If one item alone does not fit.
    """
    try:
        run(items)
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler: a live traceback would keep the failed batch's tensors on the device.
    _free_device_memory()
    if len(items) == 1:
        _run_alone(items, run)
        return
    _once.say(len(items))
    middle = len(items) // 2
    run_halving(items[:middle], run)
    run_halving(items[middle:], run)


def _run_alone(items: Sequence[T], run: Callable[[Sequence[T]], None]) -> None:
    """Try an item once more when no other thread's batch takes memory beside it."""
    with _sharing.alone():
        _free_device_memory()
        try:
            run(items)
            return
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
    _free_device_memory()
    raise MerError(
        "the device's memory is too small for one item of this encoder; use a smaller encoder, "
        "--max-audio-seconds, or --device cpu"
    )


def _free_device_memory() -> None:
    import gc

    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


class Encoding:
    """Items that are being encoded in batches of about `budget` cost, in the threads of an executor.

    An item that cannot be encoded yields its error instead of a sequence and does not harm the others. When the
    device's memory is full the batch is halved.
    """

    def __init__(self, loaded: LoadedEncoder, items: Sequence[EncoderInput], budget: int, lanes: Executor) -> None:
        self._loaded = loaded
        self._items = items
        self._results: list[FeatureSequence | MerError | None] = [None] * len(items)
        self._seconds: list[float] = []
        if hasattr(loaded, "budget"):
            loaded.budget = budget  # what one item holds, chunks or crops, is batched by it too
        self._cuts = cut_batches([loaded.cost(item) for item in items], budget, getattr(loaded, "padded", True))
        self._batches = [lanes.submit(self._run_batch, batch) for batch in self._cuts]

    def finished(self) -> Iterator[tuple[int, FeatureSequence | MerError]]:
        """Yield the place and the result of every item, batch by batch as they are done."""
        for places, batch in zip(self._cuts, self._batches, strict=True):
            batch.result()
            for place in places:
                result = self._results[place]
                yield place, MerError("the encoder returned nothing") if result is None else result

    @property
    def seconds(self) -> float:
        """Thread seconds spent on the batches that are done."""
        return sum(self._seconds)

    def cancel(self) -> None:
        """Give up the batches that have not begun."""
        for batch in self._batches:
            batch.cancel()

    def _run(self, positions: Sequence[int]) -> None:
        found = self._loaded.encode([self._items[position] for position in positions])
        for position, result in zip(positions, found, strict=True):
            self._results[position] = result

    def _run_batch(self, batch: list[int]) -> None:
        started = time.perf_counter()
        with _sharing.beside_others():
            self._try_batch(batch)
        self._seconds.append(time.perf_counter() - started)

    def _try_batch(self, batch: list[int]) -> None:
        problem = self._problem_of(batch)
        if problem is None:
            return
        if len(batch) == 1:
            self._results[batch[0]] = problem
            return
        for position in batch:  # the culprit is found by encoding the items of this batch one by one
            self._results[position] = self._problem_of([position]) or self._results[position]

    def _problem_of(self, batch: list[int]) -> MerError | None:
        """Encode a batch; what went wrong is told without its traceback, which would keep tensors on the device."""
        try:
            run_halving(batch, self._run)
        except Exception as error:
            return MerError(str(error) or type(error).__name__)
        return None


def lanes_of(loaded: LoadedEncoder, threads: int) -> int:
    """How many batches to have in flight, if threads may share the encoder: one per core on a CPU, two on a GPU.

    Two passes on one core each take less time than two in turn on both cores, because the short steps between the
    large matrix products do not spread over cores; docs/extraction.md has the figures.
    """
    if not getattr(loaded, "side_by_side", False):
        return 1
    device = str(getattr(loaded, "device", ""))
    if device.startswith("cuda"):
        return GPU_LANES
    return max(1, min(threads, MOST_LANES)) if device == "cpu" else 1


def begin_lane(device: str, threads: int) -> None:
    """Prepare a thread that will encode: its number of cores, and on a GPU a stream of its own.

    With a stream each, copies and waits of one thread do not hold up what the other one computes.

    Parameters
    ----------
    device
        `cpu`, `cuda` or `cuda:i`.
    threads
        Cores that torch may use in this thread; 0 leaves it as it is.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    if device.startswith("cuda"):
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def find_budget(loaded: LoadedEncoder, modality: str, device: str) -> int:
    """Batch budget of a loaded encoder on a device: a fixed small one on a CPU, found by a memory probe on CUDA."""
    if not device.startswith("cuda"):
        return CPU_BUDGETS[modality]
    probe = getattr(loaded, "probe", None)
    if probe is None:
        return CPU_BUDGETS[modality]
    return probe_budget(probe, device, GPU_BUDGETS[modality], MEMORY_SHARE / lanes_of(loaded, 1))


def probe_budget(probe: Callable[[int], int], device: str, most: int, share: float) -> int:
    """Find the largest batch cost that keeps the peak memory within a share of what is free.

    Parameters
    ----------
    probe
        Encodes n of the largest items that can occur and returns their cost.
    device
        A CUDA device.
    most
        Upper bound of the answer.
    share
        Share of the free memory that one batch may use.

    Notes
    -----
    Memory grows linearly in the number of equally long items, so two sizes give the slope. Shorter items need less
    per unit of cost, because attention grows with the square of the length; so the longest ones are the safe probe.
    """
    import torch

    peaks: list[int] = []
    costs: list[int] = []
    for count in (1, 3):
        _free_device_memory()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            costs.append(probe(count))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if not costs:
                raise MerError(
                    f"{device} is too small for one item of this encoder; use a smaller encoder, --max-audio-seconds, "
                    "or --device cpu"
                ) from error
            return costs[0]
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    _free_device_memory()
    free, _ = torch.cuda.mem_get_info(device)
    return budget_from_peaks(costs, peaks, int(free * share), most)


def budget_from_peaks(costs: Sequence[int], peaks: Sequence[int], free: int, most: int) -> int:
    """Extrapolate two measured peaks (bytes) linearly to the cost at which `free` bytes are used."""
    slope = max((peaks[1] - peaks[0]) / (costs[1] - costs[0]), 1e-9)
    fixed = max(peaks[0] - slope * costs[0], 0.0)
    return int(min(max((free - fixed) / slope, costs[0]), most))
