"""Runs against each other, and every run of a folder, as pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mer.cache import atomic_write

from ..results.compare import Pair, verdict
from ..results.leaderboard import Board, shown
from ..scores.metrics import PLAIN_NUMBERS, TITLES, show
from .charts import Estimate, interval_chart
from .data import RunView, read_runs
from .html import Content, Html, el, table
from .page import document, header_notes, results_section


def write_comparison(runs: Sequence[Path], pairs: Sequence[Pair], out: Path) -> Path:
    """Write the page of a comparison (`mer compare RUN… --html`).

    Raises
    ------
    MerError
        If a run cannot be read, or the file cannot be written.
    """
    views = read_runs(runs)
    short = {str(path): view.name for path, view in zip(runs, views, strict=True)}
    body: list[Content] = [el("header", el("h1", f"{len(runs)} runs compared"), header_notes(views))]
    body += [results_section(views), el("h2", "Differences"), _pairs(pairs, short)]
    if views[0].run.kind != "real":
        body += [el("h2", "F1 by class"), el("div", _by_class(views), class_="card")]
    with atomic_write(out) as temporary:
        temporary.write_text(document("comparison · mer", body), encoding="utf-8")
    return out


def _pairs(pairs: Sequence[Pair], short: dict[str, str]) -> Html:
    rows: list[list[Content]] = []
    for pair in pairs:
        said = verdict(replace(pair, first=short[pair.first], second=short[pair.second]))
        wins = "–" if pair.only_first is None else f"{pair.only_first} / {pair.only_second}"
        note = [el("br"), el("small", pair.note)] if pair.note else None
        rows.append(
            [
                [f"{short[pair.second]} − {short[pair.first]}", el("br"), el("small", said), note],
                _change(pair), _p(pair.p), _p(pair.p_holm), f"{pair.groups:,} {pair.unit}", wins, _p(pair.p_mcnemar),
            ]
        )  # fmt: skip
    metric = TITLES[pairs[0].metric]
    head = ["pair", metric, "p", "p, Holm", "swapped", "only first / second right", "p, McNemar"]
    told = (
        "The permutation test swaps the two runs' answers for whole dialogues (utterances where there are none) at "
        "random and asks how often chance alone gives a difference this large. It speaks about these test utterances "
        "and these trained seeds. Folds are pooled, so that a difference need not be that of the means above."
    )
    return el("div", table(head, rows), el("p", told, class_="soft"), class_="card")


def _change(pair: Pair) -> str:
    if math.isnan(pair.difference):
        return "–"
    return f"{'−' if pair.difference < 0 else '+'}{show(pair.metric, abs(pair.difference))}"


def _p(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"


def _by_class(views: Sequence[RunView]) -> Html:
    each = [{row.name: row.f1 for row in view.by_class()} for view in views]
    rows: list[list[Content]] = []
    for name in each[0]:
        scores = [one.get(name, float("nan")) for one in each]
        best = np.nanmax(scores) if np.isfinite(scores).any() else float("nan")
        cells = [el("b", f"{100 * one:.1f}", class_="best") if one == best else f"{100 * one:.1f}" for one in scores]
        rows.append([name, *cells])
    return table(["class", *(view.name for view in views)], rows)


def write_leaderboard(boards: Sequence[Board], left_out: Sequence[str], out: Path) -> Path:
    """Write the page of a leaderboard.

    Raises
    ------
    MerError
        If the file cannot be written.
    """
    body: list[Content] = [el("header", el("h1", "Leaderboard"), el("p", _rules(), class_="soft"))]
    for board in boards:
        body += [el("h2", board.title), el("div", _board(board), class_="stack")]
    if left_out:
        body += [el("h2", "Left out"), el("div", el("ul", [el("li", line) for line in left_out]), class_="card")]
    with atomic_write(out) as temporary:
        temporary.write_text(document("leaderboard · mer", body), encoding="utf-8")
    return out


def _rules() -> str:
    return (
        "Runs share a board where they were tested on the same rows of one corpus. A rank says nothing about chance: "
        "intervals that overlap call for `mer compare`."
    )


def _board(board: Board) -> list[Html]:
    rows: list[list[Content]] = []
    scale = 1.0 if board.metric in PLAIN_NUMBERS else 100.0
    estimates = []
    for place, entry in enumerate(board.entries, start=1):
        value, interval = shown(board.metric, entry)
        rows.append([[entry.name, el("br"), el("small", entry.what)], str(place), el("b", value), interval])
        low, high = (float("nan") if end is None else scale * end for end in (entry.low, entry.high))
        single = [
            scale * member["test"][board.metric] for member in entry.run.members if board.metric in member["test"]
        ]
        estimates.append(Estimate(entry.name, single, scale * entry.value, low, high))
    if board.prior is not None:
        rows.append([el("small", "training prior alone"), "", show(board.metric, board.prior), ""])
    chart = interval_chart(estimates, None if board.prior is None else scale * board.prior, TITLES[board.metric])
    return [
        el("div", table(["run", "rank", TITLES[board.metric], "95 % interval"], rows), class_="card"),
        el("div", el("div", chart, class_="scroll"), class_="card"),
    ]
