"""`mer predict`: what a run says of new clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mer.pipeline.results.predict import Answer
    from mer.pipeline.training.run_folder import Run


def predict(
    run: Annotated[Path, typer.Argument(help="Folder that mer train wrote.")],
    clips: Annotated[list[Path] | None, typer.Argument(metavar="CLIP", help="Video or sound files.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="What is said in the clip; once per clip, in the order of the clips.")
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
        bool, typer.Option("--trust-remote-code", help="Let a checkpoint run Python code of its own.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict new clips with the encoders, face finder and models of a run.

    What a clip does not have, such as words without --text, is masked. With several models (seeds, folds) the
    probabilities are averaged. A run with dialogue context takes the clips as turns of one dialogue. A clip that is not
    there or holds nothing to go by leaves the others their answers and makes the exit code 1.
    """
    import json

    from mer.cache import MerError
    from mer.pipeline.results.predict import Asked, predict_clips
    from mer.pipeline.terminal.console import set_up_logging
    from mer.pipeline.training.run_folder import Run

    set_up_logging()
    clips, words = clips or [], text or []
    if not clips and not words:
        raise MerError("nothing to predict; name one or more clips, or give --text")
    if words and clips and len(words) != len(clips):
        raise MerError(f"{len(clips)} clips and {len(words)} texts; give --text once per clip, or not at all")
    asked = [
        Asked(clips[i] if clips else None, words[i] if words else None) for i in range(max(len(clips), len(words)))
    ]
    encoders = {"text": text_encoder, "audio": audio_encoder, "face": face_encoder}
    named = {modality: name for modality, name in encoders.items() if name}
    opened = Run.open(run)
    answers = predict_clips(opened, asked, named, device, trust_remote_code, face_detector)
    if as_json:
        facts = {"run": str(run), "target": opened.facts["target"], "kind": opened.kind, "models": len(opened.members)}
        typer.echo(json.dumps({**facts, "clips": [answer.record(opened) for answer in answers]}, ensure_ascii=False))
    else:
        _print_answers(opened, answers)
    failed = sum(answer.failed for answer in answers)
    if failed:
        raise MerError(f"{failed} of {len(answers)} could not be used; the reasons stand with their answers")


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
