"""Publishing a few files under one address and fetching them: a manifest names each with its size and SHA-256."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import atomic_write
from ..errors import DamagedError, MerError
from ..progress import Progress
from .hub import HubAddress, upload
from .remote import Patience, Remote, TransferError, fetch_checked, locate, patiently, put, sha256_of

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 1 << 20
MOST_FILES = 10_000


@dataclass(frozen=True)
class PushedFiles:
    """Files that were published."""

    url: str
    sha256: str
    """Of the manifest, which holds those of all files."""
    bytes: int
    files: int


@dataclass(frozen=True)
class PulledFiles:
    """A folder of files that were fetched and checked."""

    path: Path
    sha256: str
    manifest: Mapping[str, Any]


def push_files(
    url: str,
    files: Mapping[str, Path | bytes],
    facts: Mapping[str, Any],
    *,
    revision: str | None = None,
    private: bool = False,
    message: str = "Publish files",
) -> PushedFiles:
    """Publish files below an address; the manifest comes last, so that a reader never meets a part of them.

    Parameters
    ----------
    url
        `hf://ORG/NAME` for a model repository of the Hub, or any fsspec URL of a folder.
    files
        Name below the address to a local path or the content.
    facts
        What the manifest says beside the files.

    Raises
    ------
    MerError
        If the place cannot be written.
    """
    listed = {name: _described(content) for name, content in files.items()}
    manifest = (json.dumps({**facts, "files": listed}, indent=1, ensure_ascii=False) + "\n").encode()
    digest, size = hashlib.sha256(manifest).hexdigest(), sum(int(one["bytes"]) for one in listed.values())
    base = url.rstrip("/")
    if url.startswith("hf://"):
        address = HubAddress.parse(base, revision, "model")
        upload(address, {**files, MANIFEST: manifest}, message, private)
        return PushedFiles(address.url("").rstrip("/"), digest, size, len(files))
    if revision:
        raise MerError(f"{url}: only Hub repositories have revisions; leave --revision out")
    with tempfile.TemporaryDirectory(prefix="mer-push-") as folder:
        for name, content in {**files, MANIFEST: manifest}.items():
            path = content if isinstance(content, Path) else Path(folder) / "content"
            if isinstance(content, bytes):
                path.write_bytes(content)
            put(path, locate(f"{base}/{name}"))
    return PushedFiles(base, digest, size, len(files))


def _described(content: Path | bytes) -> dict[str, Any]:
    if isinstance(content, Path):
        return {"bytes": content.stat().st_size, "sha256": sha256_of(content)}
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def pull_files(
    url: str,
    folder: Path,
    check: Callable[[Mapping[str, Any]], None],
    inspect: Callable[[Path], None],
    *,
    revision: str | None = None,
    patience: Patience | None = None,
    on_progress: Progress = lambda _done, _total: None,
) -> PulledFiles:
    """Fetch what `push_files` published, once; later calls look whether it has changed.

    Parameters
    ----------
    url
        As for `push_files`.
    folder
        Gets a folder per version, named after its manifest's SHA-256.
    check
        Called with the manifest before anything else is fetched; raises `MerError` for one that is not acceptable.
    inspect
        Called with the folder of the fetched files before it gets its name; raises `MerError` to refuse it.

    Raises
    ------
    MerError
        If it cannot be fetched, was tampered with or is refused; then nothing of it stays. When the server cannot be
        reached and it was fetched before, that copy is used, with a warning.
    """
    patience = patience or Patience()
    try:
        manifest, raw = _read_manifest(_at(url, MANIFEST, revision), patience)
    except TransferError as error:
        kept = _newest(folder)
        if kept is None:
            raise
        log.warning("%s; the copy fetched earlier is used: %s", error, kept)
        raw = (kept / MANIFEST).read_bytes()
        return PulledFiles(kept, hashlib.sha256(raw).hexdigest(), json.loads(raw))
    check(manifest)
    digest = hashlib.sha256(raw).hexdigest()
    home = folder / digest[:16]
    if home.is_dir() and _whole(home, manifest):
        os.utime(home)
        return PulledFiles(home, digest, manifest)
    shutil.rmtree(home, ignore_errors=True)
    staging = folder / f"{digest[:16]}.partial"
    try:
        for name, told in manifest["files"].items():
            place = staging / name
            place.parent.mkdir(parents=True, exist_ok=True)
            remote = _at(url, name, revision)
            _check_size(remote, int(told["bytes"]), patience)
            fetch_checked(remote, place, patience, on_progress, str(told["sha256"]))
        inspect(staging)
    except MerError as error:
        if not isinstance(error, TransferError):
            shutil.rmtree(staging, ignore_errors=True)
        raise type(error)(str(error).replace(str(staging), url)) from error
    with atomic_write(staging / MANIFEST) as temporary:
        temporary.write_bytes(raw)
    os.replace(staging, home)
    return PulledFiles(home, digest, manifest)


def _at(url: str, name: str, revision: str | None) -> Remote:
    base = url.rstrip("/")
    if base.startswith("hf://"):
        return locate(HubAddress.parse(base, revision, "model").url(name))
    if revision:
        raise MerError(f"{url}: only Hub repositories have revisions; leave --revision out")
    return locate(f"{base}/{name}")


def _read_manifest(remote: Remote, patience: Patience) -> tuple[dict[str, Any], bytes]:
    def read() -> bytes:
        with remote.fs.open(remote.path, "rb") as handle:
            return bytes(handle.read(MOST_MANIFEST_BYTES + 1))

    raw = patiently(remote, patience, read)
    try:
        manifest = json.loads(raw)
        files = manifest["files"]
        if len(raw) > MOST_MANIFEST_BYTES or len(files) > MOST_FILES:
            raise ValueError("it is too long")
        for told in files.values():
            if len(bytes.fromhex(told["sha256"])) != 32 or not 0 <= int(told["bytes"]) < 1 << 40:
                raise ValueError("a size or digest is none")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{remote.url}: is no manifest ({error}); ask its publisher to push again") from error
    return manifest, raw


def _check_size(remote: Remote, promised: int, patience: Patience) -> None:
    """Refuse a file of another length before it fills the disk."""
    size = patiently(remote, patience, remote.info).get("size")
    if size is not None and size != promised:
        raise MerError(f"{remote.url}: has {size} bytes where its manifest promises {promised}; it was not fetched")


def _whole(home: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether every file of an earlier call is still what it was."""
    return all(
        (home / name).is_file() and sha256_of(home / name) == told["sha256"] for name, told in manifest["files"].items()
    )


def _newest(folder: Path) -> Path | None:
    """Version that was used last, of those that are complete."""
    homes = [path for path in folder.glob("*") if (path / MANIFEST).is_file() and path.suffix != ".partial"]
    return max(homes, key=lambda path: path.stat().st_mtime, default=None)
