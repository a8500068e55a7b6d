"""`mer train`: cache → folds → runs of every seed and fold → a run folder with models, predictions and scores."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from mer.cache import FeatureStore, LabelColumn, MerError
from mer.stages.registry import find, suggest

from .batches import epoch_shape
from .engine import Arena, Finished, Member, Trainer, Watch, predict
from .live import LiveTable, Silent
from .metrics import labelled, score, selection_metric
from .model import Blueprint, class_weights
from .options import MODALITIES, resolve_device
from .protocols import Request, Splits, copies_of, make_splits, splits_digest
from .runs import RUN_FORMAT, RUN_VERSION, Predictions, Run, head_inputs
from .settings import TrainOptions, make_config
from .summary import summarise
from .team import Stack, make_team
from .tensors import Normaliser, Source

logger = logging.getLogger("mer.train")

LIBRARIES = ("mer", "torch", "numpy", "scikit-learn", "safetensors")
CPU_STACK_STEPS = 4
"""On a CPU runs go side by side when no utterance has more steps than this; measured in docs/training.md."""
LARGEST_STACK = 64
MEMORY_SHARE = 0.6
"""Share of the device's memory that resident features may take."""


@dataclass(frozen=True)
class RunSummary:
    """What `train` leaves."""

    path: Path
    run: Run

    @property
    def metrics(self) -> dict[str, Any]:
        """Per metric: mean, std, low, high, pooled, pooled_std, majority; all NaN-free floats or None."""
        return dict(self.run.facts["metrics"])


@dataclass
class Prepared:
    """A run before its first step."""

    options: TrainOptions
    store: FeatureStore
    target: str
    label: LabelColumn
    source: Source
    splits: Splits
    members: list[Member]
    blueprint: Blueprint
    device: torch.device
    notes: list[str]

    @property
    def outputs(self) -> int:
        """Number of outputs of the head."""
        return self.blueprint.inputs.outputs


def train(options: TrainOptions, console: Console | None = None, command: Sequence[str] = ()) -> RunSummary:
    """Train every seed on every fold, score the test rows once, and leave a run folder.

    A run that was interrupted goes on where it stood when it is started again with the same options.

    Parameters
    ----------
    options : TrainOptions
    console : Console, optional
        Where the live table and notes go; None is silent.
    command : sequence of str, optional
        Recorded in `run.json`.

    Raises
    ------
    MerError
        If the cache, the options and the protocol do not fit together, or the run folder is taken.
    """
    prepared = prepare(options)
    run = open_run(prepared, command)
    if run.facts["status"] == "done":
        return RunSummary(run.path, run)
    for note in prepared.notes:
        logger.warning("%s", note)
    arena = make_arena(prepared)
    watch = _watch(prepared, run, arena, console)
    with watch:
        fit_all(prepared, run, arena, watch)
    score_members(prepared, run, arena)
    run.facts |= {"status": "done", "metrics": summarise_run(run) if options.score_test else {}}
    run.write()
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return RunSummary(run.path, run)


def prepare(options: TrainOptions) -> Prepared:
    """Open the cache and settle target, modalities, folds and members."""
    device = torch.device(resolve_device(options.device))
    store = FeatureStore.open(options.features)
    target, label = choose_target(store, options.target)
    sets = choose_sets(store, options.modalities, options.sets)
    most = {modality: options.recipe.steps(modality) for modality in sets}
    selection_metric(label.kind, options.recipe.select)
    if label.kind != "class" and options.recipe.class_weights != "none":
        raise MerError(f"train.class_weights needs a target of classes, and {target!r} is of kind {label.kind!r}")
    inputs = head_inputs({m: store.sets[name].spec for m, name in sets.items()}, label.kind, label.classes)
    blueprint = Blueprint(
        options.head, options.head_settings, options.context, options.context_settings, inputs, options.recipe
    )
    blueprint.build(options.first_seed)  # wrong settings are told before the features are read
    splits = split_store(store, label, options)
    source = Source.open(store, sets, most, memory_budget(device, options.memory_gb))
    members, notes = make_members(store, label, source, splits, options)
    return Prepared(options, store, target, label, source, splits, members, blueprint, device, [*splits.notes, *notes])


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
    digests: dict[str, list[bytes]] = {}
    for name in store.set_names():
        index = store.sets[name]
        digests[index.spec.modality] = [b"" if not any(row) else row for row in map(bytes, index.sources)]
    request = Request(
        table=table,
        label=label,
        copies=copies_of(digests, len(table)),
        folds=options.folds,
        group_by=options.group_by,
        val_fraction=options.recipe.val_fraction,
        seed=options.split_seed,
    )
    protocol = options.protocol or str((store.corpus.get("protocols") or ["official"])[0])
    return make_splits(protocol, request, options.allow_leak)


