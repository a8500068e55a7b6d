"""`mer predict`: what a run says of new clips, as wholes or over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mer.pipeline.results.predict import Answer, Asked
    from mer.pipeline.results.timeline import Timeline
    from mer.pipeline.training.run_folder import Run


def predict(
    run: Annotated[str, typer.Argument(help="Folder that mer train wrote, or the URL of a run that was pushed.")],
    clips: Annotated[
        list[Path] | None, typer.Argument(metavar="CLIP", help="Video or sound files, or folders of them.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="What is said in the clip; once per clip, in the order of the clips.")
    ] = None,
    text_file: Annotated[Path | None, typer.Option(help="File with what is said in the one clip.")] = None,
    texts: Annotated[Path | None, typer.Option(help="CSV table with the columns clip and text.")] = None,
    windows: Annotated[
        float | None, typer.Option(help="Predict over time: in windows of so many seconds, for every person.")
    ] = None,
    hop: Annotated[float, typer.Option(help="Seconds from one window to the next.")] = 1.0,
    by: Annotated[str | None, typer.Option(help="turns: over time, a window per line of --subtitles.")] = None,
    subtitles: Annotated[
        list[Path] | None,
        typer.Option(
            help="Words with their times (.srt, .vtt), once per video; or a folder with files of their names."
        ),
    ] = None,
    transcribe: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Over time: write down each window's words by a Whisper model.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Over time: folder for the files. Otherwise: CSV table to write.")
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Over time: csv, parquet, srt, vtt, eaf, textgrid, svg, png, html or all. [default: csv,html]",
        ),
    ] = None,
    text_encoder: Annotated[
        str | None, typer.Option(help="Where the run's text encoder lies now, when it was a folder of yours.")
    ] = None,
    audio_encoder: Annotated[str | None, typer.Option(help="As --text-encoder, for the sound.")] = None,
    face_encoder: Annotated[str | None, typer.Option(help="As --text-encoder, for the face.")] = None,
    face_detector: Annotated[
        Path | None, typer.Option(help="The face detector's file, when mer extract was given one.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Let a checkpoint run Python code of its own, and import a head that the run names as module:Class.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict new clips with the encoders, face finder and models of a run.

    What a clip does not have, such as words without --text, is masked. With several models (seeds, folds) the
    probabilities are averaged. A run with dialogue context takes the clips as turns of one dialogue. A clip that is not
    there or holds nothing to go by leaves the others their answers and makes the exit code 1.

    With --windows or --by turns each video is read once and every person in view gets a lane. What is done already in
    the folder --out is left as it is; an interrupted video goes on.
    """
    from mer.cache import MerError
    from mer.pipeline.results.clip_list import expand
    from mer.pipeline.results.shared_runs import open_run
    from mer.pipeline.terminal.console import byte_bar, set_up_logging

    set_up_logging()
    with byte_bar("fetching") as bar:
        opened = open_run(run, trust_remote_code=trust_remote_code, on_progress=bar.put)
    encoders = {"text": text_encoder, "audio": audio_encoder, "face": face_encoder}
    named = {modality: name for modality, name in encoders.items() if name}
    how: dict[str, Any] = {"encoders": named, "device": device, "trust_remote_code": trust_remote_code,
                           "face_detector": face_detector}  # fmt: skip
    listed = expand(clips or [])
    if windows is not None or by is not None:
        _check_over_time(windows, by, bool(text or text_file or texts), subtitles, transcribe, listed)
        _over_time(opened, listed, windows, hop, subtitles or [], transcribe, out, formats, how, as_json)
        return
    for option, given in (("--subtitles", subtitles), ("--transcribe", transcribe), ("--format", formats)):
        if given:
            raise MerError(f"{option} is for predictions over time; add --windows 4")
    _whole(opened, _asked(listed, text, text_file, texts), out, how, as_json)


