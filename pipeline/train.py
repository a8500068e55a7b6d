"""`mer train`: cache → folds → runs of every seed and fold → a run folder with models, predictions and scores."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from mer.cache import MerError

from .arena import Arena, Member
from .engine import Finished, Trainer, Watch
from .live import LiveTable, Silent
from .metrics import score
from .model import Model, class_weights, parts_of, unit_of
from .prepare import Prepared, make_arena, prepare
from .record import open_run
from .runs import Run
from .scoring import clean, join, predict, predictions_of
from .settings import TrainOptions
from .summary import summarise
from .team import Stack, make_team

logger = logging.getLogger("mer.train")

CPU_STACK_STEPS = 4
CPU_STACK_PARAMETERS = 200_000
"""On a CPU runs go side by side up to this many steps and parameters each; measured in docs/training.md."""
LARGEST_STACK = 64


@dataclass(frozen=True)
class RunSummary:
    """What `train` leaves."""

    path: Path
    run: Run

    @property
    def metrics(self) -> dict[str, Any]:
        """Per metric: mean, std, low, high, pooled, pooled_std, majority; all NaN-free floats or None."""
        return dict(self.run.facts["metrics"])


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
    prepared = prepare(options)
    run = open_run(prepared, command)
    for note in prepared.notes:
        logger.warning("%s", note)
    if run.facts["status"] == "done":
        return RunSummary(run.path, run)
    arena = make_arena(prepared)
    watch = _watch(prepared, run, arena, console)
    with watch:
        fit_all(prepared, run, arena, watch)
    score_members(prepared, run, arena)
    run.facts |= {"status": "done", "metrics": summarise_run(run) if options.score_test else {}}
    run.write()
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return RunSummary(run.path, run)


def fit_all(prepared: Prepared, run: Run, arena: Arena, watch: Watch) -> None:
    """Train the members that have no model yet, side by side where that pays."""
    size, why = stack_size(prepared, arena)
    run.facts["engine"] = {
        "stack": size,
        "why": why,
        "device": str(arena.device),
        "bfloat16": arena.half,
        "streamed": arena.source.streamed,
        "steps": arena.shape.steps,
        "batch": arena.shape.size,
    }
    run.write()
    teams = [prepared.members[i : i + size] for i in range(0, len(prepared.members), size)]
    for number, team in enumerate(teams):
        if all(run.model_path(m.name).exists() for m in team):
            continue

        def deliver(found: Finished) -> None:
            save_finished(run, arena, found)

        models = [build_model(prepared, arena, m) for m in team]
        trainer = Trainer(arena, team, models, deliver, watch)
        trainer.fit(run.path / "checkpoints" / f"team-{number}.safetensors", prepared.options.checkpoint_seconds)


def build_model(prepared: Prepared, arena: Arena, member: Member) -> Model:
    """One run's model before its first step, with what it takes from the labels of its training rows."""
    labels = arena.labels[member.train]
    weights = class_weights(labels, prepared.outputs, prepared.options.recipe.class_weights)
    unit = torch.from_numpy(unit_of(labels)) if arena.kind == "real" else None
    return prepared.blueprint.build(member.seed, weights, unit)


