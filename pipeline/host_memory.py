"""How the C library hands out the memory of batches on a CPU."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of mallopt(3)."""
LARGEST_KEPT_BYTES = 256 * 2**20
MOST_KEPT_BYTES = 2**31 - 1


def keep_freed_batches() -> None:
    """Let glibc reuse freed blocks of up to 256 MiB; elsewhere do nothing.

    By default it maps every block over 32 MiB anew and gives it back when freed, so that each page of each batch
    faults: in a light head on sequences that is half of an epoch (`docs/training.md`).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT_BYTES)
