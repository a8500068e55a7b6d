"""Fetching a corpus that anyone may download: resumed, checked, unpacked, and only then in its place."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mer.cache import MerError, atomic_write
from mer.cache.transfer import Patience
from mer.cache.transfer.remote import fetch_checked, locate
from mer.cache.user_cache import user_cache

from .annotation import read_table
from .releases import Download, Release
from .unpack import unpack

AT_ONCE = 8
"""Small files fetched side by side."""
HEADROOM_BYTES = 1 << 28

Progress = Callable[[str, int, int | None], None]
"""Told of a file's name, the bytes that came and the bytes in all."""

log = logging.getLogger("mer")


def bytes_to_fetch(release: Release) -> int:
    """Roughly what is downloaded."""
    return sum(one.about_bytes for one in release.downloads) + release.listed_bytes


def bytes_needed(release: Release) -> int:
    """Roughly the free disk that it takes: archives and what is in them lie side by side for a while."""
    return bytes_to_fetch(release) + release.unpacked_bytes + HEADROOM_BYTES


def get(release: Release, target: Path, on_progress: Progress, patience: Patience | None = None) -> Path:
    """Fetch a release into a folder that is not there yet.

    What was interrupted goes on from `TARGET.partial` when the same is asked for again.

    Parameters
    ----------
    release
        What to fetch.
    target
        The corpus folder to make.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    MerError
        If the folder is there already, the disk is too small, a server cannot be reached, a file is not the one that
        was published or came before, or an archive is damaged or hostile.
    """
    if target.exists():
        raise MerError(f"{target} is there already; choose another folder with --to, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(target.name + ".partial")
    free = shutil.disk_usage(target.parent).free
    have = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file()) if staging.exists() else 0
    if free + have < bytes_needed(release):
        raise MerError(
            f"{target.parent}: {free / 1e9:.1f} GB are free where about"
            f" {bytes_needed(release) / 1e9:.1f} GB are needed; make room, or choose another folder with --to"
        )
    staging.mkdir(exist_ok=True)
    files = [_fetch(one, staging, on_progress, patience) for one in release.downloads]
    if release.listed[0]:
        _fetch_listed(release, staging, on_progress, patience)
    for one, file in zip(release.downloads, files, strict=True):
        if one.unpack:
            _unpack_into(staging, file, release)
    os.replace(staging, target)
    return target


def _fetch(one: Download, folder: Path, on_progress: Progress, patience: Patience | None) -> Path:
    """Fetch one file and compare its digest with the published one, or with the one written down the first time."""
    remote = locate(one.url)
    file = folder / remote.name
    if not file.exists():
        watch = lambda done, total: on_progress(file.name, done, total)  # noqa: E731
        tries = replace(patience) if patience else Patience()
        try:
            fetch_checked(remote, file, tries, watch)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise MerError(f"{folder}: the disk is full; make room and run it again to go on") from error
            raise
    wanted = one.digest or _ledger().get(one.url, "")
    kind = wanted.partition(":")[0] or "sha256"
    with file.open("rb") as handle:
        found = f"{kind}:{hashlib.file_digest(handle, kind).hexdigest()}"
    if wanted and found != wanted:
        file.unlink()
        whose = "is published" if one.digest else "came the first time"
        raise MerError(
            f"{one.url}: the file has {found} where {wanted} {whose}; it was removed. If the publisher changed it on"
            f" purpose, remove its line from {_ledger_path()}"
        )
    if not wanted:
        log.info("%s: no digest is published; %s is written down and compared the next time", one.url, found)
        _write_down({one.url: found})
    return file


def _fetch_listed(release: Release, staging: Path, on_progress: Progress, patience: Patience | None) -> None:
    """Fetch the files that a downloaded table names, several at once."""
    table, before, after = release.listed
    names = sorted({row.filled("Filename") for row in read_table(staging / table, ("Filename",), row_ids=True)})
    folder = staging / before.rstrip("/").rpartition("/")[2]
    folder.mkdir(exist_ok=True)
    bad = [name for name in names if not name.replace("_", "").isalnum()]
    if bad:
        raise MerError(f"{staging / table}: names {bad[0]!r}, which is no plain file name; refused")
    left = [name for name in names if not (folder / f"{name}{after}").exists()]
    known, found = _ledger(), dict[str, str]()

    def one_of(name: str) -> None:
        url = f"{before}{name}{after}"
        file = folder / f"{name}{after}"
        fetch_checked(locate(url), file, replace(patience) if patience else Patience(), lambda done, total: None)
        found[url] = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
        if known.get(url, found[url]) != found[url]:
            file.unlink()
            raise MerError(f"{url}: the file is another than the first time; it was removed")

    done = len(names) - len(left)
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(one_of, left):
                done += 1
                on_progress(f"files of {release.folder}", done, len(names))
    finally:
        _write_down({url: digest for url, digest in found.items() if url not in known})


def _unpack_into(staging: Path, archive: Path, release: Release) -> None:
    """Unpack an archive beside itself, hoist a single top folder, and remove the archive when all of it is there."""
    tree = staging / ".unpacked"
    shutil.rmtree(tree, ignore_errors=True)
    most = 2 * release.unpacked_bytes
    try:
        unpack(archive, tree, most)
        for name in release.inner:
            for inner in sorted(tree.rglob(name)):
                unpack(inner, inner.parent, most)
                inner.unlink()
        inside = _entries(tree)
        top = inside[0] if len(inside) == 1 and inside[0].is_dir() else tree
        for entry in _entries(top):
            if (staging / entry.name).exists():
                raise MerError(f"{archive}: holds {entry.name!r}, which is there already; refused")
            os.replace(entry, staging / entry.name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MerError(f"{staging}: the disk is full; make room and run it again to go on") from error
        raise
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    archive.unlink()


def _entries(folder: Path) -> Sequence[Path]:
    return sorted(folder.iterdir())


def _ledger_path() -> Path:
    return user_cache("download-digests.json")


def _ledger() -> dict[str, str]:
    try:
        return {str(url): str(digest) for url, digest in json.loads(_ledger_path().read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _write_down(found: dict[str, str]) -> None:
    if not found:
        return
    path = _ledger_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(_ledger() | found, indent=1), encoding="utf-8")
