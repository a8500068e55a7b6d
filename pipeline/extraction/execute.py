"""Carries tasks out: in this process, in processes of this machine, or on a Dask cluster that is already running."""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from mer.cache import Fate, MerError, ShardRow, write_shard

from ..terminal.interrupt import unheard
from .cluster import check_workers, scheduler_trouble, wait_for_workers
from .decoding import TaskSettings
from .isolation import clip_helpers
from .options import Execution
from .tasks import EncodingSet, OnClip, ShardReport, ShardTask, load_encoders, run_task

logger = logging.getLogger("mer.execute")

OnReport = Callable[[ShardReport], None]

TASKS_IN_FLIGHT = 2
"""In one process: while one task encodes, the next one decodes."""

DEATHS_ALLOWED = 2
"""How often Dask gives a task to another worker after its worker died."""


def execute(
    tasks: Sequence[ShardTask], settings: TaskSettings, execution: Execution, on_report: OnReport, on_clip: OnClip
) -> None:
    """Run all tasks; `on_report` is called once per finished task, never twice at a time.

    Raises
    ------
    MerError
        If a task meets trouble that is not one utterance's own, such as a full disk.
    """
    if not tasks:
        return
    if execution.workers or execution.scheduler:
        _run_distributed(tasks, settings, execution, on_report, on_clip)
    else:
        _run_here(tasks, settings, on_report, on_clip)


def _run_here(tasks: Sequence[ShardTask], settings: TaskSettings, on_report: OnReport, on_clip: OnClip) -> None:
    import dask

    lock, stop = threading.Lock(), threading.Event()

    def clip(failed: bool, seconds: float) -> None:
        with lock:
            on_clip(failed, seconds)

    def run(task: ShardTask) -> None:
        report = run_task(task, settings, clip, stop)
        with lock:
            on_report(report)

    settings = replace(settings, torch_threads=set_threads(settings.torch_threads))
    if settings.device.startswith("cuda"):
        load_encoders([made for task in tasks for made in task.sets], settings)
    graph = [dask.delayed(functools.partial(run, task), pure=False)() for task in tasks]
    try:
        dask.compute(*graph, scheduler="threads", num_workers=TASKS_IN_FLIGHT)
    except BaseException:
        stop.set()
        clip_helpers().stop()  # a thread may wait for a clip of hours
        raise
    finally:
        set_threads(settings.torch_threads)  # what a thread that encodes asked for became the default of new threads


