"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int | None], None]
"""Called with bytes so far, and bytes in all where these are known."""


def tally(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Return a function that takes the bytes of one step and passes on those of all steps so far."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return add
