"""Which utterances make up each batch: a pure function of seed, fold and epoch, so that a resumed run repeats it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

BUCKET_BATCHES = 16
"""Batches sorted by length together; larger means less padding and less mixing."""
ORDER_SEED = 7919


@dataclass(frozen=True)
class EpochShape:
    """Every epoch of every fold and seed of a run has this many batches of this many utterances."""

    steps: int
    size: int


def epoch_shape(training_sizes: Sequence[int], batch_size: int) -> EpochShape:
    """Choose a batch shape that all folds share, so that their runs can go side by side.

    The batch is at most `batch_size`; each epoch leaves out fewer rows than there are steps in the smallest fold, and
    the difference to it in larger folds, drawn anew every time.
    """
    smallest = min(training_sizes)
    steps = max(1, -(-smallest // batch_size))
    return EpochShape(steps, max(1, smallest // steps))


def epoch_batches(
    rows: Rows, cost: npt.NDArray[np.int64], shape: EpochShape, seed: int, fold: int, epoch: int
) -> npt.NDArray[np.int64]:
    """Rows of every batch of one epoch, shape (steps, size).

    Rows are shuffled, sorted by cost inside shuffled buckets and cut into batches. The batches of all seeds and folds
    of one epoch are ordered alike by length, so that runs trained side by side pad alike.

    Parameters
    ----------
    rows : array (n,)
        Training rows of the fold.
    cost : array (N,)
        Steps of every utterance of the corpus.
    shape : EpochShape
    seed, fold, epoch : int
    """
    rng = np.random.default_rng([seed, fold, epoch])
    drawn = rng.permutation(rows)[: shape.steps * shape.size]
    if np.ptp(cost[drawn]) == 0:
        return drawn.reshape(shape.steps, shape.size)
    bucket = BUCKET_BATCHES * shape.size
    parts = [drawn[start : start + bucket] for start in range(0, len(drawn), bucket)]
    ordered = np.concatenate([part[np.argsort(cost[part], kind="stable")] for part in parts])
    batches = ordered.reshape(shape.steps, shape.size)
    by_length = batches[np.argsort(cost[batches].max(1), kind="stable")]
    return by_length[np.random.default_rng([ORDER_SEED, epoch]).permutation(shape.steps)]


def in_order(rows: Rows, cost: npt.NDArray[np.int64], size: int) -> Iterator[Rows]:
    """Cut rows, longest first, into batches for scoring; each row comes once."""
    ordered = rows[np.argsort(-cost[rows], kind="stable")]
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


@dataclass(frozen=True)
class DialogueBatch:
    """Utterances of several dialogues and their place in the grid (dialogue, turn)."""

    rows: Rows
    """Shape (n,)."""
    dialogue: Rows
    """Shape (n,), index of the dialogue in the batch."""
    turn: Rows
    """Shape (n,), position in its dialogue or window."""
    shape: tuple[int, int]
    """Number of dialogues and the longest one's turns."""

    @classmethod
    def of(cls, dialogues: Sequence[Rows]) -> DialogueBatch:
        """Lay dialogues beside each other."""
        lengths = np.array([len(d) for d in dialogues])
        turn = np.concatenate([np.arange(n) for n in lengths])
        return cls(
            np.concatenate(dialogues),
            np.repeat(np.arange(len(dialogues)), lengths),
            turn,
            (len(dialogues), int(lengths.max())),
        )


def dialogues_of(rows: Rows, dialogue: Sequence[str], turn: npt.NDArray[np.int64], window: int) -> list[Rows]:
    """Group rows by dialogue in turn order; longer dialogues are cut into windows of at most `window` turns.

    A row without a dialogue stands alone. Rows of equal (or unknown) turn keep the order of the table.
    """
    groups: dict[str, list[int]] = {}
    for row in sorted(rows.tolist()):
        groups.setdefault(dialogue[row] or f"\0{row}", []).append(row)
    result = []
    for members in groups.values():
        array = np.array(members, dtype=np.int64)
        array = array[np.argsort(turn[array], kind="stable")]
        parts = -(-len(array) // window)
        result.extend(np.array_split(array, parts))
    return result


def dialogue_batches(dialogues: Sequence[Rows], size: int, seed: int, fold: int, epoch: int) -> list[DialogueBatch]:
    """Shuffle dialogues and fill each batch until it holds about `size` utterances."""
    order = np.random.default_rng([seed, fold, epoch]).permutation(len(dialogues))
    return list(fill(([dialogues[i] for i in order]), size))


def fill(dialogues: Sequence[Rows], size: int) -> Iterator[DialogueBatch]:
    """Put dialogues into batches in the order given; a batch never exceeds `size` unless one dialogue does."""
    waiting: list[Rows] = []
    held = 0
    for rows in dialogues:
        if waiting and held + len(rows) > size:
            yield DialogueBatch.of(waiting)
            waiting, held = [], 0
        waiting.append(rows)
        held += len(rows)
    if waiting:
        yield DialogueBatch.of(waiting)
