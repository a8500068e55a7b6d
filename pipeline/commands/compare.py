"""`mer compare`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders; each is compared with the first.")],
    metric: Annotated[str, typer.Option(help="Metric that is tested; auto is war, macro_f1 or mae.")] = "auto",
    html: Annotated[Path | None, typer.Option(help="Write the comparison as a page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Show runs side by side, with a paired test of significance."""
    from mer.pipeline.results.compare import compare as pairs_of
    from mer.pipeline.results.tables import print_comparison
    from mer.pipeline.terminal.console import results, status

    pairs = pairs_of(runs, metric)
    if html is not None:
        from mer.pipeline.reporting.comparison_page import write_comparison

        status.print(f"page      {write_comparison(runs, pairs, html)}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        listed = [{k: None if v != v else v for k, v in dataclasses.asdict(pair).items()} for pair in pairs]  # no NaN
        typer.echo(json.dumps(listed))
        return
    print_comparison(runs, pairs, results)
