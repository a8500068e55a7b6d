"""A folder of one's own: clips and a `manifest.csv` that says what they are.

`manifest.csv` lies in the root and is UTF-8 (a byte-order mark is accepted). Columns `id` and `path` are required:
ids are unique, paths are relative to the root, written with `/`, and may not leave it, not even through a symbolic
link. An empty path means that the utterance has no clip, only a text. Optional columns are `text`, `speaker`,
`dialogue`, `turn` (from 0), `split` (`train`, `val` or `dev`, `test`), `session`, and `start_seconds`, `end_seconds`,
the half-open span of the utterance inside its file. An empty text is no transcript, which `--transcribe` can write.

Every other column is a label column, and its kind is read off its filled cells:

* every cell is a number: `real`;
* some cell holds a `|`: `multi`, any number of classes between bars, a lone `|` for none of them;
* otherwise: `class`.

A column that is mostly numbers with some words between them is refused, since it is more often a typing error than a
label. A header such as `emotion:class` (for classes that are coded 0, 1, 2), `valence:real` or `tags:multi` decides the
kind itself. Classes are ordered by name, numbers by value. An empty cell means that the utterance has no such label.

A known column in another spelling (`Speaker`, `start seconds`) and a misspelt kind (`emotion:clas`) are refused; a
label column whose name is close to a known one, or another word for `text`, is warned about.
"""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.cache import MerError

from ..interfaces import CorpusInfo, LabelSpec
from ..registry import suggest
from ..utterance import Utterance
from .annotation import Row, Table, contained, corpus_root, read_table, refuse_repeats

MANIFEST = "manifest.csv"
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
SPLITS = {"train": "train", "val": "val", "dev": "val", "valid": "val", "validation": "val", "test": "test"}
KINDS = ("class", "multi", "real")
OTHER_WORDS = {"transcript": "text", "transcription": "text", "sentence": "text"}
NEAR = 0.8
"""Label columns at least this similar to a known column are warned about."""

log = logging.getLogger("mer")


@dataclass(frozen=True)
class FolderCorpus:
    """A folder with a `manifest.csv`."""

    root: Path

    def info(self) -> CorpusInfo:
        """Return what the manifest offers; without a manifest, the facts that hold for any folder."""
        manifest = self.root / MANIFEST
        table = self._table() if manifest.is_file() else Table(manifest, KNOWN_COLUMNS[:2], ())
        filled = {name for row in table for name in ("split", "session", "speaker") if row.text(name)}
        protocols = ["official"] if "split" in filled else []
        protocols += [f"{name}-folds" for name in ("session", "speaker") if name in filled]
        return CorpusInfo(
            name="folder",
            title="A folder with a manifest.csv",
            languages=(),
            license="your own",
            gated=False,
            url="",
            citation="",
            labels=dict(label_columns(table).values()),
            protocols=(*protocols, "kfold"),
        )

    def utterances(self) -> Sequence[Utterance]:
        """List the rows of the manifest in their order.

        Raises
        ------
        MerError
            If the manifest is missing or malformed; the message names the line.
        """
        corpus_root(self.root)
        table = self._table()
        labels = label_columns(table)
        for name, _ in labels.values():
            _warn_if_near(table.path, name)
        refuse_repeats((row.filled("id"), row) for row in table)
        return [self._utterance(row, labels) for row in table]

    def columns(self) -> dict[str, str]:
        """Say of every column of the manifest what it is taken for."""
        table = self._table()
        labels = label_columns(table)
        return {column: _role(labels[column][1]) if column in labels else "known column" for column in table.columns}

    def _table(self) -> Table:
        return read_table(self.root / MANIFEST, ["id", "path"])

    def _utterance(self, row: Row, labels: Mapping[str, tuple[str, LabelSpec]]) -> Utterance:
        key = row.filled("id")
        if not key.isprintable():
            raise row.error(f"id {key!r} holds a control character; use printable characters")
        path = row.text("path")
        if path and not contained(self.root, path):
            raise row.error(f"path {path!r} leaves the corpus root; use a relative path below {self.root}")
        if not path and not row.text("text"):
            raise row.error("path and text are both empty; an utterance needs one of them")
        start, end = _span(row)
        return Utterance(
            key=key,
            media=path or None,
            text=row.text("text") or None,
            speaker=row.text("speaker"),
            dialogue=row.text("dialogue"),
            turn=row.integer("turn") if row.text("turn") else -1,
            split=SPLITS[row.one_of("split", SPLITS, fold_case=True)] if row.text("split") else "",
            session=row.text("session"),
            start_seconds=start,
            end_seconds=end,
            labels={name: _label(row, column, spec) for column, (name, spec) in labels.items()},
        )


