"""Gaps of imported features: values that the source leaves empty, or gives as NaN or infinity.

They are stored as NaN in a set whose spec says so (`FeatureSpec.has_gaps`), and become the training mean when a head is
trained. A step without any value is not valid; an utterance without any valid step has no features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from ..sequence import FeatureSequence
from .pack import LazySequences, PackSet

COLUMNS_SHOWN = 12
MOSTLY = 0.5
"""Share of gaps above which a column is named as mostly gaps."""


def with_gaps(made: PackSet) -> tuple[PackSet, list[str]]:
    """Find the gaps of a set, and say where they are.

    Returns
    -------
    PackSet
        The same set where there are none; otherwise one that gives NaN for every gap.
    list of str
        What was found, counted per column.
    """
    missing: npt.NDArray[np.int64] = np.zeros(made.dim, np.int64)
    steps = touched = 0
    for row in range(len(made.sequences)):
        sequence = made.sequences[row]
        if sequence is None or sequence.values.shape[1] != made.dim:
            continue
        steps += int(sequence.valid.sum())
        broken = ~np.isfinite(sequence.values)
        if broken.any():
            missing += broken[sequence.valid].sum(0)
            touched += 1
    if not missing.any():
        return made, []
    lazy = LazySequences(len(made.sequences), partial(_gapped, made.sequences))
    return replace(made, sequences=lazy, gaps=True), _told(made, missing, steps, touched)


def _gapped(sequences: Sequence[FeatureSequence | None], row: int) -> FeatureSequence | None:
    sequence = sequences[row]
    if sequence is None:
        return None
    known = np.isfinite(sequence.values)
    valid = sequence.valid & known.any(1)
    if len(valid) and not valid.any():
        return None
    return replace(sequence, values=np.where(known, sequence.values, np.nan), valid=valid)


def _told(made: PackSet, missing: npt.NDArray[np.int64], steps: int, touched: int) -> list[str]:
    names = list(made.columns) if len(made.columns) == made.dim else [f"column {at}" for at in range(made.dim)]
    order = np.argsort(-missing, kind="stable")[: int((missing > 0).sum())]
    shown = [f"{names[at]} {missing[at]:,} ({missing[at] / steps:.0%})" for at in order[:COLUMNS_SHOWN]]
    more = len(order) - len(shown)
    told = [
        f"{made.slot or made.name}: {int(missing.sum()):,} of {steps * made.dim:,} values are empty, NaN or infinite, "
        f"in {touched:,} of {len(made.sequences):,} utterances; in training they take the training mean. "
        f"Per column: {', '.join(shown)}{f' and {more:,} more columns' if more > 0 else ''}"
    ]
    hollow = [names[at] for at in order if missing[at] > MOSTLY * steps]
    if hollow:
        listed = ", ".join(hollow[:COLUMNS_SHOWN]) + (" …" if len(hollow) > COLUMNS_SHOWN else "")
        told.append(f"mostly gaps: {listed}; look at the source, or leave them out")
    return told
