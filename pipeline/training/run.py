"""`mer train` as a chain.

load       a cache -> target, feature sets, head
split      the protocol -> folds, checked for leaks
prepare    folds -> runs ready to train, and what they share
fit        runs -> models in the run folder
score      models -> predictions and scores of the test rows, once
save       everything that was found -> run.json
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from .fit import fit
from .load import load
from .prepare import Prepared, make_training_data, prepare
from .progress import LiveTable, Silent
from .record import open_run
from .run_folder import Run
from .score import score_seed_runs, summarise_run
from .settings import TrainOptions
from .shared import TrainingData
from .splits import split

logger = logging.getLogger("mer.train")


@dataclass(frozen=True)
class RunSummary:
    """What `train` leaves."""

    path: Path
    run: Run

    @property
    def metrics(self) -> dict[str, Any]:
        """Per metric: mean, std, low, high, pooled, pooled_std, majority; all NaN-free floats or None."""
        return dict(self.run.facts["metrics"])


def prepare_run(options: TrainOptions) -> Prepared:
    """The first three steps: everything before the first update."""
    loaded = load(options)
    return prepare(loaded, split(loaded, options), options)


def train(options: TrainOptions, console: Console | None = None, command: Sequence[str] = ()) -> RunSummary:
    """Train every seed on every fold, score the test rows once, and leave a run folder.

    A run that was interrupted goes on where it stood when it is started again with the same options.

    Parameters
    ----------
    options : TrainOptions
    console : Console, optional
        Where the live table and notes go; None is silent.
    command : sequence of str, optional
        Recorded in `run.json`.

    Raises
    ------
    MerError
        If the cache, the options and the protocol do not fit together, or the run folder is taken.
    """
    prepared = prepare_run(options)
    run = open_run(prepared, command)
    for note in prepared.notes:
        logger.warning("%s", note)
    if run.facts["status"] == "done":
        return RunSummary(run.path, run)
    data = make_training_data(prepared)
    watch = _watch(prepared, run, data, console)
    with watch:
        fit(prepared, run, data, watch)
    score_seed_runs(prepared, run, data)
    run.facts["best_at_last_epoch"] = best_at_last_epoch(run.members, options.recipe.epochs)
    run.facts |= {"status": "done", "metrics": summarise_run(run) if options.score_test else {}}
    run.write()
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return RunSummary(run.path, run)


def best_at_last_epoch(members: Sequence[Mapping[str, Any]], epochs: int) -> list[str]:
    """Names of the runs whose best epoch is the last one allowed: more might have helped."""
    return [member["name"] for member in members if member["best_epoch"] == epochs]


def _watch(prepared: Prepared, run: Run, data: TrainingData, console: Console | None) -> LiveTable | Silent:
    board = run.path / "tensorboard" if prepared.options.tensorboard else None
    if console is None and board is None:
        return Silent()
    return LiveTable(console, data.metric, len(prepared.seed_runs), board)
