"""`mer demo`: the whole way on synthetic clips, without data and without downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[Path, typer.Option(help="Folder that gets cache/demo.h5 and runs/demo.")] = Path(),
    seeds: Annotated[int, typer.Option(min=1, help="Runs to train, each from another seed.")] = 3,
    clips: Annotated[int, typer.Option(min=16, help="Clips to synthesise.")] = 144,
) -> None:
    """Synthesise talking clips, extract features, train DRKF, write a report; no data and no download needed.

    The clips are made here and the encoders are tiny and untrained, so the scores say that everything works and nothing
    about emotion. Takes one to two minutes on two cores.
    """
    from mer.pipeline.commands.extract import print_summary
    from mer.pipeline.console import results, set_up_logging
    from mer.pipeline.extract import extract
    from mer.pipeline.options import Execution, ExtractOptions
    from mer.pipeline.presets import chosen_encoders
    from mer.pipeline.report import write_report
    from mer.pipeline.settings import TrainOptions
    from mer.pipeline.summary import print_run
    from mer.pipeline.train import train

    set_up_logging()
    cache, run = folder / "cache" / "demo.h5", folder / "runs" / "demo"
    options = ExtractOptions(
        "demo", out=cache, preset="demo", encoders=chosen_encoders("demo"), corpus_options={"clips": clips}
    )
    results.rule("1 · extract")
    print_summary(extract(options, Execution(device="cpu")))
    results.rule("2 · train")
    outcome = train(TrainOptions(features=cache, head="drkf", seeds=seeds, out=run, overwrite=True))
    print_run(outcome)
    results.rule("3 · report")
    page = write_report([run], run / "report.html")
    results.print(f"features  {cache}\nrun       {run}\nreport    {page}", soft_wrap=True)
    results.print("next      mer extract --corpus folder --root YOUR-CLIPS   (see mer extract --help)", soft_wrap=True)
