"""Where words go: results to stdout, progress and log to stderr."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
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
    with Progress(*columns, console=status, transient=True, disable=not status.is_terminal) as progress:
        yield ProgressBar(progress, progress.add_task(label, total=total, extra=fields))


class ProgressBar:
    """Handle of one bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._pace = Pace()

    def advance(self, steps: int = 1, extra: str | None = None) -> None:
        """Move the bar on and, when given, renew the words beside it."""
        if extra is None:
            self._progress.advance(self._task, steps)
        else:
            self._progress.update(self._task, advance=steps, extra=extra)
        if self._progress.disable and self._pace.due():
            self._print_line()

    def _print_line(self) -> None:
        task = next(task for task in self._progress.tasks if task.id == self._task)
        done, total = int(task.completed), int(task.total or 0)
        words = [f"{task.description} {done}/{total}", task.fields["extra"]]
        if done:
            seconds = time.monotonic() - self._pace.begun
            words.append(f"about {clock((total - done) * seconds / done)} left")
        status.print(" · ".join(word for word in words if word), soft_wrap=True, markup=False, highlight=False)
