"""The HDF5 primitives of the format: creating, opening with every guard, arrays, keys, string tables, attributes."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h5py
import numpy as np
import numpy.typing as npt

from .errors import DamagedError, FormatError, MerError
from .release import UPGRADE, install_line
from .seal import Extent, Seal, read_seal
from .source import FileReader, is_url
from .spec import canonical_json

FORMAT_VERSION = "1.0.0"
MOST_OBJECTS = 20_000
MOST_LEVELS = 6
MOST_KEY_BYTES = 1024
MOST_TIMES_SMALLER = 200
"""Highest ratio of content to stored bytes that a compressed array may have."""

FILTERS = {h5py.h5z.FILTER_SHUFFLE: "shuffle", h5py.h5z.FILTER_DEFLATE: "deflate", 32015: "zstd"}
FORBIDDEN_IN_KEY = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def check_key(key: str) -> str:
    """Return an utterance id that the format can hold.

    Raises
    ------
    FormatError
        If it is empty, longer than 1024 bytes of UTF-8, or holds control characters.
    """
    if not key or FORBIDDEN_IN_KEY.search(key) or len(key.encode()) > MOST_KEY_BYTES:
        shown = ascii(key if len(key) < 60 else key[:57] + "...")
        raise FormatError(f"utterance id {shown} is not allowed: 1 to 1024 bytes, no control characters")
    return key


def link_name(name: str) -> str:
    """Escape a name so that it is one HDF5 link: `/`, `%`, a leading dot and control characters are percent-encoded."""
    escaped = "".join(quote(c, safe="") if c in "/%" or ord(c) < 32 or ord(c) == 127 else c for c in name)
    return "%2E" + escaped[1:] if escaped.startswith(".") else escaped


# --------------------------------------------------------------------------------------------------- writing


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


# --------------------------------------------------------------------------------------------------- opening


@contextmanager
def open_sealed(location: Path | str, kinds: Mapping[str, str]) -> Iterator[tuple[h5py.File, Seal]]:
    """Open a file of `mer` for reading after checking its seal, structure, kind and version.

    Parameters
    ----------
    location
        Local path or URL.
    kinds
        Accepted `encoding-type` of the root, with what to call it.

    Raises
    ------
    FormatError
        If the file is not one of `mer`, is of a newer major version, or holds what the format forbids.
    DamagedError
        If bytes changed.
    """
    with FileReader(location) as reader:
        seal = read_seal(reader)
        with reading(location), h5py.File(reader.file if is_url(location) else location, "r") as file:
            check_structure(file, seal, str(location))
            kind = text_attribute(file, "encoding-type")
            if kind not in kinds:
                raise FormatError(f"{location} is a {kind!r} file, not {' or '.join(kinds.values())}")
            check_version(file, str(location))
            yield file, seal


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


def check_version(group: h5py.Group, what: str) -> None:
    """Refuse a group whose format has a newer major version than this library.

    Raises
    ------
    FormatError
        If it has.
    """
    version = text_attribute(group, "encoding-version")
    match = re.fullmatch(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})", version)
    if match is None:
        raise FormatError(f"{what}: encoding-version {version[:40]!r} is not a version")
    if int(match[1]) > int(FORMAT_VERSION.split(".")[0]):
        raise FormatError(
            f"{what} was written by a newer mer (format {version}, this one reads {FORMAT_VERSION}); "
            f"upgrade with: {UPGRADE}"
        )


def check_structure(file: h5py.File, seal: Seal, location: str) -> None:
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


# --------------------------------------------------------------------------------------------------- reading


def any_attribute(holder: h5py.Group | h5py.Dataset, name: str) -> Any:
    """Read an attribute; text as str."""
    value = holder.attrs[name]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def text_attribute(holder: h5py.Group | h5py.Dataset, name: str, default: str | None = None) -> str:
    """Read a string attribute.

    Raises
    ------
    FormatError
        If it is absent and has no default, or is not a string.
    """
    if name not in holder.attrs:
        if default is None:
            raise FormatError(f"{holder.name}: attribute {name!r} is missing")
        return default
    value = any_attribute(holder, name)
    if not isinstance(value, str):
        raise FormatError(f"{holder.name}: attribute {name!r} is not a string")
    return value


def json_attribute(holder: h5py.Group | h5py.Dataset, name: str) -> dict[str, Any]:
    """Read an attribute that holds a JSON object.

    Raises
    ------
    FormatError
        If it is not one.
    """
    try:
        value = json.loads(text_attribute(holder, name, "{}"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{holder.name}: attribute {name!r} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise FormatError(f"{holder.name}: attribute {name!r} is not a JSON object")
    return value


def names_attribute(holder: h5py.Group, name: str) -> list[str]:
    """Read an attribute that holds a JSON list of strings."""
    try:
        value = json.loads(text_attribute(holder, name, "[]"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{holder.name}: attribute {name!r} is not JSON ({error})") from error
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FormatError(f"{holder.name}: attribute {name!r} is not a list of names")
    return value


def get_group(group: h5py.Group, name: str, kind: str) -> h5py.Group:
    """Open a sub-group of a known kind and version."""
    child = group.get(name)
    if not isinstance(child, h5py.Group):
        raise FormatError(f"{group.name}: the group {name!r} is missing")
    if text_attribute(child, "encoding-type") != kind:
        raise FormatError(f"{child.name} is not a {kind} group")
    check_version(child, str(child.name))
    return child


def get_dataset(group: h5py.Group, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> h5py.Dataset:
    """Open a dataset and compare its type and shape; -1 in `shape` accepts any length."""
    dataset = group.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise FormatError(f"{group.name}: the dataset {name!r} is missing")
    wanted = np.dtype(dtype)
    fits = len(dataset.shape) == len(shape) and all(n in (-1, m) for n, m in zip(shape, dataset.shape, strict=True))
    if dataset.dtype.newbyteorder("=") != wanted.newbyteorder("=") or not fits:
        raise FormatError(f"{dataset.name} is {dataset.dtype}{dataset.shape}, expected {wanted}{shape}")
    return dataset


def get_array(group: h5py.Group, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Read a dataset of a known type and shape into memory, in native byte order."""
    dataset = get_dataset(group, name, dtype, shape)
    array = np.empty(dataset.shape, np.dtype(dtype).newbyteorder("="))
    if array.size:
        dataset.read_direct(array)
    return array


