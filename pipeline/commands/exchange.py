"""`mer import` and `mer export`: the feature formats the field already shares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FORMATS = "mmsa, csd, merbench, dialoguernn, mmgcn, cosmic, emotion2vec, lhotse"


def import_features(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="File or folder to read.")],
    form: Annotated[str, typer.Option("--format", help=f"{FORMATS}, npz or csv.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Cache to write.")],
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=WHAT",
            help="Repeatable. npz, csv: a role and its array or column (id=name, label:emotion=y, audio=F0*). "
            "csd, merbench, lhotse: a file or folder and its modality (COVAREP=audio).",
        ),
    ] = None,
    modality: Annotated[str | None, typer.Option(help="emotion2vec: text, audio or face. [default: audio]")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
) -> None:
    """Read features of another tool into a cache.

    Nothing in a foreign pickle is executed: arrays and plain data are read, everything else is refused by name. Prints
    what was guessed or left out.
    """
    from mer.cache import FeatureStore
    from mer.cache.exchange import import_features as run
    from mer.pipeline.terminal.console import results, set_up_logging

    set_up_logging()
    told = run(form, source, out, mapping=_pairs(mapping), modality=modality, dtype=dtype)
    _tell(told)
    store = FeatureStore.open(out)
    shown = ", ".join(f"{name} ({int(index.ok.sum()):,})" for name, index in store.sets.items())
    results.print(f"{out}: {len(store.utterances):,} utterances; {shown}", soft_wrap=True, highlight=False)


def export_features(
    pack: Annotated[str, typer.Argument(metavar="FILE", help="Cache or pack, or its URL.")],
    form: Annotated[str, typer.Option("--format", help=f"{FORMATS}.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DST", help="File or folder to write.")],
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Feature set. Repeatable. [default: the newest of every modality]")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Target to write where the format has room for one.")] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="dialoguernn, mmgcn, cosmic: iemocap, meld, mmgcn-meld, cosmic-iemocap, cosmic-meld."),
    ] = None,
) -> None:
    """Write features in the format of another tool, and DST.mer.npz beside it with what that format cannot hold.

    Prints what is lost. An import that finds the .mer.npz restores everything.
    """
    from mer.cache.exchange import export_features as run
    from mer.pipeline.terminal.console import results, set_up_logging

    set_up_logging()
    _tell(run(form, pack, out, sets=sets or (), label=target, layout=layout))
    results.print(f"{out} (and {out.name}.mer.npz)", soft_wrap=True, highlight=False)


def _pairs(given: list[str] | None) -> dict[str, str]:
    from mer.cache import MerError

    pairs = [one.partition("=") for one in given or ()]
    for name, sign, what in pairs:
        if not (name and sign and what):
            raise MerError(f"--map {name}{sign}{what}: give it as NAME=WHAT")
    return {name: what for name, _, what in pairs}


def _tell(sentences: list[str]) -> None:
    from rich.markup import escape

    from mer.pipeline.terminal.console import status

    for sentence in sentences:
        status.print(f"note: {escape(sentence)}", soft_wrap=True, highlight=False)
