"""`mer import` and `mer export`: the feature formats the field already shares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mer.cache.exchange import Understood

FORMATS = "mmsa, csd, merbench, dialoguernn, mmgcn, cosmic, emotion2vec, lhotse, parquet"


def import_features(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="File or folder to read, or hf://datasets/ORG/NAME with Parquet files.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Cache to write.")] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help=f"{FORMATS}, arrays, csv or clips. [default: told from the content]"),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=WHAT",
            help="Repeatable. Arrays and tables: a role and its array or column (id=name, text=language, "
            "label:emotion=y, audio=F0*). Folders and files of one set each: its name and modality (COVAREP=audio).",
        ),
    ] = None,
    modality: Annotated[str | None, typer.Option(help="Of a source that holds one set: text, audio or face.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing: say what is recognised, as a command to copy.")
    ] = False,
) -> None:
    """Read features of another tool into a cache.

    Nothing in a foreign file is executed: arrays and plain data are read, everything else is refused by name. Prints
    what was guessed or left out. Empty cells, NaN and infinity are gaps: they are counted per column, and training puts
    the training mean in their place.
    """
    from mer.cache import FeatureStore, MerError
    from mer.cache.exchange import import_features as run
    from mer.cache.exchange import understand
    from mer.cache.exchange.hub_download import local_copy
    from mer.pipeline.terminal.console import results, set_up_logging

    set_up_logging()
    given = _pairs(mapping)
    with local_copy(source) as path:
        if dry_run:
            found = understand(form, path, mapping=given, modality=modality)
            _show(found, source, out, modality)
            return
        if out is None:
            raise MerError("say where the cache goes with -o FILE.h5, or look first with --dry-run")
        told = run(form, path, out, mapping=given, modality=modality, dtype=dtype)
    _tell(told)
    store = FeatureStore.open(out)
    shown = ", ".join(f"{name} ({int(index.ok.sum()):,})" for name, index in store.sets.items())
    results.print(f"{out}: {len(store.utterances):,} utterances; {shown}", soft_wrap=True, highlight=False)


def _show(found: Understood, source: str, out: Path | None, modality: str | None) -> None:
    """Print what was recognised, and the command that says so."""
    import shlex

    from mer.pipeline.terminal.console import results

    table = found.imported.utterances
    lines = [f"recognised as {found.form} ({found.about}): {len(table):,} utterances"]
    for made in found.imported.sets:
        there = sum(made.sequences[row] is not None for row in range(len(table)))
        lines.append(f"  {made.modality}: {made.slot or made.name}, {made.dim} dimensions, {there:,} utterances")
    for name, label in table.labels.items():
        kind = ", ".join(label.classes[:12]) if label.classes else "numbers"
        lines.append(f"  target {name}: {kind}, {int(label.labelled.sum()):,} labelled")
    splits = {name: table.split.count(name) for name in dict.fromkeys(table.split) if name}
    lines += [f"  splits: {', '.join(f'{name} {count:,}' for name, count in splits.items())}"] if splits else []
    words = ["mer", "import", source, "--format", found.form]
    words += [word for role, name in found.mapping.items() for word in ("--map", f"{role}={name}")]
    words += ["--modality", modality] if modality else []
    lines.append(shlex.join([*words, "-o", str(out or Path(source.rstrip("/")).stem + ".h5")]))
    results.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)
    _tell(found.imported.lost)


def export_features(
    pack: Annotated[str, typer.Argument(metavar="FILE", help="Cache or pack, or its URL.")],
    form: Annotated[str, typer.Option("--format", help=f"{FORMATS}, webdataset or mat.")],
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

    Prints what is lost. An import that finds the .mer.npz restores everything. `parquet` makes a folder for the Hub
    (`mer push FILE hf://datasets/ORG/NAME --parquet` uploads it), `webdataset` tar shards to stream; neither needs a
    .mer.npz.
    """
    from mer.cache.exchange import FORMATS as FORMAT_OF
    from mer.cache.exchange import export_features as run
    from mer.pipeline.terminal.console import results, set_up_logging

    set_up_logging()
    _tell(run(form, pack, out, sets=sets or (), label=target, layout=layout))
    beside = f" (and {out.name}.mer.npz)" if FORMAT_OF[form].sidecar else ""
    results.print(f"{out}{beside}", soft_wrap=True, highlight=False)


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
