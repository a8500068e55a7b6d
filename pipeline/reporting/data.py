"""What a report shows of one run, read from its folder: scores, agreement with the truth, curves, map, errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import MerError

from ..scores.metrics import ClassRow, class_rows, confusion, label_counts, labelled, per_class
from ..scores.statistics import Interval, interval_over_runs
from ..training.run_folder import Predictions, Run

MAP_POINTS = 1500
"""More points than this are thinned by a uniform stride: a page with more of them scrolls badly."""


@dataclass(frozen=True)
class Spoken:
    """What the feature file knows of an utterance."""

    text: str | None
    speaker: str


@dataclass(frozen=True)
class Judged:
    """One scored utterance, its predictions averaged over the models that saw it as unseen."""

    key: str
    label: Any
    output: npt.NDArray[np.float64]
    """Shape (C,), probabilities, or (1,), a number."""


@dataclass(frozen=True)
class Figure:
    """One metric over all models of a run."""

    interval: Interval
    over: str
    """What the interval resamples: `runs`, or the `utterances` of a single run."""
    prior: float
    """What the training prior alone reaches; NaN when not known."""


@dataclass(frozen=True)
class RunView:
    """One run, ready to be shown."""

    run: Run
    name: str
    part: str
    """`test`, or `val` when the test rows were left alone."""
    predictions: Mapping[str, Predictions]
    """Member to its predictions on `part`."""
    histories: Mapping[str, Sequence[Mapping[str, float]]]
    judged: Sequence[Judged]
    corpus: Mapping[str, Any]
    """What the feature file says of its corpus; only the name when it cannot be read."""
    spoken: Mapping[str, Spoken]
    spoken_problem: str
    """Why there are no transcripts, or empty."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What `run.json` holds."""
        return self.run.facts

    @property
    def seeds(self) -> list[Any]:
        """Seeds in order."""
        return list(dict.fromkeys(member["seed"] for member in self.run.members))

    @property
    def folds(self) -> list[Any]:
        """Folds in order."""
        return list(dict.fromkeys(member["fold"] for member in self.run.members))

    def grid(self, metric: str) -> npt.NDArray[np.float64]:
        """One score per model, shape (folds, seeds); NaN where there is none."""
        made = np.full((len(self.folds), len(self.seeds)), np.nan)
        for member in self.run.members:
            value = member[self.part].get(metric)
            made[self.folds.index(member["fold"]), self.seeds.index(member["seed"])] = (
                np.nan if value is None else value
            )
        return made

    def figures(self) -> dict[str, Figure]:
        """Metric to its figure over all models."""
        stored = self.facts["metrics"] if self.part == "test" else {}
        made = {}
        for name in self.run.metric_names:
            if name in stored:
                entry = {key: np.nan if value is None else value for key, value in stored[name].items()}
                found = Interval(entry["mean"], entry["std"], entry["low"], entry["high"])
                made[name] = Figure(found, str(entry["over"]), float(entry["majority"]))
            else:
                made[name] = Figure(interval_over_runs(self.grid(name)), "runs", float("nan"))
        return made

    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts of shape (C, C), rows the truth, summed over all models."""
        total = np.zeros((len(self.run.classes),) * 2, dtype=np.int64)
        for found in self.predictions.values():
            known = labelled("class", found.labels)
            total += confusion(found.labels[known].astype(np.int64), found.outputs[known].argmax(1), len(total))
        return total

    def by_class(self) -> list[ClassRow]:
        """Precision, recall, F1 and support of every class over all models; of each label for sets of classes."""
        if self.run.kind == "class":
            return per_class(self.confusion(), self.run.classes)
        each = [label_counts(found.labels, found.outputs) for found in self.predictions.values()]
        return class_rows(np.sum(each, axis=0), self.run.classes)

    def spread_by_class(self) -> dict[str, float]:
        """Standard deviation over seeds of the F1 of every class, all folds of a seed together; NaN for one seed."""
        each: list[dict[str, float]] = []
        for seed in self.seeds:
            names = {member["name"] for member in self.run.members if member["seed"] == seed}
            alone = replace(self, predictions={n: found for n, found in self.predictions.items() if n in names})
            each.append({row.name: row.f1 for row in alone.by_class()})
        if len(each) < 2:
            return {}
        return {name: float(np.std([one[name] for one in each], ddof=1)) for name in each[0]}

    def map(self) -> tuple[npt.NDArray[np.float64], list[Judged], tuple[float, float]]:
        """Fused vectors of the first model on their two widest directions.

        Returns
        -------
        points
            Shape (n, 2).
        judged
            The n utterances.
        shares
            Share of the variance along each of the two directions.
        """
        first = self.predictions[self.run.members[0]["name"]]
        by_key = {one.key: one for one in self.judged}
        usable = np.flatnonzero(np.isfinite(first.vectors.astype(np.float64)).all(axis=1))
        usable = usable[:: max(1, math.ceil(len(usable) / MAP_POINTS))]
        if len(usable) < 3:
            return np.zeros((0, 2)), [], (0.0, 0.0)
        vectors = first.vectors[usable].astype(np.float64)
        left, strengths, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
        points = np.zeros((len(usable), 2))
        points[:, : left.shape[1]] = (left * strengths)[:, :2]
        shares = strengths**2 / max(float((strengths**2).sum()), 1e-12)
        return points, [by_key[str(key)] for key in first.keys[usable]], (float(shares[0]), float(shares[1]))

    def worst(self, most: int) -> list[Judged]:
        """Errors, the most confident first: a wrong class by its probability, a number by its distance."""
        if self.run.kind == "multi":
            return []
        if self.run.kind == "real":
            known = [one for one in self.judged if math.isfinite(float(one.label))]
            return sorted(known, key=lambda one: -abs(float(one.output[0]) - float(one.label)))[:most]
        wrong = [one for one in self.judged if one.label >= 0 and int(one.output.argmax()) != int(one.label)]
        return sorted(wrong, key=lambda one: -float(one.output.max()))[:most]


def read_runs(paths: Sequence[Path], separator: str = "/") -> list[RunView]:
    """Read several runs; those whose folders have equal names are told apart by the folder above, too.

    Raises
    ------
    MerError
        As `read_run`.
    """
    names = [path.resolve().name for path in paths]
    told_by = 1 if len(set(names)) == len(names) else 2
    return [replace(read_run(path), name=separator.join(path.resolve().parts[-told_by:])) for path in paths]


def read_run(path: Path) -> RunView:
    """Read everything a report needs of one run.

    Raises
    ------
    MerError
        If the folder is no finished run, a file of it is damaged, or nothing was scored.
    """
    run = Run.open(path)
    everything = {member["name"]: run.predictions(member["name"]) for member in run.members}
    part = "test" if any((found.split == "test").any() for found in everything.values()) else "val"
    predictions = {name: found.part(part) for name, found in everything.items()}
    if not any(len(found.keys) for found in predictions.values()):
        raise MerError(f"{path}: holds no predictions to report on; train it again")
    corpus, spoken, problem = _from_features(run)
    return RunView(
        run=run,
        name=path.name or path.resolve().name,
        part=part,
        predictions=predictions,
        histories={name: run.history(name) for name in everything},
        judged=_averaged(predictions),
        corpus=corpus,
        spoken=spoken,
        spoken_problem=problem,
    )


def _averaged(predictions: Mapping[str, Predictions]) -> list[Judged]:
    labels: dict[str, Any] = {}
    outputs: dict[str, list[npt.NDArray[np.float32]]] = {}
    for found in predictions.values():
        for key, label, output in zip(found.keys, found.labels, found.outputs, strict=True):
            labels[str(key)] = label
            outputs.setdefault(str(key), []).append(output)
    return [Judged(key, labels[key], np.mean(each, axis=0, dtype=np.float64)) for key, each in outputs.items()]


def _from_features(run: Run) -> tuple[dict[str, Any], dict[str, Spoken], str]:
    """Facts about the corpus and transcripts, when the feature file is still where the run found it."""
    from mer.cache import FeatureStore

    path = Path(str(run.facts["features"]["path"]))
    try:
        store = FeatureStore.open(path)
    except (MerError, OSError) as error:
        told = f"Transcripts are not shown, because the feature file cannot be read: {error}"
        return {"name": run.facts["corpus"]}, {}, told
    table = store.utterances
    rows = zip(table.keys, table.text, table.speaker, strict=True)
    return dict(store.corpus), {str(key): Spoken(text, str(speaker)) for key, text, speaker in rows}, ""
