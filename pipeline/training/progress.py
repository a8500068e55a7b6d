"""What the user sees while heads train: losses, validation, rate and remaining time of each run; TensorBoard too."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mer.cache import MerError
from mer.cache.release import install_line

from ..scores.metrics import TITLES, better, show
from ..terminal.console import Pace, clock, table
from .shared import SeedRun

SHOWN_RUNS = 8
REFRESH_PER_SECOND = 4


class Silent:
    """A watch that says nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def begin(self, seed_runs: Sequence[SeedRun], epochs: int, steps: int) -> None:
        """Ignore."""

    def step(self, utterances: int) -> None:
        """Ignore."""

    def epoch(self, seed_runs: Sequence[SeedRun], entries: Sequence[Mapping[str, float]]) -> None:
        """Ignore."""


class LiveTable:
    """A live table on a terminal; elsewhere a line a minute."""

    def __init__(self, console: Console | None, metric: str, runs: int, board: Path | None) -> None:
        self.metric = metric
        self.runs = runs
        self.seen: set[str] = set()
        self.seed_runs: Sequence[SeedRun] = ()
        self.entries: Sequence[Mapping[str, float]] = ()
        self.best: dict[str, float] = {}
        self.epochs = self.steps = self.done_steps = self.utterances = 0
        self.started = time.monotonic()
        self.begun = self.started
        self.writer: Any = open_board(board) if board is not None else None
        self.console = console
        self.pace = Pace()
        terminal = console is not None and console.is_terminal
        self.live = Live(console=console, get_renderable=self.render, refresh_per_second=REFRESH_PER_SECOND,
                         transient=True) if terminal else None  # fmt: skip

    def __enter__(self) -> LiveTable:
        if self.live is not None:
            self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.__exit__(kind, error, trace)
        if self.writer is not None:
            self.writer.close()

    def begin(self, seed_runs: Sequence[SeedRun], epochs: int, steps: int) -> None:
        """Note which runs train now."""
        names = {m.name for m in seed_runs}
        if not names <= self.seen:
            self.begun, self.utterances, self.done_steps, self.entries = time.monotonic(), 0, 0, ()
        self.seen |= names
        self.seed_runs, self.epochs, self.steps = seed_runs, epochs, steps

    def step(self, utterances: int) -> None:
        """Count."""
        self.done_steps += 1
        self.utterances += utterances
        if self.console is not None and self.live is None and self.pace.due():
            self.console.print(self.headline(), soft_wrap=True, markup=False, highlight=False)

    def epoch(self, seed_runs: Sequence[SeedRun], entries: Sequence[Mapping[str, float]]) -> None:
        """Show the epoch's numbers."""
        self.seed_runs, self.entries = seed_runs, entries
        for seed_run, entry in zip(seed_runs, entries, strict=True):
            value = entry[f"val_{self.metric}"]
            if seed_run.name not in self.best or better(self.metric, value, self.best[seed_run.name]):
                self.best[seed_run.name] = value
            if self.writer is not None:
                for name, number in entry.items():
                    if name != "epoch":
                        self.writer.add_scalar(f"{seed_run.name}/{name}", number, int(entry["epoch"]))

    def headline(self) -> str:
        """Epochs done, pace and time left."""
        epoch = int(self.entries[0]["epoch"]) if self.entries else 0
        seconds = max(time.monotonic() - self.begun, 1e-6)
        left = (self.epochs * max(self.steps, 1) - self.done_steps) * seconds / max(self.done_steps, 1)
        return (
            f"epoch {epoch}/{self.epochs} · {self.utterances / seconds:,.0f} utterances/s · at most {clock(left)} left "
            f"for these runs · {len(self.seen)} of {self.runs} runs begun"
        )

    def render(self) -> Table:
        """Return the table as it stands."""
        terms = [
            name
            for name in (self.entries[0] if self.entries else {})
            if name != "epoch" and not name.startswith("val_")
        ]
        made = table(self.headline(), "run", *(f">{name}" for name in terms), f">val {TITLES[self.metric]}", ">best")
        for seed_run, entry in list(zip(self.seed_runs, self.entries, strict=False))[:SHOWN_RUNS]:
            losses = [f"{entry[name]:.3f}" for name in terms]
            best = self.best.get(seed_run.name, float("nan"))
            made.add_row(
                seed_run.name, *losses, show(self.metric, entry[f"val_{self.metric}"]), show(self.metric, best)
            )
        if len(self.seed_runs) > SHOWN_RUNS and self.entries:
            made.add_row(f"and {len(self.seed_runs) - SHOWN_RUNS} more")
        return made


def open_board(folder: Path) -> Any:
    """Open a TensorBoard writer.

    Raises
    ------
    MerError
        If the extra is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MerError(f"--tensorboard needs the package tensorboard: {install_line('tensorboard')}") from error
    return SummaryWriter(str(folder))
