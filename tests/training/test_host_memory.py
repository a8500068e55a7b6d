"""Memory of batches on a CPU: what was freed is handed out again without a fault of each page."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from mer.pipeline.training.host_memory import keep_freed_batches

if sys.argv[1] == "kept":
    keep_freed_batches()
for turn in range(20):
    np.ones(16 * 2**20, dtype=np.float32)  # 64 MiB, freed at once
    if turn == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_batches_do_not_fault_again() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("kept") < faults("not kept") / 10
