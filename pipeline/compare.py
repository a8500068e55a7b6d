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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import MerError

from .metrics import LOWER_IS_BETTER, labelled, score, scores_of_confusion, selection_metric
from .runs import Run

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


def permute_classes(
    metric: str,
    labels: npt.NDArray[np.int64],
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    group: npt.NDArray[np.int64],
    draws: int,
    seed: int,
) -> tuple[float, float]:
    """Difference of a class metric (right minus left) and its two-sided permutation p.

    Confusion tables are summed per group once, so that a draw costs a matrix product.

    Parameters
    ----------
    metric : str
    labels : array (n,)
    left, right : array (seeds, n)
        Predicted codes.
    group : array (n,)
        Numbers of the groups that are swapped as one.
    draws, seed : int
    """
    classes = int(max(labels.max(), left.max(), right.max())) + 1
    groups = int(group.max()) + 1

    def tables(predicted: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        cell = (group * classes + labels) * classes + predicted
        size = groups * classes * classes
        return (
            np.stack([np.bincount(layer, minlength=size) for layer in cell])
            .reshape(len(cell), groups, -1)
            .astype(float)
        )

    a, b = tables(left), tables(right)
    rng = np.random.default_rng(seed)
    swap = rng.integers(0, 2, size=(draws, groups)).astype(float)
    swap[0] = 0.0  # the first draw is what was observed
    moved = np.einsum("dg,sgc->dsc", swap, b - a, optimize=True)
    shape = (draws, len(a), classes, classes)
    new_left = scores_of_confusion((a.sum(1)[None] + moved).reshape(shape))[metric]
    new_right = scores_of_confusion((b.sum(1)[None] - moved).reshape(shape))[metric]
    differences = (new_right - new_left).mean(1)
    return float(differences[0]), two_sided(differences)


def permute(
    rate: Callable[[npt.NDArray[np.float32]], float],
    left: npt.NDArray[np.float32],
    right: npt.NDArray[np.float32],
    group: npt.NDArray[np.int64],
    draws: int,
    seed: int,
) -> tuple[float, float]:
    """As `permute_classes`, for any metric: outputs of shape (seeds, n, C) are swapped and rated again, (n, C) each."""
    rng = np.random.default_rng(seed)
    differences = np.empty(draws)
    for draw in range(draws):
        swap = (rng.integers(0, 2, size=group.max() + 1) * (draw > 0)).astype(bool)[group][:, None]
        both = [rate(np.where(swap, b, a)) - rate(np.where(swap, a, b)) for a, b in zip(left, right, strict=True)]
        differences[draw] = 0.0 - np.mean(both)  # no minus before a zero
    return float(differences[0]), two_sided(differences)


def two_sided(differences: npt.NDArray[np.float64]) -> float:
    """Share of draws at least as far from zero as the first, which is the observed one and counts itself.

    NaN if that one is undefined; other undefined draws count as far.
    """
    observed = abs(differences[0])
    return float("nan") if np.isnan(observed) else float(np.mean(~(np.abs(differences) < observed - 1e-12)))


def mcnemar(
    labels: npt.NDArray[np.int64], left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]
) -> tuple[int, int, float]:
    """Utterances only the left and only the right gets right, and the exact two-sided p of their split."""
    from scipy.stats import binomtest

    only_left = int(((left == labels) & (right != labels)).sum())
    only_right = int(((left != labels) & (right == labels)).sum())
    total = only_left + only_right
    return only_left, only_right, float(binomtest(only_left, total).pvalue) if total else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjustment: with m tests the smallest p counts m-fold, the next (m - 1)-fold, never decreasing.

    NaN stays NaN and counts as no test.
    """
    adjusted = [float("nan")] * len(values)
    running, tests = 0.0, int((~np.isnan(values)).sum())
    for rank, index in enumerate(np.argsort(values)[:tests]):  # NaN comes last
        running = max(running, min(1.0, (tests - rank) * values[index]))
        adjusted[index] = running
    return adjusted


def verdict(pair: Pair) -> str:
    """One sentence about a pair."""
    if np.isnan(pair.p_holm):
        return "undefined: one of the runs has no value of this metric"
    if pair.p_holm >= 0.05:
        return f"no evidence of a difference (p = {pair.p_holm:.3f})"
    ahead = (pair.difference < 0) == (pair.metric in LOWER_IS_BETTER)
    return f"{pair.second if ahead else pair.first} is better (p = {pair.p_holm:.3f})"
