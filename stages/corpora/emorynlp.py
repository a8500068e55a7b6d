"""EmoryNLP: 9,489 utterances of the series Friends, labelled with the seven emotions of the feeling wheel.

Who may use it
    The annotation is public; clips cut to it are linked from MELD's repository. Pictures and sound belong to the
    makers of the series.
Layout
    `emorynlp_{train,dev,test}_final.csv`, and the clips `emorynlp_{train,dev,test}_splits/sea1_ep2_sc1_utt1.mp4`.
Labels
    Sad, mad, scared, powerful, peaceful, joyful, neutral: the order in which the paper lists them; no index order is
    published with the files.
Splits
    Official: 7,551 / 954 / 984, by episode.
Traps
    * `Speaker` is a Python list, since one line may be spoken by several people: their names are joined with ` + `.
    * Utterance ids are not contiguous.
    * The sound is that of MELD: often 5.1, hence channel `center`.
Papers
    Zahiri and Choi, "Emotion Detection on TV Show Transcripts with Sequence-based Convolutional Neural Networks", 2018;
    https://github.com/emorynlp/emotion-detection
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mer.cache import MerError

from ..interfaces import CorpusInfo, LabelSpec
from ..utterance import Utterance
from .annotation import UTF8_OR_CP1252, Row, clock_seconds, corpus_root, first_existing, read_table, refuse_repeats
from .counted import CountedCorpus
from .counts import Published

EMOTIONS = ("Sad", "Mad", "Scared", "Powerful", "Peaceful", "Joyful", "Neutral")
SPLITS = {"train": "train", "dev": "val", "test": "test"}
COLUMNS = (
    *("Utterance", "Speaker", "Emotion", "Scene_ID", "Utterance_ID"),
    *("Season", "Episode", "Start_Time", "End_Time"),
)
TABLE_FOLDERS = ("", "data/emorynlp/", "emorynlp/", "EMORYNLP/")
CLIP_FOLDERS = ("emorynlp_{}_splits", "{}_splits", "emorynlp_video_splits/emorynlp_{}_splits")
PUBLISHED = Published(
    utterances={"train": 7551, "val": 954, "test": 984},
    labels={
        "emotion": {
            "train": dict(zip(EMOTIONS, (474, 785, 941, 551, 638, 1677, 2485), strict=True)),
            "val": dict(zip(EMOTIONS, (51, 97, 127, 70, 82, 205, 322), strict=True)),
            "test": dict(zip(EMOTIONS, (70, 86, 116, 96, 111, 217, 288), strict=True)),
        }
    },
    source="CSV files of declare-lab/MELD",
)


@dataclass(frozen=True)
class EmoryNlpCorpus(CountedCorpus):
    """EmoryNLP with the clips cut to it."""

    facts = CorpusInfo(
        name="emorynlp",
        title="EmoryNLP: Emotion Detection on Friends",
        languages=("en",),
        license="annotation Apache-2.0; clips for research only",
        gated=True,
        url="https://github.com/declare-lab/MELD",
        citation="Zahiri and Choi, AAAI workshops 2018, arXiv:1708.04299",
        labels={"emotion": LabelSpec("class", EMOTIONS)},
        protocols=("official",),
        channel="center",
    )
    counts = PUBLISHED

    def utterances(self) -> Sequence[Utterance]:
        """List the rows by split, season, episode, scene and utterance.

        Raises
        ------
        MerError
            If a table is missing or malformed, or counts differ from the published ones.
        """
        rows = self._rows()
        folders = {split: self._clip_folder(split) for split in SPLITS}
        found = [_utterance(split, folders[split], row) for split, row in rows]
        return self.counted(found)

    def origins(self) -> Mapping[str, tuple[str, ...]]:
        """Return per key what of the series it shows."""
        names = ("Season", "Episode", "Start_Time", "End_Time", "Utterance")
        return {_key(row): tuple(row.text(name) for name in names) for _, row in self._rows()}

    def _clip_folder(self, split: str) -> str:
        names = [name.format(split) for name in CLIP_FOLDERS]
        return first_existing(self.root, names) or names[0]

    def _rows(self) -> list[tuple[str, Row]]:
        corpus_root(self.root)
        found: list[tuple[str, Row]] = []
        for split in SPLITS:
            name = f"emorynlp_{split}_final.csv"
            place = first_existing(self.root, [folder + name for folder in TABLE_FOLDERS])
            if place is None and self.allow_count_mismatch:
                continue
            rows = read_table(self.root / (place or name), COLUMNS, UTF8_OR_CP1252).rows
            found += [(split, row) for row in sorted(rows, key=_place)]
        if not found:
            raise MerError(f"{self.root}: no emorynlp_*_final.csv found; give the folder of the corpus with --root")
        refuse_repeats((_key(row), row) for _, row in found)
        return found


def _place(row: Row) -> tuple[int, int, int, int]:
    return row.integer("Season"), row.integer("Episode"), row.integer("Scene_ID"), row.integer("Utterance_ID")


def _key(row: Row) -> str:
    season, episode, scene, utterance = _place(row)
    return f"sea{season}_ep{episode}_sc{scene}_utt{utterance}"


def _utterance(split: str, folder: str, row: Row) -> Utterance:
    # Read to refuse a damaged table; a clip is a whole file and is not cut by them.
    row.parse("Start_Time", clock_seconds)
    row.parse("End_Time", clock_seconds)
    key = _key(row)
    return Utterance(
        key=key,
        media=f"{folder}/{key}.mp4",
        text=row.text("Utterance"),
        speaker=row.parse("Speaker", speaker_names),
        dialogue=key.rpartition("_")[0],
        turn=row.integer("Utterance_ID") - 1,
        split=SPLITS[split],
        labels={"emotion": row.one_of("Emotion", EMOTIONS)},
    )


def speaker_names(cell: str) -> str:
    """Join the names of a Python list of strings.

    Raises
    ------
    ValueError
        If the cell is none; the message completes a sentence that begins with the cell.
    """
    try:
        names = ast.literal_eval(cell)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("is not a list of names")
    return " + ".join(names)
