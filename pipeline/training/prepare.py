"""Step 3 of training: folds -> runs ready to train, their features and what they share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from mer.cache import FeatureStore, LabelColumn, MerError

from ..scores.metrics import labelled, scale_of, selection_metric
from .batches import epoch_shape
from .folds import Splits
from .host_memory import keep_freed_batches
from .load import Loaded
from .model import Blueprint
from .settings import TrainOptions
from .shared import SeedRun, TrainingData
from .splits import check_classes
from .tensors import Normaliser, Source

MEMORY_SHARE = 0.6
"""Share of the device's memory that resident features may take."""


@dataclass
class Prepared:
    """A run before its first step."""

    options: TrainOptions
    store: FeatureStore
    target: str
    label: LabelColumn
    source: Source
    splits: Splits
    seed_runs: list[SeedRun]
    blueprint: Blueprint
    device: torch.device
    notes: list[str]

    @property
    def outputs(self) -> int:
        """Number of outputs of the head."""
        return self.blueprint.inputs.outputs


def prepare(loaded: Loaded, splits: Splits, options: TrainOptions) -> Prepared:
    """Find the rows of every run and open their features.

    Raises
    ------
    MerError
        If a fold has too few utterances with features.
    """
    store, label, device = loaded.store, loaded.label, loaded.device
    most = {modality: options.recipe.steps(modality) for modality in loaded.sets}
    source = Source.open(store, loaded.sets, most, loaded.pooling, memory_budget(device, options.memory_gb))
    seed_runs, notes = make_seed_runs(store, label, source, splits, options)
    return Prepared(
        options, store, loaded.target, label, source, splits, seed_runs, loaded.blueprint, device,
        [*splits.notes, *notes],
    )  # fmt: skip


def memory_budget(device: torch.device, wanted_gb: float | None) -> float:
    """Bytes of features that may lie on the device at once."""
    if wanted_gb is not None:
        return wanted_gb * 1e9
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)  # other programs may hold some of it
        return MEMORY_SHARE * float(free + torch.cuda.memory_reserved(device))
    return MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def make_seed_runs(
    store: FeatureStore, label: LabelColumn, source: Source, splits: Splits, options: TrainOptions
) -> tuple[list[SeedRun], list[str]]:
    """Every fold with every seed, and what the user should know about rows without features."""
    usable = source.any_present
    known = labelled(label.kind, label.values)
    unlabelled = np.flatnonzero(~known)
    seed_runs, notes = [], []
    for number, fold in enumerate(splits.folds):
        rows = fold.train[usable[fold.train]]
        if len(rows) < 2:
            raise MerError(f"fold {fold.name}: fewer than two training utterances have features; extract more of them")
        check_classes(replace(fold, train=rows), label)
        if len(rows) < len(fold.train):
            notes.append(
                f"fold {fold.name}: {len(fold.train) - len(rows)} training utterances have no modality at all "
                "and are left out"
            )
        bare = int((~usable[fold.test]).sum())
        if bare:
            notes.append(
                f"fold {fold.name}: {bare} test utterances have no modality; the training prior answers for them"
            )
        inside = np.concatenate([fold.train, fold.val, fold.test])
        beside = context_only_rows(splits.protocol, len(store.utterances), inside, unlabelled)
        seed_runs += [
            SeedRun(number, fold.name, seed, rows, fold.val, fold.test, beside)
            for seed in range(options.first_seed, options.first_seed + options.seeds)
        ]
    notes += masked_notes(source, splits)
    for modality, spoilt in source.unusable.items():
        if spoilt:
            notes.append(f"{spoilt} utterances have NaN or infinity in their {modality} features and count as without")
    return seed_runs, notes


def masked_notes(source: Source, splits: Splits) -> list[str]:
    """Say how many utterances of the folds lack a modality while having another."""
    inside = np.unique(np.concatenate([part for f in splits.folds for part in (f.train, f.val, f.test)]))
    inside = inside[source.any_present[inside]]
    lacking = {modality: int((~present[inside]).sum()) for modality, present in source.present.items()}
    return [
        f"{count} of {len(inside)} utterances have no usable {modality} features; it is masked there"
        for modality, count in lacking.items()
        if count
    ]


def context_only_rows(
    protocol: str, rows: int, inside: npt.NDArray[np.int64], unlabelled: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Rows outside every part of a fold that dialogues may show to a context layer: nothing is learned from them.

    Unlabelled utterances, and under `speaker-folds` the other speakers of the test speaker's dialogues.
    """
    return np.setdiff1d(np.arange(rows) if protocol == "speaker-folds" else unlabelled, inside)


def make_training_data(prepared: Prepared) -> TrainingData:
    """Statistics, priors and batch shape that all members share."""
    options, label, source = prepared.options, prepared.label, prepared.source
    recipe = options.recipe
    if prepared.device.type == "cpu":
        keep_freed_batches()
    trains = [next(m.train for m in prepared.seed_runs if m.fold == f) for f in range(len(prepared.splits.folds))]
    normalisers: dict[str, Sequence[Normaliser | None]] = (
        dict(source.statistics(trains)) if recipe.normalise else {m: [None] * len(trains) for m in source.sets}
    )
    half = recipe.precision == "bfloat16" or (recipe.precision == "auto" and prepared.device.type == "cuda")
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses to be deterministic without
    torch.use_deterministic_algorithms(recipe.deterministic)
    values = label.values.astype(np.float32) if label.kind == "real" else label.values
    return TrainingData(
        source=source,
        labels=values,
        dialogue=prepared.store.utterances.dialogue,
        turn=np.asarray(prepared.store.utterances.turn),
        recipe=recipe,
        kind=label.kind,
        scale=scale_of(label.kind, values),
        metric=selection_metric(label.kind, recipe.select),
        shape=epoch_shape([len(rows) for rows in trains], recipe.batch_size),
        device=prepared.device,
        half=half,
        in_context=options.context != "none",
        budget_bytes=memory_budget(prepared.device, options.memory_gb),
        normalisers=normalisers,
        priors=np.stack([prior_of(label, rows, prepared.outputs) for rows in trains]),
    )


def prior_of(label: LabelColumn, rows: npt.NDArray[np.int64], outputs: int) -> npt.NDArray[np.float32]:
    """What to answer knowing nothing: class frequencies, or the median number, of the training rows."""
    values = label.values[rows]
    if label.kind == "class":
        return (np.bincount(values, minlength=outputs) / len(values)).astype(np.float32)
    if label.kind == "multi":
        return np.asarray(values.mean(0), dtype=np.float32)
    return np.array([np.median(values)], dtype=np.float32)
