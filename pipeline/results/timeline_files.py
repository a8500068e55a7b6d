"""Time lines in the formats of other programs: tables, subtitles, ELAN, Praat."""

from __future__ import annotations

import csv
import mimetypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mer.cache import MerError, atomic_write
from mer.cache.release import install_line

from .timeline import Timeline, stretches
from .windows import subtitle_library

TABLE_FORMATS = ("csv", "parquet")
TEXT_TIER = "words"


def columns_of(timeline: Timeline) -> list[str]:
    """Names of the columns of a table, in order."""
    header = timeline.header
    names = list(header.classes) if header.kind != "real" else ["value"]
    modalities = list(dict.fromkeys(m for row in timeline.rows for m in (*row.used, *row.missing)))
    return [
        "video", "window", "start_seconds", "end_seconds", "person", "leads", "chosen_by", "prediction",
        *(f"p_{name}" if header.kind != "real" else name for name in names),
        *(f"std_{name}" for name in names),
        "agreement", *(f"has_{m}" for m in modalities),
        *(f"{m}_alone" for m in modalities if len(modalities) > 1), "text",
    ]  # fmt: skip


def table_rows(timeline: Timeline) -> Iterator[dict[str, Any]]:
    """One row per window and person, under the names of `columns_of`; what is not there is None."""
    header = timeline.header
    names = list(header.classes) if header.kind != "real" else ["value"]
    columns = columns_of(timeline)
    for row in timeline.rows:
        values: dict[str, Any] = {
            "video": header.video,
            "window": row.window,
            "start_seconds": row.start_seconds,
            "end_seconds": row.end_seconds,
            "person": row.person,
            "leads": row.leads,
            "chosen_by": row.why or None,
            "prediction": timeline.label(row),
            "agreement": None if row.agreement is None else round(row.agreement, 6),
            "text": row.text,
        }
        for name, share, spread in zip(names, row.output, row.spread, strict=True):
            values[f"p_{name}" if header.kind != "real" else name] = round(float(share), 6)
            values[f"std_{name}"] = round(float(spread), 6)
        for modality in (*row.used, *row.missing):
            values[f"has_{modality}"] = modality in row.used
        for modality, output in row.alone.items():
            best = float(output[0]) if header.kind == "real" else header.classes[int(output.argmax())]
            values[f"{modality}_alone"] = best
        yield {name: values.get(name) for name in columns}


def write_csv(timeline: Timeline, path: Path) -> None:
    """Write a table; an empty cell is a value that is not there."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns_of(timeline))
        table.writeheader()
        table.writerows(table_rows(timeline))


def write_parquet(timeline: Timeline, path: Path) -> None:
    """Write a table as Parquet.

    Raises
    ------
    MerError
        If pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MerError("Parquet needs the library pyarrow; pip install pyarrow, or choose csv") from error
    columns = columns_of(timeline)
    rows = list(table_rows(timeline))
    made = pa.table({name: [row[name] for row in rows] for name in columns})
    pq.write_table(made, path)


def write_subtitles(timeline: Timeline, path: Path) -> None:
    """Write stretches of one answer as subtitles, in the format of the suffix (.srt or .vtt)."""
    pysubs2 = subtitle_library()
    subtitles = pysubs2.SSAFile()
    people = timeline.people
    for person, stretch in _all_stretches(timeline):
        share = f" {100 * stretch.share:.0f} %" if stretch.share == stretch.share else ""
        who = f"{_lane(person)}: " if len(people) > 1 else ""
        line = pysubs2.SSAEvent(_milliseconds(stretch.start_seconds), _milliseconds(stretch.end_seconds))
        line.plaintext = f"{who}{stretch.label}{share}"
        subtitles.append(line)
    subtitles.sort()
    subtitles.save(str(path), format_=path.suffix.lstrip("."))


