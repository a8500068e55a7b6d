"""`mer show-faces`: a contact sheet of the faces found in one clip and of the choice made among them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def show_faces(
    cache: Annotated[Path, typer.Argument(help="Cache whose face features are asked about.")],
    key: Annotated[str, typer.Argument(help="Id of the utterance, e.g. train/dia0_utt0.")],
    root: Annotated[
        Path | None,
        typer.Option(help="Corpus folder: a cache holds no pictures. [where the clips were extracted]"),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Picture to write: .png, .jpg or .webp.")] = Path(
        "contact-sheet.png"
    ),
    feature_set: Annotated[
        str | None, typer.Option("--set", help="Face feature set or encoder. [default: the newest]")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, max=400, help="Most frames to draw, evenly over the clip.")] = 24,
) -> None:
    """Draw the face tracks of one clip, the one that was followed, and why."""
    from mer.cache import FeatureStore
    from mer.pipeline.extraction.local_state import remembered_root
    from mer.pipeline.reporting.contact_sheet import check_picture_name, clip_to_show, draw, write_picture

    check_picture_name(out)
    store = FeatureStore.open(cache)
    clip = clip_to_show(store, key, (root or remembered_root(cache)).resolve(), feature_set, frames)
    write_picture(out, draw(clip))
    typer.echo(str(out))
