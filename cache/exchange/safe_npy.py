"""Reads `.npy` and `.npz` files that others made: no `allow_pickle`, sizes checked before anything is allocated."""

from __future__ import annotations

import ast
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MerError
from . import safe_pickle
from .safe_names import UnsafePickleError, check_dtype, check_shape, shaped

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 65536
MAX_INFLATION = 100
"""A compressed member may not unpack to more than this many times the archive, above `INFLATION_FLOOR_BYTES`."""
INFLATION_FLOOR_BYTES = 64 << 20

Array = npt.NDArray[Any]


def parse_npy(content: memoryview) -> Array:
    """Array in the bytes of one `.npy` file; object arrays go through the restricted unpickler.

    Returns
    -------
    ndarray
        A read-only view of `content`, or an object array of plain data.

    Raises
    ------
    UnsafePickleError
        If the header is not numpy's, claims more than there is, or the content is not plain data.
    """
    if bytes(content[:6]) != MAGIC or len(content) < 10:
        raise UnsafePickleError("not a .npy file")
    major = content[6]
    if major not in (1, 2, 3):
        raise UnsafePickleError(f".npy version {major} is not known")
    width = 2 if major == 1 else 4
    length = int.from_bytes(content[8 : 8 + width], "little")
    start = 8 + width + length
    if length > MAX_HEADER_BYTES or start > len(content):
        raise UnsafePickleError(f"the .npy header claims {length} bytes")
    dtype, fortran, shape = _header(bytes(content[8 + width : start]))
    body = content[start:]
    if dtype.kind != "O":
        return shaped(body, dtype, shape, "F" if fortran else "C")
    loaded = safe_pickle.loads(body)
    if not isinstance(loaded, np.ndarray) or check_shape(shape) != loaded.size:
        raise UnsafePickleError("the .npy file claims an array of objects that its content is not")
    return loaded


def _header(raw: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    try:
        header = ast.literal_eval(raw.decode("latin-1").strip())
        descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
        if not isinstance(descr, str) or len(descr) > 24 or type(fortran) is not bool or type(shape) is not tuple:
            raise ValueError("unexpected fields")
        dtype = np.dtype(descr)
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise UnsafePickleError("the .npy header is not numpy's, or describes a structured array") from error
    check_dtype(dtype)
    check_shape(shape)
    return dtype, fortran, shape


def read_npy(path: Path) -> Array:
    """Read one `.npy` file.

    Raises
    ------
    MerError
        If it is missing, damaged, or holds more than plain data; the message names the file.
    """
    try:
        return parse_npy(safe_pickle.mapped(path))
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path}: {error}") from error


def read_npz(path: Path) -> dict[str, Array]:
    """Read every array of a `.npz` file.

    Raises
    ------
    MerError
        If it is missing, damaged, unpacks to an unreasonable size, or holds more than plain data.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            limit = max(INFLATION_FLOOR_BYTES, MAX_INFLATION * path.stat().st_size)
            arrays = {}
            for member in archive.infolist():
                content = member_bytes(archive, member, limit)
                limit -= len(content)
                arrays[member.filename.removesuffix(".npy")] = parse_npy(memoryview(content))
            return arrays
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path}: {error}") from error
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise MerError(f"{path}: not a readable .npz file ({error})") from error


def member_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    """Unpack one member; the claimed size is checked first and never exceeded."""
    if member.file_size > limit:
        raise UnsafePickleError(f"{member.filename[:60]!r} would unpack to {member.file_size} bytes, which is refused")
    with archive.open(member) as stream:
        content = stream.read(member.file_size + 1)
    if len(content) != member.file_size:
        raise UnsafePickleError(f"{member.filename[:60]!r} unpacks to another size than it claims")
    return content
