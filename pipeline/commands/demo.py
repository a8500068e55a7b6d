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
    from mer.pipeline.extraction.options import Execution, ExtractOptions
    from mer.pipeline.extraction.presets import chosen_encoders
    from mer.pipeline.extraction.run import extract
    from mer.pipeline.reporting.page import write_report
    from mer.pipeline.results.tables import print_run
    from mer.pipeline.terminal.console import results, set_up_logging, status
    from mer.pipeline.training.run import train
    from mer.pipeline.training.settings import Recipe, TrainOptions
    from mer.stages.faces.finder import detector_at_hand

    set_up_logging()
    cache, run = folder / "cache" / "demo.h5", folder / "runs" / "demo"
    options = ExtractOptions(
        "demo",
        out=cache,
        preset="demo",
        encoders=chosen_encoders("demo"),
        face_detector=detector_at_hand(),  # nothing is downloaded
        corpus_options={"clips": clips},
    )
    results.rule("1 · extract", align="left")
    print_summary(extract(options, Execution(device="cpu")))
    results.rule("2 · train DRKF", align="left")
    # Small enough for two slow cores: the clips are few, and the encoders narrow.
    recipe = Recipe(epochs=30, batch_size=16, lr=2e-3, patience=12, audio_steps=48)
    settings = {"dim": 48, "fusion_layers": 1}
    trained = train(
        TrainOptions(cache, seeds=seeds, recipe=recipe, head_settings=settings, device="cpu", out=run, overwrite=True),
        status,
    )
    print_run(trained.run, results)
    results.rule("3 · report", align="left")
    page = write_report([run], run / "report.html")
    for name, path in (("features", cache), ("run", run), ("report", page)):
        results.print(f"{name:<9} {path}", soft_wrap=True)
    results.print(f"look      open {page} in a browser; from Python: mer.open({str(cache)!r}).table()", soft_wrap=True)
    results.print(
        "next      mer extract --corpus ./YOUR-CLIPS --label-from folder   (or mer corpora get NAME)", soft_wrap=True
    )
