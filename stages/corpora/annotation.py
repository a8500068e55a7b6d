"""Reading annotation files: text with a known encoding, tables with line numbers, paths that stay inside the root.

Everything wrong with a file ends as one `MerError` line that names the file, the line and the repair.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from mer.cache import MerError

UTF8 = ("utf-8-sig",)
UTF8_OR_CP1252 = ("utf-8-sig", "cp1252")
MAX_CELL_CHARACTERS = 1_000_000

Value = TypeVar("Value")


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file that must exist and hold something."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MerError(f"{path}: file not found; is this the corpus root, and is the archive unpacked?") from error
    except OSError as error:
        raise MerError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not content.strip():
        raise MerError(f"{path}: file is empty; copy it again from the release")
    return content


def read_text(path: Path, encodings: Sequence[str] = UTF8, wide: bool = False) -> str:
    """Decode an annotation file with the first encoding that fits.

    A file that holds characters of UTF-8 beside a broken byte is refused, not read as cp1252: that would turn its
    quotes into mojibake without a word. `wide` lets encodings through that write zero bytes, such as UTF-16.
    """
    content = read_bytes(path)
    if b"\0" in content and not wide:
        raise MerError(f"{path}: is binary or UTF-16, not UTF-8 text; save it as UTF-8")
    broken = 0
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            broken = broken or content.count(b"\n", 0, error.start) + 1
            continue
        except UnicodeError:  # what the codecs of UTF-16 say of a file without their mark
            continue
        if broken and not content.decode("utf-8", "ignore").isascii():
            break
        return text
    named = encodings[0].upper().removesuffix("-SIG")
    raise MerError(f"{path} line {broken or 1}: is not {named} text; copy the file again or save it as UTF-8")


def read_json(path: Path) -> Any:
    """Parse a JSON file; repeated keys are refused because a parser would silently keep the last."""
    text = read_text(path)

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise MerError(f"{path}: the key {twice!r} appears twice in one object; remove one")
        return found

    try:
        return json.loads(text, object_pairs_hook=no_repeats)
    except (ValueError, RecursionError) as error:
        raise MerError(f"{path}: is not valid JSON ({error}); copy it again from the release") from error


@dataclass(frozen=True)
class Row:
    """One line of a table, with its place for messages."""

    path: Path
    line: int
    """From 1; 0 where the row was not read from a line of a file."""
    cells: Mapping[str, str]

    def error(self, message: str) -> MerError:
        """Build the error that names this row's file and line."""
        place = f" line {self.line}" if self.line else ""
        return MerError(f"{self.path}{place}: {message}")

    def text(self, column: str) -> str:
        """Return a cell without surrounding blanks; empty when the column is absent."""
        return self.cells.get(column, "").strip()

    def filled(self, column: str) -> str:
        """Return a cell that must not be empty."""
        cell = self.text(column)
        if not cell:
            raise self.error(f"{column} is empty")
        return cell

    def integer(self, column: str) -> int:
        """Return a cell as a whole number from 0."""
        cell = self.filled(column)
        if not re.fullmatch(r"[0-9]{1,9}", cell):
            raise self.error(f"{column} {cell!r} is not a whole number from 0")
        return int(cell)

    def real(self, column: str) -> float:
        """Return a cell as a finite number."""
        cell = self.filled(column)
        try:
            number = float(cell)
        except ValueError:
            raise self.error(f"{column} {cell!r} is not a number") from None
        if not math.isfinite(number):
            raise self.error(f"{column} {cell!r} is not a finite number")
        return number

    def one_of(self, column: str, choices: Collection[str], fold_case: bool = False) -> str:
        """Return a cell that must be one of the choices."""
        cell = self.filled(column)
        cell = cell.lower() if fold_case else cell
        if cell not in choices:
            raise self.error(f"{column} {cell!r} is unknown; known: {', '.join(sorted(choices))}")
        return cell

    def parse(self, column: str, read: Callable[[str], Value]) -> Value:
        """Return `read(cell)`, its `ValueError` told with this row's place."""
        cell = self.filled(column)
        try:
            return read(cell)
        except ValueError as error:
            raise self.error(f"{column} {cell!r} {error}") from None


