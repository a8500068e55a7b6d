"""Reads foreign pickles without executing anything: plain data and numpy arrays, or a refusal by name.

It is the standard library's unpickler in its Python form, with a closed list of names, refused persistent ids and
extension codes, and its own way of calling, of setting state and of hashing. No name in the file is ever imported.
The compiled `pickle.Unpickler` cannot be used: it lets nobody see a claimed memo slot, the depth of a key or the size
of a copied container before it acts (7 bytes take 4 GB, 200 KB of nested tuples end the process, 400 KB of copied
lists take 1.5 GB), and it copies every array where this one gives a view of the file's bytes. Protocols 0 to 5 are
read, those of Python 2 included.
"""

from __future__ import annotations

import mmap
import pickle
import pickletools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MerError
from .safe_names import (
    CONTAINER_BYTES,
    KNOWN,
    Array,
    Dtype,
    HollowArray,
    Name,
    Python2Text,
    UnsafePickleError,
    check_shape,
    keyable,
    raw_bytes,
    shaped,
)

MAX_DEPTH = 32
MAX_WHOLE_BITS = 512
"""Larger whole numbers are refused: they are no data, and have no floating-point value."""
SMALL_BYTES = 4096
OBJECT_FLOOR_BYTES = 64 << 20
OBJECT_FACTOR = 4
"""Boxed Python objects may take `OBJECT_FACTOR` times the file (a float is 9 bytes in a pickle and 32 in memory)."""

_DAMAGE = (ValueError, OverflowError, pickle.UnpicklingError, DeprecationWarning)
_SCALAR_BYTES = 48
_SLOT_BYTES = 8

# ---------------------------------------------------------------------------------------------------- the unpickler


class _Bytes:
    """A file over a buffer: short reads are bytes, long ones views, and no read claims more than is left."""

    def __init__(self, buffer: memoryview) -> None:
        self.data = buffer
        self.at = 0

    def need(self, size: int) -> None:
        left = len(self.data) - self.at
        if size > left:
            end = "the pickle ends early; it is truncated"
            raise UnsafePickleError(f"the pickle claims {size} bytes where {left} are left" if left else end)

    def read(self, size: int) -> Any:
        self.need(size)
        view = self.data[self.at : self.at + size]
        self.at += size
        return view if size > SMALL_BYTES else bytes(view)

    def readline(self) -> bytes:
        start, step = self.at, 256
        while start < len(self.data):
            found = bytes(self.data[start : start + step]).find(b"\n")
            if found >= 0:
                line = bytes(self.data[self.at : start + found + 1])
                self.at = start + found + 1
                return line
            start += step
            step *= 2
        raise UnsafePickleError("the pickle ends inside a line; it is truncated")


_Standard: Any = pickle._Unpickler
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