def get_offsets(group: h5py.Group, name: str, rows: int, total: int) -> npt.NDArray[np.int64]:
    """Read N+1 offsets that start at 0, never decrease and end at `total`."""
    offsets = get_array(group, name, np.int64, (rows + 1,))
    if offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
        raise FormatError(f"{group.name}/{name} do not rise from 0 to {total}")
    return offsets


def get_keys(group: h5py.Group, name: str) -> list[str]:
    """Read ids and check that they are allowed and unique."""
    dataset = group.get(name)
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "S" or len(dataset.shape) != 1:
        raise FormatError(f"{group.name}: the dataset {name!r} is missing or does not hold strings of fixed length")
    if dataset.dtype.itemsize > MOST_KEY_BYTES:
        raise FormatError(f"{dataset.name} has ids longer than {MOST_KEY_BYTES} bytes")
    keys = [check_key(key.decode()) for key in dataset[:].tolist()]
    if len(set(keys)) != len(keys):
        raise FormatError(f"{dataset.name} holds an id twice")
    return keys


def get_strings(group: h5py.Group, name: str, rows: int) -> list[str | None]:
    """Read a string table of `rows` strings."""
    table = get_group(group, name, "mer-strings")
    content = get_array(table, "bytes", np.uint8, (-1,)).tobytes()
    offsets = get_offsets(table, "offsets", rows, len(content)).tolist()
    pairs = itertools.pairwise(offsets)
    strings: list[str | None]
    if content.isascii():
        text = content.decode("ascii")
        strings = [text[a:b] for a, b in pairs]
    else:
        strings = [content[a:b].decode("utf-8", "surrogatepass") for a, b in pairs]
    if "present" in table:
        present = get_array(table, "present", np.uint8, (rows,))
        strings = [string if there else None for string, there in zip(strings, present.tolist(), strict=True)]
    return strings


def get_texts(group: h5py.Group, name: str, rows: int) -> list[str]:
    """Read a string table without absent strings."""
    return [string or "" for string in get_strings(group, name, rows)]


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
