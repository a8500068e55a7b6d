"""`mer compare`: runs side by side, and whether their difference is more than chance.

Two tests on the test utterances both runs predicted, pooled over folds:

* Paired permutation: if two runs were equally good, swapping their predictions of a whole dialogue would change nothing
  but by chance. Dialogues (utterances where there are none) are swapped at random, for all seeds together, and the
  metric is computed again each time; p is the share of draws whose difference is at least as large as the observed one.
* McNemar, exact, for classes: over utterances where exactly one of the two runs is right (probabilities averaged over
  seeds), are the two counts further apart than a fair coin would put them?

With more than one pair, permutation p-values are adjusted by Holm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import MerError

from ..scores.metrics import LOWER_IS_BETTER, labelled, score, selection_metric
from ..scores.statistics import holm, mcnemar, permute, permute_classes
from ..training.run_folder import Run

DRAWS = 5000
DRAWS_SCORED_ANEW = 500
"""Fewer draws for metrics that are not computed from a confusion table."""


@dataclass(frozen=True)
class Pooled:
    """A run's test predictions of all folds: one row per utterance, one layer per seed."""

    run: Run
    keys: npt.NDArray[np.str_]
    labels: npt.NDArray[Any]
    group: npt.NDArray[np.str_]
    outputs: npt.NDArray[np.float32]
    """Shape (seeds, n, C)."""

    @classmethod
    def of(cls, run: Run) -> Pooled:
        """Read a run's predictions."""
        seeds = list(dict.fromkeys(m["seed"] for m in run.members))
        layers = []
        for seed in seeds:
            names = [m["name"] for m in run.members if m["seed"] == seed]
            parts = [run.predictions(name).part("test") for name in names]
            keys = np.concatenate([p.keys for p in parts])
            order = np.argsort(keys, kind="stable")
            layers.append((keys[order], *(np.concatenate([getattr(p, f) for p in parts])[order] for f in FIELDS)))
        keys, labels, group, _ = layers[0]
        if any(not np.array_equal(layer[0], keys) for layer in layers):
            raise MerError(f"{run.path}: its seeds predicted different utterances; train it again")
        if len(np.unique(keys)) < len(keys):
            raise MerError(f"{run.path}: an utterance is tested in several folds, so its predictions cannot be paired")
        return cls(run, keys, labels, group, np.stack([layer[3] for layer in layers]))


FIELDS = ("labels", "group", "outputs")


@dataclass(frozen=True)
class Pair:
    """Two runs and their difference in one metric."""

    first: str
    second: str
    metric: str
    difference: float
    """Second minus first, mean over seeds of the metric of all folds pooled; NaN where it is undefined for a run."""
    p: float
    p_holm: float
    groups: int
    unit: str
    """What a group is: `dialogues`, or `utterances` where there are none."""
    utterances: int
    only_first: int | None
    """Utterances only the first run gets right, seeds averaged; None unless the target is of classes."""
    only_second: int | None
    p_mcnemar: float | None
    note: str
    """What else differs between the runs and may be behind the difference, or empty."""


def compare(paths: Sequence[Path], metric: str = "auto", draws: int = DRAWS, seed: int = 0) -> list[Pair]:
    """Compare every run with the first.

    Raises
    ------
    MerError
        If fewer than two runs are named, or they share no target, no test utterances or not the labels of those.
    """
    if len(paths) < 2:
        raise MerError("name at least two runs to compare")
    runs = [Run.open(path) for path in paths]
    for run in runs:
        if not run.facts["metrics"]:
            raise MerError(f"{run.path}: its test rows were not scored; train it without score_test = false")
    first = runs[0]
    name = selection_metric(first.kind, metric if metric != "auto" else "war" if first.kind == "class" else "auto")
    if name not in first.metric_names:
        raise MerError(f"{first.path}: has no metric {name!r}; use {', '.join(first.metric_names)}")
    for run in runs[1:]:
        check_target(run, first)
    pooled = [Pooled.of(run) for run in runs]
    pairs = [_pair(pooled[0], other, name, draws, seed) for other in pooled[1:]]
    adjusted = holm([pair.p for pair in pairs])
    return [Pair(**{**vars(pair), "p_holm": p}) for pair, p in zip(pairs, adjusted, strict=True)]


