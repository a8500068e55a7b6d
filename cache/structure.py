"""Opening HDF5, and what a file of the format may hold: links, layouts, types and sizes, checked before reading."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py

from .errors import DamagedError, FormatError, MerError
from .release import install_line
from .seal import Seal
from .source import FileReader, is_url

MOST_OBJECTS = 20_000
MOST_LEVELS = 6
MOST_TIMES_SMALLER = 200
"""Highest ratio of content to stored bytes that a compressed array may have."""

FILTERS = {h5py.h5z.FILTER_SHUFFLE: "shuffle", h5py.h5z.FILTER_DEFLATE: "deflate", 32015: "zstd"}


def open_hdf(reader: FileReader) -> h5py.File:
    """Open an HDF5 file for reading, after its structure was checked.

    Without locks: a published file never changes, and file systems without locks, as many NFS are, refuse them.
    """
    if is_url(reader.location):
        return h5py.File(reader.file, "r")
    return h5py.File(reader.location, "r", locking=False)


@contextmanager
def reading(location: Path | str) -> Iterator[None]:
    """Turn what the HDF5 library and numpy raise on broken content into a sentence."""
    try:
        yield
    except MerError as error:
        if str(location) in str(error):
            raise
        raise type(error)(f"{location}: {error}") from error
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, MemoryError, IndexError) as error:
        what = " ".join(str(error).split())
        raise DamagedError(f"{location} cannot be read ({what}); fetch or make the file again") from error


def check_structure(file: h5py.File, seal: Seal) -> None:
    """Refuse links, layouts, types and sizes that the format does not allow, before anything is read into memory.

    Raises
    ------
    FormatError
        Naming the offending object.
    """
    seen: set[int] = set()
    left: list[tuple[Any, str, int]] = [(file.id, "", 0)]
    arrays: set[str] = set()
    _check_attributes(file.id, "/")
    while left:
        group, prefix, level = left.pop()
        for raw in group:
            path = f"{prefix}/{raw.decode('utf-8', 'replace')}"
            if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                raise FormatError(f"{path!a} is a soft or external link; the format allows none")
            info = h5py.h5o.get_info(group, raw)
            if info.addr in seen or len(seen) >= MOST_OBJECTS:
                raise FormatError(f"{path!a} is linked twice, or the file holds too many objects")
            seen.add(info.addr)
            if info.type not in (h5py.h5o.TYPE_GROUP, h5py.h5o.TYPE_DATASET):
                raise FormatError(f"{path!a} is neither a group nor a dataset")
            child = h5py.h5o.open(group, raw)
            _check_attributes(child, path)
            if info.type == h5py.h5o.TYPE_GROUP:
                if level >= MOST_LEVELS:
                    raise FormatError(f"{path!a} is nested too deep")
                left.append((child, path, level + 1))
            elif _check_dataset(child, path, seal):
                arrays.add(path)
    if missing := set(seal.plain) - arrays:
        raise FormatError(f"the header names {min(missing)!a}, which is not there")


def _check_attributes(holder: Any, path: str) -> None:
    """Check the attributes of an object, given by its low-level id."""
    for index in range(h5py.h5a.get_num_attrs(holder)):
        attribute = h5py.h5a.open(holder, index=index)
        kind = attribute.get_type()
        allowed = kind.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING)
        if not allowed or (kind.get_class() == h5py.h5t.STRING and kind.is_variable_str()):
            raise FormatError(f"attribute {attribute.name!a} of {path!a} has a type the format does not allow")


def _check_dataset(dataset: Any, path: str, seal: Seal) -> bool:
    """Check one dataset, given by its low-level id; tell whether it is one of the seal's plain arrays."""
    creation = dataset.get_create_plist()
    layout, kind = creation.get_layout(), dataset.get_type()
    if creation.get_external_count() or layout not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT, h5py.h5d.CHUNKED):
        raise FormatError(f"{path!a} keeps its data outside the file; the format forbids it")
    text = kind.get_class() == h5py.h5t.STRING
    if kind.get_class() not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) and not (text and not kind.is_variable_str()):
        raise FormatError(f"{path!a} has a type the format does not allow")
    content = math.prod(map(int, dataset.shape)) * int(kind.get_size())
    if layout == h5py.h5d.CHUNKED:
        _check_chunks(dataset, creation, path, seal, content)
    elif content > seal.size:
        raise FormatError(f"{path!a} claims {content:,} bytes in a file of {seal.size:,}")
    if path not in seal.plain:
        return False
    if kind.get_order() == h5py.h5t.ORDER_BE or (dataset.get_offset(), content) != seal.plain[path]:
        raise FormatError(f"{path!a} does not lie where the header says")
    return True


def _check_chunks(dataset: Any, creation: Any, path: str, seal: Seal, content: int) -> None:
    for index in range(creation.get_nfilters()):
        number = creation.get_filter(index)[0]
        if number not in FILTERS:
            raise FormatError(f"{path!a} is compressed with filter {number}; the format allows shuffle and zstd")
        if not _available(number):
            raise FormatError(f"{path!a} is compressed with {FILTERS[number]}; {install_line('zstd')}")
    stored = int(dataset.get_storage_size())
    chunk = math.prod(map(int, creation.get_chunk())) * int(dataset.get_type().get_size())
    if stored > seal.size or content > MOST_TIMES_SMALLER * stored or chunk > max(1 << 26, content):
        raise FormatError(f"{path!a} claims {content:,} bytes from {stored:,} stored; refused as a decompression bomb")


def _available(number: int) -> bool:
    """Whether a filter can be used, after asking hdf5plugin for it where that is installed."""
    if not h5py.h5z.filter_avail(number):
        with suppress(ImportError):
            importlib.import_module("hdf5plugin")
    return bool(h5py.h5z.filter_avail(number))
