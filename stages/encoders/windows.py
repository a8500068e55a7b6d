"""Cutting a long sequence into overlapping windows whose seams are trimmed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Window:
    """One stretch [start, stop) of a sequence, of which only [keep_start, keep_stop) is kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def cut_windows(total: int, longest: int, overlap: int) -> list[Window]:
    """Cover `total` steps by windows of at most `longest` steps, neighbours sharing at least `overlap` steps.

    A sequence that fits is one window. Otherwise all windows are `longest` steps and evenly spread, and a seam lies in
    the middle of what two neighbours share, so that every kept step has context on both sides. The kept stretches
    follow each other without gap or repetition.
    """
    if not 0 <= overlap < longest:
        raise ValueError(f"windows need 0 <= overlap < longest, got {overlap = }, {longest = }")
    if total <= longest:
        return [Window(0, total, 0, total)] if total > 0 else []
    stride = longest - overlap
    count = 1 + -(-(total - longest) // stride)
    starts = [index * (total - longest) // (count - 1) for index in range(count)]
    seams = [0, *((after + before + longest) // 2 for before, after in pairwise(starts)), total]
    return [
        Window(start, start + longest, keep_start, keep_stop)
        for start, (keep_start, keep_stop) in zip(starts, pairwise(seams), strict=True)
    ]
