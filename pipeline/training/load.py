"""Step 1 of training: a cache -> its target, its feature sets and the head that fits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mer.cache import FeatureStore, LabelColumn, MerError
from mer.stages.device import resolve_device
from mer.stages.interfaces import MODALITIES
from mer.stages.registry import suggest

from ..scores.metrics import labelled, metric_names, scale_of, selection_metric
from .model import Blueprint
from .run_folder import head_inputs
from .settings import Recipe, TrainOptions, check_options


@dataclass(frozen=True)
class Loaded:
    """A cache that is open, and what of it is used."""

    store: FeatureStore
    target: str
    label: LabelColumn
    sets: Mapping[str, str]
    """Modality to the name of its feature set."""
    blueprint: Blueprint
    pooling: Mapping[str, int]
    """Modality to the steps that are averaged into one (`Head.pooling`)."""
    device: torch.device


def load(options: TrainOptions) -> Loaded:
    """Open the cache and settle target, modalities and head; no feature is read.

    Raises
    ------
    MerError
        If the cache and the options do not fit together, or the head refuses its settings.
    """
    check_options(options)
    device = torch.device(resolve_device(options.device))
    store = FeatureStore.open(options.features)
    target, label = choose_target(store, options.target)
    sets = choose_sets(store, options.modalities, options.sets)
    selection_metric(label.kind, options.recipe.select)
    check_fits(options.recipe, target, label)
    if options.context != "none":
        check_dialogues(store)
    inputs = head_inputs({m: store.sets[name].spec for m, name in sets.items()}, label.kind, label.classes)
    blueprint = Blueprint(
        options.head, options.head_settings, options.context, options.context_settings, inputs, options.recipe
    )
    pooling = blueprint.build(options.first_seed).head.pooling  # wrong settings are told before the features are read
    return Loaded(store, target, label, sets, blueprint, pooling, device)


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
