"""`mer compare`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; each is compared with the first.")],
    metric: Annotated[str, typer.Option(help="Metric that is tested; auto is war, macro_f1 or mae.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Show runs side by side, with a paired test of significance."""
    from mer.pipeline.compare import compare as pairs_of
    from mer.pipeline.console import results
    from mer.pipeline.summary import print_comparison

    pairs = pairs_of(runs, metric)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(pair) for pair in pairs]))
        return
    print_comparison(runs, pairs, results)
