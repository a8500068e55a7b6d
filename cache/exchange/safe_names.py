"""What a foreign pickle may name and call: numpy's rebuilding of arrays, and containers; each is done here, checked."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import MerError

CONTAINER_BYTES = 72

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


# --------------------------------------------------------------------------------------------------------- arrays


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


class Dtype:
    """A dtype being rebuilt: made by a call, its byte order set by the state that follows."""

    def __init__(self, code: str) -> None:
        try:
            self.dtype = np.dtype(code)
        except (TypeError, ValueError) as error:
            raise UnsafePickleError(f"numpy dtype {code[:40]!r} is not known") from error
        check_dtype(self.dtype)

    def set_byte_order(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise UnsafePickleError("a numpy dtype with fields is refused")
        if state[1] not in ("<", ">", "|", "="):
            raise UnsafePickleError("a numpy dtype has an unknown byte order")
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class HollowArray:
    """An array between numpy's `_reconstruct` and the state that fills it."""

    array: Array | None = None


def raw_bytes(value: Any) -> Any:
    """Bytes of a buffer operand, whichever way the pickle spelled them."""
    if isinstance(value, Python2Text):
        return value.raw
    if isinstance(value, (bytes, bytearray, memoryview)):
        return value
    raise UnsafePickleError("an array's bytes are not bytes")


# ------------------------------------------------------------------------------------------ what a pickle may call


class Spender(Protocol):
    """What counts the memory a pickle takes."""

    def spend(self, cost: int) -> None: ...


class Name:
    """A global the pickle names; a token, never the object of that name."""

    def __init__(self, path: str, call: Callable[..., Any] | None) -> None:
        self.path = path
        self.call = call
        """What stands for a call of it; None where it may only be referred to."""


def _reconstruct(spender: Spender, kind: Any, shape: Any, code: Any) -> HollowArray:
    if not isinstance(kind, Name) or not kind.path.endswith(".ndarray"):
        raise UnsafePickleError("only plain numpy arrays are rebuilt, not their subclasses")
    return HollowArray()


def _dtype(spender: Spender, code: Any, align: Any = False, copy: Any = False) -> Dtype:
    if not isinstance(code, str) or len(code) > 24 or "," in code:
        raise UnsafePickleError("a numpy dtype is not given as a short code")
    return Dtype(str(code))


def _scalar(spender: Spender, dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, Dtype) or dtype.dtype.kind == "O":
        raise UnsafePickleError("a numpy scalar of objects is refused")
    return shaped(raw_bytes(raw), dtype.dtype, (1,), "C")[0]


def _frombuffer(spender: Spender, raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Array:
    if not isinstance(dtype, Dtype) or dtype.dtype.kind == "O":
        raise UnsafePickleError("a buffer of objects is refused")
    array = shaped(raw_bytes(raw), dtype.dtype, shape, "C" if order == "K" else str(order))
    if axes is None:
        return array
    if type(axes) is not tuple or not all(type(axis) is int for axis in axes) or sorted(axes) != [*range(array.ndim)]:
        raise UnsafePickleError("an array has an impossible order of axes")
    return array.transpose(axes)


def _encode(spender: Spender, text: Any, codec: Any = "latin1") -> bytes:
    if not isinstance(text, str) or codec not in ("latin1", "latin-1", "iso-8859-1"):
        raise UnsafePickleError("only Latin-1 text is turned into bytes")
    spender.spend(len(text))
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise UnsafePickleError("bytes spelled as text hold characters that are no bytes") from error


def _bytes(spender: Spender, value: Any = b"", codec: Any = "latin1") -> Any:
    return _encode(spender, value, codec) if isinstance(value, str) else raw_bytes(value)


def _container(kind: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    def make(spender: Spender, items: Any = ()) -> Any:
        if not isinstance(items, (list, tuple, set, frozenset)):
            raise UnsafePickleError(f"a container is made from a {type(items).__name__}, which is refused")
        spender.spend(CONTAINER_BYTES * len(items))
        return kind(list(items))

    return make


def keyable(items: list[Any]) -> list[Any]:
    """The items, each of which can be a key: a scalar or a tuple of scalars, so that hashing can never recurse."""
    for value in items:
        parts = value if type(value) is tuple else (value,)
        if not all(isinstance(part, _SCALARS) for part in parts):
            raise UnsafePickleError(f"the pickle uses a {type(value).__name__} as a key, which is refused")
    return items


def _ordered(pairs: list[Any]) -> OrderedDict[Any, Any]:
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise UnsafePickleError("a dict is given something that is not pairs")
    keyable([key for key, _ in pairs])
    return OrderedDict(pairs)


def _default(spender: Spender, factory: Any = None) -> defaultdict[Any, Any]:
    if factory is None:
        return defaultdict(None)
    kinds: dict[str, type] = {kind.__name__: kind for kind in (list, dict, set, int, float, str)}
    module, _, name = factory.path.rpartition(".") if isinstance(factory, Name) else ("", "", "")
    if module not in ("builtins", "__builtin__") or name not in kinds:
        raise UnsafePickleError("a defaultdict with that factory is refused")
    return defaultdict(kinds[name])


def _known_names() -> dict[str, Callable[..., Any] | None]:
    """Path of every accepted name -> what stands for a call of it; None where it may only be referred to."""
    known: dict[str, Callable[..., Any] | None] = {"numpy.ndarray": None, "numpy.dtype": _dtype}
    known |= {"_codecs.encode": _encode, "collections.defaultdict": _default}
    known["collections.OrderedDict"] = _container(_ordered)
    for core in ("numpy.core", "numpy._core"):
        known |= {f"{core}.multiarray._reconstruct": _reconstruct, f"{core}.multiarray.scalar": _scalar}
        known |= {f"{core}.multiarray.ndarray": None, f"{core}.numeric._frombuffer": _frombuffer}
    containers: dict[str, Callable[[list[Any]], Any]] = {
        "list": list,
        "tuple": tuple,
        "dict": lambda items: dict(_ordered(items)),
    }
    containers |= {"set": lambda items: set(keyable(items)), "frozenset": lambda items: frozenset(keyable(items))}
    for module in ("builtins", "__builtin__"):
        known |= {f"{module}.{name}": None for name in ("int", "float", "str")}
        known |= {f"{module}.{name}": _bytes for name in ("bytes", "bytearray")}
        known |= {f"{module}.{name}": _container(kind) for name, kind in containers.items()}
    return known


KNOWN = _known_names()
