"""Files of arrays and `.csv` tables, read by a mapping of roles to array or column names.

Roles are `id`, `transcript`, `speaker`, `dialogue`, `turn`, `split`, `session`, `start_seconds`, `end_seconds`;
`text`, `audio`, `face` for features; `audio_lengths` and `audio_offsets` (and the same for the others) for features of
many utterances in one array; `label:NAME` for a target; `index:SPLIT` for the rows of a split. A name may contain
`{split}`: then there is one array per split, in the order of its `index:SPLIT`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MerError
from ..sequence import FeatureSequence
from ..table import LabelColumn, UtteranceTable
from .delimited import Table, read_table
from .named import load_named
from .pack import (
    MODALITIES,
    Imported,
    LazySequences,
    PackSet,
    as_text,
    class_column,
    real_column,
    split_of,
    stepped,
    unique_keys,
)
from .roles import MOSEI_COLUMNS, described, is_texts, suggested

TEXT_ROLES = {"transcript": "text", "speaker": "speaker", "dialogue": "dialogue", "session": "session"}
NUMBER_ROLES = ("turn", "start_seconds", "end_seconds", "duration_seconds")
PARTS = tuple(f"{modality}_{part}" for modality in MODALITIES for part in ("lengths", "offsets"))
ROLES = ("id", "split", *TEXT_ROLES, *NUMBER_ROLES, *MODALITIES, *PARTS)

Array = npt.NDArray[Any]


def read_arrays(source: Path, mapping: Mapping[str, str] | None = None) -> Imported:
    """Read a file of arrays: `.npz`, a pickle, `.pt`, safetensors, MATLAB, Parquet, Arrow, JSON lines.

    Parameters
    ----------
    mapping
        Role -> array name. Arrays called like a role need no entry; arrays called `label` or `labels` become the
        target `label`. Without any mapping, what names and shapes tell is taken (`roles.suggested`).

    Raises
    ------
    MerError
        If an array named is not there or does not fit; the message lists what there is.
    """
    arrays, lost = load_named(source)
    known = dict(mapping or {}) or suggested(arrays)
    roles = _roles(known, arrays, source)
    if not set(MODALITIES) & set(roles):
        raise MerError(
            f"{source}: no name says which array holds features; say it with --map text|audio|face=ARRAY. "
            f"It has: {described(arrays)}"
        )
    index = {role[6:]: _rows(arrays[name], role) for role, name in roles.items() if role.startswith("index:")}
    count = _count(arrays, roles, index, source)
    columns = {role: list(arrays[name]) for role, name in roles.items() if role in arrays_roles(role)}
    labels: dict[str, LabelColumn] = {}
    for role, name in roles.items():
        if role.startswith("label:"):
            labels |= label_columns(role[6:], arrays[name], lost)
    splits = _splits(index, count, lost)
    table = table_of(columns, labels, count, splits, source, lost)
    sets = [_set(modality, roles, arrays, index, count, source) for modality in MODALITIES if modality in roles]
    used = {name.replace("{split}", split) for name in roles.values() for split in index} | set(roles.values())
    unused = [name for name in arrays if name not in used]
    lost += [f"arrays not read: {', '.join(unused[:40])}"] if unused else []
    return Imported(table, sets, lost, {"name": source.stem}, roles)


def arrays_roles(role: str) -> tuple[str, ...]:
    """The role itself where it is a column of the table, nothing for features, labels and indices."""
    return (role,) if role in ("id", "split", *TEXT_ROLES, *NUMBER_ROLES) else ()


def _roles(mapping: Mapping[str, str], arrays: Mapping[str, Array] | Sequence[str], source: Path) -> dict[str, str]:
    """Every role with its array, given or found under its own name."""
    names = list(arrays)
    roles = {name: name for name in names if name in ROLES}
    if isinstance(arrays, Mapping) and "text" in roles and is_texts(arrays["text"]):
        roles["transcript"] = roles.pop("text")
    for name in ("label", "labels"):
        if name in names and name not in mapping.values():
            roles["label:label"] = name
    for role, name in mapping.items():
        if role not in ROLES and not re.fullmatch(r"(label|index):.+", role):
            raise MerError(f"--map {role}={name}: the role is none of {', '.join(ROLES)}, label:NAME, index:SPLIT")
        there = name in names or ("{split}" in name and any(_matches(name, one) for one in names))
        if not there:
            shown = described(arrays) if isinstance(arrays, Mapping) else ", ".join(names)
            raise MerError(f"{source}: has no array {name!r} for {role}; it has: {shown}")
        roles[role] = name
    return roles


def _matches(pattern: str, name: str) -> bool:
    before, _, after = pattern.partition("{split}")
    return name.startswith(before) and name.endswith(after)


def _rows(values: Array, role: str) -> npt.NDArray[np.int64]:
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise MerError(f"{role} must be whole numbers of shape (N,), got {values.dtype} {values.shape}")
    return values.astype(np.int64)


def _count(arrays: Mapping[str, Array], roles: Mapping[str, str], index: Mapping[str, Array], source: Path) -> int:
    """Number of utterances, which every array of one entry per utterance shares."""
    sizes = {}
    for role, name in roles.items():
        if "{split}" in name or role.startswith("index:") or role.endswith("_offsets"):
            continue
        if role in MODALITIES and ({f"{role}_lengths", f"{role}_offsets"} & set(roles)) and arrays[name].ndim == 2:
            continue
        sizes[name] = len(arrays[name]) if arrays[name].ndim else -1
    if not sizes and index:
        return int(sum(len(rows) for rows in index.values()))
    if len(set(sizes.values())) != 1 or -1 in sizes.values():
        told = ", ".join(f"{name} {size}" for name, size in sizes.items()) or "nothing to count them by"
        raise MerError(
            f"{source}: arrays disagree on the number of utterances: {told}; name them with --map ROLE=ARRAY"
        )
    count = next(iter(sizes.values()))
    if any(len(rows) and not 0 <= rows.min() <= rows.max() < count for rows in index.values()):
        raise MerError(f"{source}: an index points outside the {count} utterances")
    return count


def _splits(index: Mapping[str, Array], count: int, lost: list[str]) -> list[str] | None:
    if not index:
        return None
    splits = [""] * count
    for name, rows in index.items():
        for row in rows.tolist():
            splits[row] = split_of(name, "index", lost)
    return splits


def label_column(raw: Sequence[Any]) -> LabelColumn:
    """Target of a column: whole numbers and names are classes, other numbers are numbers; empty means unlabelled."""
    values = [None if one is None or as_text(one) in ("", "nan") else one for one in raw]
    if any(isinstance(one, (float, np.floating)) and not float(one).is_integer() for one in values if one is not None):
        return real_column([None if one is None else float(one) for one in values])
    return class_column([None if one is None else _name(one) for one in values])


def label_columns(name: str, values: Array, lost: list[str]) -> dict[str, LabelColumn]:
    """Targets of an array: one for (N,) and (N, 1), one per column for (N, K); seven are those of CMU-MOSEI."""
    rows = [np.asarray(one).ravel() if isinstance(one, np.ndarray) else one for one in values]
    if not all(isinstance(one, np.ndarray) for one in rows):
        return {name: label_column(rows)}
    widths = {len(one) for one in rows}
    if len(widths) != 1:
        raise MerError(f"target {name!r} has rows of different lengths: {sorted(widths)[:5]}")
    width = widths.pop()
    if width == 1:
        return {name: label_column([one[0] for one in rows])}
    names = MOSEI_COLUMNS if width == len(MOSEI_COLUMNS) else tuple(f"{name}_{at}" for at in range(width))
    lost.append(f"{name} has {width} columns, taken as {', '.join(names[:12])}")
    return {one: label_column([row[at] for row in rows]) for at, one in enumerate(names)}


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, (int, float, np.number)) else as_text(value)


def table_of(
    columns: Mapping[str, Sequence[Any]],
    labels: dict[str, LabelColumn],
    count: int,
    splits: list[str] | None,
    source: Path,
    lost: list[str],
) -> UtteranceTable:
    """Table of columns by role; without ids the utterances are numbered."""
    if splits is None:
        raw_splits = [as_text(one) for one in columns.get("split", [""] * count)]
        splits = [split_of(one, source.name, lost) if one else "" for one in raw_splits]
    if "id" in columns:
        raw = ["_".join(map(as_text, one)) if isinstance(one, np.ndarray) else as_text(one) for one in columns["id"]]
    else:
        raw = [f"{source.stem}-{row:06d}" for row in range(count)]
        lost.append("there are no ids; utterances are numbered (name them with --map id=...)")
    made: dict[str, Any] = {
        ours: [as_text(one) for one in columns[role]] for role, ours in TEXT_ROLES.items() if role in columns
    }
    for role in NUMBER_ROLES:
        if role in columns:
            try:
                made[role] = np.array([float(one) for one in columns[role]])
            except (TypeError, ValueError) as error:
                raise MerError(f"{source}: {role} holds something that is no number ({error})") from error
    if "turn" in made:
        made["turn"] = made["turn"].astype(np.int64)
    return UtteranceTable.of(unique_keys(raw, splits, lost), labels=labels, split=splits, **made)


# ------------------------------------------------------------------------------------------------------ features


def _set(
    modality: str,
    roles: Mapping[str, str],
    arrays: Mapping[str, Array],
    index: Mapping[str, Array],
    count: int,
    source: Path,
) -> PackSet:
    name = roles[modality]
    if "{split}" in name:
        found: list[Any] = [None] * count
        for split, rows in index.items():
            values = arrays.get(name.replace("{split}", split))
            if values is None or len(values) != len(rows):
                raise MerError(
                    f"{source}: {name.replace('{split}', split)!r} has not the {len(rows)} rows of index:{split}"
                )
            for row, piece in zip(rows.tolist(), values, strict=True):
                found[row] = piece
        pieces: Sequence[Any] = found
    else:
        pieces = _pieces(modality, roles, arrays, count, source)
    widths = {one.shape[-1] for one in pieces if one is not None and isinstance(one, np.ndarray) and one.ndim}
    if len(widths) != 1:
        raise MerError(f"{source}: {name!r} has features of widths {sorted(widths)}; one width is needed")
    padded = not name.count("{split}") and arrays[name].ndim == 3 and not ({f"{modality}_lengths"} & set(roles))

    def one(row: int) -> FeatureSequence | None:
        return None if pieces[row] is None else stepped(np.asarray(pieces[row]))

    clean = re.sub(r"[^\w.-]+", "-", name.replace("{split}", "").strip("_-")) or modality
    return PackSet(modality, clean, widths.pop(), LazySequences(count, one), name, padded)


def _pieces(
    modality: str, roles: Mapping[str, str], arrays: Mapping[str, Array], count: int, source: Path
) -> Sequence[Any]:
    """Features per utterance: rows, padded blocks, slices of one long array, or an array of arrays."""
    name = roles[modality]
    values = arrays[name]
    lengths = roles.get(f"{modality}_lengths")
    offsets = roles.get(f"{modality}_offsets")
    if offsets or (lengths and values.ndim == 2):
        if offsets:
            bounds = _rows(arrays[offsets], offsets)
        else:
            bounds = np.concatenate([[0], np.cumsum(_rows(arrays[str(lengths)], str(lengths)))])
        if len(bounds) != count + 1 or bounds[0] != 0 or bounds[-1] != len(values) or (np.diff(bounds) < 0).any():
            raise MerError(f"{source}: {offsets or lengths} do not divide the {len(values)} rows of {name!r}")
        return [values[a:b] for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
    if values.dtype.kind != "O" and values.ndim not in (2, 3):
        raise MerError(f"{source}: {name!r} must have shape (N, D) or (N, L, D), got {values.shape}")
    if lengths:
        return [one[: max(0, n)] for one, n in zip(values, _rows(arrays[lengths], lengths).tolist(), strict=True)]
    return list(values)


# ----------------------------------------------------------------------------------------------------------- csv


def read_csv(source: Path, mapping: Mapping[str, str] | None = None) -> Imported:
    """Read a `.csv` with one utterance per row.

    Parameters
    ----------
    mapping
        Role -> column name, or for features a pattern such as `F0*` that several columns match. Columns called
        `audio_0`, `audio_1`, … (and the same for `text` and `face`) need no entry, nor do columns called like a role.
    """
    table = read_table(source)
    names = table.names
    lost: list[str] = []
    features = {modality: _columns(modality, mapping or {}, names) for modality in MODALITIES}
    taken = {name for found in features.values() for name in found}
    plain = {role: name for role, name in (mapping or {}).items() if role not in MODALITIES}
    roles = _roles(plain, [name for name in names if name not in taken], source)
    columns = {role: table.column(name) for role, name in roles.items() if role in arrays_roles(role)}
    labels = {
        role[6:]: label_column([_value(cell) for cell in table.column(name)])
        for role, name in roles.items()
        if role.startswith("label:")
    }
    utterances = table_of(columns, labels, len(table.rows), None, source, lost)
    sets = [_csv_set(modality, found, table) for modality, found in features.items() if found]
    unused = [name for name in names if name not in taken and name not in roles.values()]
    lost += [f"columns not read: {', '.join(unused)}"] if unused else []
    return Imported(utterances, sets, lost, {"name": source.stem})


def _columns(modality: str, mapping: Mapping[str, str], names: Sequence[str]) -> list[str]:
    if modality in mapping:
        before, _, after = mapping[modality].partition("*")
        return [name for name in names if name.startswith(before) and name.endswith(after)]
    return [name for name in names if re.fullmatch(rf"{modality}_\d+", name)]


def _value(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _csv_set(modality: str, names: Sequence[str], table: Table) -> PackSet:
    values = table.numbers(names)
    there = np.asarray(np.isfinite(values).any(axis=1))

    def one(row: int) -> FeatureSequence | None:
        return stepped(values[row]) if there[row] else None

    return PackSet(modality, table.path.stem, len(names), LazySequences(len(values), one), modality, columns=names)
