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
    without: Annotated[
        str | None, typer.Option(metavar="MODALITIES", help="Score without these modalities, e.g. text or audio,face.")
    ] = None,
    missing: Annotated[
        float, typer.Option(help="Take away each modality of each utterance with this probability, never all.")
    ] = 0.0,
    noise: Annotated[
        float, typer.Option(help="Put Gaussian noise of this deviation on the normalised features.")
    ] = 0.0,
    fill: Annotated[
        str, typer.Option(help="What stands in for a missing modality: absent (the head is told) or zeros.")
    ] = "absent",
    seed: Annotated[int, typer.Option(help="Seed of --missing and --noise.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Import a head that the run names as module:Class.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a saved run again: on its own features, on others from the same encoders, or with some taken away."""
    from mer.pipeline.results.disturbance import Disturbance
    from mer.pipeline.results.evaluate import evaluate as score_run
    from mer.pipeline.results.tables import print_scores
    from mer.pipeline.terminal.console import results, set_up_logging

    set_up_logging()
    names = tuple(name.strip() for name in without.split(",") if name.strip()) if without else ()
    found = score_run(run, features, device, Disturbance(names, missing, noise, seed, fill), trust_remote_code)
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
