"""Reads the arrays of MATLAB files: versions 5 to 7.2 here, 7.3 (which is HDF5) as other foreign HDF5.

scipy's reader ends the process on some damaged files (seen with 1.17: one changed byte in an uncompressed file), so the
format is read here: numbers, text, cells and structs; every size is compared with the bytes that are there.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import FormatError, MerError
from ..structure import reading
from .foreign_hdf import open_foreign
from .safe_npy import INFLATION_FLOOR_BYTES, MAX_INFLATION
from .safe_pickle import mapped

HEADER_BYTES = 128
MOST_LEVELS = 6
MOST_AXES = 8
MATRIX, COMPRESSED = 14, 15
"""Types of elements."""
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CODECS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, CHAR = 1, 2, 4
NUMERIC = range(6, 16)
"""Classes of arrays; objects, sparse matrices and functions are left out."""
COMPLEX = 0x0800


def read_matlab(path: Path) -> dict[str, Any]:
    """Variables of a `.mat` file: arrays, texts, cells as lists, structs as dicts; None for what is none of these.

    Raises
    ------
    MerError
        If it is damaged, unpacks to an unreasonable size, or nests too deep.
    """
    with path.open("rb") as handle:
        is_hdf = handle.read(520)[512:516] == b"\x89HDF"
    return _version_73(path) if is_hdf else _version_5(path)


def _version_5(path: Path) -> dict[str, Any]:
    data = mapped(path)
    order = "big" if bytes(data[126:128]) == b"MI" else "little"
    limit = max(INFLATION_FLOOR_BYTES, MAX_INFLATION * len(data))
    variables: dict[str, Any] = {}
    try:
        for kind, content in _elements(data[HEADER_BYTES:], order, padded=False):
            if kind == COMPRESSED:
                limit -= _unpacked_bytes(content, limit)
                kind, content = next(_elements(memoryview(zlib.decompress(content)), order))
            if kind == MATRIX:
                name, value = _matrix(content, order, 0)
                variables[name] = _column(value)
    except (ValueError, zlib.error, StopIteration, OverflowError, MemoryError) as error:
        shown = " ".join(str(error).split())[:120]
        raise MerError(f"{path}: not a readable MATLAB file ({shown or type(error).__name__})") from error
    except FormatError as error:
        raise MerError(f"{path}: {error}") from error
    return variables


def _unpacked_bytes(content: memoryview, limit: int) -> int:
    """Unpacked size of an element, found in small pieces of which nothing is kept."""
    packed = zlib.decompressobj()
    size = 0
    while not packed.eof:
        piece = packed.decompress(content, 1 << 20)
        content = memoryview(packed.unconsumed_tail)
        size += len(piece)
        if size > limit:
            raise FormatError("it unpacks to far more than its size, which is refused as a bomb")
        if not piece and not len(content):
            raise ValueError("a variable is cut")
    return size


def _elements(data: memoryview, order: Any, padded: bool = True) -> Iterator[tuple[int, memoryview]]:
    """Type and content of the elements that lie one after the other."""
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise ValueError("an element is cut")
        first, second = (int.from_bytes(data[at + n : at + n + 4], order) for n in (0, 4))
        small = first >> 16
        kind, size, start = (first & 0xFFFF, small, at + 4) if small else (first, second, at + 8)
        if size > len(data) - start or small > 4:
            raise ValueError(f"an element claims {size:,} bytes where {len(data) - start:,} are left")
        yield kind, data[start : start + size]
        at = at + 8 if small else start + (-(-size // 8) * 8 if padded else size)


def _matrix(data: memoryview, order: Any, level: int) -> tuple[str, Any]:
    """Name and value of one array."""
    if level > MOST_LEVELS:
        raise FormatError(f"cells nest deeper than {MOST_LEVELS} levels")
    parts = _elements(data, order)
    if not len(data):
        return "", None
    flags = int.from_bytes(next(parts)[1][:4], order)
    sizes = [int(one) for one in _numbers(*next(parts), order)]
    name = bytes(next(parts)[1]).decode("utf-8", "replace")
    count = math.prod(sizes)
    if not 1 < len(sizes) <= MOST_AXES or min(sizes) < 0 or count > len(data) * 8:
        raise ValueError(f"{name[:40]!a} claims an impossible shape {sizes[:MOST_AXES]}")
    kind = flags & 0xFF
    if kind == CELL:
        return name, [_matrix(_inner(parts), order, level + 1)[1] for _ in range(count)]
    if kind == STRUCT:
        return name, _struct(parts, count, order, level)
    if not count or kind not in (CHAR, *NUMERIC) or flags & COMPLEX:
        return name, "" if kind == CHAR else None
    if kind == CHAR:
        return name, _text(*next(parts), order, sizes[0])
    values = _numbers(*next(parts), order)
    if len(values) != count:
        raise ValueError(f"{name[:40]!a} claims {count:,} numbers and has {len(values):,}")
    return name, values[0].item() if count == 1 else values.reshape(sizes, order="F")


def _inner(parts: Iterator[tuple[int, memoryview]]) -> memoryview:
    kind, content = next(parts)
    if kind != MATRIX:
        raise ValueError("a cell holds something that is no array")
    return content


def _struct(parts: Iterator[tuple[int, memoryview]], count: int, order: Any, level: int) -> Any:
    length = int(_numbers(*next(parts), order)[0])
    raw = bytes(next(parts)[1])
    if not 0 < length <= 64:
        raise ValueError("a struct has field names of an impossible length")
    fields = [raw[at : at + length].split(b"\0")[0].decode("latin-1") for at in range(0, len(raw), length)]
    rows = [
        {name: _matrix(_inner(parts), order, level + 1)[1] for name in fields} for _ in range(count if fields else 0)
    ]
    return rows[0] if len(rows) == 1 else rows


def _numbers(kind: int, content: memoryview, order: Any) -> Any:
    if kind not in NUMBERS or len(content) % int(NUMBERS[kind][1]):
        raise ValueError(f"numbers have the unknown type {kind}, or are cut")
    values = np.frombuffer(content, (">" if order == "big" else "<") + NUMBERS[kind])
    if not len(values):
        raise ValueError("numbers are missing")
    return values


def _text(kind: int, content: memoryview, order: Any, rows: int) -> Any:
    if kind not in CODECS:
        raise ValueError(f"text has the unknown type {kind}")
    codec = CODECS[kind]
    if codec in ("utf-16", "utf-32"):
        codec += "-be" if order == "big" else "-le"
    text = bytes(content).decode(codec, "replace")
    lines = [text[row::rows].rstrip() for row in range(min(rows, len(text)))]
    return lines[0] if len(lines) == 1 else lines or ""


def _column(value: Any) -> Any:
    """A variable: MATLAB writes a column of N numbers as N × 1."""
    if isinstance(value, dict):
        return {name: _column(one) for name, one in value.items()}
    if isinstance(value, np.ndarray) and value.ndim == 2 and 1 in value.shape:
        return value.ravel()
    return value


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
