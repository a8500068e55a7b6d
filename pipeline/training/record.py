"""The run folder from its beginning: where it is, whose it is, and what `run.json` says before training."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from mer.cache import MerError
from mer.cache.release import DISTRIBUTION
from mer.stages.registry import find

from ..scores.metrics import scale_of, selection_metric
from .prepare import Prepared
from .run_folder import RUN_FORMAT, RUN_VERSION, Run
from .settings import make_config
from .splits import splits_digest

logger = logging.getLogger("mer.train")

LIBRARIES = (DISTRIBUTION, "torch", "numpy", "scikit-learn", "safetensors")


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
        found = Run.open(path, unfinished=True, trust_remote_code=True)
        done = found.facts["status"] == "done"
        same = found.facts["identity"] == identity and found.facts["head_config"] == facts["head_config"]
        if same and (not done or prepared.options.reuse):
            logger.info("%s %s", "taking the finished run" if done else "going on with the unfinished run", path)
            return found
        if prepared.options.out is not None:
            what = f"{'a finished' if done else 'an unfinished'} run{_difference(found.facts, facts)}"
            raise MerError(f"{path}: holds {what}; choose another --out, or replace it with --overwrite")
    run = Run(path, facts)
    run.write()
    run.save_splits(split_keys(prepared))
    return run


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Say in what two runs are not the same; empty where they are."""
    if one["identity"] == other["identity"]:
        return "" if one["head_config"] == other["head_config"] else " begun with other defaults of its head"
    if one["identity"]["options"] != other["identity"]["options"]:
        return " with other options"
    return " on other data (labels, features or splits have changed since)"


def _candidates(prepared: Prepared) -> Iterator[Path]:
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


def split_keys(prepared: Prepared) -> dict[str, dict[str, list[str]]]:
    """Keys of every fold's parts."""
    keys = prepared.store.utterances.keys
    return {
        fold.name: {part: [keys[row] for row in getattr(fold, part)] for part in ("train", "val", "test")}
        for fold in prepared.splits.folds
    }


def data_digest(prepared: Prepared) -> str:
    """Digest of the labels, dialogues and features of the rows that take part; features count by their checksums."""
    table, label = prepared.store.utterances, prepared.label
    parts = [part for m in prepared.seed_runs for part in (m.train, m.val, m.test)]
    if prepared.options.context != "none":
        parts += [m.context_only for m in prepared.seed_runs]
    rows = np.unique(np.concatenate(parts))
    places = [(str(table.keys[row]), table.dialogue[row], int(table.turn[row])) for row in rows]
    digest = hashlib.sha256(json.dumps([prepared.target, label.kind, label.classes, places]).encode())
    digest.update(label.values[rows].tobytes())
    for name in prepared.source.sets.values():
        digest.update(prepared.store.sets[name].checksums[rows].tobytes())
    return digest.hexdigest()[:16]


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
        "identity": {"options": asked, "features": features, "splits": digest, "data": data_digest(prepared)},
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
        "scale": scale_of(prepared.label.kind, prepared.label.values),
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
