"""Reads the arrays of MATLAB files: versions 5 to 7.2 with scipy, 7.3 (which is HDF5) as other foreign HDF5."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import FormatError, MerError
from ..hdf import reading
from .foreign_hdf import open_foreign
from .safe_npy import INFLATION_FLOOR_BYTES, MAX_INFLATION

COMPRESSED = 15
"""Type of a version 5 element whose content is compressed."""
HEADER_BYTES = 128
MOST_LEVELS = 4


def read_matlab(path: Path) -> dict[str, Any]:
    """Variables of a `.mat` file: arrays, texts, cells as lists, structs as dicts.

    Raises
    ------
    MerError
        If it is damaged, unpacks to an unreasonable size, or holds objects instead of numbers and text.
    """
    with path.open("rb") as handle:
        is_hdf = handle.read(520)[512:516] == b"\x89HDF"
    return _version_73(path) if is_hdf else _version_5(path)


def _version_5(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    _check_inflation(path)
    try:
        content = loadmat(path)
    except (MatReadError, ValueError, TypeError, OSError, KeyError, IndexError, NotImplementedError) as error:
        raise MerError(f"{path}: not a readable MATLAB file ({' '.join(str(error).split())[:120]})") from error
    except (RecursionError, MemoryError, OverflowError, EOFError, zlib.error) as error:
        raise MerError(f"{path}: not a readable MATLAB file ({type(error).__name__})") from error
    return {name: _column(_plain(value, path, 0)) for name, value in content.items() if not name.startswith("__")}


def _plain(value: Any, path: Path, level: int) -> Any:
    """Numbers as the matrix they are, text as text, cells as lists, structs as dicts; MATLAB's own objects as None."""
    if level > MOST_LEVELS:
        raise MerError(f"{path}: nests cells deeper than {MOST_LEVELS} levels")
    if not isinstance(value, np.ndarray) or type(value) is not np.ndarray:
        return None
    if value.dtype.names:
        rows = [{name: _plain(one[name], path, level + 1) for name in value.dtype.names} for one in value.ravel()]
        return rows[0] if len(rows) == 1 else rows
    if value.dtype.kind == "O":
        return [_plain(one, path, level + 1) for one in value.ravel(order="F")]
    if value.dtype.kind == "U":
        texts = [str(one).rstrip() for one in value.ravel()]
        return texts[0] if len(texts) == 1 else texts or ""
    return None if not value.size else value.item() if value.size == 1 else value


def _column(value: Any) -> Any:
    """A variable: MATLAB writes a column of N numbers as N × 1."""
    if isinstance(value, dict):
        return {name: _column(one) for name, one in value.items()}
    if isinstance(value, np.ndarray) and value.ndim == 2 and 1 in value.shape:
        return value.ravel()
    return value


def _check_inflation(path: Path) -> None:
    """Unpack every compressed element in small pieces, keeping nothing, and refuse a file that grows too much."""
    size = path.stat().st_size
    limit = max(INFLATION_FLOOR_BYTES, MAX_INFLATION * size)
    with path.open("rb") as handle:
        order = "big" if handle.read(HEADER_BYTES)[126:128] == b"MI" else "little"
        while tag := handle.read(8):
            kind, length = int.from_bytes(tag[:4], order), int.from_bytes(tag[4:], order)  # type: ignore[arg-type]
            if len(tag) < 8 or length > size - handle.tell():
                raise MerError(f"{path}: a variable claims {length:,} bytes in a file of {size:,}; it is truncated")
            if kind != COMPRESSED:
                handle.seek(length, 1)
                continue
            packed = zlib.decompressobj()
            left = length
            while left > 0:
                pending = handle.read(min(left, 1 << 16))
                left -= len(pending)
                while pending and limit >= 0:
                    try:
                        limit -= len(packed.decompress(pending, 1 << 20))
                    except zlib.error as error:
                        raise MerError(f"{path}: a variable cannot be unpacked ({error})") from error
                    pending = packed.unconsumed_tail
            if limit < 0:
                raise MerError(f"{path}: unpacks to far more than its size, which is refused as a bomb")


def _version_73(path: Path) -> dict[str, Any]:
    file = open_foreign(path, user_block=True)
    try:
        with reading(path):
            return {name: _value(file, file[name], 0) for name in file if not name.startswith("#")}
    except (TypeError, KeyError, RecursionError) as error:
        raise FormatError(f"{path}: not a readable MATLAB file ({' '.join(str(error).split())[:120]})") from error


def _value(file: h5py.File, node: Any, level: int) -> Any:
    if level > MOST_LEVELS:
        raise FormatError(f"{node.name!a} nests deeper than {MOST_LEVELS} levels")
    if isinstance(node, h5py.Group):
        return {name: _value(file, node[name], level + 1) for name in node}
    if node.dtype.kind == "O":
        if h5py.check_ref_dtype(node.dtype) is None:
            raise FormatError(f"{node.name!a} holds neither numbers nor cells")
        return [_value(file, file[reference], level + 1) for reference in np.asarray(node[()]).T.ravel()]
    if node.dtype.kind not in "fiub":
        raise FormatError(f"{node.name!a} holds neither numbers nor cells")
    if node.attrs.get("MATLAB_empty", 0):
        return None
    values = np.asarray(node[()]).T
    if node.attrs.get("MATLAB_class") == b"char" and values.dtype == np.uint16:
        lines = [row.astype("<u2").tobytes().decode("utf-16-le", "replace") for row in np.atleast_2d(values)]
        return lines[0] if len(lines) == 1 else lines
    return values.squeeze()
