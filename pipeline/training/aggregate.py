"""Scores over the seeds and folds of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..scores.metrics import confusion, label_counts, labelled, score
from ..scores.statistics import Interval, interval_over_runs
from .run_folder import Predictions, Run

DRAWS_OVER_UTTERANCES = 300


def aggregate_scores(
    run: Run,
    entries: Sequence[Mapping[str, Any]],
    parts: Mapping[str, Predictions],
    priors: Mapping[str, npt.NDArray[np.float32]],
) -> dict[str, Any]:
    """Scores of the test rows over all members.

    Parameters
    ----------
    run : Run
    entries : sequence of mappings
        `name`, `fold`, `seed` and `test` scores of every member.
    parts : mapping
        Member name to its predictions of the test rows.
    priors : mapping
        Member name to its training prior.

    Returns
    -------
    dict
        Per metric `mean`, `std`, `low`, `high` (95 %), `over` (`runs` or `utterances`: what the interval resamples),
        `pooled` and `pooled_std` (all folds' test rows together, over seeds) and `majority` (the training prior alone).
        For classes also `confusion`, for sets of classes `label_counts`, summed over members, under those names.
    """
    kind, scale = run.kind, run.scale
    folds = list(dict.fromkeys(m["fold"] for m in entries))
    seeds = list(dict.fromkeys(m["seed"] for m in entries))
    at = {(m["fold"], m["seed"]): m for m in entries}
    pooled = [score(kind, *_pool([parts[at[f, s]["name"]] for f in folds]), scale) for s in seeds]
    guessed = [_by_prior(parts[m["name"]], priors[m["name"]]) for m in (at[f, seeds[0]] for f in folds)]
    majority = score(kind, *_pool(guessed), scale)
    alone = over_utterances(kind, scale, parts[entries[0]["name"]]) if len(entries) == 1 else {}
    result: dict[str, Any] = {}
    for metric in run.metric_names:
        grid = np.array([[_number(at[f, s]["test"][metric]) for s in seeds] for f in folds])
        interval = alone.get(metric) or interval_over_runs(grid)
        together = np.array([p[metric] for p in pooled])
        result[metric] = {
            **{name: _plain(value) for name, value in vars(interval).items()},
            "over": "utterances" if alone else "runs",
            "pooled": _plain(together.mean()),
            "pooled_std": _plain(together.std(ddof=1)) if len(together) > 1 else None,
            "majority": _plain(majority[metric]),
        }
    if kind == "class":
        counts = sum(_confusion(parts[m["name"]], len(run.classes)) for m in entries)
        result["confusion"] = np.asarray(counts).tolist()
    if kind == "multi":
        each = [label_counts(parts[m["name"]].labels, parts[m["name"]].outputs) for m in entries]
        result["label_counts"] = np.sum(each, axis=0).tolist()
    return result


def over_utterances(kind: str, scale: float, found: Predictions) -> dict[str, Interval]:
    """Intervals of a single run, from resampling its test dialogues (utterances where there are none)."""
    values = score(kind, found.labels, found.outputs, scale)
    _, group = np.unique(found.group, return_inverse=True)
    members = [np.flatnonzero(group == g) for g in range(group.max() + 1)]
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(DRAWS_OVER_UTTERANCES if len(members) > 1 else 0):
        rows = np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
        draws.append(score(kind, found.labels[rows], found.outputs[rows], scale))
    intervals = {}
    for metric, value in values.items():
        drawn = np.array([draw[metric] for draw in draws])
        low, high = np.nanpercentile(drawn, [2.5, 97.5]) if (~np.isnan(drawn)).any() else (np.nan, np.nan)
        intervals[metric] = Interval(value, float("nan"), float(low), float(high))
    return intervals


def _pool(parts: list[Predictions]) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    return np.concatenate([p.labels for p in parts]), np.concatenate([p.outputs for p in parts])


def _by_prior(found: Predictions, prior: npt.NDArray[np.float32]) -> Predictions:
    """Return the same rows answered by the training prior."""
    return Predictions(**{**vars(found), "outputs": np.repeat(prior[None], len(found.keys), axis=0)})


def _confusion(found: Predictions, classes: int) -> npt.NDArray[np.int64]:
    known = labelled("class", found.labels)
    return confusion(found.labels[known], found.outputs[known].argmax(1), classes)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
