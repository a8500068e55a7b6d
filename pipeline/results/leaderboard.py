"""`mer leaderboard`: every run below a folder, ranked among those that answer the same question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mer.cache import MerError

from ..scores.metrics import LOWER_IS_BETTER, NAMES, TITLES, show
from ..training.run_folder import Run
from .compare import protocol_of


@dataclass(frozen=True)
class Entry:
    """One run of a board."""

    run: Run
    name: str
    """Path below the folder."""
    value: float
    std: float | None
    low: float | None
    high: float | None

    @property
    def what(self) -> str:
        """Head, context, modalities and number of models in a few words."""
        facts = self.run.facts
        context = "" if facts["context"] == "none" else f" + {facts['context']}"
        encoders = ", ".join(spec.name for spec in self.run.specs.values())
        models = len(self.run.members)
        return f"{facts['head']}{context} on {encoders} ({models} model{'s' * (models > 1)})"

    def record(self) -> dict[str, Any]:
        """JSON-able facts."""
        return {"run": self.name, "what": self.what, "value": self.value, "std": self.std, "low": self.low,
                "high": self.high, "models": len(self.run.members)}  # fmt: skip


@dataclass(frozen=True)
class Board:
    """Runs of one corpus, target and protocol, the best first."""

    corpus: str
    target: str
    classes: tuple[str, ...]
    protocol: str
    metric: str
    prior: float | None
    """What the training prior alone reaches."""
    entries: Sequence[Entry]

    @property
    def title(self) -> str:
        """What the runs have in common."""
        return f"{self.corpus}: {self.target}, {self.protocol}, by {TITLES[self.metric]}"


def leaderboard(folder: Path, metric: str = "auto") -> tuple[list[Board], list[str]]:
    """Rank all finished runs below a folder.

    Runs share a board when they were tested on the same rows: the digest of corpus, target, classes and folds is one.

    Parameters
    ----------
    folder
        Searched with all its sub-folders.
    metric
        `auto` takes the metric by which most runs of a board chose their epoch.

    Returns
    -------
    The boards, and one line for every run that was left out.

    Raises
    ------
    MerError
        If there is no run, or no board has the metric.
    """
    if not folder.is_dir():
        raise MerError(f"{folder}: is no folder; name one that holds runs")
    grouped: dict[tuple[Any, ...], list[tuple[str, Run]]] = {}
    left_out = []
    files = sorted(folder.rglob("run.json"))
    for file in files:
        name = str(file.parent.relative_to(folder)) if file.parent != folder else folder.resolve().name
        try:
            run = Run.open(file.parent)
            if not run.facts["metrics"]:
                raise MerError("its test rows were not scored")
        except MerError as error:
            left_out.append(f"{name}: {error}")
            continue
        facts = run.facts
        key = (facts["corpus"], facts["target"], run.kind, run.classes, protocol_of(run), facts["protocol"]["digest"])
        grouped.setdefault(key, []).append((name, run))
    if not files:
        raise MerError(f"{folder}: holds no run; name a folder below which mer train wrote")
    boards = [board for key, runs in grouped.items() if (board := _board(key, runs, metric)) is not None]
    if grouped and not boards:
        known = sorted({name for names in NAMES.values() for name in names})
        raise MerError(f"metric {metric!r} is of none of these runs; use {', '.join(known)}")
    return sorted(boards, key=lambda board: board.title), left_out


def _board(key: tuple[Any, ...], runs: Sequence[tuple[str, Run]], metric: str) -> Board | None:
    votes = [str(run.facts["metric"]) for _, run in runs]
    chosen = max(dict.fromkeys(votes), key=votes.count) if metric == "auto" else metric
    found = [(name, run, run.facts["metrics"][chosen]) for name, run in runs if chosen in run.facts["metrics"]]
    scored = [(name, run, told) for name, run, told in found if told["mean"] is not None]
    if not scored:
        return None
    entries = [Entry(run, name, float(t["mean"]), t["std"], t["low"], t["high"]) for name, run, t in scored]
    entries.sort(key=lambda one: one.value, reverse=chosen not in LOWER_IS_BETTER)
    corpus, target, _, classes, protocol, _ = key
    if corpus == "folder":
        corpus = Path(str(scored[0][1].facts["features"]["path"])).name
    return Board(corpus, target, classes, protocol, chosen, _prior(scored[0][2]), entries)


def _prior(told: Mapping[str, Any]) -> float | None:
    return None if told.get("majority") is None else float(told["majority"])


def shown(metric: str, entry: Entry) -> tuple[str, str]:
    """Mean with spread, and interval, as people read them."""
    spread = "" if entry.std is None else f" ± {show(metric, entry.std)}"
    interval = "–" if entry.low is None or entry.high is None else (
        f"{show(metric, entry.low)} – {show(metric, entry.high)}"
    )  # fmt: skip
    return show(metric, entry.value) + spread, interval
