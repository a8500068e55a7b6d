"""Runs an extraction in a forked child again and again, killing it at random moments, until one run ends by itself.

Usage: python killing.py ROOT CATALOGUE KILLS SEED SECONDS_OF_A_RUN
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import transformers  # noqa: F401  (imported before the forks, so that a run spends its time on clips)

from mer.pipeline.extraction.options import Execution, ExtractOptions
from mer.pipeline.extraction.run import extract

ENCODERS = {"text": ("demo-text",), "audio": ("demo-audio",), "face": ("demo-face",)}


def run(root: Path, out: Path) -> None:
    """Extract in this process, small shards of work."""
    from mer.pipeline.extraction import plan

    plan.SHARD_CLIPS = 2
    torch.set_num_threads(1)
    options = ExtractOptions("folder", root=root, out=out, encoders=ENCODERS, face_detector="cascade")
    extract(options, Execution(device="cpu", decode_threads=1))


def fork(root: Path, out: Path) -> int:
    """Start `run` in a child and return its process id."""
    child = os.fork()
    if child == 0:
        try:
            run(root, out)
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return child


def main() -> None:
    """Kill and start again; print how many runs were killed while they worked."""
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    kills, seed, seconds = int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    moments = random.Random(seed)
    killed = 0
    for _ in range(kills):
        child = fork(root, out)
        time.sleep(moments.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    started = time.perf_counter()
    status = os.waitpid(fork(root, out), 0)[1]
    print(f"{killed} killed; last run: status {status}, {time.perf_counter() - started:.2f} seconds")
    sys.exit(1 if status else 0)


if __name__ == "__main__":
    main()
