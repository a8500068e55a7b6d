"""A checkpoint on this machine: found or fetched, pinned, checked, and described, without torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mer.cache import MerError, canonical_json

from ..known_files import remember_place, remembered_place
from . import hub
from .config_files import FUNASR_SETTINGS, SETTINGS, read_config, read_json
from .demo import DEMO_NAMES, demo_folder
from .weights import scan_weights, weight_files

_COMMIT = re.compile(r"[0-9a-f]{40}")
_IRRELEVANT = {"transformers_version", "_name_or_path", "torch_dtype", "dtype", "_commit_hash"}
"""Keys of a configuration that do not change what the encoder computes."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all there."""

    label: str
    """Hub id, or the name of the local folder."""
    folder: str
    """Absolute path; no part of the identity."""
    revision: str
    """Commit of the hub repository, or empty for a folder of unknown origin."""
    weights: str
    """SHA-256 of the weight files."""
    settings: str
    """SHA-256 of configuration, tokenizer and processor files (and of code, where it is trusted)."""

    def read(self, name: str) -> dict[str, Any]:
        """Content of one JSON file of the folder, empty when it is not there."""
        path = Path(self.folder) / name
        return read_json(path) if path.is_file() else {}

    @property
    def config(self) -> dict[str, Any]:
        """Content of `config.json`, or of FunASR's `config.yaml` under the same names."""
        return read_config(Path(self.folder))

    def identity(self) -> dict[str, str]:
        """What enters the spec."""
        return {
            "checkpoint": self.label,
            "revision": self.revision,
            "weights_sha256": self.weights,
            "settings_sha256": self.settings,
        }


def find_checkpoint(name: str, trust_remote_code: bool = False) -> Checkpoint:
    """Find a local folder or fetch a hub id (`owner/name`, with `@revision` where wanted), and check its files.

    Raises
    ------
    MerError
        If it does not exist, is incomplete, or asks for remote code that is not trusted.
    """
    local = demo_folder(name) if name in DEMO_NAMES else Path(name).expanduser()
    if local.is_dir():
        found = open_checkpoint(local.resolve(), local.resolve().name, _revision_of(local), trust_remote_code)
        if name not in DEMO_NAMES:
            remember_place(place_digest(found.weights, found.settings), local.resolve())
        return found
    repository, _, revision = name.partition("@")
    if not hub.HUB_ID.fullmatch(repository):
        raise MerError(
            f"checkpoint folder {name} does not exist; name a folder with config.json and weights, or a hub id"
        )
    folder, commit = hub.fetch_checkpoint(repository, revision, trust_remote_code)
    return open_checkpoint(folder, repository, commit, trust_remote_code)


def place_digest(weights: str, settings: str) -> str:
    """Digest of a whole checkpoint folder, under which its place is remembered."""
    return hashlib.sha256(f"{weights} {settings}".encode()).hexdigest()


def lay_in_a_folder(identity: Mapping[str, Any]) -> bool:
    """Tell whether a spec's checkpoint was a folder of the user's: its name has no slash, as a hub id has."""
    label = identity.get("checkpoint")
    if not isinstance(label, str) or not label or not identity.get("weights_sha256"):
        return False
    return "/" not in label and ":" not in label and label not in DEMO_NAMES


def remembered_folder(identity: Mapping[str, Any]) -> Path | None:
    """Where the checkpoint folder of a spec lies on this machine, by its digest; None where that is unknown."""
    return remembered_place(place_digest(str(identity.get("weights_sha256")), str(identity.get("settings_sha256"))))


def open_checkpoint(folder: Path, label: str, revision: str, trust_remote_code: bool) -> Checkpoint:
    """Check a checkpoint folder and describe it."""
    config = read_config(folder)
    refuse_remote_code(config, label, trust_remote_code)
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        refuse_remote_code(read_json(tokenizer), label, trust_remote_code)
    files = weight_files(folder)
    return Checkpoint(label, str(folder), revision, scan_weights(files), _hash_settings(folder, trust_remote_code))


def refuse_remote_code(config: Mapping[str, Any], label: str, trusted: bool) -> None:
    """Refuse a checkpoint that comes with its own Python code, unless that is trusted."""
    if config.get("auto_map") and not trusted:
        raise MerError(
            f"checkpoint {label} asks to run Python code of its own; read that code, and if you trust it add "
            "--trust-remote-code"
        )


def _hash_settings(folder: Path, with_code: bool) -> str:
    digest = hashlib.sha256()
    names = [name for name in (*SETTINGS, *FUNASR_SETTINGS) if (folder / name).is_file()]
    if with_code:
        names += sorted(path.name for path in folder.glob("*.py"))
    for name in names:
        content = (folder / name).read_bytes()
        if name == "config.json":
            kept = {key: value for key, value in read_json(folder / name).items() if key not in _IRRELEVANT}
            content = canonical_json(kept).encode()
        digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


def _revision_of(folder: Path) -> str:
    """Commit that `hf download --local-dir` noted for a folder, or the empty string."""
    note = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    try:
        first = note.read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError, UnicodeDecodeError):
        return ""
    return first if _COMMIT.fullmatch(first) else ""
