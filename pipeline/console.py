"""Where words go: results to stdout, progress and log to stderr."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

results = Console(soft_wrap=False)
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


@contextmanager
def progress_bar(label: str, total: int, fields: str = "") -> Iterator[ProgressBar]:
    """Show a bar with count, rate and remaining time on stderr; nothing when stderr is no terminal."""
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

    def __init__(self, progress: Progress, task: object) -> None:
        self._progress = progress
        self._task = task

    def advance(self, steps: int = 1, extra: str | None = None) -> None:
        """Move the bar on and, when given, renew the words beside it."""
        if extra is None:
            self._progress.advance(self._task, steps)  # type: ignore[arg-type]
        else:
            self._progress.update(self._task, advance=steps, extra=extra)  # type: ignore[arg-type]
