"""`mer leaderboard`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def leaderboard(
    folder: Annotated[Path, typer.Argument(help="Folder below which runs lie.")] = Path("runs"),
    metric: Annotated[
        str, typer.Option(help="Metric to rank by; auto is the one the runs chose their epoch by.")
    ] = "auto",
    html: Annotated[Path | None, typer.Option(help="Also write the boards as a page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank all runs below a folder, a board for each corpus, target and protocol.

    Only runs that were tested on the same rows stand on one board. A rank is no test: `mer compare` is.
    """
    from mer.pipeline.reporting.comparison_page import write_leaderboard
    from mer.pipeline.results.leaderboard import leaderboard as rank
    from mer.pipeline.results.leaderboard import shown
    from mer.pipeline.scores.metrics import TITLES, show
    from mer.pipeline.terminal.console import results, set_up_logging, status, table

    set_up_logging()
    boards, left_out = rank(folder, metric)
    if html is not None:
        write_leaderboard(boards, left_out, html)
        status.print(f"page      {html}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        listed = [
            {"corpus": board.corpus, "target": board.target, "protocol": board.protocol, "metric": board.metric,
             "training_prior": board.prior, "runs": [entry.record() for entry in board.entries]}
            for board in boards
        ]  # fmt: skip
        typer.echo(json.dumps({"boards": listed, "left_out": left_out}, ensure_ascii=False))
        return
    for board in boards:
        made = table(board.title, ">rank", "run", f">{TITLES[board.metric]}", ">95 % interval", "what")
        for place, entry in enumerate(board.entries, start=1):
            made.add_row(str(place), entry.name, *shown(board.metric, entry), entry.what)
        if board.prior is not None:
            made.add_row("", "training prior alone", show(board.metric, board.prior), "", "")
        results.print(made)
        results.print()
    for line in left_out:
        status.print(f"left out: {line}", markup=False, highlight=False, soft_wrap=True)
