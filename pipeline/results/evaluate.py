"""`mer evaluate`: score the models of a run again, on its own features or on another file made by the same encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mer.cache import FeatureStore, LabelColumn, MerError, SpecMismatchError
from mer.stages.device import resolve_device

from ..scores.metrics import labelled, score
from ..training.aggregate import aggregate_scores
from ..training.batches import EpochShape
from ..training.folds import RowIndices
from ..training.prepare import context_only_rows, memory_budget
from ..training.run_folder import LoadedModel, Predictions, Run
from ..training.scoring import clean, predict, predictions_of
from ..training.shared import SeedRun, TrainingData
from ..training.stacked import SingleModel
from ..training.tensors import Gatherer, Source
from .disturbance import UNDISTURBED, Disturbance, disturbed

CLOSE = 1e-4
SAME_LABELS = 0.9
"""Share of the recorded labels that a file must repeat to be the run's corpus; the rest may have been corrected."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a run on some features."""

    run: Run
    features: Path
    members: list[dict[str, Any]]
    metrics: dict[str, Any]
    parts: dict[str, Predictions]
    notes: list[str]
    same: bool | None
    """Whether the recorded probabilities came out again (within 1e-4); None where other utterances were scored, or
    disturbed ones."""

    def record(self) -> dict[str, Any]:
        """Everything as JSON-able facts."""
        facts = {"run": str(self.run.path), "features": str(self.features), "same_as_recorded": self.same}
        return {**facts, "members": self.members, "metrics": self.metrics, "notes": self.notes}


def evaluate(
    path: Path,
    features: Path | None = None,
    device: str = "auto",
    disturbance: Disturbance = UNDISTURBED,
    trust_remote_code: bool = False,
) -> Evaluation:
    """Score every member of a run on its test utterances.

    On the corpus it was trained on (`is_own_corpus`), each member is scored on the test keys of its own fold. On
    another corpus, every member is scored on the `test` split, or on everything when there are no splits.

    Parameters
    ----------
    path : Path
        Run folder.
    features : Path, optional
        Cache or pack; None takes the one the run was trained on.
    device : str
    disturbance : Disturbance
        What is taken away from the features, or put on them, before they are scored.
    trust_remote_code : bool
        Whether a head that the run names as `module:Attr` may be imported.

    Raises
    ------
    SpecMismatchError
        If the features come from other encoders or settings than the run's.
    MerError
        If the target or its classes are missing, there is nothing to score, or the disturbance does not fit the run.
    """
    run = Run.open(path, trust_remote_code=trust_remote_code)
    disturbance.check(list(run.specs))
    where = features if features is not None else Path(run.facts["features"]["path"])
    if features is None and not where.exists():
        raise MerError(f"{where} does not exist; {path} was trained on it: say where it is now with --features")
    store = FeatureStore.open(where)
    sets = matching_sets(run, store)
    label = matching_label(run, store)
    steps = {modality: run.recipe.steps(modality) for modality in sets}
    chosen = torch.device(resolve_device(device))
    source = Source.open(store, sets, steps, run.pooling(), memory_budget(chosen, None))
    rows, notes = rows_to_score(run, store, label)
    hidden, said = disturbance.apply(source)
    data = data_for(run, store, source, label, chosen)
    parts, entries, priors = {}, [], {}
    for facts in run.members:
        member = run.load_model(facts["name"])
        change = partial(disturbed, disturbance=disturbance, hidden=hidden) if disturbance else None
        found = predict_with(run, member, store, data, label, rows[facts["fold"]], change)
        parts[member.name], priors[member.name] = found, member.prior
        scores = clean(score(run.kind, found.labels, found.outputs, run.scale))
        entries.append({**{k: facts[k] for k in ("name", "fold", "seed", "best_epoch", "best_score")}, "test": scores})
    metrics = aggregate_scores(run, entries, parts, priors)
    same = None if disturbance else _as_recorded(run, parts)
    return Evaluation(run, where, entries, metrics, parts, notes + said, same)


def matching_sets(run: Run, store: FeatureStore) -> dict[str, str]:
    """Modality to the feature set whose spec equals the one the run was trained on.

    Raises
    ------
    SpecMismatchError
        If there is none; the message names what the file has instead.
    """
    chosen = {}
    for modality, spec in run.specs.items():
        equal = [name for name in store.set_names(modality) if store.sets[name].spec.fingerprint == spec.fingerprint]
        if not equal:
            there = ", ".join(store.set_names(modality)) or f"no {modality} features"
            raise SpecMismatchError(
                f"{store.path}: has {there}, but {run.path} was trained on {spec.set_name} "
                f"(encoder {spec.name}, fingerprint {spec.fingerprint}); extract with that encoder and "
                "settings, or train anew"
            )
        chosen[modality] = equal[-1]
    return chosen


def matching_label(run: Run, store: FeatureStore) -> LabelColumn:
    """Return the run's target in this file, with class codes in the run's order; unknown classes count as unlabelled.

    Raises
    ------
    MerError
        If the target is missing, of another kind, or shares no class with the run's.
    """
    target = run.facts["target"]
    column = store.utterances.labels.get(target)
    if column is None or column.kind != run.kind:
        there = ", ".join(f"{name} ({c.kind})" for name, c in store.utterances.labels.items()) or "no labels"
        raise MerError(f"{store.path}: has {there}; the run predicts {target} ({run.kind})")
    if column.kind == "real" or column.classes == run.classes:
        return column
    shared = set(column.classes) & set(run.classes)
    if not shared or column.kind == "multi":
        raise MerError(f"{store.path}: classes of {target} are {column.classes} and the run's are {run.classes}")
    codes = np.array([run.classes.index(name) if name in shared else -1 for name in column.classes] + [-1])
    return LabelColumn("class", run.classes, codes[column.values])