def _span(row: Row) -> tuple[float | None, float | None]:
    start = row.real("start_seconds") if row.text("start_seconds") else None
    end = row.real("end_seconds") if row.text("end_seconds") else None
    if start is not None and start < 0:
        raise row.error(f"start_seconds {start} is negative")
    if end is not None and end <= (start or 0):
        raise row.error(f"end_seconds {end} is not after start_seconds {start or 0}")
    return start, end


def label_columns(table: Table) -> dict[str, tuple[str, LabelSpec]]:
    """Return per label column its target name and its kind with classes.

    Raises
    ------
    MerError
        If a column mixes numbers and words, two columns have one target name, or a known column or a kind is misspelt.
    """
    found: dict[str, tuple[str, LabelSpec]] = {}
    for column in table.columns:
        if column in KNOWN_COLUMNS:
            continue
        name, kind = _name_and_kind(table.path, column)
        if name in {other for other, _ in found.values()}:
            raise MerError(f"{table.path} line 1: column {name!r} appears twice; rename one")
        filled = [row for row in table if row.text(column)]
        found[column] = (name, _spec(filled, column, kind or _kind(filled, column)))
    return found


def _name_and_kind(path: Path, column: str) -> tuple[str, str]:
    """Split a header such as `emotion:class`; the kind is empty where none is given."""
    name, colon, kind = column.rpartition(":") if ":" in column else (column, "", "")
    name, kind = name.strip(), kind.strip()
    if colon and (kind not in KINDS or not name):
        raise MerError(f"{path} line 1: column {column!r} ends in no kind of label; {suggest(kind, list(KINDS))}")
    meant = name.lower().replace(" ", "_").replace("-", "_")
    if meant in KNOWN_COLUMNS:
        raise MerError(f"{path} line 1: column {column!r} would become a label; write it {meant!r} or rename it")
    return name, kind


@functools.cache
def _warn_if_near(path: Path, name: str) -> None:
    """Say, once a process, that a label column may have been meant as a known one."""
    near = difflib.get_close_matches(name.lower(), KNOWN_COLUMNS, n=1, cutoff=NEAR)
    meant = OTHER_WORDS.get(name.lower()) or (near[0] if near else "")
    if meant:
        what = "the transcript" if meant == "text" else f"the {meant}"
        log.warning("%s: column %r becomes a label target; rename it `%s` if it is %s", path, name, meant, what)


def _role(spec: LabelSpec) -> str:
    return f"label, kind {spec.kind}" + (f", {len(spec.classes)} classes" if spec.classes else "")


def _kind(filled: Sequence[Row], column: str) -> str:
    if any("|" in row.text(column) for row in filled):
        return "multi"
    words = [row for row in filled if not _is_number(row.text(column))]
    if filled and not words:
        return "real"
    if len(words) < len(filled) / 2:
        raise words[0].error(
            f"{column} {words[0].text(column)!r} is a word in a column of numbers;"
            f" correct it, or name the column {column}:class or {column}:real"
        )
    return "class"


def _spec(filled: Sequence[Row], column: str, kind: str) -> LabelSpec:
    if kind == "real":
        return LabelSpec("real")
    cells = (row.text(column) for row in filled)
    classes = {name for cell in cells for name in (_bars(cell) if kind == "multi" else (cell,))}
    return LabelSpec(kind, tuple(sorted(classes, key=lambda name: (*_number_first(name), name))))


def _number_first(name: str) -> tuple[int, float]:
    return (0, float(name)) if _is_number(name) else (1, 0.0)


def _bars(cell: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in cell.split("|") if part.strip()))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _label(row: Row, column: str, spec: LabelSpec) -> str | float | tuple[str, ...] | None:
    cell = row.text(column)
    if not cell:
        return None
    if spec.kind == "real":
        return row.real(column)
    return _bars(cell) if spec.kind == "multi" else cell
