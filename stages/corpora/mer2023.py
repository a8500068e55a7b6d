"""MER2023 to MER2026: clips of Chinese films and series from the yearly emotion challenge of the MER organisers.

Who may use it
    Academic researchers who sign the challenge's licence agreement; samples may not be uploaded again.
Layout
    2023: `train-label.csv`, `test{1,2,3}-label.csv` and the folders `train/`, `test1/`, `test2/`, `test3/` of avi and
    mp4 files (also seen: `mer2023train/…` and `test-labels/…`). 2024: `label-disdim.csv`, `video-labeled/`. 2025:
    `track1_train_disdim.csv`, `track1_test_dis.csv` once released, `video/`. 2026: `track1_train.csv`, `video/`.
    Tables have columns `name`, `discrete` and, where rated, `valence`. Transcripts, made by a recogniser and polished,
    have columns `name`, `chinese`, `english`.
Labels
    neutral, angry, happy, sad, worried, surprise, in the organisers' index order; valence as a number (not for test3).
Splits
    2023: `train` and three test sets, of which `test_set` chooses the one called `test`: `test1` (multi-label), `test2`
    (with noise), `test3` (the labelled part of the semi-supervised track). The others keep their names and are in no
    official split. There is no validation set: it is held out of `train`.
Traps
    * The metric of the challenge is weighted F1 minus a quarter of the squared error of valence.
    * Sound is sampled at 16, 44.1 and 48 kHz. Clips last 0.24 to 46.7 s.
    * Transcripts are machine-made, and marked so here.
    * 2025's face folder lacks some clips of its video folder.
Papers
    Lian et al., "MER 2023: Multi-label Learning, Modality Robustness, and Semi-Supervised Learning", ACM MM 2023;
    https://github.com/zeroQiaoba/MERTools
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.cache import MerError

from ..interfaces import CorpusInfo, LabelSpec
from ..utterance import Utterance
from .annotation import Row, Table, corpus_root, first_existing, read_table, refuse_repeats
from .counts import Published, assert_counts

EMOTIONS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv")
TEXT_TABLES = (
    *("transcription-engchi-polish.csv", "subtitle_chieng.csv", "track1_subtitle_chieng.csv"),
    *("label-transcription.csv", "transcription.csv"),
)


@dataclass(frozen=True)
class Part:
    """One table of a year and the folder of its clips."""

    split: str
    tables: tuple[str, ...]
    folders: tuple[str, ...]
    optional: bool = False


def _test(name: str) -> Part:
    tables = (f"{name}-label.csv", f"test-labels/{name}-label.csv", f"test_labels/{name}-label.csv")
    return Part(name, tables, (name, "video"))


YEARS: Mapping[str, tuple[Part, ...]] = {
    "2023": (
        Part("train", ("train-label.csv", "mer2023train/train-label.csv"), ("train", "mer2023train/train", "video")),
        *map(_test, ("test1", "test2", "test3")),
    ),
    "2024": (Part("train", ("label-disdim.csv",), ("video-labeled", "video")),),
    "2025": (
        Part("train", ("track1_train_disdim.csv",), ("video",)),
        Part("test1", ("track1_test_dis.csv",), ("video",), optional=True),
    ),
    "2026": (Part("train", ("track1_train.csv",), ("video",)),),
}
TRAIN_2023 = dict(zip(EMOTIONS, (871, 822, 689, 383, 462, 146), strict=True))
PUBLISHED = {
    "2023": Published({"train": 3373, "test1": 411, "test2": 412, "test3": 834}, {"emotion": {"train": TRAIN_2023}}),
    "2024": Published(),
    "2025": Published({"train": 7369}),
    "2026": Published({"train": 9395}),
}


@dataclass(frozen=True)
class MerChallengeCorpus:
    """One year of the MER challenge."""

    root: Path
    year: str = "2023"
    test_set: str = "test1"
    """Which test set is the official `test` split: `test1`, `test2` or `test3`."""
    language: str = "chinese"
    """Transcript: `chinese`, or the `english` translation."""
    allow_count_mismatch: bool = False

    def __post_init__(self) -> None:
        if self.year not in YEARS:
            raise MerError(f"mer challenge: year {self.year!r} is unknown; use {', '.join(YEARS)}")
        if self.test_set not in ("test1", "test2", "test3"):
            raise MerError(f"mer challenge: test set {self.test_set!r} is unknown; use test1, test2 or test3")
        if self.language not in ("chinese", "english"):
            raise MerError(f"mer challenge: language {self.language!r} is unknown; use chinese or english")

    def info(self) -> CorpusInfo:
        """Return the facts about this year's corpus."""
        return CorpusInfo(
            name=f"mer{self.year}",
            title=f"MER{self.year}: Multimodal Emotion Recognition Challenge",
            languages=("zh",) if self.language == "chinese" else ("zh", "en"),
            license="signed agreement, academic use only, no passing on of samples",
            gated=True,
            url="https://github.com/zeroQiaoba/MERTools",
            citation="Lian et al., ACM Multimedia 2023, arXiv:2304.08981",
            labels={"emotion": LabelSpec("class", EMOTIONS), "valence": LabelSpec("real")},
            protocols=("official", "kfold") if self.year in ("2023", "2025") else ("kfold",),
        )

    def published(self) -> Published:
        """Return the published counts; the chosen test set is counted as `test`."""
        known = PUBLISHED[self.year]
        return Published({self._split(name): n for name, n in known.utterances.items()}, known.labels)

    def utterances(self) -> Sequence[Utterance]:
        """List the clips by table and name.

        Raises
        ------
        MerError
            If a table is missing or malformed, or counts differ from the published ones.
        """
        corpus_root(self.root)
        texts = self._texts()
        rows = [(part, row) for part in YEARS[self.year] for row in self._table(part)]
        refuse_repeats((_name(row), row) for _, row in rows)
        clips = {part.split: self._clips(part) for part in YEARS[self.year]}
        found = [
            self._utterance(part, row, clips[part.split], texts)
            for part, row in sorted(rows, key=lambda pair: (YEARS[self.year].index(pair[0]), _name(pair[1])))
        ]
        return assert_counts(self.info().name, self.published(), found, self.allow_count_mismatch)

    def _table(self, part: Part) -> Sequence[Row]:
        place = first_existing(self.root, part.tables)
        if place is None and (part.optional or (self.allow_count_mismatch and part.split != "train")):
            return ()
        table: Table = read_table(self.root / (place or part.tables[0]), ("name", "discrete"), row_ids=True)
        return table.rows

    def _clips(self, part: Part) -> tuple[str, Mapping[str, str]]:
        """Return the folder of a part's clips and what it holds, by name."""
        folder = first_existing(self.root, part.folders) or part.folders[0]
        listed = sorted((self.root / folder).iterdir()) if (self.root / folder).is_dir() else []
        return folder, {path.stem: path.name for path in listed if path.suffix.lower() in VIDEO_SUFFIXES}

    def _texts(self) -> Mapping[str, str]:
        place = first_existing(self.root, TEXT_TABLES)
        if place is None:
            return {}
        table = read_table(self.root / place, ("name", self.language), row_ids=True)
        refuse_repeats((_name(row), row) for row in table)
        return {_name(row): row.text(self.language) for row in table}

    def _split(self, name: str) -> str:
        return "test" if name == self.test_set else name

    def _utterance(
        self, part: Part, row: Row, clips: tuple[str, Mapping[str, str]], texts: Mapping[str, str]
    ) -> Utterance:
        name = _name(row)
        folder, files = clips
        return Utterance(
            key=name,
            media=f"{folder}/{files.get(name, name + VIDEO_SUFFIXES[0])}",
            text=texts.get(name),
            split=self._split(part.split),
            labels={
                "emotion": row.one_of("discrete", EMOTIONS, fold_case=True),
                "valence": row.real("valence") if row.text("valence") else None,
            },
            machine_text=name in texts,
        )


@dataclass(frozen=True)
class Mer2024Corpus(MerChallengeCorpus):
    """MER2024."""

    year: str = "2024"


@dataclass(frozen=True)
class Mer2025Corpus(MerChallengeCorpus):
    """MER2025, first track."""

    year: str = "2025"


@dataclass(frozen=True)
class Mer2026Corpus(MerChallengeCorpus):
    """MER2026, first track."""

    year: str = "2026"


def _name(row: Row) -> str:
    name = row.filled("name")
    if not re.fullmatch(r"[\w.-]*\w", name) or ".." in name:
        raise row.error(f"name {name!r} is not a plain name")
    return name
