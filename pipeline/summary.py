"""Scores over the seeds and folds of a run, and the tables that show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from .console import table
from .metrics import (
    NAMES,
    TITLES,
    Interval,
    bootstrap,
    confusion,
    labelled,
    per_class,
    score,
    show,
)
from .runs import Predictions, Run

MOST_LISTED = 12
DRAWS_OVER_UTTERANCES = 300


def summarise(run: Run) -> dict[str, Any]:
    """Scores of the test rows over all members.

    Returns
    -------
    dict
        Per metric `mean`, `std`, `low`, `high` (95 %), `over` (`runs` or `utterances`: what the interval resamples),
        `pooled` and `pooled_std` (all folds' test rows together, over seeds) and `majority` (the training prior alone).
        For classes also `confusion`, summed over members, under that name.
    """
    members = run.members
    parts = {m["name"]: run.predictions(m["name"]).part("test") for m in members}
    folds = list(dict.fromkeys(m["fold"] for m in members))
    seeds = list(dict.fromkeys(m["seed"] for m in members))
    names = {(m["fold"], m["seed"]): m["name"] for m in members}
    pooled = [score(run.kind, *_pool([parts[names[f, s]] for f in folds])) for s in seeds]
    majority = score(run.kind, *_pool([_by_prior(run, names[f, seeds[0]], parts) for f in folds]))
    result: dict[str, Any] = {}
    for metric in NAMES[run.kind]:
        grid = np.array([[_number(_member(members, names[f, s])["test"][metric]) for s in seeds] for f in folds])
        interval, over = bootstrap(grid), "runs"
        if grid.size == 1:
            interval, over = over_utterances(run.kind, parts[members[0]["name"]], metric), "utterances"
        together = np.array([p[metric] for p in pooled])
        result[metric] = {
            **{name: _plain(value) for name, value in vars(interval).items()},
            "over": over,
            "pooled": _plain(together.mean()),
            "pooled_std": _plain(together.std(ddof=1)) if len(together) > 1 else None,
            "majority": _plain(majority[metric]),
        }
    if run.kind == "class":
        counts = sum(_confusion(parts[m["name"]], len(run.classes)) for m in members)
        result["confusion"] = np.asarray(counts).tolist()
    return result


def over_utterances(kind: str, found: Predictions, metric: str) -> Interval:
    """Interval of a single run, from resampling its test dialogues (utterances where there are none)."""
    value = score(kind, found.labels, found.outputs)[metric]
    _, group = np.unique(found.group, return_inverse=True)
    members = [np.flatnonzero(group == g) for g in range(group.max() + 1)]
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(DRAWS_OVER_UTTERANCES):
        rows = np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
        draws.append(score(kind, found.labels[rows], found.outputs[rows])[metric])
    low, high = (float(v) for v in np.nanpercentile(draws, [2.5, 97.5])) if len(members) > 1 else (np.nan, np.nan)
    return Interval(value, float("nan"), low, high)


def _pool(parts: list[Predictions]) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    return np.concatenate([p.labels for p in parts]), np.concatenate([p.outputs for p in parts])


def _by_prior(run: Run, name: str, parts: Mapping[str, Predictions]) -> Predictions:
    """Return the same rows answered by the training prior."""
    found = parts[name]
    prior = run.load_member(name).prior
    return Predictions(**{**vars(found), "outputs": np.repeat(prior[None], len(found.keys), axis=0)})


def _confusion(found: Predictions, classes: int) -> npt.NDArray[np.int64]:
    known = labelled("class", found.labels)
    return confusion(found.labels[known], found.outputs[known].argmax(1), classes)


def _member(members: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(m for m in members if m["name"] == name)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def print_run(run: Run, console: Console) -> None:
    """Print what a run found: its data, its scores, its classes."""
    facts = run.facts
    console.print(_headline(run), soft_wrap=True, highlight=False)
    for note in facts["notes"]:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    if not facts["metrics"]:
        _print_validation(run, console)
        return
    if 1 < len(run.members) <= MOST_LISTED:
        _print_members(run, console)
    console.print(scores_table(run))
    if run.kind == "class":
        console.print(class_table(run))


def _headline(run: Run) -> str:
    facts = run.facts
    folds = facts["protocol"]["folds"]
    shared = f"{len(folds)} fold{'s' * (len(folds) > 1)} x {len(facts['seeds'])} seed{'s' * (len(facts['seeds']) > 1)}"
    context = "" if facts["context"] == "none" else f" with {facts['context']} context"
    sizes = f", {folds[0]['train']}/{folds[0]['val']}/{folds[0]['test']} utterances" if len(folds) == 1 else ""
    return (
        f"[bold]{facts['head']}[/bold]{context} on {facts['corpus']} ({', '.join(facts['features']['sets'])}), target "
        f"{facts['target']}, protocol {facts['protocol']['name']}, {shared}{sizes}, {facts['parameters']:,} parameters"
    )


def _print_members(run: Run, console: Console) -> None:
    shown = NAMES[run.kind][:4]
    made = table("Test scores by run", "run", ">epoch", ">validation", *(f">{TITLES[name]}" for name in shown))
    for member in run.members:
        scores = [show(name, _number(member["test"][name])) for name in shown]
        made.add_row(
            member["name"], str(member["best_epoch"]), show(run.facts["metric"], member["best_score"]), *scores
        )
    console.print(made)


def _print_validation(run: Run, console: Console) -> None:
    made = table(
        "Validation scores (test rows not touched)", "run", ">epoch", *(f">{TITLES[n]}" for n in NAMES[run.kind])
    )
    for member in run.members:
        made.add_row(
            member["name"], str(member["best_epoch"]), *(show(n, _number(member["val"][n])) for n in NAMES[run.kind])
        )
    console.print(made)


def scores_table(run: Run) -> Any:
    """Table of the test scores: mean, spread, interval, pooled, and what the prior alone would reach."""
    metrics = run.facts["metrics"]
    over = "seeds x folds" if next(iter(metrics.values()))["over"] == "runs" else "test dialogues"
    made = table(
        "Test scores", "metric", ">mean ± std", f">95 % interval ({over})", ">all folds pooled", ">prior alone"
    )
    for name in NAMES[run.kind]:
        entry = {key: value if isinstance(value, str) else _number(value) for key, value in metrics[name].items()}
        spread = "" if np.isnan(entry["std"]) else f" ± {show(name, entry['std'])}"
        interval = "–" if np.isnan(entry["low"]) else f"{show(name, entry['low'])} to {show(name, entry['high'])}"
        made.add_row(
            TITLES[name], show(name, entry["mean"]) + spread, interval, show(name, entry["pooled"]),
            show(name, entry["majority"]),
        )  # fmt: skip
    return made


def class_table(run: Run) -> Any:
    """Table per class with the confusion beside it, in shares of the class, over all runs."""
    counts = np.array(run.facts["metrics"]["confusion"], dtype=np.int64)
    made = table(
        "By class, all runs together; on the right what the class was taken for, in per cent",
        "class", ">precision", ">recall", ">F1", ">test utterances", *(f">{name[:9]}" for name in run.classes),
    )  # fmt: skip
    seeds = len(run.facts["seeds"])
    for row, entry in enumerate(per_class(counts, run.classes)):
        shares = counts[row] / max(entry.support, 1)
        made.add_row(
            entry.name, show("f1", entry.precision), show("f1", entry.recall), show("f1", entry.f1),
            str(entry.support // seeds), *(f"{100 * share:.0f}" if entry.support else "–" for share in shares),
        )  # fmt: skip
    return made