def make_members(
    store: FeatureStore, label: LabelColumn, source: Source, splits: Splits, options: TrainOptions
) -> tuple[list[Member], list[str]]:
    """Every fold with every seed, and what the user should know about rows without features."""
    usable = source.any_present
    known = labelled(label.kind, label.values)
    unlabelled = np.flatnonzero(~known)
    members, notes = [], []
    for number, fold in enumerate(splits.folds):
        rows = fold.train[usable[fold.train]]
        if len(rows) < 2:
            raise MerError(f"fold {fold.name}: fewer than two training utterances have features; extract more of them")
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
        beside = companions_of(splits.protocol, len(store.utterances), inside, unlabelled)
        members += [
            Member(number, fold.name, seed, rows, fold.val, fold.test, beside)
            for seed in range(options.first_seed, options.first_seed + options.seeds)
        ]
    for modality, spoilt in source.unusable.items():
        if spoilt:
            notes.append(f"{spoilt} utterances have NaN or infinity in their {modality} features and count as without")
    return members, notes


def companions_of(
    protocol: str, rows: int, inside: npt.NDArray[np.int64], unlabelled: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Rows outside every part of a fold that dialogues may show to a context layer: nothing is learned from them.

    Unlabelled utterances, and under `speaker-folds` the other speakers of the test speaker's dialogues.
    """
    return np.setdiff1d(np.arange(rows) if protocol == "speaker-folds" else unlabelled, inside)


def make_arena(prepared: Prepared) -> Arena:
    """Statistics, priors and batch shape that all members share."""
    options, label, source = prepared.options, prepared.label, prepared.source
    recipe = options.recipe
    trains = [next(m.train for m in prepared.members if m.fold == f) for f in range(len(prepared.splits.folds))]
    normalisers: dict[str, Sequence[Normaliser | None]] = (
        dict(source.statistics(trains)) if recipe.normalise else {m: [None] * len(trains) for m in source.sets}
    )
    half = recipe.precision == "bfloat16" or (recipe.precision == "auto" and prepared.device.type == "cuda")
    torch.use_deterministic_algorithms(recipe.deterministic)
    values = label.values.astype(np.float32) if label.kind == "real" else label.values
    return Arena(
        source=source,
        labels=values,
        dialogue=prepared.store.utterances.dialogue,
        turn=np.asarray(prepared.store.utterances.turn),
        recipe=recipe,
        kind=label.kind,
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


def fit_all(prepared: Prepared, run: Run, arena: Arena, watch: Watch) -> None:
    """Train the members that have no model yet, side by side where that pays."""
    size, why = stack_size(prepared, arena)
    run.facts["engine"] = {
        "stack": size,
        "why": why,
        "device": str(arena.device),
        "bfloat16": arena.half,
        "streamed": arena.source.streamed,
        "steps": arena.shape.steps,
        "batch": arena.shape.size,
    }
    run.write()
    teams = [prepared.members[i : i + size] for i in range(0, len(prepared.members), size)]
    for number, team in enumerate(teams):
        if all(run.model_path(m.name).exists() for m in team):
            continue

        def deliver(found: Finished) -> None:
            save_finished(run, arena, found)

        models = [prepared.blueprint.build(m.seed, weights_of(prepared, m)) for m in team]
        trainer = Trainer(arena, team, models, deliver, watch)
        trainer.fit(run.path / "checkpoints" / f"team-{number}.safetensors", prepared.options.checkpoint_seconds)


def weights_of(prepared: Prepared, member: Member) -> torch.Tensor | None:
    """Class weights of a member's training rows."""
    wanted = prepared.options.recipe.class_weights
    return class_weights(prepared.label.values[member.train], prepared.outputs, wanted)


def stack_size(prepared: Prepared, arena: Arena) -> tuple[int, str]:
    """How many runs to train side by side, and why; the same for the same options on the same machine."""
    options, members = prepared.options, prepared.members
    if options.parallel == "sequential" or len(members) == 1:
        return 1, "asked for" if options.parallel == "sequential" else "one run"
    if arena.in_context:
        return 1, "dialogue context has batches of varying shape"
    longest = max(int(arena.source.kept_steps(m).max()) for m in arena.source.sets)
    if options.parallel == "auto" and arena.device.type == "cpu" and longest > CPU_STACK_STEPS:
        return 1, "on a CPU, sequences are no faster side by side"
    try:
        peak = probe(prepared, arena)
    except (RuntimeError, NotImplementedError) as error:
        if options.parallel == "stacked":
            raise MerError(
                f"head {options.head!r} cannot be stacked ({str(error).splitlines()[0]}); use --parallel auto"
            ) from error
        return 1, f"head {options.head!r} cannot be stacked"
    if arena.device.type == "cuda":
        free = torch.cuda.get_device_properties(arena.device).total_memory * 0.85 - peak[0]
        return max(1, min(len(members), LARGEST_STACK, int(free // max(peak[1], 1)))), "fits the device"
    return min(len(members), LARGEST_STACK), "short sequences"


def probe(prepared: Prepared, arena: Arena) -> tuple[float, float]:
    """Run one stacked step of two runs on the longest batch; return bytes held before, and bytes per run."""
    cuda = arena.device.type == "cuda"
    pair = prepared.members[:2]
    cost = arena.source.cost
    rows = pair[0].train[np.argsort(-cost[pair[0].train], kind="stable")[: arena.shape.size]]
    if cuda:
        arena.whole() if not arena.source.streamed else None
        torch.cuda.reset_peak_memory_stats(arena.device)
    held = torch.cuda.memory_allocated(arena.device) if cuda else 0
    team = make_team([prepared.blueprint.build(m.seed) for m in pair], arena.device)
    assert isinstance(team, Stack)
    window = arena.source.window(arena.device, rows) if arena.source.streamed else arena.whole()
    batch = arena.gatherer(pair, stacked=True).batch(window, np.stack([rows, rows]))
    from .model import parts_of

    with arena.autocast():
        terms = team.losses(parts_of(batch), None, 0.5)
    torch.stack([term.float().sum() for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
    peak = torch.cuda.max_memory_allocated(arena.device) if cuda else 0
    return float(held), (peak - held) / 2


def save_finished(run: Run, arena: Arena, found: Finished) -> None:
    """Write one member's history and then its model, whose file says that the member is done."""
    member = found.member
    run.save_history(member.name, found.history)
    facts = {
        "name": member.name,
        "fold": member.fold_name,
        "seed": member.seed,
        "best_epoch": found.best_epoch,
        "best_score": found.best_score,
        "epochs": len(found.history),
    }
    normalisers = {m: each[member.fold] for m, each in arena.normalisers.items()}
    run.save_member(member.name, found.state, normalisers, arena.priors[member.fold], facts)


def score_members(prepared: Prepared, run: Run, arena: Arena) -> None:
    """Predict validation and, unless told otherwise, test rows with every selected model, once."""
    entries = []
    for member in prepared.members:
        loaded = run.load_member(member.name)
        parts = {"val": member.val} | ({"test": member.test} if prepared.options.score_test else {})
        team = make_team([loaded.model], arena.device)
        gatherer = arena.gatherer([member], stacked=False)
        pieces = []
        entry = dict(loaded.facts)
        for split, rows in parts.items():
            outputs, vectors = predict(arena, team, gatherer, [member], [rows])[0]
            pieces.append(predictions_of(prepared.store, arena, split, rows, outputs, vectors))
            entry[split] = clean(score(arena.kind, arena.labels[rows], outputs))
        run.save_predictions(member.name, join(pieces))
        entries.append(entry)
    run.facts["members"] = entries


def summarise_run(run: Run) -> dict[str, Any]:
    """Scores of a run's saved test predictions over its members."""
    names = [m["name"] for m in run.members]
    parts = {name: run.predictions(name).part("test") for name in names}
    priors = {name: run.load_member(name).prior for name in names}
    return summarise(run.kind, len(run.classes), run.members, parts, priors)


def predictions_of(
    store: FeatureStore,
    arena: Arena,
    split: str,
    rows: npt.NDArray[np.int64],
    outputs: npt.NDArray[np.float32],
    vectors: npt.NDArray[np.float32],
) -> Predictions:
    """Put the predictions of some rows beside their keys, labels and dialogues."""
    keys = np.array([store.utterances.keys[row] for row in rows], dtype=np.str_)
    groups = [store.utterances.dialogue[row] or store.utterances.keys[row] for row in rows]
    return Predictions(
        keys=keys,
        split=np.full(len(rows), split),
        labels=arena.labels[rows],
        outputs=outputs,
        vectors=vectors.astype(np.float16),
        by_prior=~arena.source.any_present[rows],
        group=np.array(groups, dtype=np.str_),
    )


def join(pieces: Sequence[Predictions]) -> Predictions:
    """Put predictions one after the other."""
    return Predictions(**{name: np.concatenate([vars(p)[name] for p in pieces]) for name in vars(pieces[0])})


def clean(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Scores fit for JSON: None instead of NaN."""
    return {name: None if np.isnan(value) else float(value) for name, value in scores.items()}


def open_run(prepared: Prepared, command: Sequence[str]) -> Run:
    """Make the run folder, or find the unfinished one that these options belong to.

    Raises
    ------
    MerError
        If the folder holds another run, or something that is no run.
    """
    facts = run_facts(prepared, command)
    identity = facts["identity"]
    for path in _candidates(prepared):
        if not path.exists() or not any(path.iterdir()):
            break
        if not (path / "run.json").is_file():
            raise MerError(f"{path}: exists and is no run; choose another --out")
        if prepared.options.overwrite:
            shutil.rmtree(path)
            break
        found = Run.open(path, unfinished=True)
        done = found.facts["status"] == "done"
        if found.facts["identity"] == identity and (not done or prepared.options.reuse):
            logger.info("%s %s", "taking the finished run" if done else "going on with the unfinished run", path)
            return found
        if prepared.options.out is not None:
            what = "a finished run" if done else "an unfinished run with other options"
            raise MerError(f"{path}: holds {what}; choose another --out, or replace it with --overwrite")
    run = Run(path, facts)
    run.write()
    run.save_splits(split_keys(prepared))
    return run


def split_keys(prepared: Prepared) -> dict[str, dict[str, list[str]]]:
    """Keys of every fold's parts."""
    keys = prepared.store.utterances.keys
    return {
        fold.name: {part: [keys[row] for row in getattr(fold, part)] for part in ("train", "val", "test")}
        for fold in prepared.splits.folds
    }


def _candidates(prepared: Prepared) -> Any:
    """Folders to try: the one asked for, or `runs/<corpus>-<head>` and the first free number after it."""
    options = prepared.options
    if options.out is not None:
        yield options.out
        return
    stem = f"{options.features.stem}-{options.head.rpartition(':')[2]}"
    number = 1
    while True:
        yield Path("runs") / (stem if number == 1 else f"{stem}-{number}")
        number += 1


def run_facts(prepared: Prepared, command: Sequence[str]) -> dict[str, Any]:
    """Everything `run.json` says before training."""
    options, store = prepared.options, prepared.store
    specs = {m: store.sets[name].spec for m, name in prepared.source.sets.items()}
    folds = [
        {"name": f.name, "train": len(f.train), "val": len(f.val), "test": len(f.test)} for f in prepared.splits.folds
    ]
    config = make_config(find("head", options.head).Config, options.head_settings, "head.")
    digest = splits_digest(store.utterances, prepared.splits)
    features = {m: s.fingerprint for m, s in specs.items()}
    asked = json.loads(json.dumps(options.identity(), default=str))
    return {
        "format": RUN_FORMAT,
        "version": RUN_VERSION,
        "status": "running",
        "identity": {"options": asked, "features": features, "splits": digest},
        "command": list(command),
        "corpus": store.corpus.get("name", store.path.stem),
        "features": {
            "path": str(options.features),
            "sets": {
                m: {"set": prepared.source.sets[m], "fingerprint": s.fingerprint, "spec": json.loads(s.to_json())}
                for m, s in specs.items()
            },
        },
        "target": prepared.target,
        "kind": prepared.label.kind,
        "classes": list(prepared.label.classes),
        "head": options.head,
        "head_settings": dict(options.head_settings),
        "head_config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "context": options.context,
        "context_settings": dict(options.context_settings),
        "recipe": dataclasses.asdict(options.recipe),
        "metric": selection_metric(prepared.label.kind, options.recipe.select),
        "parameters": sum(p.numel() for p in prepared.blueprint.build(options.first_seed).parameters()),
        "protocol": {
            "name": prepared.splits.protocol,
            "digest": digest,
            "folds": folds,
            "apart": list(prepared.splits.apart),
        },
        "seeds": list(range(options.first_seed, options.first_seed + options.seeds)),
        "utterances": {
            "all": len(store.utterances),
            "without_any_modality": int((~prepared.source.any_present).sum()),
            "not_finite": dict(prepared.source.unusable),
            "without": {m: int((~p).sum()) for m, p in prepared.source.present.items()},
        },
        "notes": prepared.notes,
        "versions": versions(),
        "members": [],
        "metrics": {},
    }


def versions() -> dict[str, str]:
    """Versions of what computes."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "?"
    return found


def _watch(prepared: Prepared, run: Run, arena: Arena, console: Console | None) -> LiveTable | Silent:
    board = run.path / "tensorboard" if prepared.options.tensorboard else None
    if console is None and board is None:
        return Silent()
    return LiveTable(console, arena.metric, len(prepared.members), board)
