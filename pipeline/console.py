"""Where words go: results to stdout, progress and log to stderr."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
)
from rich.table import Column

from .listing import Listing

FILE_WIDTH = 160
"""Columns of a file or pipe: wide enough that no table folds its words."""
WIDE = 100
"""A narrower terminal shows the words beside a progress bar and no bar."""
LINE_SECONDS = 60.0
"""Where stderr is no terminal, a line of progress this often at most."""


def width_of_results() -> int | None:
    """Columns to print results in; None leaves it to the terminal, or to COLUMNS where it is set."""
    return None if sys.stdout.isatty() or "COLUMNS" in os.environ else FILE_WIDTH


results = Console(soft_wrap=False, width=width_of_results())
"""Console of stdout."""

status = Console(stderr=True)
"""Console of stderr."""


class _Lines(logging.Handler):
    """Prints each record as one line above a running progress bar; a warning says that it is one."""

    def emit(self, record: logging.LogRecord) -> None:
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        status.print(f"{mark}{record.getMessage()}", soft_wrap=True, markup=False, highlight=False)


def set_up_logging(level: int = logging.INFO) -> None:
    """Send the log of `mer` to stderr."""
    logger = logging.getLogger("mer")
    if not logger.handlers:
        logger.addHandler(_Lines())
    logger.setLevel(level)


def table(title: str, *columns: str) -> Listing:
    """Return an empty table in the house style; a column whose name starts with `>` is right-aligned."""
    return Listing(title, columns)


class Pace:
    """Says when the next line of progress is due."""

    def __init__(self) -> None:
        self.begun = self._last = time.monotonic()

    def due(self) -> bool:
        """Whether a line is due; asking starts the next wait when it is."""
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return False
        self._last = now
        return True


def clock(seconds: float) -> str:
    """Seconds as people read them."""
    whole = round(seconds)
    return f"{whole} s" if whole < 90 else f"{whole // 60} min" if whole < 5400 else f"{whole / 3600:.1f} h"


def sized(count: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@contextmanager
def progress_bar(label: str, total: int, fields: str = "") -> Iterator[ProgressBar]:
    """Show a bar with count, time left and rate on stderr; a line a minute when stderr is no terminal."""
    with _progress() as progress:
        yield ProgressBar(progress, label, total, fields)


@contextmanager
def byte_bar(label: str) -> Iterator[ProgressBar]:
    """Show a bar as `progress_bar` does, that counts bytes; their number may be learnt later, or never."""
    with _progress() as progress:
        yield ProgressBar(progress, label, None, "", sized)


def _progress() -> Progress:
    # The words take what room there is: only their end, which matters least, is ever cut off.
    words = TextColumn("{task.fields[words]}", markup=False, table_column=Column(ratio=1, no_wrap=True))
    bar = [BarColumn()] if status.width >= WIDE else []
    return Progress(
        SpinnerColumn(), *bar, words, console=status, transient=True, expand=True, disable=not status.is_terminal
    )


class ProgressBar:
    """Handle of one bar."""

    def __init__(
        self, progress: Progress, label: str, total: int | None, extra: str, written: Callable[[int], str] = str
    ) -> None:
        self._progress = progress
        self._label = label
        self._done, self._total = 0, total
        self._extra = extra
        self._written = written
        self._pace = Pace()
        self._begun_at: int | None = None
        self._task = progress.add_task(label, total=total, words=self._words())

    def advance(self, steps: int = 1, extra: str | None = None) -> None:
        """Move the bar on and, when given, renew the words beside it."""
        self._extra = self._extra if extra is None else extra
        self._begun_at = 0
        self._move(self._done + steps, self._total)

    def put(self, done: int, total: int | None) -> None:
        """Put the bar where it is told to be; the first call may come from the middle of something resumed."""
        self._begun_at = done if self._begun_at is None else self._begun_at
        self._move(done, total)

    def _move(self, done: int, total: int | None) -> None:
        self._done, self._total = done, total
        self._progress.update(self._task, completed=done, total=total, words=self._words())
        if self._progress.disable and self._pace.due():
            status.print(self._words(), soft_wrap=True, markup=False, highlight=False)

    def _words(self) -> str:
        counted = "/".join(self._written(count) for count in (self._done, self._total) if count is not None)
        words = [f"{self._label} {counted}"]
        here = self._done - (self._begun_at or 0)
        if self._total is not None and here > 0:
            seconds = time.monotonic() - self._pace.begun
            words.append(f"about {clock((self._total - self._done) * seconds / here)} left")
        return " · ".join([*words, self._extra] if self._extra else words)
