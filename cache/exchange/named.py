"""Any file of arrays as named columns of one entry per utterance; a mapping then says which column is what.

Names are paths: `language` of a dict, `0.1` of a list of tuples (the second part of the first one), `audio.mfcc` of
dicts in a dict. Dicts per split become one column with a column `split` beside it; dicts by utterance get a column
`id`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FormatError, MerError
from .guess import HINTS
from .json_lines import entry_of, read_json_lines
from .pack import SPLITS, as_text, boxed

Array = npt.NDArray[Any]
MOST_NAMES = 2000
MOST_LEVELS = 6
_FIELDS = """id ids key keys name names file filename segment segments label labels emotion emotions sentiment valence
    arousal speaker speakers dialogue split text transcript raw_text sentence features feature values value"""
FIELDS = frozenset(_FIELDS.split())


def load_named(source: Path) -> tuple[dict[str, Array], list[str]]:
    """Columns of a file, or of a folder of one file per split, and what was assumed.

    Raises
    ------
    MerError
        If the content is of no kind that is read, damaged or hostile.
    """
    told: list[str] = []
    if source.is_dir():
        parts = {path.stem: path for path in sorted(source.iterdir()) if path.stem.lower() in SPLITS}
        if not parts:
            raise MerError(f"{source}: has no train, val or test file; is it a folder of one file per clip?")
        content: Any = {stem: load_any(path) for stem, path in parts.items()}
    else:
        content = load_any(source)
    try:
        columns = columns_of(content, told)
    except FormatError as error:
        raise MerError(f"{source}: {error}") from error
    if not columns:
        raise MerError(f"{source}: holds no arrays; mer import --help lists what is read")
    return columns, told


def load_any(path: Path) -> Any:
    """What one file holds, by its kind; nothing in it is executed."""
    return LOADERS[kind_of(path)](path)


def kind_of(path: Path) -> str:
    """Kind of a file of arrays, from its first bytes.

    Raises
    ------
    MerError
        If it is of none that is read.
    """
    try:
        with path.open("rb") as handle:
            head = handle.read(520)
    except OSError as error:
        raise MerError(f"{path}: cannot be read ({error})") from error
    signs = {b"\x93NUMPY": "npy", b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
    kind = next((kind for sign, kind in signs.items() if head.startswith(sign)), "")
    if kind:
        return kind
    if head.startswith(b"mer-seal"):
        raise MerError(f"{path}: is a cache or pack of mer already; use it as it is")
    if head.startswith(b"PK\x03\x04"):
        return "torch" if path.suffix in (".pt", ".pth", ".bin") or b"data.pkl" in head else "npz"
    if head.startswith(b"MATLAB ") and (
        b"\x89HDF" in head[512:] or b"\x00\x01IM" in head[:128] or path.suffix == ".mat"
    ):
        return "matlab"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    if head.lstrip()[:1] == b"{" and path.suffix in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    if head[:1] == b"\x80" or path.suffix in (".pkl", ".pickle", ".p", ".pck"):
        return "pickle"
    raise MerError(
        f"{path}: not recognised; read are pickles, .npz, .npy, .pt, .safetensors, .mat, Parquet, Arrow, JSON lines, "
        ".csv and folders of one file per clip"
    )


# ------------------------------------------------------------------------------------------------ nested to columns


def columns_of(content: Any, told: list[str]) -> dict[str, Array]:
    """Named columns of nested dicts, lists, tuples and arrays.

    Raises
    ------
    FormatError
        If there are too many names, or parts of different splits differ in their names.
    """
    if isinstance(content, Mapping):
        content = {as_text(name): part for name, part in content.items()}
        splits = {name: part for name, part in content.items() if name.lower() in SPLITS and _holds_parts(part)}
        if splits:
            left = [name for name in content if name not in splits]
            told += [f"not read beside the splits: {', '.join(left[:12])}"] if left else []
            return _by_split(splits, told)
    columns = dict(islice(_walk(content, "", 0), MOST_NAMES + 1))
    if len(columns) > MOST_NAMES:
        raise FormatError(f"holds more than {MOST_NAMES:,} arrays; is it a folder of one file per clip in one file?")
    return columns


def _holds_parts(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _by_split(splits: Mapping[str, Any], told: list[str]) -> dict[str, Array]:
    parts = {split: columns_of(part, told) for split, part in splits.items() if len(part)}
    names = list(dict.fromkeys(name for part in parts.values() for name in part))
    joined: dict[str, Array] = {}
    for name in names:
        pieces = [part[name] for part in parts.values() if name in part]
        if len(pieces) != len(parts):
            told.append(f"{name} is not in every split and is left out")
            continue
        joined[name] = _joined(pieces)
    counts = {split: _count(part) for split, part in parts.items()}
    joined["split"] = np.array([split for split, count in counts.items() for _ in range(count)], object)
    return joined


def _joined(pieces: Sequence[Array]) -> Array:
    shapes = {(piece.shape[1:], piece.dtype.kind) for piece in pieces}
    if len(shapes) == 1 and pieces[0].dtype.kind != "O":
        return np.concatenate(pieces)
    return boxed([row for piece in pieces for row in piece])


def _count(part: Mapping[str, Array]) -> int:
    sizes = [len(column) for column in part.values() if column.ndim]
    return max(set(sizes), key=sizes.count) if sizes else 0


def _walk(value: Any, prefix: str, level: int) -> Iterator[tuple[str, Array]]:
    if level > MOST_LEVELS:
        raise FormatError(f"nests arrays deeper than {MOST_LEVELS} levels")
    if isinstance(value, Mapping):
        named = {as_text(name): part for name, part in value.items()}
        if _by_utterance(named):
            yield _join(prefix, "id"), boxed(list(named))
            yield from _records(list(named.values()), prefix, level)
        else:
            for name, part in named.items():
                yield from _walk(part, _join(prefix, name), level + 1)
    elif isinstance(value, np.ndarray):
        if value.ndim == 0 and value.dtype.kind == "O":
            yield from _walk(value.item(), prefix, level + 1)
        elif value.ndim:
            yield prefix or "values", value
    elif isinstance(value, (list, tuple)) and len(value):
        yield from _records(list(value), prefix, level)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _by_utterance(named: Mapping[str, Any]) -> bool:
    """Whether the keys of a dict are ids of utterances and not names of fields."""
    words = {word for hints in HINTS.values() for word in hints.split()} | FIELDS
    parts = list(named.values())
    if len(parts) < 2 or any(name.lower() in words for name in named):
        return False
    if all(isinstance(part, Mapping) for part in parts):
        return all(set(part) == set(parts[0]) for part in parts)
    if all(isinstance(part, np.ndarray) and part.ndim in (1, 2) for part in parts):
        return len({part.shape[-1] for part in parts}) == 1 and len({part.ndim for part in parts}) == 1
    return False


def _records(rows: list[Any], prefix: str, level: int) -> Iterator[tuple[str, Array]]:
    """Columns of a list of one entry per utterance: records of equal form are taken apart, others are one column."""
    if level > MOST_LEVELS:
        raise FormatError(f"nests arrays deeper than {MOST_LEVELS} levels")
    first = rows[0]
    if isinstance(first, Mapping) and all(isinstance(row, Mapping) and set(row) == set(first) for row in rows):
        for name in first:
            yield from _records([row[name] for row in rows], _join(prefix, as_text(name)), level + 1)
    elif isinstance(first, tuple) and all(isinstance(row, tuple) and len(row) == len(first) for row in rows):
        for at in range(len(first)):
            yield from _records([row[at] for row in rows], _join(prefix, str(at)), level + 1)
    else:
        yield prefix or "values", column_of(rows)


def column_of(rows: list[Any]) -> Array:
    """One array of one entry per utterance: numbers, texts, or arrays in an array of objects."""
    if all(isinstance(row, (bool, int, float, np.number, np.bool_)) for row in rows):
        return np.array(rows, np.float64 if any(isinstance(row, (float, np.floating)) for row in rows) else None)
    return boxed([entry_of(row) for row in rows])


# ---------------------------------------------------------------------------------------------------- kinds of file


def _pickle(path: Path) -> Any:
    from .safe_pickle import load

    return load(path)


def _npz(path: Path) -> Any:
    from .safe_npy import read_npz

    return read_npz(path)


def _npy(path: Path) -> Any:
    from .safe_npy import read_npy

    return read_npy(path)


def _torch(path: Path) -> Any:
    from .safe_torch import read_torch

    return read_torch(path)


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        shown = " ".join(str(error).split())[:120]
        raise MerError(f"{path}: not a safetensors file of numpy's types ({shown}); save it as float32") from error


def _matlab(path: Path) -> Any:
    from .matlab import read_matlab

    return read_matlab(path)


def _arrow(path: Path) -> Any:
    from .arrow import read_arrow

    return read_arrow(path)


def _lines(path: Path) -> Any:
    return read_json_lines(path)


LOADERS: dict[str, Callable[[Path], Any]] = {
    "pickle": _pickle,
    "npz": _npz,
    "npy": _npy,
    "torch": _torch,
    "safetensors": _safetensors,
    "matlab": _matlab,
    "parquet": _arrow,
    "arrow": _arrow,
    "jsonl": _lines,
}
