"""Opens HDF5 files of others: links, layouts, filters and sizes are checked before any value is read.

Foreign files have no seal, so the HDF5 library itself parses what may be damaged; what can be refused beforehand is.
Strings of variable length are never read: their pointers can ask for any amount of memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import FormatError, MerError
from ..seal import HDF5_SIGNATURE
from ..structure import MOST_LEVELS, MOST_TIMES_SMALLER, reading

MOST_OBJECTS = 1_000_000
FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_LZF,
}


def open_foreign(path: Path, user_block: bool = False) -> h5py.File:
    """Open an HDF5 file for reading after checking its structure; it closes with the last reference to it.

    Parameters
    ----------
    user_block
        Whether 512 bytes of another program come first, as in MATLAB's files.

    Raises
    ------
    FormatError
        If it is not HDF5, has soft or external links, data outside the file, virtual datasets, unknown filters, or
        claims more than its size allows.
    """
    if not path.is_file():
        raise MerError(f"{path} does not exist")
    with path.open("rb") as handle:
        if handle.read(520)[512 if user_block else 0 :][:8] != HDF5_SIGNATURE:
            raise FormatError(f"{path} is not an HDF5 file")
    with reading(path):
        file = h5py.File(path, "r", locking=False)
        _check(file, path)
    return file


def _check(file: h5py.File, path: Path) -> None:
    size = path.stat().st_size
    seen: set[int] = set()
    left: list[tuple[h5py.Group, str, int]] = [(file, "", 0)]
    while left:
        group, prefix, level = left.pop()
        for raw in group.id:
            name = f"{prefix}/{raw.decode('utf-8', 'replace')}"
            if group.id.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                raise FormatError(f"{path}: {name!a} is a soft or external link, which is refused")
            found = h5py.h5o.get_info(group.id, raw)
            if found.addr in seen or len(seen) >= MOST_OBJECTS or level >= MOST_LEVELS:
                raise FormatError(f"{path}: {name!a} is linked twice, nested too deep, or one of too many objects")
            seen.add(found.addr)
            if found.type == h5py.h5o.TYPE_GROUP:
                left.append((group[raw], name, level + 1))
            elif found.type == h5py.h5o.TYPE_DATASET:
                _check_dataset(group[raw], f"{path}: {name!a}", size)
            else:
                raise FormatError(f"{path}: {name!a} is neither a group nor a dataset")


def _check_dataset(dataset: h5py.Dataset, what: str, file_size: int) -> None:
    creation = dataset.id.get_create_plist()
    layout = creation.get_layout()
    if creation.get_external_count() or layout not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT, h5py.h5d.CHUNKED):
        raise FormatError(f"{what} keeps its data outside the file, which is refused")
    content = dataset.id.get_type().get_size()
    for length in dataset.id.shape:
        content *= int(length)
    stored = int(dataset.id.get_storage_size())
    if layout == h5py.h5d.CHUNKED:
        unknown = {creation.get_filter(index)[0] for index in range(creation.get_nfilters())} - FILTERS
        if unknown:
            raise FormatError(f"{what} is compressed with filter {min(unknown)}; only gzip, lzf and shuffle are read")
        if content > MOST_TIMES_SMALLER * stored + 4096 or stored > file_size:
            raise FormatError(f"{what} claims {content:,} bytes from {stored:,}; refused as a decompression bomb")
    elif content > file_size:
        raise FormatError(f"{what} claims {content:,} bytes in a file of {file_size:,}")


def numbers(group: h5py.Group, name: str, what: str, ndim: int = 2) -> npt.NDArray[Any]:
    """Read a dataset of numbers.

    Raises
    ------
    FormatError
        If it is absent, damaged, not numbers, or of another rank.
    """
    with reading(what):
        link = group.get(name)
        if not isinstance(link, h5py.Dataset) or link.dtype.kind not in "fiu" or link.ndim < ndim:
            raise FormatError(f"{name!r} is missing or not a table of numbers")
        values: npt.NDArray[Any] = np.asarray(link[()])
    return values.reshape(len(values), -1) if ndim == 2 and values.ndim > 2 else values
