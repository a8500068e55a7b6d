"""MELD, the Multimodal EmotionLines Dataset: 13,708 clips of the television series Friends.

Who may use it
    The annotation is published under the GPL-3.0, the clips for research, on the site of the DeCLaRe lab. The
    pictures and the sound belong to the makers of the series.
Layout
    `MELD.Raw.tar.gz` holds `train.tar.gz`, `dev.tar.gz`, `test.tar.gz` and the CSV files. Unpacked, clips are
    `train_splits/dia0_utt0.mp4` (older archives: `splits/`), `dev_splits_complete/…` and
    `output_repeated_splits_test/…`, in the root or one folder down; `train_sent_emo.csv`, `dev_sent_emo.csv` and
    `test_sent_emo.csv` lie beside them. Every usual place is searched.
Labels
    Seven emotions and three sentiments, in the index order of the authors' README.
Splits
    Official: 9,989 / 1,109 / 2,610. Keys are `train/dia0_utt0`, `dev/…`, `test/…`, because ids restart in each split.
Dyadic variant
    The corpus `meld-dyadic` reads `*_sent_emo_dya.csv` (12,840 / 1,462 / 3,400 rows): two-party dialogues made of the
    same clips, so one clip serves several rows; `Old_Dialogue_ID` and `Old_Utterance_ID` name it.
Traps
    * Turns are unsorted and have gaps (train has no dialogue 60; 72 train dialogues skip ids): rows are sorted here.
    * Times come as `HH:MM:SS,mmm` and `H:MM:SS,mmm`. They are subtitle times in the episode; a clip is a whole file
      and is never cut by them. 114 test clips are more than half a second longer than their subtitle.
    * Copies of the CSV files exist in cp1252, from spreadsheet programs.
    * The test folder also holds `final_videos_testdia…` files, and macOS archives leave `._` stubs: not part of MELD.
    * train/dia125_utt3 cannot be decoded, dev/dia110_utt7 was never published: known bad, hence fates.
    * test/dia38_utt4 (305 s), test/dia220_utt0 (235 s) and train/dia309_utt0 (41 s) run on into other scenes; 14 clips
      are shorter than 0.1 s. They are read as they are; `--max-audio-seconds` bounds what
      is encoded at once.
    * Sound is 5.1 with speech in the centre for nine of ten clips, hence channel `center`.
    * train/dia12_utt7 and test/dia85_utt0 are the same clip.
Papers
    Poria et al., "MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations", ACL 2019;
    https://github.com/declare-lab/MELD
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.cache import MerError

from ..interfaces import CorpusInfo, LabelSpec
from ..utterance import Utterance
from .annotation import UTF8_OR_CP1252, Row, clock_seconds, corpus_root, first_existing, read_table, refuse_repeats
from .counts import Published, assert_counts

EMOTIONS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
SENTIMENTS = ("neutral", "positive", "negative")

# The archive's name of each split, and the folder names its clips were published under.
SPLITS = {"train": "train", "dev": "val", "test": "test"}
CLIP_FOLDERS = {
    "train": (
        "train_splits",
        "train/train_splits",
        "train/splits",
        "train_splits_complete",
        "train/train_splits_complete",
    ),
    "dev": ("dev_splits_complete", "dev/dev_splits_complete", "dev/splits", "dev_splits", "dev/dev_splits"),
    "test": (
        "output_repeated_splits_test",
        "test/output_repeated_splits_test",
        "test/splits",
        "test_splits",
        "test/test_splits",
        "test_splits_complete",
        "test/test_splits_complete",
    ),
}
BASES = ("", "MELD.Raw/", "MELD/", "raw/", "MELD.Raw/MELD.Raw/")
TABLE_FOLDERS = ("", "{split}/", "data/MELD/", "data/MELD_Dyadic/", "annotations/", "MELD/", "MELD_Dyadic/")

KNOWN_COPIES = (("train/dia12_utt7", "test/dia85_utt0"),)
KNOWN_ISSUES = {
    "train/dia12_utt7": "the same clip as test/dia85_utt0",
    "test/dia85_utt0": "the same clip as train/dia12_utt7",
    "train/dia309_utt0": "runs on into other scenes (41 s)",
    "test/dia38_utt4": "runs on into other scenes (305 s)",
    "test/dia220_utt0": "runs on into other scenes (235 s)",
}
KNOWN_BAD = {
    "train/dia125_utt3": "the published clip cannot be decoded",
    "dev/dia110_utt7": "the clip was never published",
}
COLUMNS = (
    *("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID"),
    *("Season", "Episode", "StartTime", "EndTime"),
)


def _table(names: Sequence[str], rows: Mapping[str, Sequence[int]]) -> dict[str, dict[str, int]]:
    return {split: dict(zip(names, numbers, strict=True)) for split, numbers in rows.items()}


PUBLISHED = Published(
    utterances={"train": 9989, "val": 1109, "test": 2610},
    labels={
        "emotion": _table(
            EMOTIONS,
            {
                "train": (4710, 1205, 268, 683, 1743, 271, 1109),
                "val": (470, 150, 40, 111, 163, 22, 153),
                "test": (1256, 281, 50, 208, 402, 68, 345),
            },
        ),
        "sentiment": _table(
            SENTIMENTS, {"train": (4710, 2334, 2945), "val": (470, 233, 406), "test": (1256, 521, 833)}
        ),
    },
    source="CSV files of declare-lab/MELD",
)
PUBLISHED_DYADIC = Published(
    utterances={"train": 12840, "val": 1462, "test": 3400}, source="CSV files of declare-lab/MELD, dyadic"
)


@dataclass(frozen=True)
class MeldCorpus:
    """MELD in its raw release."""

    root: Path
    variant: str = "multiparty"
    """`multiparty`, or `dyadic` for the two-party rows."""
    allow_count_mismatch: bool = False
    """Go on when counts differ from the published ones, with the splits that are there."""

    def __post_init__(self) -> None:
        if self.variant not in ("multiparty", "dyadic"):
            raise MerError(f"meld: variant {self.variant!r} is unknown; use multiparty or dyadic")

    def info(self) -> CorpusInfo:
        """Return the facts about MELD."""
        dyadic = self.variant == "dyadic"
        return CorpusInfo(
            name="meld-dyadic" if dyadic else "meld",
            title="MELD, two-party dialogues" if dyadic else "MELD: Multimodal EmotionLines Dataset",
            languages=("en",),
            license="annotation GPL-3.0; clips for research only",
            gated=True,
            url="https://affective-meld.github.io",
            citation="Poria et al., ACL 2019, https://aclanthology.org/P19-1050",
            labels={"emotion": LabelSpec("class", EMOTIONS), "sentiment": LabelSpec("class", SENTIMENTS)},
            protocols=("official",),
            channel="center",
            known_copies=() if dyadic else KNOWN_COPIES,
        )

    def published(self) -> Published:
        """Return the published counts."""
        return PUBLISHED_DYADIC if self.variant == "dyadic" else PUBLISHED

    def utterances(self) -> Sequence[Utterance]:
        """List all rows by split, dialogue and turn.

        Raises
        ------
        MerError
            If a CSV file is missing or malformed, or the counts differ from the published ones.
        """
        rows = self._rows()
        folders = self.clip_folders()
        found = [self._utterance(split, folders[split], row) for split, row in rows]
        return assert_counts(self.info().name, self.published(), found, self.allow_count_mismatch)

    def origins(self) -> Mapping[str, tuple[str, ...]]:
        """Return per key what of the series it shows: equal origins are one recording."""
        found = {}
        for split, row in self._rows():
            times = [f"{row.parse(name, clock_seconds):.3f}" for name in ("StartTime", "EndTime")]
            found[self._key(split, row)] = (row.text("Season"), row.text("Episode"), *times, row.text("Utterance"))
        return found

    def known_issues(self) -> Mapping[str, str]:
        """Return what is known of single clips of the release."""
        return KNOWN_ISSUES

    def listed_key(self, key: str) -> str:
        """Turn a key of EmoBox, `meld-dia0_utt0-train`, into ours."""
        _, clip, split = key.split("-")
        return f"{split}/{clip}"

    @property
    def ignored_media(self) -> str:
        """Pattern of files in the clip folders that are not part of MELD."""
        return r"final_videos_test|\._"

    def clip_folders(self) -> dict[str, str]:
        """Return per split of the archive the folder of its clips, the usual one when none is there."""
        found = {}
        for split, names in CLIP_FOLDERS.items():
            places = [base + name for base in BASES for name in names]
            found[split] = first_existing(self.root, places) or names[0]
        return found

    def _rows(self) -> list[tuple[str, Row]]:
        corpus_root(self.root)
        found: list[tuple[str, Row]] = []
        for split in SPLITS:
            name = f"{split}_sent_emo{'_dya' if self.variant == 'dyadic' else ''}.csv"
            places = [base + folder.format(split=split) + name for base in BASES for folder in TABLE_FOLDERS]
            place = first_existing(self.root, places)
            if place is None and self.allow_count_mismatch:
                continue
            required = (*COLUMNS, "Old_Dialogue_ID", "Old_Utterance_ID") if self.variant == "dyadic" else COLUMNS
            rows = read_table(self.root / (place or name), required, UTF8_OR_CP1252).rows
            found += [(split, row) for row in sorted(rows, key=_place)]
        if not found:
            raise MerError(f"{self.root}: no *_sent_emo.csv found; give the folder of the unpacked MELD with --root")
        refuse_repeats((self._key(split, row), row) for split, row in found)
        return found

    def _key(self, split: str, row: Row) -> str:
        return f"{split}/dia{row.integer('Dialogue_ID')}_utt{row.integer('Utterance_ID')}"

    def _utterance(self, split: str, folder: str, row: Row) -> Utterance:
        # Read to refuse a damaged table; a clip is a whole file and is not cut by them.
        row.parse("StartTime", clock_seconds)
        row.parse("EndTime", clock_seconds)
        old = "Old_" if self.variant == "dyadic" else ""
        clip = f"dia{row.integer(old + 'Dialogue_ID')}_utt{row.integer(old + 'Utterance_ID')}"
        return Utterance(
            key=self._key(split, row),
            media=f"{folder}/{clip}.mp4",
            text=row.text("Utterance"),
            speaker=row.filled("Speaker"),
            dialogue=f"{split}/dia{row.integer('Dialogue_ID')}",
            turn=row.integer("Utterance_ID"),
            split=SPLITS[split],
            labels={
                "emotion": row.one_of("Emotion", EMOTIONS, fold_case=True),
                "sentiment": row.one_of("Sentiment", SENTIMENTS, fold_case=True),
            },
            known_bad=KNOWN_BAD.get(f"{split}/{clip}", ""),
        )


@dataclass(frozen=True)
class MeldDyadicCorpus(MeldCorpus):
    """The two-party dialogues of MELD."""

    variant: str = "dyadic"


def _place(row: Row) -> tuple[int, int]:
    return row.integer("Dialogue_ID"), row.integer("Utterance_ID")
