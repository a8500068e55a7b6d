"""`mer bench`: what this machine does per second, beside the usual loops and the limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mer.pipeline.rates.cache import StoreRates
    from mer.pipeline.rates.extraction import Rates
    from mer.pipeline.rates.training import EpochRates

PARTS = ("extraction", "cache", "training")
HEADS = ("concat", "drkf", "fdrl")
RANDOM_CACHE = {"tiny": (60, 16), "base": (250, 768), "large": (250, 1024)}
"""Utterances and width of the random cache, by the size of the models."""
EXTRACTION = "Extraction"
TRAINING = "Cache and training"


def bench(
    part: Annotated[
        list[str] | None, typer.Option(help="extraction, cache or training. Repeatable. [default: all]")
    ] = None,
    size: Annotated[str, typer.Option(help="tiny, base or large models, with random weights.")] = "base",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    repeat: Annotated[int, typer.Option(min=1, help="Repetitions of everything.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    compare: Annotated[
        Path | None, typer.Option(help="JSON of an earlier run; exit with 1 where this one is slower beyond noise.")
    ] = None,
    corpus: Annotated[str, typer.Option(help="Corpus to measure on.", rich_help_panel=EXTRACTION)] = "demo",
    root: Annotated[Path | None, typer.Option(help="Its folder.", rich_help_panel=EXTRACTION)] = None,
    limit: Annotated[int, typer.Option(min=2, help="Number of clips.", rich_help_panel=EXTRACTION)] = 24,
    modality: Annotated[
        list[str] | None,
        typer.Option(help="text, audio or face. Repeatable. [default: all]", rich_help_panel=EXTRACTION),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(help="Cache or pack to read and train on. [default: a random one]", rich_help_panel=TRAINING),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(help="Head to train. Repeatable. [default: concat, drkf, fdrl]", rich_help_panel=TRAINING),
    ] = None,
) -> None:
    """Measure extraction, the cache and training (a) beside the usual loops (b) and the limits (c), in one run.

    Full-size models with random weights cost what trained ones cost. a/b says how much faster mer is than the usual
    loop, a/c which share of the limit is left after decoding, sorting, padding and writing.
    """
    import dataclasses
    import json
    import tempfile

    from mer.cache import MerError
    from mer.pipeline.rates.regressions import read_baseline, regressions
    from mer.pipeline.terminal.console import set_up_logging, status
    from mer.stages.device import resolve_device
    from mer.stages.interfaces import MODALITIES
    from mer.stages.registry import suggest

    set_up_logging()
    before = None if compare is None else read_baseline(compare)
    parts = part or PARTS
    for name in parts:
        if name not in PARTS:
            raise MerError(f"part {name!r} is not known; {suggest(name, list(PARTS))}")
    for name in modality or ():
        if name not in MODALITIES:
            raise MerError(f"modality {name!r} is not known; {suggest(name, list(MODALITIES))}")
    if size not in RANDOM_CACHE:
        raise MerError(f"size {size!r} is not known; {suggest(size, list(RANDOM_CACHE))}")
    used = resolve_device(device)
    found: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if "extraction" in parts:
            found["extraction"] = _extraction(
                corpus, root, limit, modality or MODALITIES, size, used, precision, repeat, scratch
            )
        if {"cache", "training"} & set(parts):
            found |= _on_cache(parts, features, size, head or HEADS, used, precision, repeat, scratch)
    shown = {part: [dataclasses.asdict(rate) | _ratios(rate) for rate in rates] for part, rates in found.items()}
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
    else:
        _print(found, size, used)
    slower = [] if before is None else regressions(shown, before)
    for line in slower:
        status.print(f"slower: {line}")
    if slower:
        raise typer.Exit(1)


def _print(found: Mapping[str, list[Any]], size: str, device: str) -> None:
    if "extraction" in found:
        print_rates(found["extraction"], size, device)
    if "cache" in found:
        print_store(found["cache"])
    if "training" in found:
        print_epochs(found["training"], device)


def _extraction(
    corpus: str, root: Path | None, limit: int, modalities: Sequence[str], size: str, device: str,
    precision: str, repeat: int, scratch: Path,
) -> list[Rates]:  # fmt: skip
    from mer.pipeline.extraction.options import ExtractOptions
    from mer.pipeline.rates.extraction import bench_modality
    from mer.pipeline.terminal.console import status
    from mer.stages.faces.finder import detector_at_hand

    rates = []
    for modality in modalities:
        status.print(f"measuring the extraction of {modality} …")
        clips = ExtractOptions(corpus, root=root, limit=limit, precision=precision, face_detector=detector_at_hand())
        rates.append(bench_modality(modality, clips, size, device, scratch / modality, repeat))
    return rates


def _on_cache(
    parts: Sequence[str], features: Path | None, size: str, heads: Sequence[str], device: str, precision: str,
    repeat: int, scratch: Path,
) -> dict[str, list[Any]]:  # fmt: skip
    from mer.pipeline.rates.cache import bench_store, random_cache
    from mer.pipeline.rates.training import bench_epoch
    from mer.pipeline.terminal.console import status
    from mer.pipeline.training.settings import build_options

    path = features or random_cache(scratch / "random.h5", *RANDOM_CACHE[size])
    found: dict[str, list[Any]] = {}
    if "cache" in parts:
        status.print("measuring the cache …")
        found["cache"] = [bench_store(path, scratch, repeat)]
    if "training" in parts:
        found["training"] = []
        for head in heads:
            status.print(f"measuring an epoch of {head} …")
            given = {"features": path, "head": head, "device": device, "seeds": 1, "train.precision": precision}
            found["training"].append(bench_epoch(build_options(given), scratch, repeat))
    return found


def _ratios(rate: Any) -> dict[str, float]:
    names = ("over_loop", "of_limit", "of_matrix_rate")
    return {name: getattr(rate, name) for name in names if hasattr(rate, name)}


def print_store(rates: Sequence[StoreRates]) -> None:
    """Print how fast the cache is read."""
    from mer.pipeline.terminal.console import results, table

    shown = table("the cache", "utterances", ">MB", ">GB/s", ">a/b", ">a/c", ">one utterance, µs", ">as .npy, µs")
    for rate in rates:
        shown.add_row(
            f"{rate.utterances:,}",
            f"{rate.value_bytes / 1e6:.1f}",
            f"{rate.value_bytes / rate.seconds['a'] / 1e9:.2f}",
            f"{rate.over_loop:.2f}",
            f"{rate.of_limit:.2f}",
            f"{rate.microseconds['a']:.0f}",
            f"{rate.microseconds['b']:.0f}",
        )
    results.print(shown)
    results.print("a: mer · b: one .npy file per utterance · c: the bare bytes; all from the page cache")


def print_epochs(rates: Sequence[EpochRates], device: str) -> None:
    """Print what an epoch of each head costs."""
    from mer.pipeline.terminal.console import results, table

    shown = table(f"one epoch on {device}", "head", ">utterances/s", ">a, s", ">b, s", ">c, s", ">a/b", ">a/c")
    for rate in rates:
        shown.add_row(
            rate.head,
            f"{rate.utterances / rate.seconds['a']:,.0f}",
            *(f"{rate.seconds[side]:.2f}" for side in "abc"),
            f"{rate.over_loop:.2f}",
            f"{rate.of_limit:.2f}",
        )
    results.print(shown)
    results.print("a: mer · b: pickle, DataLoader, padding in collate_fn · c: bare forward and backward passes")


def print_rates(rates: Sequence[Rates], size: str, device: str) -> None:
    """Print the ratios, and where the time of `mer extract` goes."""
    from mer.pipeline.terminal.console import results, table

    shown = table(
        f"extraction, {size} models on {device}",
        "modality", ">clips/s", ">media s/s", ">a/b", ">a/c", ">TFLOP/s", ">of matmul",
    )  # fmt: skip
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
