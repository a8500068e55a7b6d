"""Ctrl-C and SIGTERM: the first one stops the work, the second one leaves at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""Exit code of a command that was stopped by hand, as shells have it."""
TERMINATED = 143
"""Exit code of a command that was told to end by SIGTERM, as `kill`, SLURM and Kubernetes do."""
SHOW_CURSOR = b"\x1b[?25h"
"""Undoes what a progress bar that could not be taken down did to the terminal."""


def watch_ctrl_c() -> None:
    """Let a second Ctrl-C end this process at once: files appear whole or not at all, so nothing is half-written."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started us wants it ignored
        signal.signal(signal.SIGINT, _stop)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _stop)


_stopped_by: list[int] = []


def exit_code() -> int:
    """Exit code of a command that was stopped by a signal."""
    return TERMINATED if signal.SIGTERM in _stopped_by else INTERRUPTED


def _stop(number: int, _: object) -> None:
    _stopped_by.append(number)
    signal.signal(number, _leave)
    raise KeyboardInterrupt


def _leave(number: int, _: object) -> None:
    _stopped_by.append(number)
    import multiprocessing

    for child in multiprocessing.active_children():
        child.kill()
    os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + b"mer: left at once; run the same command again to go on\n")
    os._exit(exit_code())


@contextmanager
def unheard() -> Iterator[None]:
    """Start threads and processes that Ctrl-C does not reach: it is for their parent, which ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # starting it for the first process would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
