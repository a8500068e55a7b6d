"""Scores of predictions, one name each, for classes, sets of classes and numbers.

Names and conventions:

* `war` weighted average recall, which is plain accuracy; `uar` unweighted average recall over the classes that occur in
  the truth; `wf1` and `macro_f1` F1 averaged by support and evenly over classes that occur in truth or prediction.
* Sets: `macro_f1`, `micro_f1` at a threshold of 0.5, `map` mean average precision over classes that occur.
* Numbers: `mae`, `ccc` (Lin's concordance, with population moments) and `pearson`. Where some numbers are below 0 also
  `acc2` and `f1` over negative against non-negative, `acc2_nonzero` and `f1_nonzero` over negative against positive
  with rows of truth 0 left out. On a scale of up to 3 (CMU-MOSI) `acc7` and `acc5` after clipping to [-3, 3] and
  [-2, 2] and rounding; on one of up to 1 (CH-SIMS) `acc2_positive` and `f1_positive` over positive against the rest,
  `acc3` with cuts at ±0.1 and `acc5` with cuts at ±0.1 and ±0.7, a number on a cut belonging below it. The others
  are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import MerError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CLASS_METRICS = ("war", "uar", "wf1", "macro_f1")
MULTI_METRICS = ("macro_f1", "micro_f1", "map")
REAL_METRICS = (
    "mae", "ccc", "pearson", "acc2", "f1", "acc2_nonzero", "f1_nonzero", "acc2_positive", "f1_positive",
    "acc3", "acc5", "acc7",
)  # fmt: skip
NAMES = {"class": CLASS_METRICS, "multi": MULTI_METRICS, "real": REAL_METRICS}
DEFAULT = {"class": "wf1", "multi": "macro_f1", "real": "mae"}
LOWER_IS_BETTER = frozenset({"mae"})
TITLES = {
    "war": "WAR (accuracy)",
    "uar": "UAR",
    "wf1": "weighted F1",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "map": "mAP",
    "mae": "MAE",
    "ccc": "CCC",
    "pearson": "Pearson r",
    "acc2": "Acc-2 (neg/non-neg)",
    "f1": "F1 (neg/non-neg)",
    "acc2_nonzero": "Acc-2 (neg/pos)",
    "f1_nonzero": "F1 (neg/pos)",
    "acc2_positive": "Acc-2 (pos/non-pos)",
    "f1_positive": "F1 (pos/non-pos)",
    "acc3": "Acc-3",
    "acc5": "Acc-5",
    "acc7": "Acc-7",
}
UNIT_CUTS = {"acc3": (-0.1, 0.1), "acc5": (-0.7, -0.1, 0.1, 0.7)}
"""Where CH-SIMS' grades of sentiment end."""
PLAIN_NUMBERS = frozenset({"mae", "ccc", "pearson"})
"""Metrics that are not shares and so are not shown in per cent."""


def selection_metric(kind: str, wanted: str) -> str:
    """Name of the validation metric; `auto` takes the kind's default.

    Raises
    ------
    MerError
        If the metric does not exist for this kind of target.
    """
    name = DEFAULT[kind] if wanted == "auto" else wanted
    if name not in NAMES[kind]:
        raise MerError(f"metric {name!r} is not defined for a target of kind {kind!r}; use {', '.join(NAMES[kind])}")
    return name


def scale_of(kind: str, values: npt.NDArray[Any]) -> float:
    """How far from 0 the numbers of a whole target reach; 0 where none is below 0, and for classes."""
    if kind != "real" or not (values < 0).any():
        return 0.0
    return float(np.nanmax(np.abs(values)))


def metric_names(kind: str, scale: float) -> tuple[str, ...]:
    """Names of the metrics that say something about a target, whose numbers have this scale (`scale_of`)."""
    if kind != "real":
        return NAMES[kind]
    if scale == 0:
        return REAL_METRICS[:3]
    cuts = ("acc2_positive", "f1_positive", "acc3", "acc5") if scale <= 1 else ("acc5", "acc7") if scale <= 3 else ()
    return (*REAL_METRICS[:7], *cuts)


def better(metric: str, new: float, old: float) -> bool:
    """Whether `new` beats `old`; a NaN never does, and anything beats a NaN."""
    if np.isnan(new):
        return False
    return bool(np.isnan(old) or (new < old if metric in LOWER_IS_BETTER else new > old))


def loss_of(kind: str, labels: npt.NDArray[Any], outputs: npt.NDArray[Any]) -> float:
    """Mean negative log-likelihood of classes or sets, mean absolute error of numbers, over labelled rows."""
    mask = labelled(kind, labels)
    labels, outputs = labels[mask], np.asarray(outputs[mask], dtype=np.float64)
    if not len(labels):
        return float("nan")
    if kind == "class":
        return float(-np.log(outputs[np.arange(len(labels)), labels].clip(1e-7)).mean())
    if kind == "multi":
        return float(-np.log(np.where(labels > 0.5, outputs, 1 - outputs).clip(1e-7)).mean())
    return float(np.abs(outputs[:, 0] - labels).mean())


def labelled(kind: str, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Mask of the rows that have a label."""
    if kind == "class":
        return np.asarray(labels >= 0)
    return np.asarray(~np.isnan(labels) if kind == "real" else ~np.isnan(labels).any(axis=1))


def confusion(truth: Ints, predicted: Ints, classes: int) -> Ints:
    """Counts of shape (classes, classes): rows are the truth, columns the prediction."""
    flat = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def scores_of_confusion(counts: npt.NDArray[Any]) -> dict[str, Any]:
    """Class metrics from counts of shape (..., C, C); each value has the leading shape. No rows give NaN."""
    counts = np.asarray(counts, dtype=np.float64)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    support, chosen = counts.sum(-1), counts.sum(-2)
    total = support.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = hits / support
        f1 = np.where(support + chosen > 0, 2 * hits / (support + chosen), 0.0)
        occurs, seen = support > 0, support + chosen > 0
        return {
            "war": hits.sum(-1) / total,
            "uar": np.where(occurs, recall, 0.0).sum(-1) / occurs.sum(-1),
            "wf1": (f1 * support).sum(-1) / total,
            "macro_f1": f1.sum(-1) / seen.sum(-1),
        }


def score(kind: str, labels: npt.NDArray[Any], outputs: npt.NDArray[Any], scale: float = 0.0) -> dict[str, float]:
    """All metrics of one set of predictions.

    Parameters
    ----------
    kind : str
        `class`, `multi` or `real`.
    labels : array
        (N,) class codes, (N, C) 0/1, or (N,) numbers; unlabelled rows are left out.
    outputs : array
        (N, C) probabilities, (N, C) probabilities of each class, or (N, 1) numbers.
    scale : float
        Of the target's numbers (`scale_of`), which decides what their accuracies mean.
    """
    mask = labelled(kind, labels)
    labels, outputs = labels[mask], outputs[mask]
    if not len(labels):
        return dict.fromkeys(NAMES[kind], float("nan"))
    if kind == "class":
        counts = confusion(labels.astype(np.int64), outputs.argmax(1).astype(np.int64), outputs.shape[1])
        return {name: float(value) for name, value in scores_of_confusion(counts).items()}
    if kind == "multi":
        return _score_sets(labels > 0.5, outputs)
    return _score_numbers(labels.astype(np.float64), outputs[:, 0].astype(np.float64), scale)


def _score_sets(truth: npt.NDArray[np.bool_], outputs: npt.NDArray[Any]) -> dict[str, float]:
    chosen = outputs >= 0.5
    hits, support, guessed = (truth & chosen).sum(0), truth.sum(0), chosen.sum(0)
    occurs, seen = support > 0, support + guessed > 0
    each = 2 * hits[seen] / (support + guessed)[seen]
    total = support.sum() + guessed.sum()
    precision = [average_precision(truth[:, c], outputs[:, c]) for c in np.flatnonzero(occurs)]
    return {
        "macro_f1": float(each.mean()) if seen.any() else float("nan"),
        "micro_f1": float(2 * hits.sum() / total) if total else float("nan"),
        "map": float(np.mean(precision)) if precision else float("nan"),
    }


def average_precision(truth: npt.NDArray[np.bool_], outputs: npt.NDArray[Any]) -> float:
    """Sum over thresholds of precision times the gain in recall; equal outputs share one threshold."""
    order = np.argsort(-outputs, kind="stable")
    hits = np.cumsum(truth[order])
    ends = np.flatnonzero(np.append(np.diff(outputs[order]) != 0, True))
    precision = hits[ends] / (ends + 1)
    return float((precision * np.diff(hits[ends], prepend=0)).sum() / hits[-1])


def _score_numbers(truth: Floats, predicted: Floats, scale: float) -> dict[str, float]:
    spread = truth.var() + predicted.var() + (truth.mean() - predicted.mean()) ** 2
    together = ((truth - truth.mean()) * (predicted - predicted.mean())).mean()
    constant = np.ptp(truth) == 0 or np.ptp(predicted) == 0
    found = dict.fromkeys(REAL_METRICS, float("nan")) | {
        "mae": float(np.abs(truth - predicted).mean()),
        "ccc": float(2 * together / spread) if spread else float("nan"),
        "pearson": float("nan") if constant else float(np.corrcoef(truth, predicted)[0, 1]),
    }
    if scale == 0 or not (truth < 0).any():
        return found
    nonzero = truth != 0
    found |= _two_ways("", truth >= 0, predicted >= 0)
    found |= _two_ways("_nonzero", truth[nonzero] > 0, predicted[nonzero] > 0)
    if scale <= 1:
        found |= _two_ways("_positive", truth > 0, predicted > 0)
        found |= {name: _graded(truth, predicted, cuts) for name, cuts in UNIT_CUTS.items()}
    elif scale <= 3:
        found |= {f"acc{2 * bound + 1}": _rounded(truth, predicted, bound) for bound in (2, 3)}
    return found


def _two_ways(ending: str, truth: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]) -> dict[str, float]:
    counts = scores_of_confusion(confusion(truth.astype(np.int64), predicted.astype(np.int64), 2))
    return {f"acc2{ending}": float(counts["war"]), f"f1{ending}": float(counts["wf1"])}


def _rounded(truth: Floats, predicted: Floats, bound: int) -> float:
    return float(np.mean(np.rint(truth.clip(-bound, bound)) == np.rint(predicted.clip(-bound, bound))))


def _graded(truth: Floats, predicted: Floats, cuts: Sequence[float]) -> float:
    """Share of numbers between the same cuts, in float32, in which labels are kept: 0.1 shall lie on a cut at 0.1."""
    grades = [np.digitize(x.astype(np.float32), np.array(cuts, np.float32), right=True) for x in (truth, predicted)]
    return float(np.mean(grades[0] == grades[1]))


@dataclass(frozen=True)
class ClassRow:
    """One line of the per-class table."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def per_class(counts: Ints, classes: Sequence[str]) -> list[ClassRow]:
    """Precision, recall, F1 and support of every class, from a confusion table; NaN where undefined."""
    return class_rows(np.stack([np.diagonal(counts), counts.sum(1), counts.sum(0)], axis=1), classes)


def label_counts(labels: npt.NDArray[Any], outputs: npt.NDArray[Any]) -> Ints:
    """Per class of a target of sets how often it was hit, true and predicted; shape (C, 3)."""
    mask = labelled("multi", labels)
    truth, chosen = labels[mask] > 0.5, outputs[mask] >= 0.5
    return np.stack([(truth & chosen).sum(0), truth.sum(0), chosen.sum(0)], axis=1).astype(np.int64)


def class_rows(counts: Ints, classes: Sequence[str]) -> list[ClassRow]:
    """Precision, recall, F1 and support from how often each class was hit, true and predicted; NaN where undefined."""
    rows = []
    for name, (hit, support, chosen) in zip(classes, counts.tolist(), strict=True):
        precision = hit / chosen if chosen else float("nan")
        recall = hit / support if support else float("nan")
        f1 = 2 * hit / (support + chosen) if support + chosen else float("nan")
        rows.append(ClassRow(name, precision, recall, f1, support))
    return rows


def show(metric: str, value: float) -> str:
    """Return a score as people read it: per cent with one decimal, or three decimals for plain numbers."""
    if np.isnan(value):
        return "–"
    return f"{value:.3f}" if metric in PLAIN_NUMBERS else f"{100 * value:.1f}"
