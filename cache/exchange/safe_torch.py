"""Reads `.pt` and `.pth` files of tensors without torch and without executing anything.

torch.save writes a zip archive: a pickle that names the tensors, and one member of raw numbers per storage. The pickle
goes through the restricted unpickler, and tensors become numpy views of the storages.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MerError
from .safe_names import Name, UnsafePickleError
from .safe_npy import INFLATION_FLOOR_BYTES, MAX_INFLATION, member_bytes
from .safe_pickle import Reader, read_plain

Array = npt.NDArray[Any]
DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
MOST_AXES = 16


def read_torch(path: Path) -> Any:
    """Read what torch.save wrote: tensors as arrays, in the dicts and lists they were saved in.

    Raises
    ------
    MerError
        If it is damaged, of the format before torch 1.6, or holds more than tensors and plain data.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
            if "data.pkl" not in members:
                raise UnsafePickleError("holds no data.pkl; was it written by torch.save?")
            order = members.get("byteorder")
            if order is not None and member_bytes(archive, order, 16) != b"little":
                raise UnsafePickleError("was saved on a big-endian machine, which is not read")
            limit = max(INFLATION_FLOOR_BYTES, MAX_INFLATION * path.stat().st_size)
            return read_plain(_TorchReader(archive, members, limit))
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path}: {error}") from error
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise MerError(f"{path}: not a file of tensors ({error}); save it again with torch 1.6 or later") from error


class _TorchReader(Reader):
    """The restricted unpickler with torch's tensors and storages added."""

    def __init__(self, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], limit: int) -> None:
        self.archive, self.members, self.limit = archive, members, limit
        self.storages: dict[str, Array] = {}
        content = member_bytes(archive, members["data.pkl"], limit)
        super().__init__(memoryview(content))

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return Name(f"torch.{name}", None)
        calls: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch.Size": _size,
        }
        call = calls.get(f"{module}.{name}")
        return Name(f"{module}.{name}", call) if call else super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Array:
        kind = pid[1] if type(pid) is tuple and len(pid) == 5 and pid[0] == "storage" else None
        if not isinstance(kind, Name) or kind.path.removeprefix("torch.") not in DTYPES or type(pid[2]) is not str:
            raise UnsafePickleError("a persistent id is no storage of numbers, and is refused")
        key, count = pid[2], pid[4]
        if key not in self.storages:
            member = self.members.get(f"data/{key}")
            if member is None:
                raise UnsafePickleError(f"storage {key[:20]!r} is missing; the file is truncated")
            content = member_bytes(self.archive, member, self.limit)
            self.limit -= len(content)
            name = kind.path.removeprefix("torch.")
            numbers = np.frombuffer(content, DTYPES[name])
            if name == "BFloat16Storage":
                self.limit -= len(content)
                numbers = (numbers.astype("<u4") << 16).view("<f4")
            self.storages[key] = numbers
        if type(count) is not int or count > len(self.storages[key]):
            raise UnsafePickleError(f"storage {key[:20]!r} claims more numbers than it has")
        return self.storages[key]

    def load_build(self) -> None:
        if isinstance(self.stack[-2], OrderedDict):  # the versions of a state dict's modules; numbers they are not
            self.stack.pop()
        else:
            super().load_build()


_TorchReader.dispatch = type(Reader.dispatch)(Reader.dispatch)
_TorchReader.dispatch[ord("Q")] = lambda reader: reader.stack.append(reader.persistent_load(reader.stack.pop()))
_TorchReader.dispatch[ord("b")] = _TorchReader.load_build


def _tensor(reader: Any, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Array:
    """View of a storage; what it spans is checked against what is there, and nothing is spread by a stride of zero."""
    whole = (offset, *size, *stride) if type(size) is tuple and type(stride) is tuple else ()
    if (
        not isinstance(storage, np.ndarray)
        or len(size) != len(stride)
        or len(size) > MOST_AXES
        or any(type(one) is not int or not 0 <= one < 2**40 for one in whole)
    ):
        raise UnsafePickleError("a tensor has an impossible shape")
    count = 1
    for axis in size:
        count *= axis
    last = offset + sum((axis - 1) * step for axis, step in zip(size, stride, strict=True))
    if count > len(storage) or (count and last >= len(storage)):
        raise UnsafePickleError(f"a tensor of shape {size} does not fit its storage of {len(storage)} numbers")
    if not count:
        return np.zeros([min(axis, 1 << 20) for axis in size], storage.dtype)
    item = storage.dtype.itemsize
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, [step * item for step in stride], writeable=False)
    return np.asarray(view)


def _parameter(reader: Any, data: Any, *_: Any) -> Any:
    if not isinstance(data, np.ndarray):
        raise UnsafePickleError("a parameter is made of something that is not a tensor")
    return data


def _size(reader: Any, items: Any = ()) -> tuple[Any, ...]:
    if not isinstance(items, (tuple, list)) or len(items) > MOST_AXES:
        raise UnsafePickleError("a tensor has an impossible shape")
    return tuple(items)
