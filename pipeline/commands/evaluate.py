"""`mer evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder that mer train wrote.")],
    features: Annotated[
        Path | None,
        typer.Option(
            "--features", "-f", help="Another cache or pack made by the same encoders. [default: the run's own]"
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a saved run again, on its own features or on others from the same encoders."""
    from mer.pipeline.results.evaluate import evaluate as score_run
    from mer.pipeline.results.tables import print_scores
    from mer.pipeline.terminal.console import results, set_up_logging

    set_up_logging()
    found = score_run(run, features, device)
    if as_json:
        typer.echo(json.dumps(found.record(), ensure_ascii=False))
        return
    for note in found.notes:
        results.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    print_scores(found.run, found.members, found.metrics, results)
    if found.same is not None:
        words = (
            "the recorded predictions came out again" if found.same else "these differ from the recorded predictions"
        )
        results.print(words, soft_wrap=True, highlight=False)
