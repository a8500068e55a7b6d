"""The utterance table: who said what where, and the labels, as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from .errors import FormatError, MerError
from .hdf import (
    check_key,
    get_array,
    get_group,
    get_keys,
    get_strings,
    get_texts,
    link_name,
    names_attribute,
    text_attribute,
)
from .hdf_writing import describe, put_array, put_keys, put_strings
from .spec import canonical_json

KINDS = ("class", "multi", "real")
LABEL_TYPES = {"class": np.int64, "multi": np.float32, "real": np.float64}
TEXT_COLUMNS = ("text", "media", "speaker", "dialogue", "split", "session")
NUMBER_COLUMNS = {
    "turn": np.int64,
    "start_seconds": np.float64,
    "end_seconds": np.float64,
    "duration_seconds": np.float64,
    "machine_text": np.bool_,
}


@dataclass(frozen=True)
class LabelColumn:
    """One target for every utterance.

    Raises
    ------
    FormatError
        If the values do not fit the kind.
    """

    kind: str
    """`class`, `multi` or `real`."""
    classes: tuple[str, ...]
    """Class names in the order of their codes; empty for `real`."""
    values: npt.NDArray[Any]
    """`class`: (N,) int64 codes, -1 where unlabelled. `multi`: (N, C) float32, NaN rows where unlabelled.
    `real`: (N,) float64, NaN where unlabelled."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FormatError(f"label kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if len(set(self.classes)) != len(self.classes):
            raise FormatError(f"label classes {self.classes} hold a name twice")
        values = np.ascontiguousarray(self.values, LABEL_TYPES[self.kind])
        object.__setattr__(self, "values", values)
        if self.kind == "multi":
            if values.ndim != 2 or values.shape[1] != len(self.classes):
                raise FormatError(f"multi-label values need one column per class, got shape {values.shape}")
        elif values.ndim != 1:
            raise FormatError(f"label values must have shape (N,), got {values.shape}")
        elif self.kind == "class" and len(values) and not -1 <= values.min() <= values.max() < len(self.classes):
            raise FormatError(f"label codes must lie between -1 and {len(self.classes) - 1}")

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """Which utterances have a label, shape (N,)."""
        if self.kind == "class":
            return np.asarray(self.values >= 0)
        there = ~np.isnan(self.values)
        return np.asarray(there if there.ndim == 1 else there.all(axis=1))

    def select(self, rows: npt.NDArray[np.integer[Any]]) -> LabelColumn:
        """Keep some rows, in the given order."""
        return LabelColumn(self.kind, self.classes, self.values[rows])

    @classmethod
    def of(cls, kind: str, classes: Sequence[str], raw: Sequence[Any]) -> LabelColumn:
        """Build a column from class names, tuples of class names, or numbers; None where unlabelled.

        Raises
        ------
        FormatError
            If a name is not among the classes.
        """
        codes = {name: code for code, name in enumerate(classes)}
        try:
            if kind == "class":
                values = np.array([-1 if item is None else codes[item] for item in raw], np.int64)
            elif kind == "multi":
                values = np.full((len(raw), len(classes)), np.nan, np.float32)
                for row, item in enumerate(raw):
                    if item is not None:
                        values[row] = 0
                        values[row, [codes[name] for name in item]] = 1
            else:
                values = np.array([np.nan if item is None else float(item) for item in raw], np.float64)
        except KeyError as error:
            raise FormatError(f"label {error.args[0]!r} is not one of the classes {', '.join(classes)}") from error
        return cls(kind, tuple(classes), values)


