"""Reads JSON lines: one object per utterance, lists of numbers as arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MerError
from .pack import as_text

MOST_LINE_CHARACTERS = 64 << 20
MOST_FIELDS = 2000


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a `.jsonl` file, with lists of numbers turned into arrays as they are read.

    Raises
    ------
    MerError
        Naming the line that is no object, or too long.
    """
    rows: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8-sig") as handle:
            at = 0
            while line := handle.readline(MOST_LINE_CHARACTERS):
                at += 1
                if len(line) == MOST_LINE_CHARACTERS:
                    raise MerError(f"{path}: line {at} is longer than {MOST_LINE_CHARACTERS:,} characters")
                if line.strip():
                    rows.append({name: entry_of(value) for name, value in _object(path, at, line).items()})
    except (OSError, UnicodeDecodeError) as error:
        raise MerError(f"{path}: cannot be read ({error})") from error
    if not rows:
        raise MerError(f"{path}: has no lines")
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(names) > MOST_FIELDS:
        raise MerError(f"{path}: has {len(names):,} different fields; at most {MOST_FIELDS:,} are read")
    return [{name: row.get(name) for name in names} for row in rows]


def _object(path: Path, at: int, line: str) -> dict[str, Any]:
    try:
        made = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MerError(f"{path}: line {at} is no JSON ({' '.join(str(error).split())[:80]})") from error
    if not isinstance(made, dict):
        raise MerError(f"{path}: line {at} is no JSON object of one utterance")
    return made


def entry_of(row: Any) -> Any:
    """One value of a record: a list of numbers as an array, a list of words as a text, bytes as text."""
    if isinstance(row, (list, tuple)):
        if row and all(isinstance(one, (str, bytes, np.str_)) for one in row):
            return " ".join(as_text(one) for one in row)
        try:
            made = np.array(row, np.float64)
        except (TypeError, ValueError):
            return None
        return made if made.ndim in (1, 2) else None
    if isinstance(row, (bytes, memoryview, np.bytes_)):
        return as_text(row)
    return row
