"""Publishing packs and fetching them: the Hub, s3, gs, https, ssh, or a folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..atomic import followed
from ..catalogue import shard_folder
from ..errors import MerError
from ..progress import Progress
from ..shard import read_shard_index
from ..source import is_url
from ..store import FeatureStore
from ..verify import verify
from .card import hub_page
from .hub import HubAddress, only_file, upload
from .remote import (
    SIDECAR,
    Patience,
    Remote,
    TransferError,
    fetch_checked,
    locate,
    log,
    patiently,
    put,
    read_sidecar,
    sha256_of,
    sidecar_line,
)

__all__ = ["Patience", "Pulled", "Pushed", "pull", "push", "push_folder", "resolve_features"]


@dataclass(frozen=True)
class Pushed:
    """A pack that was published."""

    url: str
    """From which it can be pulled."""
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Pulled:
    """A pack that was fetched and verified."""

    path: Path
    sha256: str
    bytes: int
    resumed: bool
    """Whether bytes of an earlier, interrupted pull were used."""
    vouched: bool
    """Whether a sha256 was there to compare with; otherwise only the pack's own checksums were checked."""


def _silent(done: int, total: int | None) -> None:
    """Report progress to nobody."""


def push(pack: Path, url: str, *, revision: str | None = None, private: bool = False, notes: str = "") -> Pushed:
    """Publish a pack, its sha256 beside it; on the Hub with a page.

    Parameters
    ----------
    pack
        One file, or the catalogue of a pack in parts.
    url
        `hf://datasets/ORG/NAME[/FILE]`, or any fsspec URL of a file or (with a slash at the end) of a folder.
    revision
        Branch of a Hub repository.
    private
        Whether a new Hub repository is private.
    notes
        Markdown for the Hub page.

    Raises
    ------
    MerError
        If the file is not a whole, licensed pack, or the place cannot be written.
    """
    store = _publishable(pack)
    digest, size = sha256_of(pack), pack.stat().st_size
    parts = {suffix: Path(store.shard_location(name, at)) for suffix, name, at in _parts(store)}
    if url.startswith("hf://"):
        return _push_to_hub(store, parts, HubAddress.parse(url, revision), private, notes, digest)
    _only_hub(url, revision)
    remote = locate(url + pack.name if url.endswith("/") else url)
    if _is_there(remote, digest, size):
        log.info("%s: is there already, unchanged", remote.url)
        return Pushed(remote.url, digest, size)
    for suffix, path in parts.items():
        put(path, remote.part(suffix))
    put(pack, remote)
    beside = remote.beside(SIDECAR)
    beside.fs.pipe_file(beside.path, sidecar_line(digest, remote.name).encode())
    return Pushed(remote.url, digest, size)


def push_folder(pack: Path, folder: Path, url: str, *, revision: str | None = None, private: bool = False) -> Pushed:
    """Publish a folder that was made of a pack, such as its Parquet export, as one commit on the Hub.

    Raises
    ------
    MerError
        If the pack is not a whole, licensed one, or the address is not a Hub repository.
    """
    _publishable(pack)
    if not url.startswith("hf://"):
        raise MerError(f"{url}: Parquet is published on the Hub; give hf://datasets/ORG/NAME")
    address = HubAddress.parse(url, revision)
    if address.file:
        raise MerError(f"{url}: give the repository alone, hf://datasets/ORG/NAME")
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in paths}
    upload(address, files, f"Publish {pack.stem} as Parquet", private)
    return Pushed(f"hf://datasets/{address.repo}", "", sum(path.stat().st_size for path in paths))


def _push_to_hub(
    store: FeatureStore, parts: dict[str, Path], address: HubAddress, private: bool, notes: str, digest: str
) -> Pushed:
    name = address.file or store.path.name
    page = hub_page(store, name, address.url(name), digest, notes)
    line = sidecar_line(digest, name.rsplit("/", 1)[-1]).encode()
    files: dict[str, Path | bytes] = {name: store.path, name + SIDECAR: line, "README.md": page.encode()}
    files |= {name.removesuffix(".h5") + suffix: path for suffix, path in parts.items()}
    upload(address, files, f"Publish {name}", private)
    return Pushed(address.url(name), digest, store.path.stat().st_size)


