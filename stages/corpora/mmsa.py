"""The layout that MMSA gave to opinion videos: `label.csv` and `Raw/{video}/{clip}.mp4`.

Shared by CMU-MOSI, CMU-MOSEI and CH-SIMS. Columns `video_id`, `clip_id`, `text`, `label` and `mode`; where the corpus
has them also `label_T`, `label_A`, `label_V`. Clips may lie flat, as `{video}_{clip}.mp4`, as in the original releases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.cache import MerError

from ..utterance import Utterance
from .annotation import Row, first_existing, read_table, refuse_repeats

Label = str | float | tuple[str, ...] | None
SPLITS = {"train": "train", "valid": "val", "val": "val", "dev": "val", "test": "test"}
COLUMNS = ("video_id", "clip_id", "text", "label", "mode")


@dataclass(frozen=True)
class Layout:
    """Where one corpus keeps its table and its clips."""

    name: str
    tables: tuple[str, ...] = ("label.csv", "meta.csv", "labels.csv")
    other_form: tuple[str, ...] = ()
    """Table of a form that is read elsewhere; it is named where neither is there."""
    nested: str = "Raw"
    """Folder of `{video}/{clip}.mp4`."""
    flat: tuple[str, ...] = ()
    """Folders of `{video}_{clip}.mp4`; the first that exists is used instead."""
    bound: float = 3.0
    """Labels lie in [-bound, bound]."""
    pad: int = 0
    """Digits of a clip number; 0 leaves it as it is written."""

    def table(self, root: Path) -> str | None:
        """Return the table that is there."""
        return first_existing(root, self.tables)

    def clip_path(self, root: Path) -> Callable[[str, str], str]:
        """Return the function from video and clip to the path of the clip."""
        flat = first_existing(root, self.flat)
        if flat is not None:
            return lambda video, clip: f"{flat}/{video}_{clip}.mp4"
        return lambda video, clip: f"{self.nested}/{video}/{clip}.mp4"


def read_labels(
    root: Path, layout: Layout, labels: Callable[[Row], Mapping[str, Label]], extra_columns: Sequence[str] = ()
) -> list[Utterance]:
    """List the rows of the table, sorted by video and clip.

    Raises
    ------
    MerError
        If the table is missing or malformed, an id is not a plain name, or a label is out of bounds.
    """
    name = layout.table(root)
    if name is None:
        names = ", ".join((*layout.tables, *layout.other_form))
        raise MerError(f"{root}: none of {names} found; give the folder of {layout.name} with --root")
    table = read_table(root / name, (*COLUMNS, *extra_columns), row_ids=True)
    rows = sorted(table, key=lambda row: _place(row, layout))
    refuse_repeats((_key(row, layout), row) for row in rows)
    path_of = layout.clip_path(root)
    turns: dict[str, int] = {}
    found = []
    for row in rows:
        video, clip = _names(row, layout)
        turns[video] = turns.get(video, -1) + 1
        found.append(
            Utterance(
                key=_key(row, layout),
                media=path_of(video, clip),
                text=row.text("text"),
                dialogue=video,
                turn=turns[video],
                split=SPLITS[row.one_of("mode", SPLITS, fold_case=True)],
                labels=labels(row),
            )
        )
    return found


def bounded(row: Row, column: str, bound: float) -> float:
    """Return a number of [-bound, bound]."""
    value = row.real(column)
    if abs(value) > bound:
        raise row.error(f"{column} {value} is outside [-{bound:g}, {bound:g}]")
    return value


def _names(row: Row, layout: Layout) -> tuple[str, str]:
    video, clip = row.filled("video_id"), row.filled("clip_id")
    for column, name in (("video_id", video), ("clip_id", clip)):
        if not re.fullmatch(r"[\w-]+", name):
            raise row.error(f"{column} {name!r} is not a plain name")
    return video, clip.zfill(layout.pad) if clip.isdigit() else clip


def _key(row: Row, layout: Layout) -> str:
    return "_".join(_names(row, layout))


def _place(row: Row, layout: Layout) -> tuple[str, int, str]:
    video, clip = _names(row, layout)
    return video, int(clip) if clip.isdigit() else -1, clip