@dataclass(frozen=True)
class Table:
    """A table whose rows all have the header's width."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def read_table(
    path: Path, required: Sequence[str], encodings: Sequence[str] = UTF8, delimiter: str = ",", row_ids: bool = False
) -> Table:
    """Read a CSV file with a header line.

    Parameters
    ----------
    path
        The file.
    required
        Columns that must be there.
    encodings
        Encodings to try, in order.
    delimiter
        Character between cells.
    row_ids
        Allow one unnamed first column, as pandas writes its index.

    Raises
    ------
    MerError
        If the file is missing, empty, of another encoding, lacks a column or a row has another width, an open
        quote included, which would otherwise swallow the rows after it.
    """
    return table_of(path, read_text(path, encodings), required, delimiter, row_ids)


def table_of(path: Path, text: str, required: Sequence[str], delimiter: str = ",", row_ids: bool = False) -> Table:
    """Read the text of a CSV file, as `read_table` does."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    lines: list[tuple[int, list[str]]] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise MerError(f"{path} line {line}: is not valid CSV ({error}); check the quotes") from error
        if cells is None:
            break
        if any(cell.strip() for cell in cells):
            lines.append((line, cells))
    if not lines:
        raise MerError(f"{path}: file is empty; copy it again from the release")
    lines = _without_empty_tail(lines)
    columns = _header(path, lines[0][1], required, row_ids)
    if len(lines) == 1:
        raise MerError(f"{path}: has a header and no rows")
    rows = []
    for line, cells in lines[1:]:
        if len(cells) != len(columns):
            raise MerError(f"{path} line {line}: has {len(cells)} cells where the header has {len(columns)}")
        rows.append(Row(path, line, dict(zip(columns, cells, strict=True))))
    return Table(path, columns, tuple(rows))


def _without_empty_tail(lines: Sequence[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """Drop the last columns where neither the header nor any row has something, as spreadsheets save them."""
    width = max(
        (at for _, cells in lines for at, cell in enumerate(cells, 1) if cell.strip()), default=len(lines[0][1])
    )
    width = max(width, len(lines[0][1]) if lines[0][1][-1].strip() else width)
    return [(line, cells[:width] if len(cells) > width else cells) for line, cells in lines]


def _header(path: Path, cells: Sequence[str], required: Sequence[str], row_ids: bool) -> tuple[str, ...]:
    columns = tuple(cell.strip() for cell in cells)
    odd = [name for name in columns if not name.isprintable()]
    if odd:
        raise MerError(f"{path} line 1: column {odd[0]!r} holds a control character; rename it")
    missing = [name for name in required if name not in columns]
    if missing:
        raise MerError(f"{path} line 1: column {', '.join(missing)} is missing; columns found: {', '.join(columns)}")
    if len(set(columns)) != len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise MerError(f"{path} line 1: column {twice!r} appears twice; rename one")
    if "" in columns and not (row_ids and columns.index("") == 0):
        raise MerError(f"{path} line 1: column {columns.index('') + 1} has no name; name or remove it")
    return columns


def clock_seconds(cell: str) -> float:
    """Read `H:MM:SS,mmm`, `HH:MM:SS,mmm` or the same with a point.

    Raises
    ------
    ValueError
        If the cell has another form; the message completes a sentence that begins with the cell.
    """
    match = re.fullmatch(r"(\d{1,2}):(\d{1,2}):(\d{1,2})[,.](\d{1,3})", cell)
    if match is None:
        raise ValueError("is not a time of the form HH:MM:SS,mmm")
    hours, minutes, seconds, fraction = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")


def first_existing(root: Path, candidates: Iterable[str]) -> str | None:
    """Return the first candidate, relative to the root, that exists."""
    return next((name for name in candidates if (root / name).exists()), None)


def corpus_root(root: Path) -> Path:
    """Return the root, which must be a folder."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise MerError(f"corpus root {root} {what}; give the folder of the unpacked corpus with --root")
    return root


def contained(root: Path, relative: str) -> bool:
    """Tell whether a relative POSIX path stays inside the root, symbolic links resolved."""
    if PurePosixPath(relative).is_absolute() or Path(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
        return False
    try:
        return (root / relative).resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # symlink loop, name too long
        return False


def refuse_repeats(rows: Iterable[tuple[str, Row]]) -> None:
    """Raise on the first id that two rows share."""
    seen: dict[str, Row] = {}
    for key, row in rows:
        if key in seen:
            before = seen[key]
            place = f"line {before.line}" if before.path == row.path else f"{before.path} line {before.line}"
            raise row.error(f"id {key!r} was used before in {place}; ids must be unique")
        seen[key] = row


def files_below(root: Path, folder: str, suffixes: Collection[str]) -> list[str]:
    """List the files below a folder, relative to the root, sorted; dot files (`._` stubs of macOS) are left out."""
    paths = (root / folder).rglob("*")
    kept = (path for path in paths if path.suffix.lower() in suffixes and not path.name.startswith("."))
    return sorted(path.relative_to(root).as_posix() for path in kept)
