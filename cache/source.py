"""Reading ranges of bytes from a local file or, through fsspec, from any URL."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from .errors import DamagedError, MerError

REMOTE_BLOCK_BYTES = 1 << 18
"""Reads of a URL are rounded to blocks of this size, of which the last few are kept: HDF5 reads here and there."""


def is_url(location: Path | str) -> bool:
    """Whether a location is fetched through fsspec instead of the local file system."""
    return "://" in str(location)


def refuse_url(path: Path | str, what: str) -> None:
    """Refuse a URL where only a place on this machine will do; as a path it would become a folder named `s3:`.

    Raises
    ------
    MerError
        If it is one.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise MerError(
            f"{what} {path} is a URL; name a place on this machine, and fetch with mer pull or publish with mer push"
        )


def open_binary(location: Path | str) -> BinaryIO:
    """Open a local path or URL for reading.

    Raises
    ------
    MerError
        If there is no such file or it cannot be read.
    """
    try:
        if not is_url(location):
            return cast(BinaryIO, open(location, "rb", buffering=0))
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(str(location))
        return cast(BinaryIO, fs.open(path, "rb", block_size=REMOTE_BLOCK_BYTES, cache_type="blockcache"))
    except FileNotFoundError as error:
        raise MerError(f"{location} does not exist; check the name, or make it with mer extract") from error
    except IsADirectoryError as error:
        raise MerError(f"{location} is a folder; name the .h5 file") from error
    except (OSError, ImportError, ValueError) as error:
        raise MerError(f"{location} cannot be opened: {' '.join(str(error).split())}") from error


class FileReader:
    """One open file and its size. Reads are safe from several threads."""

    def __init__(self, location: Path | str) -> None:
        self.location = str(location)
        self.file = open_binary(location)
        self._lock = threading.Lock()
        self.size = self.file.seek(0, os.SEEK_END)

    def read_into(self, array: npt.NDArray[Any], offset: int) -> None:
        """Fill a C-contiguous array with the bytes from `offset` on.

        Raises
        ------
        DamagedError
            If the file ends before the array is full or the disk reports an error.
        """
        if not array.nbytes:
            return
        view = array.reshape(-1).view(np.uint8).data
        try:
            with self._lock:
                self.file.seek(offset)
                while view:
                    count = self.file.readinto(view)  # type: ignore[attr-defined]
                    if not count:
                        raise DamagedError(f"{self.location} ends too early; it was truncated")
                    view = view[count:]
        except OSError as error:
            raise DamagedError(f"{self.location} cannot be read: {error}") from error

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on, fewer where the file ends before."""
        buffer = np.empty(max(0, min(count, self.size - offset)), np.uint8)
        self.read_into(buffer, offset)
        return buffer.tobytes()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __del__(self) -> None:
        if hasattr(self, "file"):  # nobody closes a store; its files go with it
            self.file.close()

    def __enter__(self) -> FileReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
