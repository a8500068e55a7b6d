"""Reading the manifest of a folder corpus: CSV as spreadsheets save it, or JSON lines, as one table of known columns.

Taken for granted: cells between `,` `;` or tabs (whichever the header has most of), UTF-8 with or without a byte-order
mark, decimal commas where `,` is not what separates the cells, and the usual names of columns. What was taken for what
is told in one line.
"""

from __future__ import annotations

import difflib
import functools
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mer.cache import MerError

from ..registry import suggest
from .annotation import UTF8, Row, Table, read_text, table_of
from .media_files import MEDIA_SUFFIXES

NAMES = ("manifest.csv", "manifest.tsv", "manifest.jsonl")
DELIMITERS = (",", ";", "\t")
KNOWN_COLUMNS = (
    "id",
    "path",
    "text",
    "speaker",
    "dialogue",
    "turn",
    "split",
    "session",
    "start_seconds",
    "end_seconds",
)
USUAL = {
    known: tuple(words.split())
    for known, words in {
        "id": "utterance_id utt_id clip_id video_id sample_id uid key",
        "path": "file filename file_name filepath file_path clip video audio media wav"
        " video_path audio_path video_file audio_file",
        "text": "transcript transcription utterance sentence caption words",
        "speaker": "speaker_id speaker_name spk spk_id actor actor_id subject subject_id",
        "dialogue": "dialog dialogue_id dialog_id conversation conversation_id",
        "turn": "turn_id turn_index utterance_id",
        "split": "partition subset set",
        "session": "session_id",
        "start_seconds": "start start_time onset begin",
        "end_seconds": "end end_time stop",
        "emotion": "label labels emotion_label",
    }.items()
}
"""Known column to the other words for it; `emotion` is the usual target."""
CANDIDATE = 0.6
"""A column at least this similar to a missing one is proposed for it."""

log = logging.getLogger("mer")


def manifest_of(root: Path) -> Path | None:
    """Return the manifest of a folder, or None where it has none.

    Raises
    ------
    MerError
        If it has two.
    """
    there = [root / name for name in NAMES if (root / name).is_file()]
    if len(there) > 1:
        raise MerError(f"{root} has {' and '.join(path.name for path in there)}; keep one of them")
    return there[0] if there else None


def read_manifest(path: Path, encoding: str = "", columns: Mapping[str, str] | None = None) -> Table:
    """Read a manifest, its columns under their known names.

    Parameters
    ----------
    path
        `.csv`, `.tsv` or `.jsonl`.
    encoding
        Any of Python's, such as `cp1252`; empty for UTF-8.
    columns
        Known column to the name that the file has for it.

    Raises
    ------
    MerError
        If the file is not readable as a table, or `path` is missing; the message names the repair.
    """
    text = _text(path, encoding)
    table, told = _json_lines(path, text) if path.suffix == ".jsonl" else _separated(path, text)
    table, renamed = _renamed(table, columns or {})
    if told or renamed:
        _tell_once(path, "; ".join([*told, *renamed]))
    return table


@functools.cache
def _tell_once(path: Path, told: str) -> None:
    log.info("%s: %s", path, told)


def _text(path: Path, encoding: str) -> str:
    try:
        return read_text(path, (encoding,) if encoding else UTF8, wide=bool(encoding)).lstrip("\ufeff")
    except LookupError:
        raise MerError(f"encoding {encoding!r} is not known to Python; examples: cp1252, latin-1, utf-16") from None
    except MerError as error:
        if encoding or "UTF-" not in str(error):
            raise
        guess = "utf-16" if "UTF-16" in str(error) else "cp1252"
        raise MerError(f"{error}, or name its encoding, for instance --encoding {guess}") from error


def _separated(path: Path, text: str) -> tuple[Table, list[str]]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    announced = re.fullmatch(r'"?sep=(.)"?', first.strip("\r\n"))  # Excel's own line for it
    if announced:
        delimiter = announced[1]
        text = text.replace(first, "", 1)
    else:
        outside = re.sub(r'"[^"]*"', "", first)
        delimiter = max(DELIMITERS, key=lambda mark: (outside.count(mark), mark == ","))
    table = table_of(path, text, (), delimiter)
    told = [] if delimiter == "," else [f"cells are separated by {'tabs' if delimiter == chr(9) else repr(delimiter)}"]
    if delimiter != ",":
        table, changed = _with_points(table)
        told += [f"decimal commas in {', '.join(changed)}"] if changed else []
    return table, told


