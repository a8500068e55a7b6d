"""`mer train --head a,b,c`: several heads and contexts on the same folds and seeds, ending in one table.

Every run gets the same options, and the same search before it when one is asked for. The runs are then compared with
the best baseline by `mer compare`'s paired permutation test, adjusted by Holm over the grid; the baseline is the one
that is best on validation, so that the test rows choose nothing.
"""

from __future__ import annotations

import csv
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mer.cache import MerError, atomic_write
from mer.stages.heads.catalog import config_of
from mer.stages.heads.configs import CONTEXTS, one_of

from ..results.compare import compare
from ..scores.metrics import LOWER_IS_BETTER
from ..training.run_folder import Run
from ..training.settings import FULL, parse_assignment, read_settings
from .runs import TrainedRun

OURS = ("drkf", "fdrl")
"""Heads that are not baselines."""


@dataclass(frozen=True)
class GridRow:
    """One run of a grid and how it compares with the best baseline."""

    name: str
    head: str
    context: str
    metric: str
    mean: float
    std: float | None
    low: float | None
    high: float | None
    """Ends of the 95 % interval over runs."""
    validation: float
    """Mean validation score of the chosen epochs, in the metric that picks them."""
    difference: float | None
    """Pooled score less that of the baseline; None for the baseline itself."""
    p_holm: float | None
    parameters: int
    seconds: float
    """Time the training took, with the search before it."""


def asked_grid(
    given: Mapping[str, Any], config: Path | None, assignments: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Heads and contexts that are named by the command, its settings file or assignments; later ones win."""
    flat: dict[str, Any] = {}
    for key, value in (read_settings(config) if config else {}).items():
        inside = {"head": "name", "context": "kind"}.get(key)
        flat[FULL.get(key, key)] = value.get(inside) if inside and isinstance(value, dict) else value
    for key, value in (*given.items(), *map(parse_assignment, assignments)):
        flat[FULL.get(key, key)] = value
    return _names(flat.get("head.name") or "drkf"), _names(flat.get("context.kind") or "none")


def _names(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else list(value)
    return tuple(dict.fromkeys(str(item).strip() for item in items if str(item).strip()))


def train_grid(
    train: Callable[[Mapping[str, Any]], TrainedRun],
    given: Mapping[str, Any],
    heads: Sequence[str],
    contexts: Sequence[str],
    out: Path,
    tell: Callable[[str], None] = lambda _: None,
) -> list[GridRow]:
    """Train every head with every context, and compare.

    What is finished is taken as it is, so that an interrupted grid goes on when it is started again.

    Parameters
    ----------
    train
        Trains one run, given its settings by dotted name.
    given
        Settings of all runs.
    out
        Folder of the run folders, of `grid.json` and of `grid.csv`.
    tell
        Called with the name of each run before it is trained.

    Raises
    ------
    MerError
        If a head or context is unknown, or a run cannot be trained.
    """
    for head in heads:
        config_of(head)
    for context in contexts:
        one_of("kind", context, CONTEXTS, section="context")
    if out.exists() and not out.is_dir():
        raise MerError(f"{out}: is a file; choose another --out for the runs of the grid")
    record = out / "grid.json"
    seconds: dict[str, float] = json.loads(record.read_text())["seconds"] if record.is_file() else {}
    runs: dict[str, Run] = {}
    for head, context in itertools.product(heads, contexts):
        name = head.rpartition(":")[2] + (f"-{context}" if context != "none" else "")
        tell(name)
        started = time.monotonic()
        try:
            asked = {**given, "head": head, "context": context, "out": str(out / name)}
            runs[name] = train(asked if given.get("overwrite") else {**asked, "reuse": True}).run
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started
            out.mkdir(parents=True, exist_ok=True)
            _write(record, {"seconds": seconds})
    rows = compared(runs, seconds)
    _write(record, {"seconds": seconds, "rows": [asdict(row) for row in rows]})
    with atomic_write(out / "grid.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    return rows


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def best_baseline(runs: Mapping[str, Run]) -> str:
    """Name of the run that is best on validation among those of baselines; among all where there are none."""
    first = next(iter(runs.values()))
    sign = -1 if first.facts["metric"] in LOWER_IS_BETTER else 1
    names = [name for name, run in runs.items() if run.facts["head"] not in OURS] or list(runs)
    return max(names, key=lambda name: sign * _validation(runs[name]))


def _validation(run: Run) -> float:
    return float(np.mean([member["best_score"] for member in run.members]))


def compared(runs: Mapping[str, Run], seconds: Mapping[str, float]) -> list[GridRow]:
    """Rows of the table, the best baseline first."""
    base = best_baseline(runs)
    order = [base, *(name for name in runs if name != base)]
    pairs = compare([runs[name].path for name in order]) if len(order) > 1 else []
    tests = dict(zip(order[1:], pairs, strict=True))
    metric = pairs[0].metric if pairs else runs[base].facts["metric"]
    rows = []
    for name in order:
        run, test = runs[name], tests.get(name)
        found = run.facts["metrics"][metric]
        rows.append(
            GridRow(
                name, run.facts["head"], run.facts["context"], metric, found["mean"], found["std"], found["low"],
                found["high"], _validation(run), test.difference if test else None, test.p_holm if test else None,
                run.facts["parameters"], seconds[name],
            )
        )  # fmt: skip
    return rows
