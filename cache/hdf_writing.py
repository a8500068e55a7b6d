"""Writing HDF5 as the format has it: creating a file, arrays, keys, string tables, attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from .hdf import FORMAT_VERSION, check_key
from .seal import Extent
from .spec import canonical_json


@contextmanager
def create(path: Path, block: int, aligned: bool = True) -> Iterator[h5py.File]:
    """Create an HDF5 file with room for a seal.

    The library version bounds are pinned because files written with "latest" by HDF5 2 cannot be read by 1.14. Arrays
    are aligned so that they can be mapped into memory; compressed chunks need not be, and lie closer without.

    Raises
    ------
    OSError
        If the disk does not take what is written.
    """
    alignment = {"alignment_threshold": 1024, "alignment_interval": 64} if aligned else {}
    with path.open("w+b", buffering=0) as raw:
        sink = _Sink(raw)
        try:
            with h5py.File(sink, "w", libver=("v110", "v110"), userblock_size=block, **alignment) as file:
                yield file
        finally:
            if sink.error is not None:
                raise sink.error


class _Sink:
    """The file HDF5 writes to, which keeps a failed write to itself until the file is closed.

    HDF5 cannot close a file whose last bytes the disk refuses: it keeps it open and crashes when the process ends. So
    after a refusal nothing more is written, HDF5 closes in peace, and `create` raises what the disk said.
    """

    def __init__(self, raw: FileIO) -> None:
        self.raw = raw
        self.error: OSError | None = None
        self.read = raw.read
        self.readinto = raw.readinto
        self.seek = raw.seek
        self.tell = raw.tell
        self.flush = raw.flush

    def write(self, content: Any) -> int:
        """Write all of `content`, or drop it after a refusal."""
        view = memoryview(content).cast("B")
        done = 0
        while self.error is None and done < len(view):
            try:
                done += self.raw.write(view[done:]) or 0
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file, unless a write was refused."""
        try:
            return self.raw.truncate(size) if self.error is None else (size or 0)
        except OSError as error:
            self.error = error
            return size or 0


def describe(group: h5py.Group, encoding: str, /, **attributes: str) -> None:
    """Write the encoding attributes of a group, and others."""
    put_attributes(group, {"encoding-type": encoding, "encoding-version": FORMAT_VERSION, **attributes})


def put_attributes(holder: h5py.Group | h5py.Dataset, attributes: Mapping[str, Any]) -> None:
    """Write attributes; text as UTF-8 of fixed length.

    Text of variable length lives in a heap that the HDF5 library may walk without end when it is damaged.
    """
    for name, value in attributes.items():
        if isinstance(value, str):
            encoded = value.encode() or b"\0"
            holder.attrs.create(name, np.array(encoded, h5py.string_dtype("utf-8", len(encoded))))
        else:
            holder.attrs[name] = value


def put_array(group: h5py.Group, name: str, values: npt.NDArray[Any], units: str = "") -> h5py.Dataset:
    """Write a contiguous little-endian array."""
    dataset = group.create_dataset(name, data=np.ascontiguousarray(values, values.dtype.newbyteorder("<")))
    if units:
        put_attributes(dataset, {"units": units})
    return dataset


def put_keys(group: h5py.Group, name: str, keys: Sequence[str]) -> None:
    """Write ids as UTF-8 strings of fixed length, padded with NUL."""
    encoded = [check_key(key).encode() for key in keys]
    width = max(map(len, encoded), default=1)
    group.create_dataset(name, data=np.array(encoded, dtype=h5py.string_dtype("utf-8", width)))


def put_strings(group: h5py.Group, name: str, strings: Sequence[str | None]) -> None:
    """Write a string table: UTF-8 `bytes`, `offsets`, and `present` where some strings are None.

    HDF5's own variable-length strings are not used: they cannot hold NUL, and their pointers let a small hostile file
    ask for any amount of memory.
    """
    table = group.create_group(name)
    describe(table, "mer-strings")
    encoded = [(string or "").encode("utf-8", "surrogatepass") for string in strings]
    put_array(table, "bytes", np.frombuffer(b"".join(encoded), np.uint8))
    put_array(table, "offsets", np.cumsum([0, *map(len, encoded)], dtype=np.int64))
    if any(string is None for string in strings):
        put_array(table, "present", np.array([string is not None for string in strings], np.uint8))


def extent(dataset: h5py.Dataset) -> Extent | None:
    """Offset in the file and bytes of a contiguous array; None where it is empty or not contiguous."""
    at = dataset.id.get_offset()
    return None if at is None or not dataset.nbytes else (int(at), int(dataset.nbytes))


def json_text(value: Mapping[str, Any]) -> str:
    """Canonical JSON of a mapping that may hold numpy scalars and arrays; NaN and infinity become null."""
    return canonical_json(_plain(value)) if value else ""


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
