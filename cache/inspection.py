"""Files that were not made here are looked through in a helper process before this one opens them.

The HDF5 library walks metadata that who forged a file could choose, and some choices crash it. So the first opening of
an unknown file happens in a helper: when the helper survives the walk over all of the structure, this process opens
the file too. Files that were written here, and those that were looked through before, are remembered.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DamagedError, FormatError
from .helper_process import HelperDiedError, HelperProcess, Served, end_after, limit_memory
from .seal import Seal, read_seal
from .source import FileReader, is_url
from .spec import canonical_json
from .structure import check_structure, open_hdf, reading
from .user_cache import user_cache

MEMORY_BYTES = 2 << 30
COMPUTING_SECONDS = 5.0
WHOLE_BYTES = 64 << 20
"""Compressed arrays up to this size are read whole by the helper; of larger ones the index alone."""
MOST_MARKS_BYTES = 1 << 18
"""Size at which one of the 256 files of marks is begun anew: it holds 8,192 marks of 32 bytes."""
REFUSALS: dict[str, type[FormatError]] = {"format": FormatError, "damaged": DamagedError}

_lock = threading.Lock()
_known: set[bytes] = set()
_helpers: dict[int, HelperProcess] = {}
"""The helper of this process; one of the process it was forked from is not to be talked to."""


def made_here(seal: Seal) -> None:
    """Remember a file that this process has written, by what its seal says, wherever it lies."""
    _remember(_mark(seal))


def inspect_unknown(reader: FileReader, seal: Seal) -> None:
    """Look through the structure of a file in a helper process, unless it is known.

    Parameters
    ----------
    reader
        The open file.
    seal
        Its seal, whose digest was compared.

    Raises
    ------
    FormatError
        If it holds what the format forbids.
    DamagedError
        If it cannot be read, or whoever reads it crashes, hangs or runs out of memory.
    """
    own = _mark(seal)
    here = own if is_url(reader.location) else _mark(seal, reader.location)
    if _is_known(own, here):
        return
    with _lock:
        _look_through(reader)
    if is_url(reader.location):
        _known.add(here)
    else:
        _remember(here)


def _helper() -> HelperProcess:
    """Return the helper of this process, started with the first unknown file."""
    if os.getpid() not in _helpers:
        for other in _helpers.values():
            other.forget()
        _helpers.clear()
        _helpers[os.getpid()] = helper = HelperProcess("mer.cache.inspection", quiet=True)
        atexit.register(helper.close)
    return _helpers[os.getpid()]


def _look_through(reader: FileReader) -> None:
    helper = _helper()
    try:
        helper.send(json.dumps({"location": reader.location, "size": reader.size}).encode())
        while True:
            answer = json.loads(helper.receive())
            if "read" not in answer:
                break
            offset, count = answer["read"]
            helper.send(reader.read(int(offset), int(count)))
    except HelperDiedError as error:
        _helpers.pop(os.getpid()).kill()
        raise DamagedError(
            f"{reader.location}: the HDF5 library does not survive its structure ({error}), so that it was not opened; "
            "it is damaged or made to do harm: fetch or make the file again"
        ) from error
    if (kind := answer.get("refused")) is not None:
        raise REFUSALS[kind](str(answer["why"]))


# --- what is known ------------------------------------------------------------------------------------------------


def _mark(seal: Seal, location: str = "") -> bytes:
    """Digest of a seal, and of the file at a path as it is now.

    The seal alone tells what a file of ours holds. In a file of others the stretches that it leaves out of the digest
    may not be features, so that the same seal could stand for two structures.
    """
    facts: dict[str, Any] = {"block": seal.block, "size": seal.size, "sha256": seal.digest}
    facts["plain"] = {name: list(extent) for name, extent in seal.plain.items()}
    facts["packed"] = {name: [list(extent) for extent in extents] for name, extents in seal.packed.items()}
    if location:
        found = os.stat(location)
        facts["file"] = [os.path.abspath(location), found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
    return hashlib.sha256(canonical_json(facts).encode()).digest()


def _is_known(*marks: bytes) -> bool:
    if not _known.isdisjoint(marks):
        return True
    for mark in marks:
        with suppress(OSError):
            if mark in _file_of(mark).read_bytes():
                _known.add(mark)
                return True
    return False


def _remember(mark: bytes) -> None:
    """Keep a mark for this process, and where there is a user's cache folder for later ones."""
    _known.add(mark)
    path = _file_of(mark)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        full = path.exists() and path.stat().st_size > MOST_MARKS_BYTES
        with path.open("wb" if full else "ab", buffering=0) as file:
            file.write(mark)


def _file_of(mark: bytes) -> Path:
    return user_cache("known-files", f"{mark[0]:02x}")


# --- in the helper ------------------------------------------------------------------------------------------------


def main() -> None:
    """Look through files for the parent, until it goes away."""
    served = Served()
    limit_memory(MEMORY_BYTES)
    while True:
        asked = json.loads(served.receive())
        end_after(COMPUTING_SECONDS, computing=True)
        try:
            _walk(str(asked["location"]), int(asked["size"]), served)
        except DamagedError as error:
            answer: dict[str, Any] = {"refused": "damaged", "why": str(error)}
        except FormatError as error:
            answer = {"refused": "format", "why": str(error)}
        else:
            answer = {"fine": True}
        end_after(0, computing=True)
        served.send(json.dumps(answer).encode())


def _walk(location: str, size: int, served: Served) -> None:
    """Do with a file what a reader may do, its features left out."""
    with _Relayed(location, size, served) if is_url(location) else FileReader(location) as reader:
        seal = read_seal(reader)
        with reading(location), open_hdf(reader) as file:
            check_structure(file, seal)
            dict(file.attrs)
            file.visititems(lambda name, held: _touch(f"/{name}", held, seal))


def _touch(path: str, held: Any, seal: Seal) -> None:
    import h5py

    dict(held.attrs)
    if not isinstance(held, h5py.Dataset) or path in seal.plain:
        return
    if held.chunks is not None:
        held.id.chunk_iter(lambda _: None)
    if held.nbytes <= WHOLE_BYTES or held.chunks is None:
        np.asarray(held[()])


class _Relayed(FileReader):
    """A file at a URL, whose bytes the parent fetches."""

    def __init__(self, location: str, size: int, served: Served) -> None:
        self.location = location
        self.size = size
        self.file = _Bytes(size, served)  # type: ignore[assignment]
        self._lock = threading.Lock()


class _Bytes:
    """What HDF5 and `FileReader` need of an open file."""

    def __init__(self, size: int, served: Served) -> None:
        self._size = size
        self._served = served
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """Offset of the next byte."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with what the parent reads."""
        view = memoryview(buffer).cast("B")
        self._served.send(json.dumps({"read": [self._at, len(view)]}).encode())
        content = self._served.receive()
        view[: len(content)] = content
        self._at += len(content)
        return len(content)

    def read(self, count: int = -1) -> bytes:
        """Read bytes."""
        buffer = bytearray(self._size - self._at if count < 0 else count)
        return bytes(buffer[: self.readinto(buffer)])

    def close(self) -> None:
        """Nothing to close: the parent has the file."""