def write_elan(timeline: Timeline, path: Path, video: Path) -> None:
    """Write an ELAN file: one tier of answers per person, one of words, the video linked.

    Raises
    ------
    MerError
        If pympi is not installed.
    """
    pympi = _pympi()
    document = pympi.Eaf(author="mer")
    document.add_linked_file(str(video.resolve().as_uri()), _from(path, video), _mimetype(video))
    document.remove_tier("default")
    for person in timeline.people:
        tier = _lane(person)
        document.add_tier(tier, part=tier)
        for stretch in stretches(timeline, person):
            start, end = _milliseconds(stretch.start_seconds), _milliseconds(stretch.end_seconds)
            if end > start:
                document.add_annotation(tier, start, end, stretch.label)
    words = _words(timeline)
    if words:
        document.add_tier(TEXT_TIER)
        for start_seconds, end_seconds, text in words:
            document.add_annotation(TEXT_TIER, _milliseconds(start_seconds), _milliseconds(end_seconds), text)
    document.to_file(str(path))


def write_textgrid(timeline: Timeline, path: Path) -> None:
    """Write a Praat TextGrid: one interval tier of answers per person, one of words.

    Raises
    ------
    MerError
        If pympi is not installed.
    """
    grid = _pympi().TextGrid(xmin=0, xmax=timeline.seconds)
    for person in timeline.people:
        tier = grid.add_tier(_lane(person))
        for stretch in stretches(timeline, person):
            start, end = stretch.start_seconds, min(stretch.end_seconds, timeline.seconds)
            if end > start:
                tier.add_interval(start, end, stretch.label)
    words = _words(timeline)
    if words:
        tier = grid.add_tier(TEXT_TIER)
        for start_seconds, end_seconds, text in words:
            tier.add_interval(start_seconds, min(end_seconds, timeline.seconds), text)
    grid.to_file(str(path))


def write_format(timeline: Timeline, kind: str, path: Path, video: Path) -> None:
    """Write one file of a time line; it appears whole or not at all.

    Parameters
    ----------
    timeline
        What to write.
    kind
        One of `FORMATS`.
    path
        File to write.
    video
        Where the video lies; ELAN's file refers to it.

    Raises
    ------
    MerError
        If a library that the format needs is not installed, or the file cannot be written.
    """
    with atomic_write(path) as temporary:
        # Libraries go by the suffix, and some move away what is there already.
        aside = temporary.with_name(f"{temporary.name}{path.suffix}")
        try:
            FORMATS[kind](timeline, aside, video)
            aside.replace(temporary)
        finally:
            aside.unlink(missing_ok=True)


FORMATS: dict[str, Callable[[Timeline, Path, Path], None]] = {
    "csv": lambda timeline, path, _: write_csv(timeline, path),
    "parquet": lambda timeline, path, _: write_parquet(timeline, path),
    "srt": lambda timeline, path, _: write_subtitles(timeline, path),
    "vtt": lambda timeline, path, _: write_subtitles(timeline, path),
    "eaf": write_elan,
    "TextGrid": lambda timeline, path, _: write_textgrid(timeline, path),
}
"""Suffix to what writes it."""


def _all_stretches(timeline: Timeline) -> Iterator[tuple[int, Any]]:
    for person in timeline.people:
        for stretch in stretches(timeline, person):
            yield person, stretch


def _words(timeline: Timeline) -> list[tuple[float, float, str]]:
    """Words of windows that do not overlap; where they do, each window's words stand in its first part."""
    leading: dict[int, tuple[float, float, str]] = {}
    for row in timeline.rows:
        if row.leads and row.text:
            leading.setdefault(row.window, (row.start_seconds, row.end_seconds, row.text))
    ordered = sorted(leading.values())
    made = []
    for place, (start, end, text) in enumerate(ordered):
        stop = min(end, ordered[place + 1][0]) if place + 1 < len(ordered) else end
        if stop - start > 1e-3:
            made.append((start, stop, text))
    return made


def _lane(person: int) -> str:
    return f"person {person}" if person else "no face"


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _from(path: Path, video: Path) -> str:
    """Path of the video as ELAN writes a relative one."""
    return "./" + Path(os.path.relpath(video.resolve(), path.resolve().parent)).as_posix()


def _mimetype(video: Path) -> str:
    return mimetypes.guess_type(video.name)[0] or "video/mp4"


def _pympi() -> Any:
    try:
        import pympi
    except ImportError as error:
        raise MerError(f"ELAN and Praat files need the library pympi-ling; {install_line('timeline')}") from error
    return pympi
