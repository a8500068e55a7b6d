"""What may be wrong with a Dask cluster, said before the work and in words of our own."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mer.cache import MerError
from mer.cache.release import DISTRIBUTION

from .tasks import ShardTask

logger = logging.getLogger("mer.execute")

WAIT_SECONDS = 300.0
"""Time that a scheduler without workers is given to get one; a queue of jobs may take longer than a moment."""
WORD_AFTER_SECONDS = 5.0
LIBRARIES = (DISTRIBUTION, "av", "numpy", "opencv-python-headless", "soxr", "torch", "transformers")
"""What makes features: other versions may make others."""


def wait_for_workers(client: Any, scheduler: str) -> None:
    """Wait until a cluster has a worker, and say so when there is none at once.

    Raises
    ------
    MerError
        If none comes.
    """
    begun, told = time.monotonic(), False
    while not client.scheduler_info()["workers"]:
        waited = time.monotonic() - begun
        if waited > WAIT_SECONDS:
            raise MerError(f"the scheduler {scheduler} has no workers; start some: dask worker {scheduler}")
        if waited > WORD_AFTER_SECONDS and not told:
            logger.warning("waiting for workers at %s; to start one: dask worker %s", scheduler, scheduler)
            told = True
        time.sleep(0.2)


def check_workers(client: Any, tasks: Sequence[ShardTask]) -> None:
    """Compare the workers that are there with this process: versions of libraries, and the files that they see.

    Raises
    ------
    MerError
        If a worker has another version, or does not see the folder of the shards or a clip that this process sees.
    """
    made = {Path(one.folder).parent for task in tasks for one in task.sets}
    for folder in made:
        folder.mkdir(parents=True, exist_ok=True)
    clip = next((job.picture or job.sound for task in tasks for job in task.jobs if job.picture or job.sound), None)
    here = [*map(str, made), *([clip] if clip and os.path.exists(clip) else [])]
    for worker, (versions, unseen) in client.run(_of_worker, here).items():
        for library, ours in _versions().items():
            if versions.get(library) != ours:
                raise MerError(
                    f"worker {worker} has {library} {versions.get(library) or 'not installed'} and this machine {ours};"
                    " features could differ: install the same version there"
                )
        if unseen:
            raise MerError(
                f"worker {worker} does not see {unseen[0]}; corpus and --out must lie on a file system that all"
                " workers share, under the same path"
            )


def _of_worker(paths: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    return _versions(), [path for path in paths if not os.path.exists(path)]


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library).partition("+")[0]  # torch's +cpu and +cu126 are one version
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def scheduler_trouble(scheduler: str) -> Iterator[None]:
    """Say in a sentence that a scheduler went away."""
    from distributed.comm import CommClosedError

    try:
        yield
    except (CancelledError, CommClosedError, ConnectionError, TimeoutError) as error:
        raise MerError(
            f"the scheduler {scheduler} went away; finished shards are kept, run the same command again to go on"
        ) from error
