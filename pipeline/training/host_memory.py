"""How the C library hands out the memory of batches on a CPU."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of mallopt(3)."""
USUAL_BYTES = 32 * 2**20, 64 * 2**20
"""Largest block that is kept, and most that is kept at the end of the heap, once glibc has adapted itself."""
KEPT_BYTES = 256 * 2**20, 2**31 - 1


def keep_freed_batches(kept: bool = True) -> None:
    """Let glibc reuse freed blocks of up to 256 MiB, or again of 32 MiB only; elsewhere do nothing.

    By itself it maps larger ones anew and gives them back when freed, so that each page of each batch faults: in a
    light head on sequences that is 40 % of an epoch (`docs/training.md`).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        for name, size in zip((M_MMAP_THRESHOLD, M_TRIM_THRESHOLD), KEPT_BYTES if kept else USUAL_BYTES, strict=True):
            mallopt(name, size)
