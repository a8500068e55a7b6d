"""What a split is: rows to train on, to validate on and to test on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mer.cache import LabelColumn, UtteranceTable

from ..scores.metrics import labelled

RowIndices = npt.NDArray[np.int64]


Groups = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Row numbers of one fold, each sorted."""

    name: str
    train: RowIndices
    val: RowIndices
    test: RowIndices


@dataclass(frozen=True)
class SplitRequest:
    """What the folds are made from."""

    table: UtteranceTable
    label: LabelColumn
    copies: Groups
    """Shape (N,): equal numbers for utterances with equal text and media, -1 where unknown."""
    folds: int | None = None
    group_by: str = "auto"
    val_fraction: float = 0.15
    seed: int = 0
    known_copies: frozenset[tuple[str, str]] = frozenset()
    """Pairs of keys, training side first, that the corpus' authors published twice."""

    @property
    def rows(self) -> RowIndices:
        """Rows that have a label."""
        return np.flatnonzero(labelled(self.label.kind, self.label.values))

    def names(self, kind: str, rows: RowIndices) -> npt.NDArray[np.bool_]:
        """Which rows name a `speaker` or `dialogue`, shape (len(rows),)."""
        values = getattr(self.table, kind)
        return np.array([values[row] != "" for row in rows], dtype=np.bool_)


@dataclass(frozen=True)
class Splits:
    """The folds of one run."""

    protocol: str
    folds: tuple[Fold, ...]
    notes: tuple[str, ...] = ()
    """What the user should know, such as leaks let through."""
    apart: tuple[str, ...] = field(default=())
    """What must not cross from training or validation to test."""
