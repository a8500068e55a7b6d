"""Unpacking a download: regular files and folders only, none outside the target, no more bytes than was promised."""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO

from mer.cache import MerError

MOST_FILES = 200_000
BLOCK_BYTES = 1 << 20

Member = tuple[str, IO[bytes]]


def unpack(archive: Path, folder: Path, most_bytes: int) -> int:
    """Unpack a zip or tar archive into a folder.

    Parameters
    ----------
    archive
        `.zip`, or a tar file of any compression that Python knows.
    folder
        Where its files go; made if absent.
    most_bytes
        More than this in all is refused.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    MerError
        If it is no archive or is damaged, names a place outside the folder, holds a link or a device, or unpacks to
        more than was promised.
    """
    written = 0
    try:
        for number, (name, source) in enumerate(_members(archive)):
            target = folder / _inside(archive, name)
            if number >= MOST_FILES:
                raise MerError(f"{archive}: holds more than {MOST_FILES:,} files; refused")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                while block := source.read(BLOCK_BYTES):
                    written += len(block)
                    if written > most_bytes:
                        raise MerError(f"{archive}: unpacks to more than {most_bytes:,} bytes; refused")
                    out.write(block)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        raise MerError(f"{archive}: is no whole archive ({error}); fetch it again") from error
    except FileExistsError as error:
        raise MerError(f"{archive}: names {error.filename} twice; refused") from error
    return written


def _members(archive: Path) -> Iterator[Member]:
    """Yield the regular files of an archive, one open at a time."""
    with ExitStack() as stack:
        if zipfile.is_zipfile(archive):
            packed = stack.enter_context(zipfile.ZipFile(archive))
            for info in packed.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise MerError(f"{archive}: holds the link or device {info.filename!a}; refused")
                if not info.is_dir():
                    with packed.open(info) as source:
                        yield info.filename, source
            return
        tape = stack.enter_context(tarfile.open(archive, "r|*"))
        for member in tape:
            if not (member.isreg() or member.isdir()):
                raise MerError(f"{archive}: holds the link or device {member.name!a}; refused")
            if member.isreg() and (content := tape.extractfile(member)) is not None:
                yield member.name, content


def _inside(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name.removeprefix("./"))
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name or not path.parts:
        raise MerError(f"{archive}: names {name!a}, a place outside its folder; refused")
    return path