class Reader(_Standard):  # type: ignore[misc]
    """The standard unpickler over a buffer, with its dangerous steps replaced and its memory counted."""

    def __init__(self, buffer: memoryview) -> None:
        self.file = _Bytes(buffer)
        super().__init__(self.file)
        self.budget = OBJECT_FLOOR_BYTES + OBJECT_FACTOR * len(buffer)

    def spend(self, cost: int) -> None:
        self.budget -= cost
        if self.budget < 0:
            raise UnsafePickleError(f"the pickle would take more than {OBJECT_FACTOR} times its size in memory")

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path not in KNOWN:
            shown = f"{module[:60]}.{name[:60]}"
            raise UnsafePickleError(
                f"the pickle names {shown!r}, which is refused; only arrays and plain data are read"
            )
        return Name(path, KNOWN[path])

    def _decode_string(self, value: Any) -> Any:
        return value if isinstance(value, memoryview) else Python2Text.of(bytes(value))

    def load_bytes(self) -> None:
        self.stack.append(self.read(struct.unpack("<Q", self.read(8))[0]))

    def load_frame(self) -> None:
        self.file.need(struct.unpack("<Q", self.read(8))[0])  # a frame only helps readers that buffer

    def load_reduce(self) -> None:
        arguments, target = self.stack.pop(), self.stack.pop()
        if not isinstance(target, Name) or type(arguments) is not tuple:
            raise UnsafePickleError("the pickle calls something that is not a known name")
        if target.call is None:
            raise UnsafePickleError(f"a call of {target.path!r} is refused")
        try:
            self.stack.append(target.call(self, *arguments))
        except TypeError as error:
            raise UnsafePickleError(f"{target.path!r} is called with arguments it does not take") from error

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Dtype):
            target.set_byte_order(state)
        elif isinstance(target, HollowArray):
            target.array = self.stack[-1] = self.filled(state)
        else:
            raise UnsafePickleError(f"the pickle sets the state of a {type(target).__name__}, which is refused")

    def filled(self, state: Any) -> Array:
        """Array of an ndarray state tuple: (version, shape, dtype, is_fortran, bytes or list of objects)."""
        if type(state) is not tuple or len(state) != 5 or not isinstance(state[2], Dtype):
            raise UnsafePickleError("an array has a state that is not numpy's")
        _, shape, dtype, fortran, content = state
        if dtype.dtype.kind != "O":
            return shaped(raw_bytes(content), dtype.dtype, shape, "F" if fortran else "C")
        count = check_shape(shape)
        if type(content) is not list or len(content) != count:
            raise UnsafePickleError("an object array claims a shape its content does not fill")
        self.spend(_SLOT_BYTES * count)
        array = np.empty(count, object)
        for index, item in enumerate(content):
            array[index] = item
        return array.reshape(shape)  # numpy lists objects row by row, whatever the order of the array in memory

    def finished(self) -> None:
        """Replace an array on top of the stack that was recalled, and filled since it was remembered."""
        top = self.stack[-1]
        if isinstance(top, HollowArray) and top.array is not None:
            self.stack[-1] = top.array

    # Of the steps below the standard ones would take any object with the right method, or any key.

    def put(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise UnsafePickleError("the pickle sets items of something that is not a dict")
        self.spend(CONTAINER_BYTES * len(items))
        target.update(zip(keyable(items[::2]), items[1::2], strict=True))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put([key, value])

    def load_setitems(self) -> None:
        self.put(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.put(items)

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise UnsafePickleError("the pickle appends to something that is not a list")
        self.stack[-1].extend(items)

    def load_append(self) -> None:
        item = self.stack.pop()
        self.extend([item])

    def load_appends(self) -> None:
        self.extend(self.pop_mark())

    def load_additems(self) -> None:
        items = keyable(self.pop_mark())
        if type(self.stack[-1]) is not set:
            raise UnsafePickleError("the pickle adds to something that is not a set")
        self.spend(CONTAINER_BYTES * len(items))
        self.stack[-1].update(items)

    def load_frozenset(self) -> None:
        items = keyable(self.pop_mark())
        self.spend(CONTAINER_BYTES * len(items))
        self.stack.append(frozenset(items))


_REFUSED = "INST OBJ PERSID BINPERSID NEWOBJ NEWOBJ_EX EXT1 EXT2 EXT4 NEXT_BUFFER READONLY_BUFFER".split()  # noqa: SIM905
_OWN: dict[str, Callable[[Reader], None]] = {
    "BINBYTES8": Reader.load_bytes,
    "BYTEARRAY8": Reader.load_bytes,
    "FRAME": Reader.load_frame,
    "REDUCE": Reader.load_reduce,
    "BUILD": Reader.load_build,
    "SETITEM": Reader.load_setitem,
    "SETITEMS": Reader.load_setitems,
    "DICT": Reader.load_dict,
    "APPEND": Reader.load_append,
    "APPENDS": Reader.load_appends,
    "ADDITEMS": Reader.load_additems,
    "FROZENSET": Reader.load_frozenset,
}
_MADE = ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "MEMOIZE", "REDUCE")


class _Steps(dict[int, Callable[[Any], None]]):
    """What is done for each opcode; the refused ones are named."""

    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise UnsafePickleError(f"pickle opcode {_NAMES.get(code, f'0x{code:02x}')} is refused")


def _step(name: str, standard: Callable[[Any], None]) -> Callable[[Any], None]:
    """One opcode's step: the memory it takes is counted before it is done."""
    made = name in _MADE or name.endswith(("PUT", "GLOBAL"))
    cost = (CONTAINER_BYTES if made else _SCALAR_BYTES) + _SLOT_BYTES
    act: Callable[[Any], None] = _OWN.get(name, standard)
    recalls = name.endswith("GET")

    def step(reader: Reader) -> None:
        reader.spend(cost)
        act(reader)
        if recalls:
            reader.finished()

    return step


Reader.dispatch = _Steps(
    {code: _step(_NAMES[code], act) for code, act in _Standard.dispatch.items() if _NAMES[code] not in _REFUSED}
)
Reader.dispatch[ord(pickle.STOP)] = _Standard.dispatch[ord(pickle.STOP)]


# ----------------------------------------------------------------------------------------------------- entry points


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield item
    elif isinstance(value, np.ndarray):
        yield from value.ravel()
    else:
        yield from value


def _check_plain(root: Any) -> None:
    """Walk the result once: only plain data, no cycles, no deeper than `MAX_DEPTH`."""
    done: set[int] = set()
    open_ids: set[int] = set()
    path: list[tuple[int, Iterator[Any]]] = []

    def enter(value: Any) -> None:
        if isinstance(value, (Name, Dtype, HollowArray)):
            raise UnsafePickleError("the pickle holds a bare numpy name or an unfinished array where data should be")
        if type(value) is int and value.bit_length() > MAX_WHOLE_BITS:
            raise UnsafePickleError(f"the pickle holds a whole number of {value.bit_length()} bits, which is refused")
        is_objects = isinstance(value, np.ndarray) and value.dtype.kind == "O"
        if not is_objects and not isinstance(value, (list, tuple, dict, set, frozenset)):
            return
        if id(value) in open_ids:
            raise UnsafePickleError("the pickle holds a container that contains itself")
        if len(path) >= MAX_DEPTH:
            raise UnsafePickleError(f"the pickle nests deeper than {MAX_DEPTH} levels")
        if id(value) not in done:
            open_ids.add(id(value))
            path.append((id(value), _children(value)))

    enter(root)
    while path:
        identity, children = path[-1]
        depth = len(path)
        for child in children:
            enter(child)
            if len(path) > depth:
                break
        else:
            path.pop()
            open_ids.discard(identity)
            done.add(identity)


def loads(buffer: bytes | memoryview) -> Any:
    """Read one pickle from memory.

    Parameters
    ----------
    buffer
        The pickle; arrays in the result are read-only views of it. Bytes after the first pickle are ignored.

    Returns
    -------
    object
        Dicts, lists, tuples, sets, strings, numbers and numpy arrays. Byte strings above 4096 bytes are memoryviews.

    Raises
    ------
    UnsafePickleError
        If it holds anything else, claims more than it has, or is damaged.
    """
    return read_plain(Reader(memoryview(buffer).cast("B")))


def read_plain(reader: Reader) -> Any:
    """Let a reader load its pickle, and check that what came of it is plain data; errors as `loads` has them."""
    try:
        value = reader.load()
        _check_plain(value)
    except IndexError as error:
        raise UnsafePickleError("the pickle takes more from its stack than it put there") from error
    except (*_DAMAGE, MemoryError, RecursionError) as error:
        raise UnsafePickleError(f"the pickle is damaged ({str(error)[:80] or type(error).__name__})") from error
    return value


def mapped(path: Path) -> memoryview:
    """The bytes of a file, mapped read-only; the mapping lives as long as views of it do.

    Raises
    ------
    MerError
        If the file is missing, empty or unreadable.
    """
    try:
        with path.open("rb") as handle:
            return memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise MerError(f"{path}: cannot be read ({error}); check that the file is there and not empty") from error


def load(path: Path) -> Any:
    """Read a pickle file as `loads` does, the file's name in front of every refusal."""
    try:
        return loads(mapped(path))
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path}: {error}") from error
