"""The files of a time line, by their suffixes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mer.cache import MerError

from ..results.timeline import Timeline
from ..results.timeline_files import FORMATS, write_format
from .timeline_page import write_timeline_page, write_timeline_picture
from .timeline_plot import write_timeline_plot

PICTURES = ("svg", "png", "html")
KINDS = (*FORMATS, *PICTURES)
USUAL = ("csv", "html")
RECORD = "jsonl"
"""Is written in any case: what is done is read from it."""


def chosen_kinds(text: str | None) -> tuple[str, ...]:
    """Kinds of files from a comma-separated list; `all` is every one.

    Raises
    ------
    MerError
        If one is unknown.
    """
    if text is None:
        return USUAL
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    by_name = {kind.lower(): kind for kind in KINDS}
    if names == ["all"]:
        return KINDS
    for name in names:
        if name not in by_name and name != RECORD:
            raise MerError(f"--format {name!r} is unknown; use all or some of {', '.join((RECORD, *KINDS))}")
    return tuple(by_name[name] for name in names if name != RECORD)


def write_outputs(timeline: Timeline, folder: Path, kinds: Sequence[str], video: Path) -> list[Path]:
    """Write `VIDEO.KIND` for every kind into a folder; return the paths.

    Raises
    ------
    MerError
        If a library that a kind needs is not installed, or a file cannot be written.
    """
    written = []
    for kind in kinds:
        path = folder / f"{video.stem}.{kind}"
        if kind == "svg":
            write_timeline_picture(timeline, path)
        elif kind == "png":
            write_timeline_plot(timeline, path)
        elif kind == "html":
            write_timeline_page(timeline, path, video)
        else:
            write_format(timeline, kind, path, video)
        written.append(path)
    return written
