"""The HDF5 primitives of the format: opening with every guard, and reading arrays, keys, string tables, attributes."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h5py
import numpy as np
import numpy.typing as npt

from .errors import FormatError
from .inspection import inspect_unknown
from .release import UPGRADE
from .seal import Seal, read_seal
from .source import FileReader
from .structure import check_structure, open_hdf, reading

FORMAT_VERSION = "1.0.0"
MOST_KEY_BYTES = 1024
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
        inspect_unknown(reader, seal)
        with reading(location), open_hdf(reader) as file:
            check_structure(file, seal)
            kind = text_attribute(file, "encoding-type")
            if kind not in kinds:
                raise FormatError(f"{location} is a {kind!r} file, not {' or '.join(kinds.values())}")
            check_version(file, str(location))
            yield file, seal


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