def _with_points(table: Table) -> tuple[Table, list[str]]:
    """Write `0,5` as `0.5` in columns that hold such numbers and no words."""
    number = re.compile(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?")
    changed = []
    for column in table.columns:
        cells = [row.text(column) for row in table]
        filled = [cell for cell in cells if not is_gap(cell)]
        if any("," in cell for cell in filled) and all(number.fullmatch(cell) for cell in filled):
            changed.append(column)
    if not changed:
        return table, []
    rows = [
        Row(row.path, row.line, {c: cell.replace(",", ".") if c in changed else cell for c, cell in row.cells.items()})
        for row in table
    ]
    return Table(table.path, table.columns, tuple(rows)), changed


def is_gap(cell: str) -> bool:
    """Whether a cell of a column of numbers says that there is none."""
    return cell.strip().casefold() in ("", "n/a", "na", "nan", "-", "?")


def _json_lines(path: Path, text: str) -> tuple[Table, list[str]]:
    found: list[tuple[int, dict[str, str]]] = []
    columns: dict[str, None] = {}
    for line, written in enumerate(text.splitlines(), 1):
        if not written.strip():
            continue
        try:
            entry = json.loads(written)
        except (ValueError, RecursionError) as error:
            raise MerError(f"{path} line {line}: is not valid JSON ({error})") from error
        if not isinstance(entry, dict):
            raise MerError(f"{path} line {line}: is no JSON object; write one object a line")
        cells = {name.strip(): _cell(path, line, name, value) for name, value in entry.items()}
        columns |= dict.fromkeys(cells)
        found.append((line, cells))
    if not found:
        raise MerError(f"{path}: has no rows")
    rows = [Row(path, line, {name: cells.get(name, "") for name in columns}) for line, cells in found]
    return Table(path, tuple(columns), tuple(rows)), []


def _cell(path: Path, line: int, name: str, value: Any) -> str:
    """Write a JSON value as a CSV cell has it: a list as classes between bars."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return f"{'|'.join(value)}|"
    if isinstance(value, (dict, list)):
        raise MerError(f"{path} line {line}: {name!r} holds another object; give text, a number or a list of classes")
    return value if isinstance(value, str) else json.dumps(value)


def _renamed(table: Table, wanted: Mapping[str, str]) -> tuple[Table, list[str]]:
    """Give the columns their known names: first those asked for, then the usual ones."""
    names = {column: column for column in table.columns}
    for known, column in wanted.items():
        if column not in names:
            raise MerError(f"{table.path} line 1: --column {known}={column}: {suggest(column, list(table.columns))}")
        names[column] = known
    taken = {_head(name) for name in names.values()}
    told = [f"{column!r} is read as {known}" for known, column in wanted.items() if known != column]
    for known, words in USUAL.items():
        if known in taken:
            continue
        fitting = [c for c in table.columns if names[c] == c and _plain(_head(c)) in (known, *words)]
        fitting = [c for c in fitting if ":" not in c or known == "emotion"]
        if known == "id":  # a number within its dialogue is no id
            fitting = [c for c in fitting if len({row.text(c) for row in table}) == len(table.rows)]
        if len(fitting) > 1:
            both = " and ".join(map(repr, fitting))
            raise MerError(
                f"{table.path} line 1: columns {both} may both be the {known}; choose: --column {known}={fitting[0]}"
            )
        for column in fitting:
            names[column] = known + column[len(_head(column)) :]
            told.append(f"{column!r} is read as {known}")
    twice = next((n for n in names.values() if list(names.values()).count(n) > 1), None)
    if twice is not None:
        both = " and ".join(repr(column) for column, name in names.items() if name == twice)
        raise MerError(f"{table.path} line 1: columns {both} are both {twice}; rename one")
    if "path" not in names.values():
        raise MerError(f"{table.path} line 1: {_without_path(table)}")
    rows = [Row(row.path, row.line, {names[name]: cell for name, cell in row.cells.items()}) for row in table]
    return Table(table.path, tuple(names.values()), tuple(rows)), told


def _head(column: str) -> str:
    """Name of a column without the kind of label after its colon."""
    return column.partition(":")[0].strip()


def _plain(name: str) -> str:
    return re.sub(r"[\s.-]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())).lower()


def _without_path(table: Table) -> str:
    """Say that no column names the clips, and which may be meant."""
    media = [c for c in table.columns if any(PurePosixPath(r.text(c)).suffix.lower() in MEDIA_SUFFIXES for r in table)]
    near = media or difflib.get_close_matches("path", table.columns, n=1, cutoff=CANDIDATE)
    advice = f"found {near[0]!r}: add --column path={near[0]}" if near else "add --column path=NAME"
    return f"column 'path' missing; {advice} (columns found: {', '.join(table.columns)})"
