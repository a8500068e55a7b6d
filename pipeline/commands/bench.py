"""`mer bench`: what this machine does per second, beside the usual loop and the bare models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mer.pipeline.bench import Rates


def bench(
    corpus: Annotated[str, typer.Option(help="Corpus to measure on.")] = "demo",
    root: Annotated[Path | None, typer.Option(help="Its folder.")] = None,
    limit: Annotated[int, typer.Option(min=2, help="Number of clips.")] = 24,
    modality: Annotated[list[str] | None, typer.Option(help="text, audio, face. [default: all]")] = None,
    size: Annotated[str, typer.Option(help="tiny, base or large models, with random weights.")] = "base",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    repeat: Annotated[int, typer.Option(min=1, help="Repetitions; medians are shown.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure extraction beside the usual batch-1 loop and beside the models' bare forward passes.

    Full-size models with random weights cost what trained ones cost. a/b says how much faster mer is than the usual
    loop, a/c which share of the bare models' rate is left after decoding, sorting, padding and writing. The last
    column sets the models' arithmetic against a large matrix product on the same device and in the same precision.
    """
    import dataclasses
    import json
    import tempfile

    from mer.pipeline.bench import bench_modality
    from mer.pipeline.console import set_up_logging, status
    from mer.pipeline.options import ExtractOptions, resolve_device

    set_up_logging()
    used = resolve_device(device)
    rates: list[Rates] = []
    with tempfile.TemporaryDirectory() as scratch:
        for one in modality or ("text", "audio", "face"):
            status.print(f"measuring {one} …")
            clips = ExtractOptions(corpus, root=root, limit=limit, precision=precision)
            rates.append(bench_modality(one, clips, size, used, Path(scratch) / one, repeat))
    if as_json:
        ratios = [{n: getattr(rate, n) for n in ("over_loop", "of_limit", "of_matrix_rate")} for rate in rates]
        shown = [dataclasses.asdict(rate) | more for rate, more in zip(rates, ratios, strict=True)]
        typer.echo(json.dumps(shown, indent=2))
    else:
        print_rates(rates, size, used)


def print_rates(rates: Sequence[Rates], size: str, device: str) -> None:
    """Print the ratios, and where the time of `mer extract` goes."""
    from mer.pipeline.console import results, table

    shown = table(
        f"{size} models on {device}", "modality", ">clips/s", ">media s/s", ">a/b", ">a/c", ">TFLOP/s", ">of matmul"
    )
    for rate in rates:
        shown.add_row(
            rate.modality,
            f"{rate.clips / rate.extract_seconds:.1f}",
            f"{rate.media_seconds / rate.extract_seconds:.1f}" if rate.media_seconds else "-",
            f"{rate.over_loop:.2f}",
            f"{rate.of_limit:.2f}",
            f"{rate.operations / rate.extract_seconds / 1e12:.2g}",
            f"{100 * rate.of_matrix_rate:.0f} %",
        )
    results.print(shown)
    room = table("memory and output", "modality", ">host MiB", ">device MiB", ">MB written", ">a-b")
    for rate in rates:
        room.add_row(
            rate.modality,
            f"{rate.host_peak_mb:.0f}",
            f"{rate.device_peak_mb:.0f}",
            f"{rate.bytes_written / 1e6:.1f}",
            f"{rate.largest_difference:.1e}",
        )
    results.print(room)
    stages = table("thread seconds per stage", "modality", "stages")
    for rate in rates:
        spent = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in sorted(rate.stage_seconds.items()))
        stages.add_row(rate.modality, spent)
    results.print(stages)
    results.print("a: mer extract · b: one file at a time, all hidden states, .npy per clip · c: bare forward passes")
    results.print("a-b: largest difference of the features, relative; the cache rounds to float16")
    results.print("of matmul: a's share of the rate of one large matrix product, decoding and writing included")
