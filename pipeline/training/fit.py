"""Step 4 of training: every seed on every fold, one after the other or stacked."""

from __future__ import annotations

import math

import numpy as np
import torch

from mer.cache import MerError

from .engine import Finished, Trainer, Watch
from .model import Model, class_weights, parts_of, unit_of
from .prepare import Prepared
from .run_folder import Run
from .shared import SeedRun, TrainingData
from .stacked import StackedModels, stack_models

CPU_STACK_STEPS = 4


CPU_STACK_PARAMETERS = 200_000
"""On a CPU runs go side by side up to this many steps and parameters each; measured in docs/training.md."""


LARGEST_STACK = 64


def fit(prepared: Prepared, run: Run, data: TrainingData, watch: Watch) -> None:
    """Train the members that have no model yet, side by side where that pays."""
    size, why = stack_size(prepared, data)
    run.facts["engine"] = {
        "stack": size,
        "why": why,
        "device": str(data.device),
        "bfloat16": data.half,
        "streamed": data.source.streamed,
        "steps": data.shape.steps,
        "batch": data.shape.size,
    }
    run.write()
    groups = [prepared.seed_runs[i : i + size] for i in range(0, len(prepared.seed_runs), size)]
    for number, group in enumerate(groups):
        if all(run.model_path(m.name).exists() for m in group):
            continue

        def deliver(found: Finished) -> None:
            save_finished(run, data, found)

        models = [build_model(prepared, data, m) for m in group]
        trainer = Trainer(data, group, models, deliver, watch)
        trainer.fit(run.path / "checkpoints" / f"team-{number}.safetensors", prepared.options.checkpoint_seconds)


def build_model(prepared: Prepared, data: TrainingData, seed_run: SeedRun) -> Model:
    """One run's model before its first step, with what it takes from the labels of its training rows."""
    labels = data.labels[seed_run.train]
    weights = class_weights(labels, prepared.outputs, prepared.options.recipe.class_weights)
    unit = torch.from_numpy(unit_of(labels)) if data.kind == "real" else None
    return prepared.blueprint.build(seed_run.seed, weights, unit)


def stack_size(prepared: Prepared, data: TrainingData) -> tuple[int, str]:
    """How many runs to train side by side, and why; the same for the same options on the same machine."""
    options, seed_runs = prepared.options, prepared.seed_runs
    if options.parallel == "sequential" or len(seed_runs) == 1:
        return 1, "asked for" if options.parallel == "sequential" else "one run"
    if data.in_context:
        return 1, "dialogue context has batches of varying shape"
    longest = max(int(data.source.kept_steps(m).max()) for m in data.source.sets)
    if options.parallel == "auto" and data.device.type == "cpu":
        parameters = sum(p.numel() for p in prepared.blueprint.build(options.first_seed).parameters())
        if longest > CPU_STACK_STEPS or parameters > CPU_STACK_PARAMETERS:
            return 1, "on a CPU only small heads on short sequences are faster side by side"
    try:
        peak = probe(prepared, data)
    except torch.OutOfMemoryError as error:
        if options.parallel == "stacked":
            raise MerError(
                f"two runs of head {options.head!r} side by side do not fit the memory of {data.device}; use "
                "--parallel auto or a smaller --batch-size"
            ) from error
        return 1, "two runs side by side do not fit the device"
    except Exception as error:  # whatever a head does that vmap cannot; alone it may still run
        if options.parallel == "stacked":
            raise MerError(
                f"head {options.head!r} cannot be stacked ({str(error).splitlines()[0]}); use --parallel auto"
            ) from error
        return 1, f"head {options.head!r} cannot be stacked"
    if data.device.type == "cuda":
        # Of all of the device, not of what is free now: a run that goes on must cut its stacks as before.
        free = torch.cuda.get_device_properties(data.device).total_memory * 0.85 - peak[0]
        return max(1, min(len(seed_runs), LARGEST_STACK, int(free // max(peak[1], 1)))), "fits the device"
    return min(len(seed_runs), LARGEST_STACK), "small head, short sequences"


def probe(prepared: Prepared, data: TrainingData) -> tuple[float, float]:
    """Run one stacked step of two runs on the longest batch; return bytes held before, and bytes per run."""
    cuda = data.device.type == "cuda"
    pair = prepared.seed_runs[:2]
    cost = data.source.cost
    rows = pair[0].train[np.argsort(-cost[pair[0].train], kind="stable")[: data.shape.size]]
    if cuda:
        data.whole() if not data.source.streamed else None
        torch.cuda.reset_peak_memory_stats(data.device)
    held = torch.cuda.memory_allocated(data.device) if cuda else 0
    stack = stack_models([prepared.blueprint.build(m.seed) for m in pair], data.device)
    assert isinstance(stack, StackedModels)
    window = data.source.window(data.device, rows) if data.source.streamed else data.whole()
    batch = data.gatherer(pair, stacked=True).batch(window, np.stack([rows, rows]))
    with data.autocast():
        terms = stack.losses(parts_of(batch), None, 0.5)
    torch.stack([term.float().sum() for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
    peak = torch.cuda.max_memory_allocated(data.device) if cuda else 0
    # A step also leaves AdamW's two moments of every weight, and the best epoch's weights are kept beside them.
    weights = sum(p.numel() * p.element_size() for p in stack.parameters.values())
    return float(held), (peak - held + 3 * weights) / 2


def save_finished(run: Run, data: TrainingData, found: Finished) -> None:
    """Write one member's history and then its model, whose file says that the member is done."""
    seed_run = found.seed_run
    run.save_history(seed_run.name, found.history)
    facts = {
        "name": seed_run.name,
        "fold": seed_run.fold_name,
        "seed": seed_run.seed,
        "best_epoch": found.best_epoch,
        "best_score": None if math.isnan(found.best_score) else found.best_score,
        "epochs": len(found.history),
    }
    normalisers = {m: each[seed_run.fold] for m, each in data.normalisers.items()}
    learned = {"prior": data.priors[seed_run.fold]}
    if data.kind == "real":
        learned["unit"] = unit_of(data.labels[seed_run.train])
    run.save_model(seed_run.name, found.state, normalisers, learned, facts)