def rows_to_score(run: Run, store: FeatureStore, label: LabelColumn) -> tuple[dict[str, RowIndices], list[str]]:
    """Rows per fold to score, and what was left out.

    Raises
    ------
    MerError
        If no labelled utterance is left to score.
    """
    known = labelled(label.kind, label.values)
    table = store.utterances
    rows: dict[str, RowIndices] = {}
    notes = []
    if is_own_corpus(run, store, label):
        number = {key: row for row, key in enumerate(table.keys)}
        for fold, parts in run.splits().items():
            here = [number[key] for key in parts["test"] if key in number]
            rows[fold] = np.sort(np.array([row for row in here if known[row]], dtype=np.int64))
            if len(rows[fold]) < len(parts["test"]):
                left = len(parts["test"]) - len(rows[fold])
                notes.append(f"fold {fold}: {left} test utterances are not in {store.path}, or without a label")
    else:
        split = np.asarray(table.split, dtype=object)
        everything = np.flatnonzero(known & (split == "test")) if (split == "test").any() else np.flatnonzero(known)
        rows = dict.fromkeys(run.splits(), everything)
        notes.append(
            f"another corpus than the run's ({run.facts['corpus']}): all {len(everything)} utterances are scored"
        )
    if not any(len(part) for part in rows.values()):
        raise MerError(f"{store.path}: has no labelled utterance that this run could be scored on")
    return rows, notes


def is_own_corpus(run: Run, store: FeatureStore, label: LabelColumn) -> bool:
    """Whether a file holds the corpus of a run: its name, some of its keys, and the labels it recorded for them.

    Every folder of clips is called `folder`, and many number their clips from 1, so neither name nor keys will do.
    """
    number = {key: row for row, key in enumerate(store.utterances.keys)}
    keys = {key for parts in run.splits().values() for part in parts.values() for key in part}
    if store.corpus.get("name", store.path.stem) != run.facts["corpus"] or not keys & number.keys():
        return False
    recorded: dict[str, Any] = {}
    for member in run.members:
        found = run.predictions(member["name"])
        recorded |= dict(zip(found.keys.tolist(), found.labels, strict=True))
    shared = [key for key in recorded if key in number]
    values = label.values[[number[key] for key in shared]]
    known = labelled(label.kind, values)
    if not known.any():
        return True
    equal = np.isclose(values[known], np.array([recorded[key] for key in shared])[known]).reshape(int(known.sum()), -1)
    return bool(equal.all(1).mean() >= SAME_LABELS)


def predict_with(
    run: Run,
    member: LoadedModel,
    store: FeatureStore,
    data: TrainingData,
    label: LabelColumn,
    rows: RowIndices,
    change: Callable[[Gatherer], Gatherer] | None = None,
) -> Predictions:
    """Predict some rows with one loaded model, on the features that `data` holds for all of them.

    `change` may put another gatherer in the place of the model's.
    """
    own = replace(data, normalisers={m: [n] for m, n in member.normalisers.items()}, priors=member.prior[None])
    nothing = np.zeros(0, dtype=np.int64)
    beside = _context_only(run, store, label, member.facts["fold"], rows)
    one = SeedRun(0, member.facts["fold"], member.facts["seed"], nothing, nothing, rows, beside)
    gatherer = own.gatherer([one], stacked=False)
    gatherer = gatherer if change is None else change(gatherer)
    outputs, vectors = predict(own, SingleModel(member.model, own.device), gatherer, [one], [rows])[0]
    return predictions_of(store, own, "test", rows, outputs, vectors)


def data_for(run: Run, store: FeatureStore, source: Source, label: LabelColumn, device: torch.device) -> TrainingData:
    """Return what all loaded models share when they predict; normalisers and prior are each model's own."""
    recipe = run.recipe
    data = TrainingData(
        source=source,
        labels=label.values.astype(np.float32) if label.kind == "real" else label.values,
        dialogue=store.utterances.dialogue,
        turn=np.asarray(store.utterances.turn),
        recipe=recipe,
        kind=label.kind,
        scale=run.scale,
        metric=run.facts["metric"],
        shape=EpochShape(1, recipe.batch_size),
        device=device,
        half=recipe.precision == "bfloat16" or (recipe.precision == "auto" and device.type == "cuda"),
        in_context=run.facts["context"] != "none",
        budget_bytes=memory_budget(device, None),
        normalisers={},
        priors=np.zeros((0, 0), dtype=np.float32),
    )
    if not source.streamed:
        data.whole()  # here, so that the models find it instead of each reading the cache
    return data


def _context_only(run: Run, store: FeatureStore, label: LabelColumn, fold: str, rows: RowIndices) -> RowIndices:
    parts = run.splits()[fold]
    taken = set().union(*parts.values())
    inside = np.array([row for row, key in enumerate(store.utterances.keys) if key in taken], dtype=np.int64)
    unlabelled = np.flatnonzero(~labelled(label.kind, label.values))
    return context_only_rows(run.facts["protocol"]["name"], len(store.utterances), np.union1d(inside, rows), unlabelled)


def _as_recorded(run: Run, parts: Mapping[str, Predictions]) -> bool | None:
    """Compare with the run's own predictions where the same keys were scored."""
    for name, found in parts.items():
        recorded = run.predictions(name).part("test")
        if not np.array_equal(recorded.keys, found.keys):
            return None
        if np.abs(recorded.outputs - found.outputs).max(initial=0.0) > CLOSE:
            return False
    return True
