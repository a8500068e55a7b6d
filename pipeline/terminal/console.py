"""Where words go: results to stdout, progress and log to stderr."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

FILE_WIDTH = 160
"""Columns of a file or pipe: wide enough that no table folds its words."""
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


def table(title: str, *columns: str) -> Table:
    """Return an empty table in the house style; a column whose name starts with `>` is right-aligned.

    A name that is too long for its column goes on in the next line: nothing is cut off, in a file neither.
    """
    made = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return made


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
    """Show a bar with count, rate and remaining time on stderr; a line a minute when stderr is no terminal."""
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[extra]}"),
        TimeRemainingColumn(),
    ]
    with _progress(columns) as progress:
        yield ProgressBar(progress, progress.add_task(label, total=total, extra=fields))


@contextmanager
def byte_bar(label: str, total: int | None = None) -> Iterator[ProgressBar]:
    """Show a bar as `progress_bar` does, that counts bytes; the total may become known later."""
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    ]
    with _progress(columns) as progress:
        yield ProgressBar(progress, progress.add_task(label, total=total, extra=""), sized)


def _progress(columns: Sequence[ProgressColumn]) -> Progress:
    return Progress(*columns, console=status, transient=True, disable=not status.is_terminal)


class ProgressBar:
    """Handle of one bar."""

    def __init__(self, progress: Progress, task: TaskID, written: Callable[[int], str] = str) -> None:
        self._progress = progress
        self._task = task
        self._pace = Pace()
        self._written = written
        self._begun_at: int | None = None

    def advance(self, steps: int = 1, extra: str | None = None) -> None:
        """Move the bar on and, when given, renew the words beside it."""
        if extra is None:
            self._progress.advance(self._task, steps)
        else:
            self._progress.update(self._task, advance=steps, extra=extra)
        self._moved(0)

    def put(self, done: int, total: int | None) -> None:
        """Put the bar where it is told to be; the first call may come from the middle of something resumed."""
        self._progress.update(self._task, completed=done, total=total)
        self._moved(done)

    def _moved(self, first: int) -> None:
        self._begun_at = first if self._begun_at is None else self._begun_at
        if self._progress.disable and self._pace.due():
            self._print_line(self._begun_at)

    def _print_line(self, begun_at: int) -> None:
        task = next(task for task in self._progress.tasks if task.id == self._task)
        done, total = int(task.completed), None if task.total is None else int(task.total)
        counted = "/".join(self._written(count) for count in (done, total) if count is not None)
        words = [f"{task.description} {counted}", task.fields["extra"]]
        if total is not None and done > begun_at:
            seconds = time.monotonic() - self._pace.begun
            words.append(f"about {clock((total - done) * seconds / (done - begun_at))} left")
        status.print(" · ".join(word for word in words if word), soft_wrap=True, markup=False, highlight=False)
