"""What of a lane is drawn, and where."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..results.timeline import Prediction

Floats = npt.NDArray[np.float64]


def blocks_of(rows: Sequence[Prediction]) -> list[list[Prediction]]:
    """Rows in blocks of neighbours; a lane is empty where its person was not seen or nothing was there to go by."""
    blocks: list[list[Prediction]] = []
    for row in rows:
        if not row.used:
            continue
        if blocks and row.start_seconds <= blocks[-1][-1].end_seconds + 1e-6:
            blocks[-1].append(row)
        else:
            blocks.append([row])
    return blocks


def points_of(block: Sequence[Prediction]) -> tuple[Floats, Floats]:
    """Seconds and outputs of a block: every window at its middle, the first from its start, the last to its end."""
    middles = [(row.start_seconds + row.end_seconds) / 2 for row in block]
    seconds = np.array([block[0].start_seconds, *middles, block[-1].end_seconds])
    return seconds, np.stack([row.output for row in (block[0], *block, block[-1])])
