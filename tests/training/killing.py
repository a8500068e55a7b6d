"""Train in a process that kills itself, as a machine that loses power would."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

from mer.pipeline.training.settings import build_options


def run(given: dict[str, Any], kill_at_step: int, in_the_middle_of_saving: bool) -> None:
    """Train; die by SIGKILL before step `kill_at_step` of this process, or while its checkpoint is being written."""
    import torch

    from mer.pipeline.training import engine
    from mer.pipeline.training.run import train

    torch.set_num_threads(1)
    honest_step, honest_save = engine.Trainer.train_step, engine.Trainer.save
    steps = 0

    def step(self: engine.Trainer, *arguments: Any) -> None:
        nonlocal steps
        if steps == kill_at_step and not in_the_middle_of_saving:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1
        honest_step(self, *arguments)

    def save(self: engine.Trainer, path: Path) -> None:
        if steps >= kill_at_step and in_the_middle_of_saving:
            (path.parent / f".{path.name}.dead.partial").write_bytes(b"half of a file")
            os.kill(os.getpid(), signal.SIGKILL)
        honest_save(self, path)

    if kill_at_step >= 0:
        engine.Trainer.train_step, engine.Trainer.save = step, save  # type: ignore[method-assign]
    train(build_options(given))


def in_a_process(given: dict[str, Any], kill_at_step: int = -1, in_the_middle_of_saving: bool = False) -> int:
    """Run that in a fresh process and return its exit code; -9 when it was killed."""
    context = multiprocessing.get_context("forkserver")
    # The last one is what the first optimiser of a process imports.
    context.set_forkserver_preload(["mer.pipeline.training.run", "torch._dynamo"])
    process = context.Process(target=run, args=(given, kill_at_step, in_the_middle_of_saving))
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode
