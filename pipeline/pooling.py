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

from mer.cache import FeatureBlock

Rows = npt.NDArray[np.int64]

CHUNK_BYTES = 64 << 20
"""Size of the pieces in which features are read, examined and averaged."""


@dataclass(frozen=True)
class Ragged:
    """Steps of some utterances, one after the other."""

    values: npt.NDArray[np.floating[Any]]
    """Shape (ΣT, D)."""
    valid: npt.NDArray[np.bool_]
    """Shape (ΣT,)."""
    starts: Rows
    """Shape (n,): first row of each utterance."""
    lengths: Rows
    """Shape (n,): rows of each utterance; 0 where it has none that can be used."""


def kept_steps(lengths: Rows, most: int, window: int) -> Rows:
    """Steps left of so many, thinned to at most `most` (0 is no bound) and averaged `window` at a time."""
    kept = np.minimum(lengths, most) if most else lengths
    return np.asarray(-(-kept // window))


def pool_steps(block: FeatureBlock, lengths: Rows, most: int, window: int) -> Ragged:
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

    Returns
    -------
    Ragged
        Values in float32.
    """
    made = kept_steps(lengths, most, window)
    ends = np.cumsum(made)
    total = int(ends[-1]) if len(ends) else 0
    values = np.zeros((total, block.values.shape[1]), dtype=np.float32)
    valid = np.zeros(total, dtype=np.bool_)
    kept = kept_steps(lengths, most, 1)
    for rows in pieces(np.arange(len(kept)), kept * 4 * block.values.shape[1]):
        if not kept[rows].any():
            continue
        place = slice(int(ends[rows[0]] - made[rows[0]]), int(ends[rows[-1]]))
        values[place], valid[place] = _means(block, lengths, rows, most, window)
    return Ragged(values, valid, ends - made, made)


def pieces(rows: Rows, cost_bytes: Rows) -> Iterator[Rows]:
    """Split rows, each of so many bytes, into consecutive parts of about `CHUNK_BYTES`; nothing for no rows."""
    piece = np.cumsum(cost_bytes) // CHUNK_BYTES
    yield from np.split(rows, np.flatnonzero(np.diff(piece)) + 1) if len(rows) else []


def _means(
    block: FeatureBlock, lengths: Rows, rows: Rows, most: int, window: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    kept = kept_steps(lengths[rows], most, 1)
    step = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
    owner = np.repeat(rows, kept)
    index = np.asarray(block.offsets)[owner] + step * lengths[owner] // np.repeat(kept, kept)
    there = np.asarray(block.valid, dtype=np.bool_)[index]
    steps = block.values[index].astype(np.float32)
    steps[~there] = 0.0
    first = np.flatnonzero(step % window == 0)
    count = np.add.reduceat(there.astype(np.int64), first)
    sums = np.add.reduceat(steps, first, axis=0)
    sums /= np.maximum(count, 1)[:, None]
    return sums, count > 0
