"""`mer train --sweep sweep.toml`: choose settings on validation alone, then train them in full and score the test rows.

    method = "random"        # grid, random, or tpe (needs the extra: pip install 'mer-toolkit[sweep]')
    trials = 20              # not for grid, which tries everything
    seeds = 1                # seeds of each trial; its score is the mean over them and the folds
    seed = 0
    [space]
    "train.lr" = { low = 1e-4, high = 1e-3, log = true }
    "head.dim" = [64, 128, 256]

Every trial is a run without test scores under `<out>-trials/`; what is finished is not done again. One that diverges
has no score, and the sweep goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from mer.cache import MerError, atomic_write
from mer.cache.release import install_line
from mer.stages.registry import find, suggest

from ..scores.metrics import LOWER_IS_BETTER, show
from .engine import DivergedError
from .run import RunSummary, train
from .run_folder import Run
from .settings import SECTIONS, Recipe, TrainOptions, check_options, make_config, read_settings, settings_of

logger = logging.getLogger("mer.sweep")

METHODS = ("grid", "random", "tpe")
SAME_FOR_ALL = {
    "head.name": "head",
    "context.kind": "context",
    "train.select": "metric",
    "train.val_fraction": "validation part",
}
"""Settings that a sweep does not vary, and what they choose."""
Point = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """What to try."""

    space: Mapping[str, Any] = field(default_factory=dict)
    """Setting to a list of values, or to a range `{low, high, log, int}`."""
    method: str = "random"
    trials: int = 20
    seeds: int = 1
    seed: int = 0


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file.

    Raises
    ------
    MerError
        If a key is unknown, or the space is empty or malformed.
    """
    given = read_settings(path)
    try:
        found: Sweep = make_config(Sweep, given, "")
        _check_space(found)
    except MerError as error:
        raise MerError(f"{path}: {error}") from error
    return found


def _check_space(sweep: Sweep) -> None:
    """Refuse numbers and a space that no trial could be drawn from, or that would leave trials incomparable."""
    if not sweep.space:
        raise MerError("names nothing to try; add a [space] table")
    if sweep.method not in METHODS:
        raise MerError(f"method {sweep.method!r} is not known; {suggest(sweep.method, list(METHODS))}")
    for name, number, least in (("trials", sweep.trials, 1), ("seeds", sweep.seeds, 1), ("seed", sweep.seed, 0)):
        if number < least:
            raise MerError(f"{name} = {number} is too small; it must be at least {least}")
    for key, choices in sweep.space.items():
        if key.partition(".")[0] not in SECTIONS or "." not in key:
            raise MerError(f"{key!r} cannot be tuned; settings are called train.*, head.* or context.*")
        if key in SAME_FOR_ALL:
            raise MerError(f"{key!r} cannot be tuned: trials are compared under one {SAME_FOR_ALL[key]}")
        ranged = isinstance(choices, Mapping) and {"low", "high"} <= set(choices) <= {"low", "high", "log", "int"}
        if ranged and sweep.method == "grid":
            raise MerError(f"a grid needs lists of values, and {key!r} is a range; list its values or use random")
        if ranged:
            _check_range(key, choices)
        elif not (isinstance(choices, list) and choices):
            raise MerError(f"{key!r} needs a list of values or {{ low = .., high = .., log = true }}")


def _check_range(key: str, choices: Mapping[str, Any]) -> None:
    ends = (choices["low"], choices["high"])
    if not all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
        raise MerError(f"the ends of the range of {key!r} are {ends[0]!r} and {ends[1]!r}; give two numbers")
    if not ends[0] < ends[1]:
        raise MerError(f"the range of {key!r} is empty")
    if choices.get("log") and ends[0] <= 0:
        raise MerError(f"the range of {key!r} starts at {ends[0]}; with log = true it must start above 0")
    if choices.get("int") and not all(float(end).is_integer() for end in ends):
        raise MerError(f"the range of {key!r} goes from {ends[0]} to {ends[1]}; with int = true give whole numbers")


def run_sweep(
    options: TrainOptions, path: Path, console: Console | None = None, command: Sequence[str] = ()
) -> RunSummary:
    """Try settings on validation, record every trial, and train the best one in full.

    Raises
    ------
    MerError
        If the sweep file is wrong, or `--out` is missing: an interrupted sweep must find its trials again.
    """
    sweep = read_sweep(path)
    if options.out is None:
        raise MerError("a sweep needs --out FOLDER, where its trials are kept and found again")
    folder = options.out.parent / f"{options.out.name}-trials"
    if options.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    elif (options.out / "run.json").exists() and Run.open(options.out, unfinished=True).facts["status"] == "done":
        raise MerError(f"{options.out}: holds a finished run; choose another --out, or replace it with --overwrite")
    check_points(options, sweep)
    results: list[tuple[Point, float]] = []
    metric = ""

    def attempt(point: Point) -> float:
        nonlocal metric
        metric, value = run_trial(trial_options(options, sweep, point, folder), console)
        results.append((point, value))
        logger.info("trial %d: %s = %s with %s", len(results), metric, show(metric, value), describe(point))
        write_trials(folder / "trials.json", metric, results)
        return value

    if sweep.method == "tpe":
        _tpe(sweep, attempt, lambda: metric in LOWER_IS_BETTER)
    else:
        for point in points(sweep):
            attempt(point)
    best = best_point(results, metric)
    logger.info("best on validation: %s", describe(best))
    return train(with_point(options, best), console, command)


