"""A folder of clips without a manifest, as the table that a manifest would have been.

Labels come from names: `folder` takes the folder that a clip lies in for its emotion; a pattern such as
`*-*-{emotion}-*-*-*-{speaker}` takes parts of the file name (with a `/` in it, of the path below the root). `*` and a
name in braces stand for any characters but `/`, as few as fit.
"""

from __future__ import annotations

import csv
import functools
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from mer.cache import MerError, atomic_write

from .annotation import Row, Table, corpus_root
from .manifest import KNOWN_COLUMNS, NAMES, manifest_of
from .media_files import MEDIA_SUFFIXES, media_below, transcript_beside

FOLDER = "folder"
FIELD = re.compile(r"\{([A-Za-z_]\w*(?::\w+)?)\}|(\*)")

Parts = Mapping[str, str]
"""Column to cell, read off one clip's path."""

log = logging.getLogger("mer")


def table_of_clips(root: Path, label_from: str = "", encoding: str = "", with_text: bool = True) -> Table:
    """List every media file below a folder, with its transcript and what its name says.

    Parameters
    ----------
    root
        The folder.
    label_from
        `folder`, a pattern, or empty for no labels.
    encoding
        Of the transcripts; empty for UTF-8.
    with_text
        Whether transcripts are read.

    Raises
    ------
    MerError
        If there are no media, the pattern names nothing, or it fits no clip.
    """
    paths = media_below(root)
    if not paths:
        suffixes = ", ".join(sorted(MEDIA_SUFFIXES))
        raise MerError(f"{root}: has no manifest.csv, and below it is no media file ({suffixes})")
    fields, read = reader_of(label_from)
    found = {path: read(path) for path in paths}
    if fields and not any(found.values()):
        what = "lies in a folder of its class" if label_from == FOLDER else f"fits --label-from {label_from!r}"
        raise MerError(f"{root}: none of {len(paths)} clips {what}; the first is {paths[0]}")
    rows = []
    for path in paths:
        text = transcript_beside(root / path, encoding) or "" if with_text else ""
        rows.append(Row(root / path, 0, {"path": path, "text": text, **dict.fromkeys(fields, ""), **found[path]}))
    if with_text:
        _tell_once(root, _summary(root, rows, fields, found, label_from))
    return Table(root, ("path", "text", *fields), tuple(rows))


def reader_of(label_from: str) -> tuple[tuple[str, ...], Callable[[str], Parts]]:
    """Return the columns that names give, and what reads them off a path; nothing where it does not fit.

    Raises
    ------
    MerError
        If the pattern names no column, one twice, or `path`.
    """
    if not label_from:
        return (), lambda path: {}
    if label_from == FOLDER:
        return ("emotion:class",), _of_folder
    fields: list[str] = []

    def group(match: re.Match[str]) -> str:
        if match[2]:
            return "[^/]*?"
        name = match[1]
        fields.append(name if ":" in name or name in KNOWN_COLUMNS else f"{name}:class")
        return f"(?P<f{len(fields) - 1}>[^/]+?)"

    pieces, end = [], 0
    for match in FIELD.finditer(label_from):
        pieces += [re.escape(label_from[end : match.start()]), group(match)]
        end = match.end()
    expression = re.compile("".join([*pieces, re.escape(label_from[end:])]))
    if not fields or len(set(fields)) < len(fields) or "path" in fields:
        raise MerError(
            f"--label-from {label_from!r} has to name columns in braces, each once and not path:"
            " for instance '{emotion}_*', '*-*-{emotion}-*-*-*-{speaker}', or the word folder"
        )
    whole = PurePosixPath(label_from).suffix.lower() in MEDIA_SUFFIXES

    def of_pattern(path: str) -> Parts:
        named = PurePosixPath(path if "/" in label_from else PurePosixPath(path).name)
        match = expression.fullmatch(str(named if whole else named.with_suffix("")))
        return {} if match is None else {name: match[f"f{at}"] for at, name in enumerate(fields)}

    return tuple(fields), of_pattern


def _of_folder(path: str) -> Parts:
    parent = PurePosixPath(path).parent.name
    return {"emotion:class": parent} if parent else {}


def _summary(root: Path, rows: list[Row], fields: tuple[str, ...], found: Mapping[str, Parts], label_from: str) -> str:
    """Say in one line what was found, and how to get labels where there are none."""
    spoken = sum(bool(row.text("text")) for row in rows)
    told = f"no manifest; {len(rows)} clips, {spoken} with a transcript"
    if not fields:
        told += f", no labels (--label-from folder or a pattern; or mer corpora init {root} writes a manifest to edit)"
    elif left := [path for path, parts in found.items() if not parts]:
        told += f"; {len(left)} names do not fit --label-from {label_from!r}, first {left[0]}: they have no label"
    lists = sorted(p.name for p in root.iterdir() if p.suffix.lower() in (".csv", ".tsv", ".jsonl", ".xlsx"))
    if lists:
        told += f"; {lists[0]} is not read: it would have to be called manifest.csv, .tsv or .jsonl"
    stems = Counter(PurePosixPath(path).with_suffix("") for path in found)
    if twins := [str(stem) for stem, count in stems.items() if count > 1]:
        told += f"; {len(twins)} names have several files ({twins[0]}.*), each of them is an utterance"
    return told


def write_manifest(root: Path, label_from: str = "", encoding: str = "") -> tuple[Path, int]:
    """Write the `manifest.csv` of a folder without one, to be edited.

    It has a byte-order mark, by which spreadsheet programs know UTF-8.

    Returns
    -------
    The file, and the number of its rows.

    Raises
    ------
    MerError
        If the folder has a manifest already, or as `table_of_clips`.
    """
    corpus_root(root)
    if (there := manifest_of(root)) is not None:
        raise MerError(f"{there} is there already; edit it, or move it away")
    table = table_of_clips(root, label_from, encoding)
    wanted = ("path", "text", "speaker", "split")
    named = {column: column.removesuffix(":class") for column in table.columns}
    columns = [*wanted, *(name for name in named if name not in wanted)]
    columns += [] if any(name.startswith("emotion") for name in columns) else ["emotion"]
    path = root / NAMES[0]
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([named.get(column, column) for column in columns])
        writer.writerows([row.cells.get(column, "") for column in columns] for row in table)
    return path, len(table.rows)


@functools.cache
def _tell_once(root: Path, told: str) -> None:
    log.info("%s: %s", root, told)