@dataclass(frozen=True)
class UtteranceTable:
    """Every utterance of a corpus, as columns of equal length N.

    Raises
    ------
    FormatError
        If columns differ in length, or an id is not allowed or not unique.
    """

    keys: list[str]
    text: list[str | None]
    media: list[str | None]
    """Path of the clip relative to the corpus root."""
    speaker: list[str]
    dialogue: list[str]
    split: list[str]
    session: list[str]
    turn: npt.NDArray[np.int64]
    """Shape (N,), -1 where unknown."""
    start_seconds: npt.NDArray[np.float64]
    """Shape (N,), NaN where the utterance starts with its file."""
    end_seconds: npt.NDArray[np.float64]
    """Shape (N,), NaN where the utterance ends with its file."""
    machine_text: npt.NDArray[np.bool_]
    """Shape (N,), True where a speech recogniser made the transcript."""
    duration_seconds: npt.NDArray[np.float64]
    """Shape (N,), NaN where unknown."""
    labels: dict[str, LabelColumn] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.keys)
        for name in ("keys", *TEXT_COLUMNS):
            object.__setattr__(self, name, list(getattr(self, name)))
        for name, dtype in NUMBER_COLUMNS.items():
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype))
        for column in (*TEXT_COLUMNS, *NUMBER_COLUMNS):
            if len(getattr(self, column)) != count:
                raise FormatError(f"column {column!r} has {len(getattr(self, column))} rows, expected {count}")
        for name, label in self.labels.items():
            if len(label.values) != count:
                raise FormatError(f"label column {name!r} has {len(label.values)} rows, expected {count}")
        for key in self.keys:
            check_key(key)
        if len(self._index) != count:
            seen: set[str] = set()
            twice = next(key for key in self.keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise FormatError(f"utterance id {twice!r} occurs twice; ids must be unique")

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.keys)}

    def __contains__(self, key: object) -> bool:
        return key in self._index

    def rows(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """Rows of these ids, in the order given.

        Raises
        ------
        MerError
            If an id is not in the table.
        """
        try:
            return np.array([self._index[key] for key in keys], np.int64)
        except KeyError as error:
            raise MerError(f"there is no utterance {error.args[0]!r} among these {len(self)}") from error

    def select(self, rows: npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]) -> UtteranceTable:
        """Keep some rows, by index in the given order or by mask."""
        index = np.flatnonzero(rows) if np.asarray(rows).dtype == np.bool_ else np.asarray(rows, np.int64)
        changed: dict[str, Any] = {"labels": {name: label.select(index) for name, label in self.labels.items()}}
        for column in fields(self):
            value = getattr(self, column.name)
            if isinstance(value, np.ndarray):
                changed[column.name] = value[index]
            elif isinstance(value, list):
                changed[column.name] = [value[row] for row in index.tolist()]
        return UtteranceTable(**changed)

    @classmethod
    def of(cls, keys: Sequence[str], labels: Mapping[str, LabelColumn] | None = None, **columns: Any) -> UtteranceTable:
        """Build a table from some columns; the others are filled with what stands for unknown."""
        count = len(keys)
        defaults: dict[str, Any] = {
            "text": [None] * count,
            "media": [None] * count,
            "turn": np.full(count, -1, np.int64),
            "machine_text": np.zeros(count, np.bool_),
        }
        defaults |= {name: [""] * count for name in ("speaker", "dialogue", "split", "session")}
        defaults |= {name: np.full(count, np.nan) for name in ("start_seconds", "end_seconds", "duration_seconds")}
        return cls(keys=list(keys), labels=dict(labels or {}), **(defaults | columns))


def put_table(parent: h5py.Group, table: UtteranceTable) -> None:
    """Write the group `utterances`."""
    group = parent.create_group("utterances")
    describe(group, "mer-utterances")
    put_keys(group, "keys", table.keys)
    for name in TEXT_COLUMNS:
        put_strings(group, name, getattr(table, name))
    for name, dtype in NUMBER_COLUMNS.items():
        stored = np.uint8 if dtype is np.bool_ else dtype
        put_array(group, name, getattr(table, name).astype(stored), "s" if name.endswith("_seconds") else "")
    labels = group.create_group("labels")
    describe(labels, "mer-label-tables", order=canonical_json(list(table.labels)))
    for name, label in table.labels.items():
        column = labels.create_group(link_name(name))
        describe(column, "mer-labels", kind=label.kind, classes=canonical_json(list(label.classes)))
        put_array(column, "values", label.values)


def get_table(parent: h5py.Group) -> UtteranceTable:
    """Read the group `utterances`.

    Raises
    ------
    FormatError
        If it breaks the format.
    """
    group = get_group(parent, "utterances", "mer-utterances")
    keys = get_keys(group, "keys")
    columns: dict[str, Any] = {}
    for name in TEXT_COLUMNS:
        read = get_strings if name in ("text", "media") else get_texts
        columns[name] = read(group, name, len(keys))
    for name, dtype in NUMBER_COLUMNS.items():
        columns[name] = get_array(group, name, np.uint8 if dtype is np.bool_ else dtype, (len(keys),)).astype(dtype)
    labels = get_group(group, "labels", "mer-label-tables")
    tables = {}
    for name in names_attribute(labels, "order"):
        column = get_group(labels, link_name(name), "mer-labels")
        kind, classes = text_attribute(column, "kind"), tuple(names_attribute(column, "classes"))
        shape = (len(keys), len(classes)) if kind == "multi" else (len(keys),)
        tables[name] = LabelColumn(kind, classes, get_array(column, "values", LABEL_TYPES.get(kind, np.float64), shape))
    return UtteranceTable(keys=keys, labels=tables, **columns)