def check_points(options: TrainOptions, sweep: Sweep) -> None:
    """Refuse settings of a trial now, not when its turn comes; those that Optuna will propose are not known yet."""
    for point in points(sweep) if sweep.method != "tpe" else ():
        made = with_point(options, point)
        check_options(made)
        make_config(find("head", made.head).Config, made.head_settings, "head.")


def run_trial(options: TrainOptions, console: Console | None) -> tuple[str, float]:
    """Metric of selection and its mean over the runs of one trial, NaN where it diverged."""
    assert options.out is not None
    try:
        run = train(options, console).run
    except DivergedError as error:
        logger.warning("%s", error)
        return str(Run.open(options.out, unfinished=True).facts["metric"]), float("nan")
    metric = str(run.facts["metric"])
    return metric, float(np.mean([float("nan") if m["val"][metric] is None else m["val"][metric] for m in run.members]))


def best_point(results: Sequence[tuple[Point, float]], metric: str) -> Point:
    """Return the point with the best score; the first one of equals."""
    known = [(point, value) for point, value in results if not math.isnan(value)]
    if not known:
        raise MerError("no trial of the sweep has a validation score; check the target, --select and the rates")
    sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
    return min(known, key=lambda entry: sign * entry[1])[0]


def trial_options(options: TrainOptions, sweep: Sweep, point: Point, folder: Path) -> TrainOptions:
    """Options of one trial; its folder follows from all that is asked, so that a finished trial is found again."""
    made = dataclasses.replace(
        with_point(options, point), seeds=sweep.seeds, score_test=False, overwrite=False, reuse=True
    )
    asked = json.dumps(made.identity(), sort_keys=True, default=str)
    return dataclasses.replace(made, out=folder / hashlib.sha256(asked.encode()).hexdigest()[:12])


def with_point(options: TrainOptions, point: Point) -> TrainOptions:
    """Return the options with the settings of one point in place."""
    parts: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for key, value in point.items():
        section, _, name = key.partition(".")
        parts[section][name] = value
    recipe: Recipe = dataclasses.replace(options.recipe, **settings_of(Recipe, parts["train"], "train."))
    return dataclasses.replace(
        options,
        recipe=recipe,
        head_settings={**options.head_settings, **parts["head"]},
        context_settings={**options.context_settings, **parts["context"]},
    )


def points(sweep: Sweep) -> Iterator[Point]:
    """Every point of a grid, or `trials` random ones; the same for the same file."""
    if sweep.method == "grid":
        for values in itertools.product(*sweep.space.values()):
            yield dict(zip(sweep.space, values, strict=True))
        return
    rng = np.random.default_rng(sweep.seed)
    for _ in range(sweep.trials):
        yield {key: _draw(choices, rng) for key, choices in sweep.space.items()}


def _draw(choices: Any, rng: np.random.Generator) -> Any:
    if isinstance(choices, list):
        return choices[int(rng.integers(len(choices)))]
    low, high = float(choices["low"]), float(choices["high"])
    value = math.exp(rng.uniform(math.log(low), math.log(high))) if choices.get("log") else rng.uniform(low, high)
    return round(value) if choices.get("int") else float(f"{value:.6g}")


def _tpe(sweep: Sweep, attempt: Callable[[Point], float], lower: Callable[[], bool]) -> None:
    """Let Optuna's TPE sampler propose the points."""
    try:
        import optuna
    except ImportError as error:
        raise MerError(f"method 'tpe' needs Optuna: {install_line('sweep')}, or use method = 'random'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=sweep.seed))

    def objective(trial: Any) -> float:
        point = {}
        for key, choices in sweep.space.items():
            if isinstance(choices, list):
                point[key] = trial.suggest_categorical(key, choices)
            elif choices.get("int"):
                point[key] = trial.suggest_int(key, choices["low"], choices["high"], log=bool(choices.get("log")))
            else:
                point[key] = trial.suggest_float(key, choices["low"], choices["high"], log=bool(choices.get("log")))
        value = attempt(point)
        return value if lower() else -value

    study.optimize(objective, n_trials=sweep.trials)


def write_trials(path: Path, metric: str, results: Sequence[tuple[Point, float]]) -> None:
    """Write every trial so far with its validation score, best first and those without one last."""
    sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
    order = sorted(results, key=lambda entry: math.inf if math.isnan(entry[1]) else sign * entry[1])
    listed = [{"settings": point, f"val_{metric}": None if math.isnan(v) else v} for point, v in order]
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


def describe(point: Point) -> str:
    """Settings as one would give them."""
    return ", ".join(f"{key}={value}" for key, value in point.items())
