"""Handing on a trained run: what is published, and how one from elsewhere is opened.

Published are the weights (safetensors), `run.json` without paths of this machine, and a model card. Predictions, which
hold labels, and the lists of utterances stay behind unless they are asked for. Nothing of it is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from mer.cache import MerError
from mer.cache.progress import Progress
from mer.cache.source import is_url
from mer.cache.transfer.files import PushedFiles, pull_files, push_files
from mer.cache.user_cache import user_cache
from mer.stages.registry import names

from ..training.run_folder import Run
from ..training.tensor_file import load_tensors
from .model_card import model_card

SHARED_FORMAT = "mer-shared-run"
SHARED_VERSION = 1
NAME = r"[A-Za-z0-9_][\w.+=@ -]{0,199}"
ALLOWED = re.compile(
    rf"run\.json|README\.md|splits\.json|models/{NAME}\.safetensors|predictions/{NAME}\.npz|history/{NAME}\.json",
    re.ASCII,
)
"""Names that a published run may have."""
LEFT_OUT = (
    "predictions (they hold the labels of the corpus)",
    "splits (the ids of its utterances)",
    "history of the training",
)


@dataclass(frozen=True)
class PushedRun:
    """A run that was published."""

    files: PushedFiles
    left_out: tuple[str, ...]


def push_run(
    path: Path,
    url: str,
    *,
    license: str = "",
    with_predictions: bool = False,
    notes: str = "",
    revision: str | None = None,
    private: bool = False,
) -> PushedRun:
    """Publish a finished run.

    Parameters
    ----------
    path
        Run folder.
    url
        `hf://ORG/NAME` or the URL of a folder.
    license
        Terms of the weights; empty says that none were given.
    with_predictions
        Also publish predictions, splits and history.
    notes
        Markdown for the model card.

    Raises
    ------
    MerError
        If the folder is no finished run, its head or an encoder is code of the user's own, or the place cannot be
        written.
    """
    run = Run.open(path)
    _check_head(run.facts, str(path))
    files: dict[str, Path | bytes] = {}
    for member in run.members:
        run.load_model(member["name"])  # a damaged file is not published
        files[f"models/{member['name']}.safetensors"] = run.model_path(member["name"])
    if with_predictions:
        files["splits.json"] = path / "splits.json"
        for member in run.members:
            files[f"predictions/{member['name']}.npz"] = path / "predictions" / f"{member['name']}.npz"
            files[f"history/{member['name']}.json"] = path / "history" / f"{member['name']}.json"
    left_out = () if with_predictions else LEFT_OUT
    facts = _without_paths(run.facts)
    files["run.json"] = (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()
    files["README.md"] = model_card(run, _corpus_of(run), url.rstrip("/"), license, left_out, notes).encode()
    for name in files:
        if not ALLOWED.fullmatch(name):
            raise MerError(f"{path}: the model name {PurePath(name).stem!r} cannot be published; rename its fold")
    told = {"format": SHARED_FORMAT, "version": SHARED_VERSION, "left_out": list(left_out)}
    pushed = push_files(url, files, told, revision=revision, private=private, message="Publish a trained run")
    return PushedRun(pushed, left_out)


def open_run(
    location: Path | str,
    *,
    trust_remote_code: bool = False,
    revision: str | None = None,
    on_progress: Progress = lambda _done, _total: None,
) -> Run:
    """Open a run by its folder, or by the URL it was published under.

    Parameters
    ----------
    location
        Folder, or URL as for `push_run`; what is fetched is kept in the user's cache folder.
    trust_remote_code
        Open a fetched run whose head is a module of this machine named as `module:Attr`.
    revision
        Branch, tag or commit of a Hub repository.

    Raises
    ------
    MerError
        If it is no run, cannot be fetched, was tampered with, or asks for code that nobody here has trusted.
    """
    if not is_url(str(location)):
        return Run.open(location, trust_remote_code=trust_remote_code)
    url = str(location).rstrip("/")
    home = user_cache("runs", hashlib.sha256(f"{url}@{revision or ''}".encode()).hexdigest()[:16])
    pulled = pull_files(
        url,
        home,
        lambda manifest: _check_manifest(manifest, url),
        lambda folder: _inspect(folder, url, trust_remote_code),
        revision=revision,
        on_progress=on_progress,
    )
    run = Run.open(pulled.path, trust_remote_code=trust_remote_code)
    if not trust_remote_code:
        _check_head(run.facts, url)
    return run


def name_of(run: Run, location: Path | str) -> str:
    """Name to show: of the folder, or the last part of the URL."""
    return str(location).rstrip("/").rsplit("/", 1)[-1] if is_url(str(location)) else run.path.resolve().name


def _check_manifest(manifest: Mapping[str, Any], url: str) -> None:
    if manifest.get("format") != SHARED_FORMAT:
        raise MerError(f"{url}: is no run that mer push published")
    if not isinstance(manifest.get("version"), int) or manifest["version"] > SHARED_VERSION:
        raise MerError(f"{url}: was published by a newer mer; update mer")
    for name in manifest["files"]:
        if not ALLOWED.fullmatch(name):
            raise MerError(f"{url}: lists {name!r}, which no run has; nothing was fetched")
    if "run.json" not in manifest["files"]:
        raise MerError(f"{url}: lists no run.json; ask its publisher to push again")


def _inspect(folder: Path, url: str, trust_remote_code: bool) -> None:
    """Look at a fetched run before it is used; its weights have to be tensors and nothing else."""
    run = Run.open(folder)
    for member in run.members:
        if not re.fullmatch(NAME, str(member["name"]), re.ASCII):
            raise MerError(f"{url}: names a model {member['name']!r}; it is not used")
        load_tensors(run.model_path(member["name"]), "it is not used")
    if not trust_remote_code:
        _check_head(run.facts, url)


def _check_head(facts: Mapping[str, Any], where: str) -> None:
    """A shared run could name any module of this machine as its head."""
    head = str(facts["head"])
    if ":" in head or head not in names("head"):
        raise MerError(
            f"{where}: its head is {head!r}, code that is not part of mer; read that code, and register it under the "
            "entry points mer.heads by a plain name"
        )


def _corpus_of(run: Run) -> Mapping[str, Any]:
    """What the feature file says of its corpus, where it is at hand."""
    from mer.cache import FeatureStore

    try:
        return FeatureStore.open(Path(str(run.facts["features"]["path"]))).corpus
    except (MerError, OSError):
        return {"name": run.facts["corpus"]}


def _without_paths(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What `run.json` says, without where things lie on this machine."""
    features = {**facts["features"], "path": PurePath(str(facts["features"]["path"])).name}
    command = [PurePath(word).name if "/" in word or "\\" in word else word for word in map(str, facts["command"])]
    return {**facts, "features": features, "command": command}