def check_target(run: Run, first: Run) -> None:
    """Refuse runs of different targets, or of different classes of one."""
    target, other = run.facts["target"], first.facts["target"]
    if (target, run.kind) != (other, first.kind):
        raise MerError(
            f"{run.path} predicts {target} ({run.kind}) and {first.path} {other} ({first.kind}): not comparable"
        )
    if run.classes != first.classes:
        lacking = [
            f"only {one.path} has {', '.join(extra)}"
            for one, two in ((run, first), (first, run))
            if (extra := [name for name in one.classes if name not in two.classes])
        ]
        what = "; ".join(lacking) or "their order differs"
        raise MerError(f"{run.path} and {first.path} have different classes of {target} ({what}): not comparable")


def protocol_of(run: Run) -> str:
    """Protocol of a run with its number of folds."""
    folds = len(run.facts["protocol"]["folds"])
    return f"{run.facts['protocol']['name']} ({folds} fold{'s' * (folds > 1)})"


def _protocol_note(a: Run, b: Run) -> str:
    if a.facts["protocol"]["digest"] == b.facts["protocol"]["digest"]:
        return ""
    one, two = protocol_of(a), protocol_of(b)
    if one == two:
        return f"{a.path} and {b.path} have different folds of protocol {one}: they were trained on different rows"
    return f"{a.path} is of protocol {one}, {b.path} of {two}: they were trained on different rows"


def _pair(a: Pooled, b: Pooled, metric: str, draws: int, seed: int) -> Pair:
    shared, in_a, in_b = np.intersect1d(a.keys, b.keys, return_indices=True)
    if not len(shared):
        raise MerError(f"{a.run.path} and {b.run.path} share no test utterances: not comparable")
    labels = a.labels[in_a]
    differs = ~np.isclose(labels, b.labels[in_b], equal_nan=True).reshape(len(shared), -1).all(1)
    if differs.any():
        raise MerError(
            f"{differs.sum()} of {len(shared)} shared test utterances have other labels in {b.run.path} than in "
            f"{a.run.path}: not comparable; train both on the same file"
        )
    known = labelled(a.run.kind, labels)
    in_a, in_b, labels = in_a[known], in_b[known], labels[known]
    unit = "dialogues" if (a.group[in_a] != a.keys[in_a]).any() else "utterances"
    group = np.unique(a.group[in_a], return_inverse=True)[1]
    seeds = min(len(a.outputs), len(b.outputs))
    left, right = a.outputs[:seeds, in_a], b.outputs[:seeds, in_b]
    if a.run.kind == "class":
        difference, p = permute_classes(metric, labels, left.argmax(-1), right.argmax(-1), group, draws, seed)
        wins: tuple[int, int, float] | tuple[None, None, None] = mcnemar(
            labels, a.outputs[:, in_a].mean(0).argmax(-1), b.outputs[:, in_b].mean(0).argmax(-1)
        )
    else:

        def rate(outputs: npt.NDArray[np.float32]) -> float:
            return score(a.run.kind, labels, outputs, a.run.scale)[metric]

        difference, p = permute(rate, left, right, group, min(draws, DRAWS_SCORED_ANEW), seed)
        wins = (None, None, None)
    names = (str(a.run.path), str(b.run.path))
    only_a, only_b, p_wins = wins
    note = _protocol_note(a.run, b.run)
    groups = int(group.max()) + 1
    return Pair(*names, metric, difference, p, p, groups, unit, len(labels), only_a, only_b, p_wins, note)


def verdict(pair: Pair) -> str:
    """One sentence about a pair."""
    if np.isnan(pair.p_holm):
        return "undefined: one of the runs has no value of this metric"
    if pair.p_holm >= 0.05:
        return f"no evidence of a difference (p = {pair.p_holm:.3f})"
    ahead = (pair.difference < 0) == (pair.metric in LOWER_IS_BETTER)
    return f"{pair.second if ahead else pair.first} is better (p = {pair.p_holm:.3f})"
