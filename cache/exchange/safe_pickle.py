"""Reads foreign pickles without executing anything: plain data and numpy arrays, or a refusal by name.

The standard unpickler runs whatever callable a pickle names. This one interprets the pickle opcodes and knows only
a fixed list of names (numpy's array, scalar and dtype rebuilding; `collections.OrderedDict` and `defaultdict`; the
built-in containers) and builds those itself; no name in the file is ever imported or called. Every size the file claims
is compared with the bytes that are left before anything is allocated, and arrays are views of the file's bytes, so the
memory used stays near the size of the file. Protocols 0 to 5 are read, those of Python 2 included.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import MerError

MAX_DEPTH = 32
MAX_LONG_BYTES = 64
MAX_NUMBER_CHARACTERS = 400
SMALL_BYTES = 4096
OBJECT_FLOOR_BYTES = 64 << 20
OBJECT_FACTOR = 4
"""Boxed Python objects may take `OBJECT_FACTOR` times the file (a float is 9 bytes in a pickle and 32 in memory)."""

_COST_CONTAINER = 64
_COST_SCALAR = 32
_COST_SLOT = 8

Array: TypeAlias = npt.NDArray[Any]
_SCALARS = (str, int, float, bool, bytes, type(None), np.generic)


class UnsafePickleError(MerError):
    """Raised when a pickle holds more than plain data and arrays, or is damaged."""


class Python2Text(str):
    """A string a Python 2 pickle holds as bytes: text for readers, with the bytes kept for numpy's buffers."""

    raw: bytes

    @classmethod
    def of(cls, raw: bytes) -> Python2Text:
        """Decode UTF-8 where the bytes are valid UTF-8, Latin-1 otherwise."""
        try:
            made = cls(raw.decode("utf-8"))
        except UnicodeDecodeError:
            made = cls(raw.decode("latin-1"))
        made.raw = raw
        return made


class _Name:
    """A global the pickle names; a token, never the object of that name."""

    def __init__(self, module: str, name: str) -> None:
        self.path = f"{module}.{name}"


class _Dtype:
    """A dtype being rebuilt: made by REDUCE, its byte order set by BUILD."""

    def __init__(self, code: str) -> None:
        try:
            self.dtype = np.dtype(code)
        except (TypeError, ValueError) as error:
            raise UnsafePickleError(f"numpy dtype {code[:40]!r} is not known") from error
        check_dtype(self.dtype)


class _HollowArray:
    """An array between `_reconstruct` and the BUILD that fills it; remembers where the memo holds it."""

    def __init__(self) -> None:
        self.memo_slots: list[int] = []


_NUMPY_CORES = ("numpy.core", "numpy._core")
_BUILTINS = ("builtins", "__builtin__")
_CONTAINERS: dict[str, type] = {n.__name__: n for n in (list, dict, set, frozenset, tuple)}
_FACTORIES: dict[str, type] = {n.__name__: n for n in (list, dict, set, int, float, str)}


def _known_names() -> dict[str, str]:
    """Path of every accepted global -> what is done with it."""
    known = {"numpy.ndarray": "ndarray", "numpy.dtype": "dtype", "_codecs.encode": "encode"}
    known |= {"collections.OrderedDict": "ordered", "collections.defaultdict": "default"}
    for core in _NUMPY_CORES:
        known[f"{core}.multiarray._reconstruct"] = "reconstruct"
        known[f"{core}.multiarray.scalar"] = "scalar"
        known[f"{core}.multiarray.ndarray"] = "ndarray"
        known[f"{core}.numeric._frombuffer"] = "frombuffer"
    for module in _BUILTINS:
        known |= {f"{module}.{name}": name for name in (*_CONTAINERS, *_FACTORIES, "bytes", "bytearray")}
    return known


