"""CH-SIMS and CH-SIMS v2: Mandarin film and television clips with one sentiment value for all and one per modality.

Who may use it
    Researchers, for non-commercial use; the links are on the pages of the THUIAR group.
Layout
    `label.csv` (v1 of MMSA) or `meta.csv` (v2, the supervised part) and `Raw/{video}/{clip}.mp4`, clip numbers of four
    digits. The first release instead has `metadata/sentiment/label_{M,T,A,V}.csv`, the transcripts in
    `metadata/Translation.csv` and the splits as row numbers in `metadata/{train,val,test}_index.csv`; it is read too.
Labels
    `sentiment` in [-1, 1] from all modalities together, and `sentiment_T`, `_A`, `_V` from text, sound and picture
    alone, where the table has them; two, three and five classes of the first.
Splits
    Official: v1 1,368 / 456 / 457, v2 2,722 / 647 / 1,034. Clips of one film are in several splits; MMSA's lists are
    used as they are.
Traps
    * Spreadsheet programs cut `0001` to `1`: clip numbers are filled up again.
    * `valid` in the table is `val` here.
Papers
    Yu et al., "CH-SIMS", ACL 2020; Liu et al., "Make Acoustic and Visual Cues Matter: CH-SIMS v2.0", ICMI 2022;
    https://github.com/thuiar/MMSA
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.cache import MerError

from ..interfaces import CorpusInfo, LabelSpec
from ..utterance import Utterance
from .annotation import Row, corpus_root, read_table, refuse_repeats
from .counts import Published, assert_counts
from .mmsa import Label, Layout, bounded, read_labels
from .sentiment import SIMS_LABELS, sims_labels

MODALITIES = ("T", "A", "V")
FIRST_RELEASE = "metadata/sentiment/label_{}.csv"
LAYOUTS = {
    "1": Layout("CH-SIMS", ("label.csv",), (FIRST_RELEASE.format("M"),), bound=1.0, pad=4),
    "2": Layout("CH-SIMS v2", ("meta.csv", "label.csv"), bound=1.0, pad=4),
}
PUBLISHED = {
    "1": Published(utterances={"train": 1368, "val": 456, "test": 457}, source="MMSA and MERBench"),
    "2": Published(utterances={"train": 2722, "val": 647, "test": 1034}, source="MMSA and MERBench"),
}


@dataclass(frozen=True)
class ChSimsCorpus:
    """CH-SIMS, version 1 or 2."""

    root: Path
    version: str = "1"
    """`1`, or `2` for the supervised part of CH-SIMS v2."""
    allow_count_mismatch: bool = False

    def __post_init__(self) -> None:
        if self.version not in LAYOUTS:
            raise MerError(f"ch-sims: version {self.version!r} is unknown; use 1 or 2")

    def info(self) -> CorpusInfo:
        """Return the facts about CH-SIMS."""
        second = self.version == "2"
        return CorpusInfo(
            name="ch-sims-v2" if second else "ch-sims",
            title="CH-SIMS v2.0, supervised part" if second else "CH-SIMS: Chinese single- and multimodal sentiment",
            languages=("zh",),
            license="research only",
            gated=True,
            url="https://github.com/thuiar/ch-sims-v2" if second else "https://github.com/thuiar/MMSA",
            citation="Liu et al., ICMI 2022"
            if second
            else "Yu et al., ACL 2020, https://aclanthology.org/2020.acl-main.343",
            labels={**SIMS_LABELS, **{f"sentiment_{modality}": LabelSpec("real") for modality in MODALITIES}},
            protocols=("official",),
        )

    def published(self) -> Published:
        """Return the published counts."""
        return PUBLISHED[self.version]

    def utterances(self) -> Sequence[Utterance]:
        """List the clips by film and number.

        Raises
        ------
        MerError
            If a table is missing or malformed, or counts differ from the published ones.
        """
        layout = LAYOUTS[self.version]
        root = corpus_root(self.root)
        first = layout.table(root) is None and (root / FIRST_RELEASE.format("M")).is_file()
        found = self._first_release() if first else read_labels(root, layout, _labels)
        return assert_counts(self.info().name, self.published(), found, self.allow_count_mismatch)

    def _first_release(self) -> list[Utterance]:
        """Read the tables of the first release; they have one order, which the index files number from 0."""
        main = _first_table(self.root, "M")
        others = {modality: _by_clip(_first_table(self.root, modality)) for modality in MODALITIES}
        texts = _texts(self.root)
        splits = _splits(self.root, main)
        path_of = LAYOUTS["1"].clip_path(self.root)
        found = []
        for number, row in enumerate(main):
            video, clip = _clip(row)
            missing = [name for name, rows in others.items() if (video, clip) not in rows]
            if missing:
                raise row.error(f"clip {video}/{clip} is not in label_{missing[0]}.csv; copy the metadata again")
            found.append(
                Utterance(
                    key=f"{video}_{clip}",
                    media=path_of(video, clip),
                    text=texts.get((video, clip)),
                    dialogue=video,
                    turn=int(clip) - 1,
                    split=splits.get(number, ""),
                    labels={
                        **sims_labels(bounded(row, "label", 1.0)),
                        **{f"sentiment_{m}": bounded(rows[video, clip], "label", 1.0) for m, rows in others.items()},
                    },
                )
            )
        return sorted(found, key=lambda utterance: utterance.key)


@dataclass(frozen=True)
class ChSimsV2Corpus(ChSimsCorpus):
    """The supervised part of CH-SIMS v2."""

    version: str = "2"


def _labels(row: Row) -> Mapping[str, Label]:
    absent = [f"label_{modality}" for modality in MODALITIES if f"label_{modality}" not in row.cells]
    if 0 < len(absent) < len(MODALITIES):
        raise MerError(f"{row.path} line 1: column {absent[0]} is missing and those of other modalities are there")
    single = {f"sentiment_{m}": bounded(row, f"label_{m}", 1.0) if row.text(f"label_{m}") else None for m in MODALITIES}
    return {**sims_labels(bounded(row, "label", 1.0)), **single}


def _clip(row: Row) -> tuple[str, str]:
    video = row.filled("video_id")
    if not video.replace("_", "").isalnum():
        raise row.error(f"video_id {video!r} is not a plain name")
    return video, f"{row.integer('clip_id'):04d}"


def _first_table(root: Path, modality: str) -> list[Row]:
    table = read_table(root / FIRST_RELEASE.format(modality), ("video_id", "clip_id", "label"), row_ids=True)
    refuse_repeats(("/".join(_clip(row)), row) for row in table)
    return list(table)


def _by_clip(rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
    return {_clip(row): row for row in rows}


def _texts(root: Path) -> dict[tuple[str, str], str]:
    path = root / "metadata" / "Translation.csv"
    if not path.is_file():
        return {}
    return {
        _clip(row): row.text("Chinese") for row in read_table(path, ("video_id", "clip_id", "Chinese"), row_ids=True)
    }


def _splits(root: Path, labels: Sequence[Row]) -> dict[int, str]:
    found: dict[int, str] = {}
    for split in ("train", "val", "test"):
        for row in read_table(root / "metadata" / f"{split}_index.csv", ("index",), row_ids=True):
            number = row.integer("index")
            if number in found:
                raise row.error(f"index {number} is in two splits")
            if number >= len(labels):
                raise row.error(f"index {number} is beyond the {len(labels)} rows of {labels[0].path}; copy both again")
            found[number] = split
    return found
