"""`mer train`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def train(
    features: Annotated[
        str | None,
        typer.Option(
            "--features", "-f", help="Cache or pack to train on, or the URL of a pack. Needed here or in --config."
        ),
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Head by name (mer heads lists them) or module:Attr. [default: drkf]")
    ] = None,
    modalities: Annotated[
        str | None, typer.Option(help="Comma-separated, e.g. text,audio. [default: all the cache has]")
    ] = None,
    features_of: Annotated[
        list[str] | None,
        typer.Option(
            "--set-of", metavar="MODALITY=NAME", help="Feature set or encoder of a modality. [default: the newest]"
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Label column. [default: emotion, or the only one]")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="official, session-folds, speaker-folds, session5-test, emobox-folds or kfold. "
            "[default: the corpus' own]"
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Number of folds. [default: one per session or speaker; 5 for kfold]")
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="What kfold keeps together: auto, speaker, dialogue or none. [default: auto]")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds per fold. [default: 5]")] = None,
    context: Annotated[
        str | None,
        typer.Option(help="Dialogue context over the utterances: none, bigru or transformer. [default: none]"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs. [default: 60]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Utterances per batch. [default: 64]")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. [default: 3e-4]")] = None,
    select: Annotated[
        str | None,
        typer.Option(
            help="Validation metric that picks the epoch, e.g. uar. [default: wf1; macro_f1 for sets, mae for numbers]"
        ),
    ] = None,
    class_weights: Annotated[str | None, typer.Option(help="none, balanced or sqrt. [default: none]")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any setting: head.dim=256, train.patience=5, context.causal=true."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings from a TOML file; options given here win.")] = None,
    sweep: Annotated[Path | None, typer.Option(help="Tune on validation as this TOML file says, then train.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:1. [default: auto]")] = None,
    parallel: Annotated[
        str | None, typer.Option(help="Seeds and folds side by side: auto, stacked or sequential. [default: auto]")
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(help="Features held on the device at once; more are streamed. [default: 60 % of its memory]"),
    ] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Warn about leaks between splits, do not refuse.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard files.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder. [default: runs/CACHE-HEAD]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run's record as JSON.")] = False,
) -> None:
    """Train a head on cached features over seeds and folds, and score the test rows once.

    An interrupted run goes on when the same command is given again.
    """
    from mer.cache import MerError
    from mer.pipeline.library.runs import train_with
    from mer.pipeline.terminal.console import results, set_up_logging, status

    set_up_logging()
    given: dict[str, Any] = {
        "features": features, "head": head, "target": target, "protocol": protocol, "folds": folds, "seeds": seeds,
        "group_by": group_by, "context": context, "device": device, "parallel": parallel, "memory_gb": memory_gb,
        "out": out, "modalities": modalities or None, "train.epochs": epochs,
        "train.batch_size": batch_size, "train.lr": lr, "train.select": select, "train.class_weights": class_weights,
        "allow_leak": allow_leak or None, "tensorboard": tensorboard or None, "overwrite": overwrite or None,
        "sets": dict(item.partition("=")[::2] for item in features_of) if features_of else None,
    }  # fmt: skip
    if any("" in item.partition("=") for item in features_of or ()):
        raise MerError("--set-of wants MODALITY=NAME, e.g. --set-of audio=wav2vec2-base")
    known = {name: value for name, value in given.items() if value is not None}
    trained = train_with(known, config, settings or (), sweep, status, sys.argv)
    if as_json:
        typer.echo(json.dumps(trained.run.facts, ensure_ascii=False))
        return
    from mer.pipeline.results.tables import print_run

    print_run(trained.run, results)
    results.print(f"run: {trained.path}", highlight=False, soft_wrap=True)