def _parts(store: FeatureStore) -> Iterator[tuple[str, str, int]]:
    """Files beside a catalogue: suffix to its stem, feature set, number of the shard."""
    for name, index in store.sets.items():
        for at, info in enumerate(index.shards):
            yield f".shards/{name}/{info.name}.h5", name, at


def _publishable(pack: Path) -> FeatureStore:
    store = FeatureStore.open(pack)
    if not store.catalogue.datasheet.get("license"):
        raise MerError(f"{pack}: is no pack with a licence; make one: mer pack {pack} -o PACK.h5 --license SPDX")
    problems = verify(pack)
    if problems:
        raise MerError(f"{pack}: {len(problems)} problems, the first: {problems[0].what}; it is not published")
    return store


def _only_hub(url: str, revision: str | None) -> None:
    if revision:
        raise MerError(f"{url}: only Hub repositories have revisions; leave --revision out")


def _is_there(remote: Remote, digest: str, size: int) -> bool:
    """Whether the very same file was pushed before; any doubt means no."""
    try:
        return read_sidecar(remote, Patience(attempts=1)) == digest and remote.info().get("size") == size
    except Exception:  # an unreadable or missing remote is simply written
        return False


def pull(
    url: str,
    target: Path | None = None,
    *,
    revision: str | None = None,
    sha256: str | None = None,
    patience: Patience | None = None,
    on_progress: Progress = _silent,
    overwrite: bool = False,
) -> Pulled:
    """Fetch a pack, verify it, and only then give it its name.

    Parameters
    ----------
    url
        Of a pack; on the Hub also of a repository with one pack.
    target
        File to write, or an existing folder; by default the URL's file name in the current folder.
    revision
        Branch, tag or commit of a Hub repository.
    sha256
        Hash the file must have; by default the one its publisher put beside it.
    on_progress
        Called with bytes so far and bytes in all of the file being fetched.
    overwrite
        Whether another file that has the name already is replaced.

    Raises
    ------
    MerError
        If another file has the name already, it cannot be fetched, does not match its hash, or is no whole pack. An
        interrupted pull keeps its bytes in the folder `TARGET.partial` and goes on from there next time.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise MerError(f"sha256 {sha256!r} is not one; it has 64 digits from 0 to f")
    remote = _remote(url, revision)
    path = followed(Path(remote.name) if target is None else target / remote.name if target.is_dir() else target)
    patience = patience or Patience()
    expected = (sha256 or read_sidecar(remote, patience) or _hub_sha256(remote, patience) or "").lower()
    if path.exists() and expected and sha256_of(path) == expected:
        return Pulled(path, expected, path.stat().st_size, False, True)
    if path.exists() and not overwrite:
        what = f"is not what {remote.url} has" if expected else f"{remote.url} has no sha256 to compare it with"
        raise MerError(f"{path} is there already and {what}; choose another --out, or replace it with --overwrite")
    staging = path.with_name(path.name + ".partial")
    made = staging.exists()
    staging.mkdir(parents=True, exist_ok=True)
    try:
        file = staging / path.name
        resumed = fetch_checked(remote, file, patience, on_progress, expected)
        found = sha256_of(file)
        _fetch_parts(remote, file, patience, on_progress)
        _check(remote, file)
    except MerError as error:
        if not isinstance(error, TransferError) or (not made and not _kept(staging)):
            shutil.rmtree(staging)
        raise
    size = _move(file, path)
    path.with_name(path.name + SIDECAR).write_text(sidecar_line(found, path.name))
    shutil.rmtree(staging)
    return Pulled(path, found, size, resumed, bool(expected))


def _kept(staging: Path) -> bool:
    """Whether an interrupted transfer left bytes to go on from."""
    return any(path.stat().st_size for path in staging.rglob("*.part"))


def _fetch_parts(remote: Remote, catalogue: Path, patience: Patience, on_progress: Progress) -> None:
    """Fetch what lies beside a catalogue; every part is checked against what the catalogue says of it."""
    try:
        store = FeatureStore.open(catalogue)
    except MerError as error:
        raise type(error)(f"{_named(remote, catalogue, error)} (it was removed)") from error
    for suffix, name, at in _parts(store):
        info, place = store.sets[name].shards[at], Path(store.shard_location(name, at))
        if place.exists() and place.stat().st_size == info.bytes:
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        fetch_checked(remote.part(suffix), place, patience, on_progress)
        if read_shard_index(place).info != info:
            place.unlink()
            raise TransferError(f"{remote.part(suffix).url}: is not the part the catalogue names; it was removed")


def _check(remote: Remote, file: Path) -> None:
    """Check a fetched pack to the last byte before it gets its name."""
    try:
        problems = verify(file)
        if not FeatureStore.open(file).sets:
            raise MerError(f"{remote.url}: holds no feature sets; it was removed")
    except MerError as error:
        raise type(error)(f"{_named(remote, file, error)} (it was removed)") from error
    if problems:
        raise MerError(f"{remote.url}: {len(problems)} problems, the first: {problems[0].what}; it was removed")


def _named(remote: Remote, file: Path, error: MerError) -> str:
    """What is wrong with a file that has no name of its own yet, under its URL."""
    return str(error).replace(str(file), remote.url)


def _move(file: Path, path: Path) -> int:
    """Give a checked pack its name, its parts first; return the bytes of all."""
    store, size = FeatureStore.open(file), file.stat().st_size
    for _, name, at in _parts(store):
        part = Path(store.shard_location(name, at))
        size += part.stat().st_size
        folder = shard_folder(path, name)
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(part, folder / part.name)
    os.replace(file, path)
    return size


def _remote(url: str, revision: str | None) -> Remote:
    if not url.startswith("hf://"):
        _only_hub(url, revision)
        return locate(url)
    address = HubAddress.parse(url, revision)
    return locate(address.url(address.file or only_file(address)))


def _hub_sha256(remote: Remote, patience: Patience) -> str | None:
    """SHA-256 by which the Hub itself keeps a large file."""
    if remote.protocol != "hf":
        return None
    lfs = patiently(remote, patience, remote.info).get("lfs")
    return getattr(lfs, "sha256", None)


def resolve_features(
    location: str | Path, folder: Path, *, patience: Patience | None = None, on_progress: Progress = _silent
) -> Path:
    """Local path of a pack named by path or URL; a URL is pulled into a folder of the user's once.

    Parameters
    ----------
    location
        A local path is returned as it is.
    folder
        Where pulled packs are kept, one sub-folder per URL.
    on_progress
        As for `pull`.

    Raises
    ------
    MerError
        As `pull`. When the server cannot be reached and the pack was pulled before, that one is used, with a warning.
    """
    if not is_url(location):
        return Path(location)
    url = str(location)
    home = folder / hashlib.sha256(url.encode()).hexdigest()[:16]
    home.mkdir(parents=True, exist_ok=True)
    kept = next(iter(sorted(home.glob("*.h5"))), None)
    try:
        remote = _remote(url, None)
        expected = read_sidecar(remote, patience or Patience()) if kept else None
        if kept and expected and _noted(kept) == expected:
            return kept
        return pull(url, home, patience=patience, on_progress=on_progress, overwrite=True).path
    except TransferError as error:
        if kept is None:
            raise
        log.warning("%s; the copy pulled earlier is used: %s", error, kept)
        return kept


def _noted(path: Path) -> str:
    """SHA-256 a pull left beside the file it verified."""
    noted = path.with_name(path.name + SIDECAR)
    return noted.read_text().split(maxsplit=1)[0] if noted.exists() else ""
