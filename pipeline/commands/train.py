"""`mer train`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
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
        str | None,
        typer.Option(
            help="Head by name (mer heads lists them) or module:Attr; several (a,b,c) make a grid that ends in one "
            "table. [default: drkf]"
        ),
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
        typer.Option(
            help="Dialogue context over the utterances: none, bigru or transformer; several make a grid. "
            "[default: none]"
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs. [default: 60]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Utterances per batch. [default: 64]")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. [default: 3e-4, or the head's own]")] = None,
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
    from mer.pipeline.library.grid import asked_grid
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
    heads, contexts = asked_grid(known, config, settings or ())
    if len(heads) > 1 or len(contexts) > 1:
        _train_grid(known, heads, contexts, config, settings or (), sweep, as_json)
        return
    trained = train_with(known, config, settings or (), sweep, status, sys.argv)
    if as_json:
        typer.echo(json.dumps(trained.run.facts, ensure_ascii=False))
        return
    from mer.pipeline.results.tables import print_run

    print_run(trained.run, results)
    results.print(f"run: {trained.path}", highlight=False, soft_wrap=True)


def _train_grid(
    known: dict[str, Any],
    heads: Sequence[str],
    contexts: Sequence[str],
    config: Path | None,
    settings: Sequence[str],
    sweep: Path | None,
    as_json: bool,
) -> None:
    """Train a grid and print its table."""
    import dataclasses

    from mer.pipeline.library.grid import train_grid
    from mer.pipeline.library.runs import train_with
    from mer.pipeline.scores.metrics import show
    from mer.pipeline.terminal.console import results, status, table
    from mer.pipeline.training.settings import build_options

    options = build_options({**known, "head": heads[0], "context": contexts[0]}, config, _plain(settings))
    out = options.out or Path("runs") / f"{options.features.stem}-grid"
    rows = train_grid(
        lambda given: train_with(given, config, _plain(settings), sweep, status, sys.argv),
        known, heads, contexts, out, lambda name: status.print(name, highlight=False),
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(row) for row in rows], ensure_ascii=False))
        return
    made = table("", "run", f">{rows[0].metric}", ">95 %", ">difference", ">p (Holm)", ">parameters", ">seconds")
    for row in rows:
        mean, *ends = (
            show(row.metric, float("nan") if x is None else x) for x in (row.mean, row.std, row.low, row.high)
        )
        gap = "baseline" if row.difference is None else show(row.metric, row.difference)
        p = "" if row.p_holm is None else f"{row.p_holm:.3f}"
        interval = f"{ends[1]} to {ends[2]}"
        made.add_row(row.name, f"{mean} ± {ends[0]}", interval, gap, p, f"{row.parameters:,}", f"{row.seconds:.0f}")
    results.print(made)
    results.print(f"grid: {out}", highlight=False, soft_wrap=True)


def _plain(settings: Sequence[str]) -> list[str]:
    """Assignments without those that name heads and contexts."""
    taken = ("head", "head.name", "context", "context.kind")
    return [item for item in settings if item.partition("=")[0].strip() not in taken]