def set_threads(count: int) -> int:
    """Give torch this many threads (0: as many as it likes) and return how many; OpenCV gets one, since clips are
    decoded side by side.
    """
    import cv2
    import torch

    cv2.setNumThreads(1)
    if count:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def _run_distributed(
    tasks: Sequence[ShardTask], settings: TaskSettings, execution: Execution, on_report: OnReport, on_clip: OnClip
) -> None:
    from distributed import KilledWorker, as_completed

    def deliver(report: ShardReport) -> None:
        for number in range(report.clips):
            on_clip(number < report.failed, report.media_seconds / report.clips)
        on_report(report)

    if execution.workers:
        share = max(1, (os.cpu_count() or 1) // execution.workers)
        settings = replace(settings, torch_threads=share, decode_threads=execution.decode_threads or share)
    suspects: list[ShardTask] = []
    with _client(execution) as client, scheduler_trouble(execution.scheduler or "of this machine"):
        if execution.scheduler:
            wait_for_workers(client, execution.scheduler)
            check_workers(client, tasks)
        _load_everywhere(client, tasks, settings)
        futures = {client.submit(_run_in_worker, task, settings, pure=False): task for task in tasks}
        for future in as_completed(list(futures)):
            task = futures.pop(future)
            try:
                deliver(future.result())
            except KilledWorker:
                suspects.append(task)
            future.release()
    # Without Dask, which at times never hands over what runs after a death; a cluster's device may be absent here.
    for report in _one_by_one(suspects, settings if execution.workers else replace(settings, device="cpu")):
        deliver(report)


def _one_by_one(suspects: Sequence[ShardTask], settings: TaskSettings) -> Iterator[ShardReport]:
    """Run the utterances of shards during which workers died in a process of this machine, one after the other: one
    that ends its process is given up.
    """
    own: ProcessPoolExecutor | None = None
    try:
        for task in suspects:
            logger.warning("a worker died on a shard of %d utterances; they are tried one by one", len(task.jobs))
            for job in task.jobs:
                own = own or ProcessPoolExecutor(1, get_context("spawn"))
                alone = ShardTask((job,), task.sets)
                try:
                    with unheard():
                        running = own.submit(_run_alone, alone, settings)
                    yield running.result()
                except BrokenProcessPool:
                    own = None
                    yield _give_up(alone)
    finally:
        if own is not None:
            own.shutdown()


def _run_alone(task: ShardTask, settings: TaskSettings) -> ShardReport:
    return run_task(task, replace(settings, torch_threads=set_threads(settings.torch_threads)))


@contextmanager
def _client(execution: Execution) -> Iterator[Any]:
    """Client of a cluster: one that is running already, or one of this machine that ends with the run."""
    import dask
    from distributed import Client, LocalCluster

    dask.config.set({"distributed.scheduler.allowed-failures": DEATHS_ALLOWED})
    logging.getLogger("distributed").setLevel(logging.ERROR)
    for name in ("asyncio", "distributed.client"):  # Dask's own tracebacks, when Ctrl-C or a lost scheduler ends it
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.warnoptions.append("ignore:resource_tracker")  # the same, in the processes that are started
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")  # and of workers whose scheduler has just closed
    if execution.scheduler:
        try:
            client = Client(execution.scheduler, timeout="10s")
        except (OSError, ValueError, TimeoutError) as error:
            raise MerError(
                f"no Dask scheduler answers at {execution.scheduler!r} ({error}); start one or use --workers N"
            ) from error
        with client:
            yield client
        return
    with unheard():
        cluster = LocalCluster(
            n_workers=execution.workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            silence_logs=logging.ERROR,
        )
    with cluster, Client(cluster) as client:
        yield client


def _load_everywhere(client: Any, tasks: Sequence[ShardTask], settings: TaskSettings) -> None:
    """Load the encoders in every worker, so that a bad checkpoint or device is told before any clip is decoded."""
    from distributed import KilledWorker

    sets = list({made.name: made for task in tasks for made in task.sets}.values())
    # As many as there are workers, but bound to none: one that died comes back under another address.
    loading = [client.submit(_load_in_worker, sets, settings, pure=False) for _ in client.nthreads()]
    try:
        problems = client.gather(loading)
    except KilledWorker as error:
        raise MerError(
            "a worker died while it loaded the encoders (out of memory?); use fewer --workers or smaller encoders"
        ) from error
    for problem in problems:
        if problem is not None:
            raise problem


def _load_in_worker(sets: Sequence[EncodingSet], settings: TaskSettings) -> MerError | None:
    """Return the problem in place of raising it, which Dask would log with its traceback."""
    settings = _tools_of_worker(settings)
    try:
        load_encoders(sets, settings)
    except MerError as error:
        return error
    return None


def _run_in_worker(task: ShardTask, settings: TaskSettings) -> ShardReport:
    return run_task(task, _tools_of_worker(settings))


def _tools_of_worker(settings: TaskSettings) -> TaskSettings:
    from distributed import get_worker

    device = _device_of_worker(settings.device, str(get_worker().name))
    return replace(settings, device=device, torch_threads=set_threads(settings.torch_threads))


def _device_of_worker(device: str, worker: str) -> str:
    """Spread workers over the CUDA devices of their machine when no index was asked for."""
    if device != "cuda":
        return device
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{int(worker) % count}" if worker.isdigit() and count > 1 else device


def _give_up(task: ShardTask) -> ShardReport:
    """Record that an utterance kills the process that touches it."""
    from pathlib import Path

    reason = "the worker process died on it, also with nothing else in flight (out of memory?)"
    report = ShardReport(clips=1, failed=1)
    for made in task.sets:
        (job,) = task.jobs
        row = ShardRow(job.key, job.source(made.modality), Fate.FAILED, reason)
        report.shards.append((made.name, write_shard(Path(made.folder), made.spec, [row])))
    return report
