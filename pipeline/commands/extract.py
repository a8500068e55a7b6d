"""`mer extract`: raw media to features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mer.cache import SetIndex
    from mer.pipeline.extraction.options import ExtractOptions
    from mer.pipeline.extraction.publish import ExtractSummary
    from mer.pipeline.extraction.run import Prepared

WHAT = "What to extract"
HOW = "How to carry it out"


def extract(
    corpus: Annotated[
        str,
        typer.Option(
            help="A name (see `mer corpora`), a folder of your own such as ./my-clips, or module:Class.",
            rich_help_panel=WHAT,
        ),
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the raw corpus. [default: the one used last, $MER_DATA/NAME, ./data/RELEASE]",
            rich_help_panel=WHAT,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="demo, base, large or drkf: one encoder per modality. [default: base; demo for the demo corpus]",
            rich_help_panel=WHAT,
        ),
    ] = None,
    text_encoder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Known name, hub id, local folder, or none. Repeat for several.", rich_help_panel=WHAT
        ),
    ] = None,
    audio_encoder: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="As --text-encoder, for the sound.", rich_help_panel=WHAT)
    ] = None,
    face_encoder: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="As --text-encoder, for the face.", rich_help_panel=WHAT)
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYERS",
            help="last, -4: (mean of the last four), 6,9,12 (mean of these) or all (a stack that the head mixes). "
            "For one modality: audio=all. Repeatable.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Stored dtype: float16 or float32.", rich_help_panel=WHAT)] = "float16",
    precision: Annotated[
        str,
        typer.Option(help="auto (bfloat16 on a GPU, float32 elsewhere), float32 or bfloat16.", rich_help_panel=WHAT),
    ] = "auto",
    face_fps: Annotated[
        float, typer.Option(min=0.1, metavar="FPS", help="Face frames per second.", rich_help_panel=WHAT)
    ] = 5.0,
    face_policy: Annotated[
        str,
        typer.Option(
            help="Whose face: speaking (mouth moves with the sound, else the largest), largest or central.",
            rich_help_panel=WHAT,
        ),
    ] = "speaking",
    face_detector: Annotated[
        str, typer.Option(help="auto, yunet, cascade, or the path of a YuNet ONNX file.", rich_help_panel=WHAT)
    ] = "auto",
    channel: Annotated[
        str | None,
        typer.Option(
            help="Mono from many channels: center, mean or first. [default: the corpus' own]", rich_help_panel=WHAT
        ),
    ] = None,
    max_audio_seconds: Annotated[
        float | None,
        typer.Option(help="Encode longer sound in overlapping chunks.", rich_help_panel=WHAT),
    ] = None,
    encoder_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY.NAME=VALUE",
            help="Another option of the encoders, e.g. audio.window=30s (Whisper), text.pool=last, face.pool=mean.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Named label set of the corpus, e.g. 4 or 6 for IEMOCAP.", rich_help_panel=WHAT)
    ] = None,
    label_from: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Labels of clips without a manifest: folder, or a pattern of names such as *_{emotion}_{speaker}.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KNOWN=NAME", help="What the manifest calls a column, e.g. path=clip_name.", rich_help_panel=WHAT
        ),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of the manifest, e.g. cp1252. [default: utf-8]", rich_help_panel=WHAT)
    ] = None,
    corpus_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Another option of the corpus, e.g. turns=labelled.", rich_help_panel=WHAT
        ),
    ] = None,
    allow_count_mismatch: Annotated[
        bool,
        typer.Option(
            "--allow-count-mismatch",
            help="Go on when the class counts differ from the published ones.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    split: Annotated[str | None, typer.Option(help="Only this split.", rich_help_panel=WHAT)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N utterances.", rich_help_panel=WHAT)] = None,
    transcribe: Annotated[
        str | None,
        typer.Option(
            help="Whisper checkpoint that writes the missing transcripts (marked as machine-made).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            metavar="CODE", help="What is spoken, e.g. de, for --transcribe. [default: found out]", rich_help_panel=WHAT
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run Python code that a checkpoint brings along.", rich_help_panel=WHAT
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Catalogue to write, or to add to. [default: cache/CORPUS.h5]", rich_help_panel=HOW
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.", rich_help_panel=HOW)] = "auto",
    workers: Annotated[
        int, typer.Option(min=0, help="Processes on this machine; 0 works in this one.", rich_help_panel=HOW)
    ] = 0,
    scheduler: Annotated[
        str | None, typer.Option(help="A running Dask scheduler, e.g. tcp://host:8786.", rich_help_panel=HOW)
    ] = None,
    decode_threads: Annotated[
        int, typer.Option(min=0, help="Clips decoded at once; 0 chooses by the cores.", rich_help_panel=HOW)
    ] = 0,
    budget: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most tokens, samples or face crops in a batch. [default: found by itself]", rich_help_panel=HOW
        ),
    ] = None,
    clip_timeout: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Seconds after which decoding one clip is given up. [default: 120, and 30 more for each second of it]",
            rich_help_panel=HOW,
        ),
    ] = None,
    media_limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="Most that a clip may have; one with more is a failed utterance. Repeatable. Names and defaults: "
            "hours (4), gap_seconds (600), megapixels (64), channels (64), lowest_rate_hz (1000), "
            "highest_rate_hz (768000).",
            rich_help_panel=HOW,
        ),
    ] = None,
    isolation: Annotated[
        bool,
        typer.Option(
            "--isolation/--no-isolation",
            help="Decode in helper processes, so that a clip that crashes its decoder cannot end the run.",
            rich_help_panel=HOW,
        ),
    ] = True,
    keep_faces: Annotated[
        bool,
        typer.Option(
            "--keep-faces",
            help="Keep the face crops, so that another face encoder needs no decoding.",
            rich_help_panel=HOW,
        ),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try failed utterances again.", rich_help_panel=HOW)
    ] = False,
    max_failures: Annotated[
        int | None,
        typer.Option(min=0, help="Exit with 1 when more than so many utterances failed.", rich_help_panel=HOW),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Read what is there to the last byte; else only new or touched shards.", rich_help_panel=HOW
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.", rich_help_panel=HOW)] = False,
) -> None:
    """Encode a corpus with frozen encoders into cache/CORPUS.h5.

    Run it again at any time: finished work is found and only what is missing or has changed (an encoder, a transcript,
    a file, added clips) is encoded. Ctrl-C or a crash loses at most the shards in flight.
    """
    from mer.pipeline.extraction.presets import parse_corpus_options
    from mer.pipeline.extraction.run import extract as run
    from mer.pipeline.extraction.run import prepare
    from mer.pipeline.library.extraction import options_of
    from mer.pipeline.terminal.console import set_up_logging
    from mer.stages.media.limits import parse_limits

    set_up_logging()
    given = {
        "preset": preset,
        "text_encoder": text_encoder,
        "audio_encoder": audio_encoder,
        "face_encoder": face_encoder,
        "layers": layers,
        "dtype": dtype,
        "precision": precision,
        "face_fps": face_fps,
        "face_policy": face_policy,
        "face_detector": face_detector,
        "channel": channel,
        "max_audio_seconds": max_audio_seconds,
        "encoder_option": encoder_option,
        "labels": labels,
        "label_from": label_from,
        "column": column,
        "encoding": encoding,
        "allow_count_mismatch": allow_count_mismatch,
        "split": split,
        "limit": limit,
        "transcribe": transcribe,
        "language": language,
        "trust_remote_code": trust_remote_code,
        "out": out,
        "device": device,
        "workers": workers,
        "scheduler": scheduler,
        "decode_threads": decode_threads,
        "budget": budget,
        "keep_faces": keep_faces,
        "retry_failed": retry_failed,
        "max_failures": max_failures,
        "clip_timeout": clip_timeout,
        "isolation": isolation,
        "media_limits": parse_limits(media_limit or []),
        "check": check,
        "corpus_options": parse_corpus_options(corpus_option or []),
    }
    options, execution = options_of(corpus, root, given)
    if dry_run:
        _print_plan(prepare(options, execution, dry=True), options)
        return
    summary = run(options, execution)
    print_summary(summary)
    summary.check(max_failures)


def print_summary(summary: ExtractSummary) -> None:
    """Print the closing table: per feature set the fates, and where the list of failures is."""
    from mer.cache import Fate
    from mer.pipeline.terminal.console import results, table

    shown = table("", "feature set", ">ok", ">missing", ">failed", ">steps", ">bytes")
    for name, index in summary.made.items():
        counts = [str(int((index.fates == fate).sum())) for fate in (Fate.OK, Fate.MISSING, Fate.FAILED)]
        size = sum(info.bytes for info in index.shards)
        shown.add_row(name, *counts, f"{int(index.length.sum()):,}", f"{size:,}")
    results.print(shown)
    if summary.clips:
        seconds = max(1e-9, summary.wall_seconds)
        rate, hours = summary.clips / seconds, summary.media_seconds / seconds
        results.print(
            f"{summary.clips} utterances in {seconds:.1f} s: {rate:.1f} clips/s, {hours:.1f} hours of media per hour"
        )
    else:
        results.print("nothing to do: every utterance already has its features")
    for name, index in summary.made.items():
        _tell_what_is_absent(name, index)
    if summary.failures is not None:
        results.print(f"without features, and why: {summary.failures}", soft_wrap=True)
    if summary.media_notes:
        count, first = len(summary.media_notes), summary.media_notes[0]
        results.print(f"notes on media: {count}, kept with the features (first: {first})", soft_wrap=True)
    results.print(f"features: [bold]{summary.catalogue}[/bold]", soft_wrap=True)


def _tell_what_is_absent(name: str, index: SetIndex) -> None:
    """Warn of files that were not found, and of a set that came out empty."""
    from collections import Counter

    from mer.cache import Fate
    from mer.pipeline.terminal.console import status

    reasons = Counter(
        reason.partition(":")[0]
        for fate, reason in zip(index.fates, index.reasons, strict=True)
        if fate in (Fate.MISSING, Fate.FAILED)
    )
    absent, total = reasons["file not found"], len(index.fates)
    if absent:
        status.print(f"warning: {name}: {absent} of {total} files were not found; is --root right?", soft_wrap=True)
    elif reasons and not (index.fates == Fate.OK).any():
        reason, count = reasons.most_common(1)[0]
        status.print(f"warning: {name}: no utterance has features ({count} x {reason})", soft_wrap=True)


def _print_plan(prepared: Prepared, options: ExtractOptions) -> None:
    from mer.pipeline.terminal.console import results, sized, table

    plan = prepared.plan
    shown = table(f"plan for {options.catalogue}", "feature set", ">there", ">bytes there", ">to do", ">shards", ">dim")
    for made in plan.sets:
        to_do = sum(len(task.jobs) for task in plan.tasks if made in task.sets)
        shards = sum(made in task.sets for task in plan.tasks)
        there = (str(len(plan.jobs) - to_do), sized(plan.bytes_there[made.name]))
        shown.add_row(made.name, *there, str(to_do), str(shards), str(made.spec.dim))
    results.print(shown)
    results.print(f"{len(plan.jobs)} utterances, {plan.utterances_to_do} to work on; nothing was decoded")
    if prepared.listing.untranscribed:
        results.print(f"{len(prepared.listing.untranscribed)} clips would be transcribed first")
    results.print(f"media to read: {sized(prepared.media_bytes())}")