def stack_size(prepared: Prepared, arena: Arena) -> tuple[int, str]:
    """How many runs to train side by side, and why; the same for the same options on the same machine."""
    options, members = prepared.options, prepared.members
    if options.parallel == "sequential" or len(members) == 1:
        return 1, "asked for" if options.parallel == "sequential" else "one run"
    if arena.in_context:
        return 1, "dialogue context has batches of varying shape"
    longest = max(int(arena.source.kept_steps(m).max()) for m in arena.source.sets)
    if options.parallel == "auto" and arena.device.type == "cpu":
        parameters = sum(p.numel() for p in prepared.blueprint.build(options.first_seed).parameters())
        if longest > CPU_STACK_STEPS or parameters > CPU_STACK_PARAMETERS:
            return 1, "on a CPU only small heads on short sequences are faster side by side"
    try:
        peak = probe(prepared, arena)
    except torch.OutOfMemoryError as error:
        if options.parallel == "stacked":
            raise MerError(
                f"two runs of head {options.head!r} side by side do not fit the memory of {arena.device}; use "
                "--parallel auto or a smaller --batch-size"
            ) from error
        return 1, "two runs side by side do not fit the device"
    except Exception as error:  # whatever a head does that vmap cannot; alone it may still run
        if options.parallel == "stacked":
            raise MerError(
                f"head {options.head!r} cannot be stacked ({str(error).splitlines()[0]}); use --parallel auto"
            ) from error
        return 1, f"head {options.head!r} cannot be stacked"
    if arena.device.type == "cuda":
        free = torch.cuda.get_device_properties(arena.device).total_memory * 0.85 - peak[0]
        return max(1, min(len(members), LARGEST_STACK, int(free // max(peak[1], 1)))), "fits the device"
    return min(len(members), LARGEST_STACK), "small head, short sequences"


def probe(prepared: Prepared, arena: Arena) -> tuple[float, float]:
    """Run one stacked step of two runs on the longest batch; return bytes held before, and bytes per run."""
    cuda = arena.device.type == "cuda"
    pair = prepared.members[:2]
    cost = arena.source.cost
    rows = pair[0].train[np.argsort(-cost[pair[0].train], kind="stable")[: arena.shape.size]]
    if cuda:
        arena.whole() if not arena.source.streamed else None
        torch.cuda.reset_peak_memory_stats(arena.device)
    held = torch.cuda.memory_allocated(arena.device) if cuda else 0
    team = make_team([prepared.blueprint.build(m.seed) for m in pair], arena.device)
    assert isinstance(team, Stack)
    window = arena.source.window(arena.device, rows) if arena.source.streamed else arena.whole()
    batch = arena.gatherer(pair, stacked=True).batch(window, np.stack([rows, rows]))
    with arena.autocast():
        terms = team.losses(parts_of(batch), None, 0.5)
    torch.stack([term.float().sum() for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
    peak = torch.cuda.max_memory_allocated(arena.device) if cuda else 0
    return float(held), (peak - held) / 2


def save_finished(run: Run, arena: Arena, found: Finished) -> None:
    """Write one member's history and then its model, whose file says that the member is done."""
    member = found.member
    run.save_history(member.name, found.history)
    facts = {
        "name": member.name,
        "fold": member.fold_name,
        "seed": member.seed,
        "best_epoch": found.best_epoch,
        "best_score": None if math.isnan(found.best_score) else found.best_score,
        "epochs": len(found.history),
    }
    normalisers = {m: each[member.fold] for m, each in arena.normalisers.items()}
    learned = {"prior": arena.priors[member.fold]}
    if arena.kind == "real":
        learned["unit"] = unit_of(arena.labels[member.train])
    run.save_member(member.name, found.state, normalisers, learned, facts)


def score_members(prepared: Prepared, run: Run, arena: Arena) -> None:
    """Predict validation and, unless told otherwise, test rows with every selected model, once."""
    entries = []
    for member in prepared.members:
        loaded = run.load_member(member.name)
        parts = {"val": member.val} | ({"test": member.test} if prepared.options.score_test else {})
        team = make_team([loaded.model], arena.device)
        gatherer = arena.gatherer([member], stacked=False)
        pieces = []
        entry = dict(loaded.facts)
        for split, rows in parts.items():
            outputs, vectors = predict(arena, team, gatherer, [member], [rows])[0]
            pieces.append(predictions_of(prepared.store, arena, split, rows, outputs, vectors))
            entry[split] = clean(score(arena.kind, arena.labels[rows], outputs, arena.scale))
        run.save_predictions(member.name, join(pieces))
        entries.append(entry)
    run.facts["members"] = entries


def summarise_run(run: Run) -> dict[str, Any]:
    """Scores of a run's saved test predictions over its members."""
    names = [m["name"] for m in run.members]
    parts = {name: run.predictions(name).part("test") for name in names}
    priors = {name: run.load_member(name).prior for name in names}
    return summarise(run, run.members, parts, priors)


def _watch(prepared: Prepared, run: Run, arena: Arena, console: Console | None) -> LiveTable | Silent:
    board = run.path / "tensorboard" if prepared.options.tensorboard else None
    if console is None and board is None:
        return Silent()
    return LiveTable(console, arena.metric, len(prepared.members), board)
