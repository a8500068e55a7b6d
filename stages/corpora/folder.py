"""A folder of one's own: clips, and where one likes a manifest that says what they are.

Without a manifest every media file below the folder is an utterance (`mer.stages.corpora.loose_clips`). A manifest is
`manifest.csv`, `manifest.tsv` or `manifest.jsonl` in the folder (`mer.stages.corpora.manifest` reads them). Column
`path` is required: paths are relative to the folder, written with `/`, and may not leave it, nor by a symbolic
link; an empty path means that the utterance has no clip, only a text. Ids are unique; without a column `id` the path is
the id, with `@start-end` where there is a span. Optional columns are `text`, `speaker`, `dialogue`, `turn` (from 0),
`split` (`train`, `val`, `test` and other words for them), `session`, and `start_seconds`, `end_seconds`, the half-open
span of the utterance inside its file. An empty text is no transcript, which `--transcribe` can write.

Every other column is a label column, and its kind is read off its filled cells:

* every cell is a number, or a gap (`n/a`, `NA`, `nan`, `-`, `?`): `real`;
* some cell holds a `|`: `multi`, any number of classes between bars, a lone `|` for none of them;
* otherwise: `class`.

A column that is mostly numbers with some words between them is refused, since it is more often a typing error than a
label. A header such as `emotion:class` (for classes that are coded 0, 1, 2), `valence:real` or `tags:multi` decides the
kind itself. Classes are ordered by name, numbers by value; classes that differ only in case or blanks are one. An empty
cell means that the utterance has no such label.

A misspelt kind (`emotion:clas`) is refused; a label column whose name is close to a known one, or another word for
`text`, is warned about.
"""

from __future__ import annotations

import difflib
import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.cache import MerError

from ..interfaces import CorpusInfo, LabelSpec
from ..registry import suggest
from ..utterance import Utterance
from .annotation import Row, Table, contained, corpus_root, refuse_repeats
from .loose_clips import table_of_clips
from .manifest import KNOWN_COLUMNS, USUAL, is_gap, manifest_of, read_manifest

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "dev", "valid", "validation", "development"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
KINDS = ("class", "multi", "real")
NEAR = 0.8
"""Label columns at least this similar to a known column are warned about."""

log = logging.getLogger("mer")


@dataclass(frozen=True)
class LabelOf:
    """What a label column is."""

    name: str
    spec: LabelSpec
    spellings: Mapping[str, str]
    """Every way a class is written in the column to the class."""


@dataclass(frozen=True)
class FolderCorpus:
    """A folder of clips, with a manifest or without."""

    root: Path
    encoding: str = ""
    """Of the manifest or the transcripts; empty for UTF-8."""
    column: tuple[str, ...] = ()
    """`KNOWN=NAME`: what the manifest calls a known column."""
    label_from: str = ""
    """`folder` or a pattern: where the labels of clips without a manifest come from."""

    def info(self) -> CorpusInfo:
        """Return what the folder offers; where it is not there, the facts that hold for any folder."""
        table = self._table(with_text=False) if self.root.is_dir() else Table(self.root, KNOWN_COLUMNS[:2], ())
        filled = {name for row in table for name in ("split", "session", "speaker") if row.text(name)}
        protocols = ["official"] if "split" in filled else []
        protocols += [f"{name}-folds" for name in ("session", "speaker") if name in filled]
        return CorpusInfo(
            name="folder",
            title="A folder of clips, with a manifest or without",
            languages=(),
            license="your own",
            gated=False,
            url="",
            citation="",
            labels={label.name: label.spec for label in label_columns(table).values()},
            protocols=(*protocols, "kfold"),
        )

    def utterances(self) -> Sequence[Utterance]:
        """List the rows of the manifest in their order, or the clips by name.

        Raises
        ------
        MerError
            If the manifest is malformed, the message naming the line; or there are no clips.
        """
        corpus_root(self.root)
        table = self._table()
        labels = label_columns(table)
        for label in labels.values():
            _warn_if_near(table.path, label.name)
        refuse_repeats((_key(row), row) for row in table)
        return [self._utterance(row, labels) for row in table]

    def columns(self) -> dict[str, str]:
        """Say of every column of the manifest what it is taken for."""
        table = self._table()
        labels = label_columns(table)
        return {column: _role(labels[column].spec) if column in labels else "known column" for column in table.columns}

    def _table(self, with_text: bool = True) -> Table:
        manifest = manifest_of(self.root)
        given = (self.column,) if isinstance(self.column, str) else self.column
        columns = dict(item.partition("=")[::2] for item in given)
        if not all(known and name for known, name in columns.items()):
            raise MerError(f"--column {given[0]!r} is not of the form KNOWN=NAME, such as path=clip_name")
        if manifest is None:
            if columns:
                raise MerError(f"{self.root}: has no manifest, so --column has nothing to rename; leave it out")
            return table_of_clips(self.root, self.label_from, self.encoding, with_text)
        if self.label_from:
            raise MerError(f"{manifest} says the labels; leave --label-from out, or move the manifest away")
        return read_manifest(manifest, self.encoding, columns)

    def _utterance(self, row: Row, labels: Mapping[str, LabelOf]) -> Utterance:
        key = _key(row)
        if not key.isprintable():
            raise row.error(f"id {key!r} holds a control character; use printable characters")
        path = _path(self.root, row)
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
            labels={label.name: _label(row, column, label) for column, label in labels.items()},
        )