_KNOWN = _known_names()


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Refuse dtypes that are not plain numbers, booleans, text, bytes or object.

    Raises
    ------
    UnsafePickleError
        For structured, void, datetime and sub-array dtypes.
    """
    if dtype.kind not in "biufcUSO" or dtype.names or dtype.subdtype:
        raise UnsafePickleError(f"numpy dtype {str(dtype)[:60]!r} is refused; only numbers, booleans and text are read")


def shaped(raw: Any, dtype: np.dtype[Any], shape: Any, order: str) -> Array:
    """View `raw` as an array, after checking that shape times item size is exactly the bytes there are.

    Parameters
    ----------
    raw
        Any bytes-like object.
    dtype
        A dtype that `check_dtype` accepts, not `object`.
    shape
        Claimed shape.
    order
        `C` or `F`.

    Raises
    ------
    UnsafePickleError
        If the claim and the bytes differ.
    """
    count = check_shape(shape)
    size = len(memoryview(raw).cast("B"))
    if dtype.itemsize == 0 or count * dtype.itemsize != size:
        if count == 0 and size == 0:
            return np.zeros(shape, dtype)
        raise UnsafePickleError(f"an array claims shape {tuple(shape)} of {dtype} but {size} bytes are there")
    if order not in ("C", "F"):
        raise UnsafePickleError(f"array order {order!r} is not known")
    array: Array = np.frombuffer(raw, dtype).reshape(tuple(shape), order=order)  # type: ignore[call-overload]
    return array


def check_shape(shape: Any) -> int:
    """Number of elements of a claimed shape.

    Raises
    ------
    UnsafePickleError
        If it is not a tuple of at most 32 whole numbers in range.
    """
    if not isinstance(shape, (tuple, list)) or len(shape) > 32:
        raise UnsafePickleError("an array has an impossible shape")
    count = 1
    for size in shape:
        if type(size) is not int or not 0 <= size < 2**40:
            raise UnsafePickleError("an array has an impossible shape")
        count *= size
    if count == 0 and any(size > 2**20 for size in shape):
        raise UnsafePickleError("an empty array has an impossible shape")
    return count


class _Machine:
    """One run of the pickle virtual machine over a buffer."""

    def __init__(self, buffer: memoryview) -> None:
        self.data = buffer
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.budget = OBJECT_FLOOR_BYTES + OBJECT_FACTOR * len(buffer)

    def run(self) -> Any:
        dispatch, data, end = _DISPATCH, self.data, len(self.data)
        while True:
            if self.at >= end:
                raise UnsafePickleError("the pickle ends early; it is truncated")
            opcode = data[self.at]
            self.at += 1
            if opcode == 0x2E:  # STOP
                return self.pop()
            step = dispatch.get(opcode)
            if step is None:
                raise UnsafePickleError(f"pickle opcode {_OPCODE_NAMES.get(opcode, f'0x{opcode:02x}')} is refused")
            step(self)

    # reading -----------------------------------------------------------------------------------------------------

    def take(self, size: int) -> memoryview:
        if size < 0 or size > len(self.data) - self.at:
            raise UnsafePickleError(f"the pickle claims {size} bytes where {len(self.data) - self.at} are left")
        view = self.data[self.at : self.at + size]
        self.at += size
        return view

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> bytes:
        step = 256
        start = self.at
        while start < len(self.data):
            piece = bytes(self.data[start : start + step])
            found = piece.find(b"\n")
            if found >= 0:
                line = bytes(self.data[self.at : start + found])
                self.at = start + found + 1
                return line
            start += step
            step *= 2
        raise UnsafePickleError("the pickle ends inside a line; it is truncated")

    # stack -------------------------------------------------------------------------------------------------------

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise UnsafePickleError("the pickle takes more from its stack than it put there")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def push(self, value: Any, cost: int = 0) -> None:
        self.spend(cost + _COST_SLOT)
        self.stack.append(value)

    def spend(self, cost: int) -> None:
        self.budget -= cost
        if self.budget < 0:
            raise UnsafePickleError(f"the pickle would take more than {OBJECT_FACTOR} times its size in memory")

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise UnsafePickleError("the pickle closes a list it did not open")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def remember(self, slot: int) -> None:
        value = self.top()
        if isinstance(value, _HollowArray):
            value.memo_slots.append(slot)
        self.spend(_COST_CONTAINER)
        self.memo[slot] = value

    def recall(self, slot: int) -> None:
        if slot not in self.memo:
            raise UnsafePickleError(f"the pickle recalls entry {slot}, which it did not store")
        self.push(self.memo[slot])

    # containers --------------------------------------------------------------------------------------------------

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise UnsafePickleError("the pickle appends to something that is not a list")
        self.spend(_COST_SLOT * len(items))
        target.extend(items)

    def assign(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(items) % 2:
            raise UnsafePickleError("the pickle sets items of something that is not a dict")
        self.spend(_COST_CONTAINER * len(items))
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_hashable(key)] = value

    def add(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not set:
            raise UnsafePickleError("the pickle adds to something that is not a set")
        self.spend(_COST_CONTAINER * len(items))
        target.update(_hashable(item) for item in items)

    # names, calls, state -------------------------------------------------------------------------------------------

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or f"{module}.{name}" not in _KNOWN:
            shown = f"{str(module)[:60]}.{str(name)[:60]}"
            raise UnsafePickleError(
                f"the pickle names {shown!r}, which is refused; only arrays and plain data are read"
            )
        self.push(_Name(module, name), _COST_CONTAINER)

    def reduce(self) -> None:
        arguments, target = self.pop(), self.pop()
        if not isinstance(target, _Name) or type(arguments) is not tuple:
            raise UnsafePickleError("the pickle calls something that is not a known name")
        call = _CALLS.get(_KNOWN[target.path])
        try:
            if call is None:
                raise UnsafePickleError(f"a call of {target.path!r} is refused")
            made = call(self, *arguments)
        except TypeError as error:
            raise UnsafePickleError(f"{target.path!r} is called with arguments it does not take") from error
        self.push(made, _COST_CONTAINER)

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, _Dtype):
            self.push(_with_byte_order(target, state))
        elif isinstance(target, _HollowArray):
            array = _filled(self, state)
            for slot in target.memo_slots:
                self.memo[slot] = array
            self.push(array)
        else:
            raise UnsafePickleError(f"the pickle sets the state of a {type(target).__name__}, which is refused")


def _hashable(value: Any) -> Any:
    """A dict key or set element: a scalar or a tuple of scalars, so that hashing can never recurse."""
    if isinstance(value, _SCALARS):
        return value
    if type(value) is tuple and all(isinstance(item, _SCALARS) for item in value):
        return value
    raise UnsafePickleError(f"the pickle uses a {type(value).__name__} as a key, which is refused")


def _raw_bytes(value: Any) -> Any:
    """Bytes of a buffer operand, whichever way the pickle spelled them."""
    if isinstance(value, Python2Text):
        return value.raw
    if isinstance(value, (bytes, bytearray, memoryview)):
        return value
    raise UnsafePickleError("an array's bytes are not bytes")


def _with_byte_order(target: _Dtype, state: Any) -> _Dtype:
    if type(state) is not tuple or len(state) < 5 or any(part is not None for part in state[2:5]):
        raise UnsafePickleError("a numpy dtype with fields is refused")
    if state[1] not in ("<", ">", "|", "="):
        raise UnsafePickleError("a numpy dtype has an unknown byte order")
    if state[1] in ("<", ">"):
        target.dtype = target.dtype.newbyteorder(state[1])
    return target


def _filled(machine: _Machine, state: Any) -> Array:
    """Array of an ndarray state tuple: (version, shape, dtype, is_fortran, bytes or list of objects)."""
    if type(state) is not tuple or len(state) != 5 or not isinstance(state[2], _Dtype):
        raise UnsafePickleError("an array has a state that is not numpy's")
    _, shape, dtype, fortran, content = state
    if dtype.dtype.kind != "O":
        return shaped(_raw_bytes(content), dtype.dtype, shape, "F" if fortran else "C")
    count = check_shape(shape)
    if type(content) is not list or len(content) != count:
        raise UnsafePickleError("an object array claims a shape its content does not fill")
    machine.spend(_COST_SLOT * count)
    array = np.empty(count, object)
    for index, item in enumerate(content):
        array[index] = item
    return array.reshape(shape)  # numpy lists objects row by row, whatever the order of the array in memory


# calls ---------------------------------------------------------------------------------------------------------------


def _call_reconstruct(machine: _Machine, kind: Any, shape: Any, code: Any) -> _HollowArray:
    if not isinstance(kind, _Name) or _KNOWN[kind.path] != "ndarray":
        raise UnsafePickleError("only plain numpy arrays are rebuilt, not their subclasses")
    return _HollowArray()


def _call_dtype(machine: _Machine, code: Any, align: Any = False, copy: Any = False) -> _Dtype:
    if not isinstance(code, str) or len(code) > 24 or "," in code:
        raise UnsafePickleError("a numpy dtype is not given as a short code")
    return _Dtype(str(code))


def _call_scalar(machine: _Machine, dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, _Dtype) or dtype.dtype.kind == "O":
        raise UnsafePickleError("a numpy scalar of objects is refused")
    return shaped(_raw_bytes(raw), dtype.dtype, (1,), "C")[0]


def _call_frombuffer(machine: _Machine, raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Array:
    if not isinstance(dtype, _Dtype) or dtype.dtype.kind == "O":
        raise UnsafePickleError("a buffer of objects is refused")
    array = shaped(_raw_bytes(raw), dtype.dtype, shape, "C" if order == "K" else str(order))
    if axes is None:
        return array
    if type(axes) is not tuple or not all(type(axis) is int for axis in axes) or sorted(axes) != [*range(array.ndim)]:
        raise UnsafePickleError("an array has an impossible order of axes")
    return array.transpose(axes)


def _call_encode(machine: _Machine, text: Any, codec: Any = "latin1") -> bytes:
    if not isinstance(text, str) or codec not in ("latin1", "latin-1", "iso-8859-1"):
        raise UnsafePickleError("only Latin-1 text is turned into bytes")
    machine.spend(len(text))
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise UnsafePickleError("bytes spelled as text hold characters that are no bytes") from error


def _call_bytes(machine: _Machine, value: Any = b"", codec: Any = "latin1") -> Any:
    return _call_encode(machine, value, codec) if isinstance(value, str) else _raw_bytes(value)


def _call_default(machine: _Machine, factory: Any = None) -> defaultdict[Any, Any]:
    if factory is None:
        return defaultdict(None)
    kind = _FACTORIES.get(_KNOWN[factory.path]) if isinstance(factory, _Name) else None
    if kind is None:
        raise UnsafePickleError("a defaultdict with that factory is refused")
    return defaultdict(kind)


def _call_ordered(machine: _Machine, pairs: Any = ()) -> OrderedDict[Any, Any]:
    made: OrderedDict[Any, Any] = OrderedDict()
    for pair in _items(machine, pairs):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise UnsafePickleError("an OrderedDict is given something that is not pairs")
        made[_hashable(pair[0])] = pair[1]
    return made


def _items(machine: _Machine, value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise UnsafePickleError(f"a container is made from a {type(value).__name__}, which is refused")
    machine.spend(_COST_CONTAINER * len(value))
    return list(value)


def _container_call(kind: type) -> Callable[..., Any]:
    def make(machine: _Machine, items: Any = ()) -> Any:
        if kind is dict:
            return dict(_call_ordered(machine, items))
        listed = _items(machine, items)
        return kind(map(_hashable, listed)) if kind in (set, frozenset) else kind(listed)

    return make


_CALLS: dict[str, Callable[..., Any]] = {name: _container_call(kind) for name, kind in _CONTAINERS.items()}
_CALLS |= {
    "reconstruct": _call_reconstruct,
    "dtype": _call_dtype,
    "scalar": _call_scalar,
    "frombuffer": _call_frombuffer,
    "encode": _call_encode,
    "bytes": _call_bytes,
    "bytearray": _call_bytes,
    "default": _call_default,
    "ordered": _call_ordered,
}


# opcodes -------------------------------------------------------------------------------------------------------------


def _decoded(raw: memoryview) -> str:
    try:
        return str(raw, "utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise UnsafePickleError("the pickle holds text that is not UTF-8") from error


def _text(size: int) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        raw = m.take(m.number(size))
        m.push(_decoded(raw), _COST_SCALAR + len(raw))

    return step


def _bytes(size: int) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        raw = m.take(m.number(size))
        small = len(raw) <= SMALL_BYTES
        m.push(bytes(raw) if small else raw, _COST_SCALAR + (len(raw) if small else 0))

    return step


def _python2_bytes(size: int) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        raw = m.take(m.number(size))
        m.push(
            Python2Text.of(bytes(raw)) if len(raw) <= SMALL_BYTES else raw, _COST_SCALAR + min(len(raw), SMALL_BYTES)
        )

    return step


def _put(size: int) -> Callable[[_Machine], None]:
    return lambda m: m.remember(m.number(size))


def _get(size: int) -> Callable[[_Machine], None]:
    return lambda m: m.recall(m.number(size))


def _whole(text: bytes) -> int:
    try:
        if len(text) > MAX_NUMBER_CHARACTERS:
            raise ValueError(text)
        return int(text)
    except ValueError as error:
        raise UnsafePickleError("the pickle holds a number that is none") from error


def _int_line(m: _Machine) -> None:
    line = m.line()
    m.push(line == b"01" if line in (b"00", b"01") else _whole(line), _COST_SCALAR)


def _long_line(m: _Machine) -> None:
    m.push(_whole(m.line().rstrip(b"L")), _COST_SCALAR)


def _float_line(m: _Machine) -> None:
    try:
        m.push(float(m.line()), _COST_SCALAR)
    except ValueError as error:
        raise UnsafePickleError("the pickle holds a number that is none") from error


def _binary_float(m: _Machine) -> None:
    m.push(float(np.frombuffer(m.take(8), ">f8")[0]), _COST_SCALAR)


def _long(size: int) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        length = m.number(size)
        if length > MAX_LONG_BYTES:
            raise UnsafePickleError(f"the pickle holds a whole number of {length} bytes, which is refused")
        m.push(int.from_bytes(m.take(length), "little", signed=True), _COST_SCALAR)

    return step


def _string_line(m: _Machine) -> None:
    line = m.line()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise UnsafePickleError("the pickle holds a string without its quotes")
    try:
        raw = line[1:-1].decode("ascii").encode().decode("unicode_escape").encode("latin-1")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise UnsafePickleError("the pickle holds a string it cannot spell") from error
    m.push(Python2Text.of(raw), _COST_SCALAR + 2 * len(raw))


def _unicode_line(m: _Machine) -> None:
    line = m.line()
    try:
        m.push(line.decode("raw-unicode-escape"), _COST_SCALAR + len(line))
    except UnicodeDecodeError as error:
        raise UnsafePickleError("the pickle holds text it cannot spell") from error


def _global_line(m: _Machine) -> None:
    module, name = m.line(), m.line()
    m.name(module.decode("latin-1"), name.decode("latin-1"))


def _stack_global(m: _Machine) -> None:
    name, module = m.pop(), m.pop()
    m.name(module, name)


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        items = [m.pop() for _ in range(count)]
        m.push(tuple(reversed(items)), _COST_CONTAINER)

    return step


def _made(build: Callable[[list[Any]], Any]) -> Callable[[_Machine], None]:
    """Step for the opcodes that turn everything since the mark into one value."""

    def step(m: _Machine) -> None:
        items = m.since_mark()
        m.push(build(items), _COST_CONTAINER + _COST_SLOT * len(items))

    return step


def _dict_of(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise UnsafePickleError("the pickle makes a dict of an odd number of things")
    return {_hashable(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _mark(m: _Machine) -> None:
    m.spend(_COST_SCALAR)
    m.marks.append(len(m.stack))


def _pop(m: _Machine) -> None:
    if m.marks and m.marks[-1] == len(m.stack):
        m.marks.pop()
    else:
        m.pop()


def _pop_mark(m: _Machine) -> None:
    m.since_mark()


def _protocol(m: _Machine) -> None:
    if m.number(1) > 5:
        raise UnsafePickleError("the pickle is of a protocol newer than 5")


def _append(m: _Machine) -> None:
    item = m.pop()
    m.extend([item])


def _set_item(m: _Machine) -> None:
    value, key = m.pop(), m.pop()
    m.assign([key, value])


def _memoize(m: _Machine) -> None:
    m.remember(len(m.memo))


def _constant(value: Any) -> Callable[[_Machine], None]:
    return lambda m: m.push(value)


def _empty(kind: type) -> Callable[[_Machine], None]:
    return lambda m: m.push(kind(), _COST_CONTAINER)


def _unsigned(size: int) -> Callable[[_Machine], None]:
    return lambda m: m.push(m.number(size), _COST_SCALAR)


def _signed_4(m: _Machine) -> None:
    m.push(int.from_bytes(m.take(4), "little", signed=True), _COST_SCALAR)


def _frame(m: _Machine) -> None:
    size = m.number(8)
    if size > len(m.data) - m.at:
        raise UnsafePickleError(f"the pickle claims a frame of {size} bytes where {len(m.data) - m.at} are left")


_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _protocol,
    b"\x95": _frame,
    b"(": _mark,
    b"0": _pop,
    b"1": _pop_mark,
    b"2": lambda m: m.push(m.top()),
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"I": _int_line,
    b"L": _long_line,
    b"F": _float_line,
    b"G": _binary_float,
    b"K": _unsigned(1),
    b"M": _unsigned(2),
    b"J": _signed_4,
    b"\x8a": _long(1),
    b"\x8b": _long(4),
    b"S": _string_line,
    b"T": _python2_bytes(4),
    b"U": _python2_bytes(1),
    b"V": _unicode_line,
    b"X": _text(4),
    b"\x8c": _text(1),
    b"\x8d": _text(8),
    b"B": _bytes(4),
    b"C": _bytes(1),
    b"\x8e": _bytes(8),
    b"\x96": _bytes(8),
    b")": _constant(()),
    b"]": _empty(list),
    b"}": _empty(dict),
    b"\x8f": _empty(set),
    b"t": _made(tuple),
    b"l": _made(list),
    b"d": _made(_dict_of),
    b"\x91": _made(lambda items: frozenset(map(_hashable, items))),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"a": _append,
    b"e": lambda m: m.extend(m.since_mark()),
    b"s": _set_item,
    b"u": lambda m: m.assign(m.since_mark()),
    b"\x90": lambda m: m.add(m.since_mark()),
    b"p": lambda m: m.remember(_whole(m.line())),
    b"q": _put(1),
    b"r": _put(4),
    b"\x94": _memoize,
    b"g": lambda m: m.recall(_whole(m.line())),
    b"h": _get(1),
    b"j": _get(4),
    b"c": _global_line,
    b"\x93": _stack_global,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}
_DISPATCH = {opcode[0]: step for opcode, step in _STEPS.items()}
_OPCODE_NAMES = {
    0x69: "INST",
    0x6F: "OBJ",
    0x50: "PERSID",
    0x51: "BINPERSID",
    0x81: "NEWOBJ",
    0x92: "NEWOBJ_EX",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
}


# entry points --------------------------------------------------------------------------------------------------------


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
        if isinstance(value, (_Name, _Dtype, _HollowArray)):
            raise UnsafePickleError("the pickle holds a bare numpy name or an unfinished array where data should be")
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
    machine = _Machine(memoryview(buffer).cast("B"))
    try:
        value = machine.run()
        _check_plain(value)
    except (ValueError, OverflowError, RecursionError, MemoryError, IndexError) as error:
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
