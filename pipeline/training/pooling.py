"""Neighbouring steps averaged once, where features are brought to the device, in place of in every batch.

A mean over steps and the normalisation of dimensions commute, so what a head sees is the same, and a batch is as many
times smaller as steps are averaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mer.cache import FeatureBlock

RowIndices = npt.NDArray[np.int64]

CHUNK_BYTES = 64 << 20
"""Size of the pieces in which features are read and examined."""
MEANS_AT_ONCE = 256
"""So few that what is added up stays in the processor's cache."""


@dataclass(frozen=True)
class Ragged:
    """Steps of some utterances, one after the other."""

    values: npt.NDArray[np.floating[Any]]
    """Shape (ΣT, D)."""
    valid: npt.NDArray[np.bool_]
    """Shape (ΣT,)."""
    starts: RowIndices
    """Shape (n,): first row of each utterance."""
    lengths: RowIndices
    """Shape (n,): rows of each utterance; 0 where it has none that can be used."""


def kept_steps(lengths: RowIndices, most: int, window: int) -> RowIndices:
    """Steps left of so many, thinned to at most `most` (0 is no bound) and averaged `window` at a time."""
    kept = np.minimum(lengths, most) if most else lengths
    return np.asarray(-(-kept // window))


def pool_steps(block: FeatureBlock, lengths: RowIndices, most: int, window: int, gaps: bool = False) -> Ragged:
    """Thin what is longer than `most` steps, then average each `window` neighbouring steps over the valid ones.

    Parameters
    ----------
    block : FeatureBlock
    lengths : array (n,)
        Steps to use of each utterance: all of them, or 0.
    most : int
        Bound on the steps before averaging; a longer utterance is thinned by a uniform stride. 0 is no bound.
    window : int
        Steps averaged into one; the last window of an utterance may hold fewer. A mean is valid if any of its steps is,
        and zero otherwise.
    gaps : bool
        Whether NaN stands for a value that is not there: a mean is then one of the values there are, or NaN.

    Returns
    -------
    Ragged
        Values in float32.
    """
    made, kept = kept_steps(lengths, most, window), kept_steps(lengths, most, 1)
    ends = np.cumsum(made)
    total = int(ends[-1]) if len(ends) else 0
    owner = np.repeat(np.arange(len(made)), made)
    first = (np.arange(total) - np.repeat(ends - made, made)) * window
    start = np.asarray(block.offsets[:-1], dtype=np.int64)
    stored, usable = as_tensor(block.values), np.asarray(block.valid, dtype=np.bool_)
    values, valid = torch.zeros(total, block.values.shape[1]), np.zeros(total, dtype=np.bool_)
    for at in range(0, total, MEANS_AT_ONCE):
        place, mine = slice(at, at + MEANS_AT_ONCE), owner[at : at + MEANS_AT_ONCE]
        steps = (first[place], start[mine], lengths[mine], kept[mine])
        valid[place] = _add_means(values[place], stored, usable, *steps, window, gaps)
    return Ragged(values.numpy(), valid, ends - made, made)


def pieces(rows: RowIndices, cost_bytes: RowIndices) -> Iterator[RowIndices]:
    """Split rows, each of so many bytes, into consecutive parts of about `CHUNK_BYTES`; nothing for no rows."""
    piece = np.cumsum(cost_bytes) // CHUNK_BYTES
    yield from np.split(rows, np.flatnonzero(np.diff(piece)) + 1) if len(rows) else []


def _add_means(
    into: Tensor,
    stored: Tensor,
    usable: npt.NDArray[np.bool_],
    first: RowIndices,
    start: RowIndices,
    length: RowIndices,
    kept: RowIndices,
    window: int,
    gaps: bool,
) -> npt.NDArray[np.bool_]:
    """Add means of shape (m, D) into zeros, each of the steps from `first` on; return which have a usable step."""
    count = np.zeros(len(first), dtype=np.int64)
    known = torch.zeros_like(into) if gaps else None
    for step in range(min(window, int((kept - first).max()))):
        index = start + np.minimum(first + step, kept - 1) * length // kept
        there = (first + step < kept) & usable[index]
        part = stored.index_select(0, torch.from_numpy(index))
        if known is not None:
            filled = torch.from_numpy(there)[:, None] & ~part.isnan()
            into += torch.where(filled, part, 0)
            known += filled
        else:
            into += part if there.all() else torch.where(torch.from_numpy(there)[:, None], part, 0)
        count += there
    if known is not None:  # 0 / 0 leaves NaN where a valid step has no value, and 0 where no step is valid
        into /= torch.where(torch.from_numpy(count > 0)[:, None], known, 1)
    else:
        into /= torch.from_numpy(np.maximum(count, 1))[:, None]
    return count > 0


def as_tensor(values: npt.NDArray[Any]) -> Tensor:
    """Share an array with a tensor; a read-only array is copied, since tensors have no such notion."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())
