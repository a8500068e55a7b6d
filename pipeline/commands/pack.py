"""`mer pack`: one self-contained file to share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9}
WHAT = "What goes in"
TERMS = "Terms and datasheet"
PRIVACY = "What is left out"


def pack(
    file: Annotated[str, typer.Argument(help="Cache that `mer extract` made, or another pack.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Pack to write, .h5.")],
    license_id: Annotated[
        str,
        typer.Option("--license", help="SPDX id of the features' licence, or LicenseRef-NAME.", rich_help_panel=TERMS),
    ],
    terms: Annotated[
        str, typer.Option(help="Conditions in words; needed with LicenseRef-NAME.", rich_help_panel=TERMS)
    ] = "",
    citation: Annotated[str, typer.Option(help="What to cite. [default: the corpus' own]", rich_help_panel=TERMS)] = "",
    contact: Annotated[str, typer.Option(help="Whom to ask.", rich_help_panel=TERMS)] = "",
    title: Annotated[str, typer.Option(help="Title of the pack.", rich_help_panel=TERMS)] = "",
    description: Annotated[str, typer.Option(help="What a reader should know.", rich_help_panel=TERMS)] = "",
    gap: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A known gap, beside those counted here. Repeatable.", rich_help_panel=TERMS),
    ] = None,
    right: Annotated[
        bool,
        typer.Option(
            "--i-have-the-right-to-share",
            help="Confirm that a gated corpus' terms let you share its features.",
            rich_help_panel=TERMS,
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Feature set, encoder or modality to keep. Repeatable.", rich_help_panel=WHAT),
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="Split to keep. Repeatable.", rich_help_panel=WHAT)] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float16 or float32. [default: as extracted]", rich_help_panel=WHAT)
    ] = None,
    compression: Annotated[
        str, typer.Option(help="none, or zstd (about 15 % smaller, slower to read).", rich_help_panel=WHAT)
    ] = "none",
    max_bytes: Annotated[
        str | None,
        typer.Option(help="Split into parts of this size, e.g. 2GB, with one catalogue.", rich_help_panel=WHAT),
    ] = None,
    strip_text: Annotated[
        bool | None,
        typer.Option(
            "--strip-text/--keep-text",
            help="Leave transcripts out. [default: as the corpus' terms demand]",
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    hash_ids: Annotated[
        str | None,
        typer.Option(
            metavar="SALT",
            help="Replace ids, speakers and dialogues by hashes with this secret; drop media paths.",
            rich_help_panel=PRIVACY,
        ),
    ] = None,
) -> None:
    """Make one self-contained file with licence and datasheet, checking every utterance on the way."""
    from mer.cache import FeatureStore, PackOptions, shards_beside
    from mer.cache import pack as write
    from mer.pipeline.terminal.console import byte_bar, results, sized, status

    options = PackOptions(
        license=license_id,
        terms=terms,
        citation=citation,
        contact=contact,
        title=title,
        description=description,
        gaps=tuple(gap or ()),
        sets=tuple(sets or ()),
        splits=tuple(split or ()),
        dtype=dtype,
        compression=compression,
        strip_text=strip_text,
        salt=hash_ids,
        may_share=right,
        max_bytes=None if max_bytes is None else parse_size(max_bytes),
    )
    store = FeatureStore.open(file)
    with byte_bar("packing") as bar:
        made = write(store, out, options, bar.put, overwrite)
    results.print(f"pack: {made[0]} ({sized(sum(path.stat().st_size for path in made))})", soft_wrap=True)
    if len(made) > 1:
        results.print(f"in {len(made) - 1} parts under {shards_beside(made[0])}", soft_wrap=True)
    sheet = FeatureStore.open(made[0]).catalogue.datasheet
    for sentence in (*sheet.get("changes", ()), *sheet.get("gaps", ())):
        status.print(f"noted: {sentence}", soft_wrap=True)
    for name in ("citation", "contact"):
        if not sheet.get(name):
            status.print(f"the pack names no {name}; add one with --{name}", soft_wrap=True)


def parse_size(text: str) -> int:
    """Read a size such as `2GB`, `500 MB` or `1000000`.

    Raises
    ------
    MerError
        If it is none.
    """
    import re

    from mer.cache import MerError

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in UNITS:
        raise MerError(f"size {text!r} is not understood; write it as 2GB or 500MB")
    return int(float(match[1]) * UNITS[match[2].lower()])
