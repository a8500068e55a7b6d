"""`mer verify`: every checksum and every invariant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MOST_SHOWN = 40


def verify(
    file: Annotated[str, typer.Argument(help="Cache or pack: a path, or a URL that is read in place.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every problem.")] = False,
) -> None:
    """Check every checksum and every invariant of the format; name each damaged utterance; exit with 1 if any."""
    import json
    from dataclasses import asdict

    from mer.cache import FeatureStore, shards_beside, sweep_partials
    from mer.cache import verify as check
    from mer.pipeline.terminal.console import byte_bar, results, sized, status, table

    store = FeatureStore.open(file)
    with byte_bar("checking") as bar:
        problems = check(file, bar.put)
    if "://" not in file:
        for partial in sweep_partials(shards_beside(file)):
            status.print(f"removed {partial.name}, left behind by an interrupted write", soft_wrap=True)
    if as_json:
        typer.echo(json.dumps([asdict(problem) for problem in problems], indent=2, ensure_ascii=False))
    elif problems:
        shown = table("", "utterance", "feature set", "what is wrong")
        for problem in problems[:MOST_SHOWN]:
            shown.add_row(problem.key or "(all)", problem.set_name, problem.what)
        results.print(shown)
        if len(problems) > MOST_SHOWN:
            results.print(f"and {len(problems) - MOST_SHOWN:,} more; all of them with --json")
        for repair in dict.fromkeys(problem.repair for problem in problems):
            results.print(f"to repair: {repair}", soft_wrap=True)
    else:
        sequences = sum(int(made.ok.sum()) for made in store.sets.values())
        size = sized(sum(made.value_bytes() for made in store.sets.values()))
        results.print(
            f"{Path(file).name} is whole: {len(store.utterances):,} utterances, {len(store.sets)} feature sets, "
            f"{sequences:,} sequences, {size} of values",
            soft_wrap=True,
        )
    if problems:
        raise typer.Exit(1)