def _key(row: Row) -> str:
    """Id of a row: its own, or its path, with the span that tells utterances of one file apart."""
    if "id" in row.cells:
        return row.filled("id")
    if not row.text("path"):
        raise row.error("path is empty, and there is no column id; a row without a clip needs an id")
    start, end = (row.text(name) for name in ("start_seconds", "end_seconds"))
    return row.text("path") + (f"@{start}-{end}" if start or end else "")


def _path(root: Path, row: Row) -> str:
    """Path of a row's clip; what Windows wrote with backslashes is read with slashes, unless there is such a name."""
    path = row.text("path")
    return path if "\\" not in path or (root / path).exists() else path.replace("\\", "/")


def _span(row: Row) -> tuple[float | None, float | None]:
    start, end = (None if is_gap(row.text(name)) else row.real(name) for name in ("start_seconds", "end_seconds"))
    if start is not None and start < 0:
        raise row.error(f"start_seconds {start} is negative")
    if end is not None and end <= (start or 0):
        raise row.error(f"end_seconds {end} is not after start_seconds {start or 0}")
    return start, end


def label_columns(table: Table) -> dict[str, LabelOf]:
    """Return per label column its target name, its kind with classes, and their spellings.

    Raises
    ------
    MerError
        If a column mixes numbers and words, two columns have one target name, or a known column or a kind is misspelt.
    """
    found: dict[str, LabelOf] = {}
    for column in table.columns:
        if column in KNOWN_COLUMNS:
            continue
        name, kind = _name_and_kind(table.path, column)
        if name in {other.name for other in found.values()}:
            raise MerError(f"{table.path} line 1: column {name!r} appears twice; rename one")
        filled = [row for row in table if row.text(column)]
        found[column] = _labels_of(filled, column, name, kind or _kind(filled, column))
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
    meant = "text" if name.lower() in USUAL["text"] else near[0] if near else ""
    if meant:
        what = "the transcript" if meant == "text" else f"the {meant}"
        log.warning("%s: column %r becomes a label target; rename it `%s` if it is %s", path, name, meant, what)


def _role(spec: LabelSpec) -> str:
    return f"label, kind {spec.kind}" + (f", {len(spec.classes)} classes" if spec.classes else "")


def _kind(filled: Sequence[Row], column: str) -> str:
    if any("|" in row.text(column) for row in filled):
        return "multi"
    said = [row for row in filled if not is_gap(row.text(column))]
    words = [row for row in said if not _is_number(row.text(column))]
    if said and not words:
        return "real"
    if len(words) < len(said) / 2:
        raise words[0].error(
            f"{column} {words[0].text(column)!r} is a word in a column of numbers;"
            f" correct it, or name the column {column}:class or {column}:real"
        )
    return "class"


def _labels_of(filled: Sequence[Row], column: str, name: str, kind: str) -> LabelOf:
    if kind == "real":
        if name == "emotion" and all(_is_whole(row.text(column)) for row in filled):
            _warn_once(
                filled[0].path,
                "emotion holds whole numbers and is taken for a number to estimate; where they stand for classes,"
                f" write the header emotion:class, or add --column emotion:class={column}",
            )
        return LabelOf(name, LabelSpec("real"), {})
    cells = [row.text(column) for row in filled]
    written = Counter(part for cell in cells for part in (_bars(cell) if kind == "multi" else (cell,)))
    spellings: dict[str, str] = {}
    for same in _alike(written).values():
        chosen = min(same, key=lambda one: (-written[one], one))
        spellings |= dict.fromkeys(same, " ".join(chosen.split()))
        if len(same) > 1:
            others = ", ".join(repr(one) for one in sorted(same) if one != chosen)
            _warn_once(filled[0].path, f"{name}: {others} and {chosen!r} are one class, {spellings[chosen]!r}")
        elif is_gap(chosen):
            _warn_once(filled[0].path, f"{name}: {chosen!r} is taken for a class; leave the cell empty for no label")
    classes = sorted(set(spellings.values()), key=lambda one: (*_number_first(one), one))
    return LabelOf(name, LabelSpec(kind, tuple(classes)), spellings)


def _alike(written: Mapping[str, int]) -> dict[str, list[str]]:
    """Group what differs only in case or blanks."""
    groups: dict[str, list[str]] = {}
    for one in written:
        groups.setdefault(" ".join(one.split()).casefold(), []).append(one)
    return groups


@functools.cache
def _warn_once(path: Path, told: str) -> None:
    log.warning("%s: %s", path, told)


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


def _is_whole(cell: str) -> bool:
    return is_gap(cell) or (_is_number(cell) and float(cell).is_integer())


def _label(row: Row, column: str, label: LabelOf) -> str | float | tuple[str, ...] | None:
    cell = row.text(column)
    if label.spec.kind == "real":
        return None if is_gap(cell) else row.real(column)
    if not cell:
        return None
    if label.spec.kind == "class":
        return label.spellings[cell]
    return tuple(dict.fromkeys(label.spellings[part] for part in _bars(cell)))
