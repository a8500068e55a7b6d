"""Tables of text that others made: comma, semicolon or tab separated, and Weka's ARFF; gaps are told from numbers."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from ..errors import MerError

MOST_CELL_CHARACTERS = 100_000
MOST_COLUMNS = 100_000
MOST_LINE_CHARACTERS = 8 << 20
GAPS = frozenset(("", "-", "nan", "na", "n/a", "#n/a", "null", "none", "?", "undefined", "--undefined--", "missing"))
"""What tools write where a value is missing: pandas, R, ARFF (?), Praat (--undefined--)."""
_ATTRIBUTE = re.compile(r"@attribute\s+(?:'([^']*)'|\"([^\"]*)\"|(\S+))", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """A table of text in memory."""

    path: Path
    names: list[str]
    rows: list[list[str]]
    lines: list[int]
    """Line of the file, from 1, for every row."""

    def column(self, name: str) -> list[str]:
        """Cells of one column."""
        at = self.names.index(name)
        return [row[at] for row in self.rows]

    def numbers(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Numbers of some columns, shape (rows, columns); NaN for gaps.

        Raises
        ------
        MerError
            Naming line and column of what is neither a number nor a gap.
        """
        places = [self.names.index(name) for name in names]
        made: npt.NDArray[np.float64] = np.empty((len(self.rows), len(places)))
        for at, row in enumerate(self.rows):
            try:
                made[at] = [row[place] for place in places]
            except ValueError:
                for column, place in enumerate(places):
                    made[at, column] = self._number(row[place], at, place)
        return made

    def _number(self, text: str, row: int, column: int) -> float:
        value = number_or_gap(text)
        if value is None:
            where = f"{self.path}: line {self.lines[row]}, column {self.names[column]!r}"
            raise MerError(f"{where}: {text[:40]!r} is not a number; leave the column out, or correct it")
        return value


def number_or_gap(text: str) -> float | None:
    """Return the number in a cell, NaN for a gap, None for anything else."""
    cell = text.strip()
    if cell.lower() in GAPS:
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        return None


def read_table(path: Path) -> Table:
    """Read a table; the separator is told from its first line, and a table of bare numbers gets numbered columns.

    Raises
    ------
    MerError
        If it is no table, a row has more or fewer fields than the header, or a column occurs twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            return _arff(path, handle) if path.suffix.lower() == ".arff" else _separated(path, handle)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MerError(f"{path}: not readable as a table ({error})") from error


def _separated(path: Path, handle: TextIO) -> Table:
    lines = _lines(path, handle)
    first = next(lines, "")
    counts = {mark: first.count(mark) for mark in ",;\t"}
    separator = max(counts, key=lambda mark: counts[mark])
    names = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
    reader = csv.reader(lines, delimiter=separator)
    if names and all(number_or_gap(name) is not None for name in names):
        return _filled(path, [f"column_{at}" for at in range(len(names))], reader, 1, names)
    return _filled(path, names, reader, 1)


def _arff(path: Path, handle: TextIO) -> Table:
    names: list[str] = []
    lines = _lines(path, handle)
    seen = 0
    for line in lines:
        seen += 1
        found = _ATTRIBUTE.match(line.strip())
        if found:
            names.append(next(name for name in found.groups() if name is not None))
        elif line.strip().lower() == "@data":
            break
    rows = (line for line in lines if not line.startswith("%"))
    return _filled(path, names, csv.reader(rows, quotechar="'", skipinitialspace=True), seen)


def _lines(path: Path, handle: TextIO) -> Iterator[str]:
    while line := handle.readline(MOST_LINE_CHARACTERS):
        if len(line) == MOST_LINE_CHARACTERS:
            raise MerError(f"{path}: a line is longer than {MOST_LINE_CHARACTERS:,} characters; is it a table?")
        yield line


def _filled(
    path: Path, names: list[str], reader: Iterator[list[str]], before: int, first: list[str] | None = None
) -> Table:
    if len(names) > MOST_COLUMNS:
        raise MerError(f"{path}: has {len(names):,} columns; at most {MOST_COLUMNS:,} are read")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise MerError(f"{path}: has the column {twice!r} twice; rename one")
    rows, lines = ([first], [1]) if first else ([], [])
    for at, row in enumerate(reader, before + 1):
        if not row:
            continue
        if len(row) != len(names):
            raise MerError(f"{path}: line {at} has {len(row)} fields where the header has {len(names)}")
        if max(map(len, row)) > MOST_CELL_CHARACTERS:  # the bound of `csv` itself is one for the whole process
            raise MerError(f"{path}: line {at} has a cell of more than {MOST_CELL_CHARACTERS:,} characters; shorten it")
        rows.append(row)
        lines.append(at)
    if not names or not rows:
        raise MerError(f"{path}: has no rows; is it a table with a header?")
    return Table(path, names, rows, lines)