def _check_over_time(
    windows: float | None,
    by: str | None,
    texts: bool,
    subtitles: Sequence[Path] | None,
    transcribe: str | None,
    clips: Sequence[Path],
) -> None:
    from mer.cache import MerError

    if by not in (None, "turns"):
        raise MerError(f"--by {by!r} is unknown; use --by turns with --subtitles FILE, or --windows 4")
    if by and windows is not None:
        raise MerError("--windows and --by turns are two ways to cut; give one of them")
    if by and not subtitles:
        raise MerError("--by turns takes the turns from a subtitle file; add --subtitles FILE, or use --windows 4")
    if texts:
        raise MerError("over time, words need times; give --subtitles FILE or --transcribe MODEL, not --text")
    if subtitles and transcribe:
        raise MerError("--subtitles and --transcribe both give the words; give one of them")
    if not clips:
        raise MerError("nothing to predict; name one or more videos")


def _asked(
    clips: Sequence[Path], text: Sequence[str] | None, text_file: Path | None, texts: Path | None
) -> list[Asked]:
    """Clips with their words, from whichever option gave them."""
    from mer.cache import MerError
    from mer.pipeline.results.clip_list import read_texts, words_of
    from mer.pipeline.results.predict import Asked

    if sum(bool(given) for given in (text, text_file, texts)) > 1:
        raise MerError("--text, --text-file and --texts all give the words; give one of them")
    words: list[str | None] = list(text or [])
    if text_file is not None:
        try:
            words = [text_file.read_text(encoding="utf-8-sig").strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise MerError(f"{text_file}: cannot be read ({error}); name a text file in UTF-8") from error
    if texts is not None and clips:
        words = words_of(clips, read_texts(texts), texts)
    if not clips and not words:
        raise MerError("nothing to predict; name one or more clips, or give --text")
    if words and clips and len(words) != len(clips):
        raise MerError(
            f"{len(clips)} clips and {len(words)} texts; give --text once per clip, --texts TABLE.csv, or no words"
        )
    count = max(len(clips), len(words))
    return [Asked(clips[i] if clips else None, words[i] if words else None) for i in range(count)]


def _whole(run: Run, asked: Sequence[Asked], out: Path | None, how: dict[str, Any], as_json: bool) -> None:
    import json

    from mer.cache import MerError
    from mer.pipeline.results.clip_list import predict_into_table
    from mer.pipeline.results.predict import predict_clips
    from mer.pipeline.results.record_timeline import run_digest
    from mer.pipeline.terminal.console import progress_bar, results

    if out is not None:
        if any(one.clip is None for one in asked):
            raise MerError("--out writes a table of clips; name clips, or leave it out")
        with progress_bar("predicting", len(asked), "clips") as bar:
            new, old, failed = predict_into_table(
                run, asked, out, run_digest(run), lambda some: predict_clips(run, some, **how), bar.advance
            )
        results.print(f"table     {out}: {new} clips predicted, {old} were there", highlight=False, soft_wrap=True)
        if failed:
            raise MerError(f"{failed} of {new} could not be used; the reasons stand in the column missing")
        return
    answers = predict_clips(run, asked, **how)
    if as_json:
        facts = {"run": str(run.path), "target": run.facts["target"], "kind": run.kind, "models": len(run.members)}
        typer.echo(json.dumps({**facts, "clips": [answer.record(run) for answer in answers]}, ensure_ascii=False))
    else:
        _print_answers(run, answers)
    failed = sum(answer.failed for answer in answers)
    if failed:
        raise MerError(f"{failed} of {len(answers)} could not be used; the reasons stand with their answers")


def _over_time(
    run: Run,
    videos: Sequence[Path],
    windows: float | None,
    hop: float,
    subtitles: Sequence[Path],
    transcribe: str | None,
    out: Path | None,
    formats: str | None,
    how: dict[str, Any],
    as_json: bool,
) -> None:
    import json

    from mer.cache import MerError
    from mer.pipeline.reporting.timeline_output import chosen_kinds, write_outputs
    from mer.pipeline.results.over_time import VideoPredictor
    from mer.pipeline.results.timeline import row_record
    from mer.pipeline.results.videos import WindowRequest, predict_video, subtitles_of
    from mer.pipeline.terminal.console import results, status

    kinds = chosen_kinds(formats)
    if formats is not None and out is None:
        raise MerError("--format says which files to write; add --out FOLDER")
    if len({video.stem for video in videos}) < len(videos) and out is not None:
        raise MerError("two videos have one name, so their files would too; predict them into two folders")
    said = subtitles_of(videos, subtitles)
    request = WindowRequest(windows, min(hop, windows) if windows else hop, transcribe)
    request.windows([] if windows is None else None)  # a length that is not possible is told before anything is loaded
    predictor = VideoPredictor(run, transcribe=transcribe, **how)
    failed = 0
    for video, words in zip(videos, said, strict=True):
        try:
            timeline, old = predict_video(run, predictor, video, request, words, out)
        except MerError as error:
            if len(videos) == 1:
                raise
            status.print(f"{error}", markup=False, highlight=False, soft_wrap=True)
            failed += 1
            continue
        if as_json:
            for row in timeline.rows:
                record = {"video": str(video), **row_record(timeline.header, row)}
                typer.echo(json.dumps(record, ensure_ascii=False))
        if out is not None:
            written = write_outputs(timeline, out, kinds, video)
            names = ", ".join(path.suffix.lstrip(".") for path in written)
            told = " (was there)" if old else ""
            line = f"{video.name:<24} {out / video.stem}.jsonl, {names}{told}"
            if not as_json:
                results.print(line, markup=False, highlight=False, soft_wrap=True)
        elif not as_json:
            _print_timeline(timeline)
    if failed:
        raise MerError(f"{failed} of {len(videos)} videos could not be used; the reasons stand above")


def _print_timeline(timeline: Timeline) -> None:
    from mer.pipeline.reporting.timeline_chart import clock_face
    from mer.pipeline.terminal.console import results, table

    made = table(timeline.header.video, "from", "to", "who", timeline.header.target, ">share", ">agreement", "used")
    for row in timeline.rows:
        share = "" if timeline.header.kind != "class" else f"{100 * float(row.output.max()):.1f}"
        agree = "" if row.agreement is None else f"{row.agreement:.2f}"
        made.add_row(
            clock_face(row.start_seconds), clock_face(row.end_seconds), row.person_name, timeline.label(row), share,
            agree, ", ".join(row.used) or "nothing: the training prior answers",
        )  # fmt: skip
    results.print(made)
    reasons = {m: why for row in timeline.rows for m, why in row.missing.items() if "taken to be" not in why}
    for modality, why in reasons.items():
        results.print(f"without {modality} in places: {why}", markup=False, highlight=False, soft_wrap=True)


def _print_answers(run: Run, answers: Sequence[Answer]) -> None:
    from mer.pipeline.terminal.console import results, table

    number = run.kind == "real"
    made = table("", "clip", *([">value"] if number else ["prediction", *(f">{name}" for name in run.classes)]), "used")
    names = [one.asked.clip.name if one.asked.clip else f"“{one.asked.text}”" for one in answers]
    for name, answer in zip(names, answers, strict=True):
        shown = [name]
        if number:
            shown.append(f"{answer.output[0]:.3f}")
        else:
            said = answer.prediction(run)
            shown.append(said if isinstance(said, str) else ", ".join(said) or "none")
            shown += [f"{100 * share:.1f}" for share in answer.output]
        made.add_row(*shown, ", ".join(answer.used) or "nothing: the training prior answers")
    results.print(made)
    for name, answer in zip(names, answers, strict=True):
        for modality, why in answer.missing.items():
            results.print(f"without {modality}: {name}: {why}", markup=False, highlight=False, soft_wrap=True)
