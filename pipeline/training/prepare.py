"""From a cache and options to runs ready to train: target, feature sets, folds, members, shared statistics."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from mer.cache import FeatureStore, LabelColumn, MerError
from mer.stages.device import resolve_device
from mer.stages.interfaces import MODALITIES
from mer.stages.registry import suggest

from ..scores.metrics import labelled, metric_names, scale_of, selection_metric
from .batches import epoch_shape
from .host_memory import keep_freed_batches
from .model import Blueprint
from .run_folder import head_inputs
from .settings import Recipe, TrainOptions, check_options
from .shared import SeedRun, TrainingData
from .splits import SplitRequest, Splits, check_classes, copies_of, make_splits
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


def prepare(options: TrainOptions) -> Prepared:
    """Open the cache and settle target, modalities, folds and members."""
    check_options(options)
    device = torch.device(resolve_device(options.device))
    store = FeatureStore.open(options.features)
    target, label = choose_target(store, options.target)
    sets = choose_sets(store, options.modalities, options.sets)
    most = {modality: options.recipe.steps(modality) for modality in sets}
    selection_metric(label.kind, options.recipe.select)
    check_fits(options.recipe, target, label)
    if options.context != "none":
        check_dialogues(store)
    inputs = head_inputs({m: store.sets[name].spec for m, name in sets.items()}, label.kind, label.classes)
    blueprint = Blueprint(
        options.head, options.head_settings, options.context, options.context_settings, inputs, options.recipe
    )
    head = blueprint.build(options.first_seed).head  # wrong settings are told before the features are read
    splits = split_store(store, label, options)
    source = Source.open(store, sets, most, head.pooling, memory_budget(device, options.memory_gb))
    seed_runs, notes = make_seed_runs(store, label, source, splits, options)
    return Prepared(
        options, store, target, label, source, splits, seed_runs, blueprint, device, [*splits.notes, *notes]
    )


def check_fits(recipe: Recipe, target: str, label: LabelColumn) -> None:
    """Refuse settings of the loss or the selection that this target has no use for."""
    kind = label.kind
    useful = metric_names(kind, scale_of(kind, label.values))
    if recipe.select not in ("auto", *useful):
        raise MerError(
            f"metric {recipe.select!r} says nothing on the scale of {target!r}; select it by {', '.join(useful)}"
        )
    for name, needed, noun in (
        ("class_weights", "class", "classes"),
        ("label_smoothing", "class", "classes"),
        ("real_loss", "real", "numbers"),
    ):
        if kind != needed and getattr(recipe, name) != getattr(Recipe, name):
            raise MerError(f"train.{name} needs a target of {noun}, and {target!r} is of kind {kind!r}; leave it out")


def check_dialogues(store: FeatureStore) -> None:
    """Refuse a context layer where no utterance has another beside it."""
    named = [name for name in store.utterances.dialogue if name]
    if len(set(named)) == len(named):
        why = "no two utterances share one" if named else "no utterance names one"
        raise MerError(f"{store.path}: a context needs dialogues, and {why}; leave --context out")


def choose_target(store: FeatureStore, wanted: str | None) -> tuple[str, LabelColumn]:
    """Pick the label column: the one named, `emotion`, or the only one."""
    columns = store.utterances.labels
    if not columns:
        raise MerError(f"{store.path}: has no labels; extract a corpus with labels, or name them in the manifest")
    if wanted is not None and wanted not in columns:
        raise MerError(f"{store.path}: has no target {wanted!r}; {suggest(wanted, list(columns))}")
    if wanted is None and "emotion" not in columns and len(columns) > 1:
        raise MerError(f"{store.path}: has several targets; choose with --target {' | '.join(columns)}")
    name = wanted or ("emotion" if "emotion" in columns else next(iter(columns)))
    if not labelled(columns[name].kind, columns[name].values).any():
        raise MerError(f"{store.path}: no utterance has a label for {name!r}; choose another --target")
    return name, columns[name]


def choose_sets(store: FeatureStore, wanted: Sequence[str] | None, named: Mapping[str, str]) -> dict[str, str]:
    """Pick one feature set per modality, in the house order of modalities."""
    there = {index.spec.modality for index in store.sets.values()}
    chosen = (
        list(wanted)
        if wanted is not None
        else [m for m in (*MODALITIES, *sorted(there - set(MODALITIES))) if m in there]
    )
    for modality in [*chosen, *named]:
        if modality not in there:
            raise MerError(
                f"{store.path}: has no {modality} features; it has {', '.join(sorted(there)) or 'none'} "
                f"(add them with mer extract, or choose --modalities)"
            )
    if not chosen:
        raise MerError(f"{store.path}: has no features; run mer extract first")
    return {modality: store.pick(modality, named.get(modality)) for modality in dict.fromkeys(chosen)}


def memory_budget(device: torch.device, wanted_gb: float | None) -> float:
    """Bytes of features that may lie on the device at once."""
    if wanted_gb is not None:
        return wanted_gb * 1e9
    if device.type == "cuda":
        return MEMORY_SHARE * float(torch.cuda.get_device_properties(device).total_memory)
    return MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def split_store(store: FeatureStore, label: LabelColumn, options: TrainOptions) -> Splits:
    """Make the folds of the protocol."""
    table = store.utterances
    request = SplitRequest(
        table=table,
        label=label,
        copies=copies_of(input_digests(store), len(table)),
        known_copies=frozenset((first, second) for first, second in store.corpus.get("known_copies") or ()),
        folds=options.folds,
        group_by=options.group_by,
        val_fraction=options.recipe.val_fraction,
        seed=options.split_seed,
    )
    protocol = options.protocol or str((store.corpus.get("protocols") or ["official"])[0])
    return make_splits(protocol, request, options.allow_leak)


def input_digests(store: FeatureStore) -> dict[str, list[bytes]]:
    """Per modality the digest of every utterance's input, empty where no features came of it.

    Clips whose file is not there have equal digests and are no copies of each other for it.
    """
    digests: dict[str, list[bytes]] = {}
    for index in store.sets.values():
        known = digests.setdefault(index.spec.modality, [b""] * len(index.fates))
        for row in np.flatnonzero(index.ok & index.sources.any(1)):
            known[row] = index.sources[row].tobytes()
    return digests


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
