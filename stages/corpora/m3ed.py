"""M3ED: 990 Mandarin dialogues from 56 television series, 24,449 utterances, each with one or more of seven emotions.

Who may use it
    Researchers, for non-commercial use. Annotation and splits are on GitHub; the sound is on the drive named there. The
    video itself is not released, so no facial features can be made from the public data.
Layout
    `annotation.json`, `splitInfo/movie_list_{train,val,test}.txt`, and one 16 kHz wav per utterance,
    `modality_speech/{A|B}_{series}_{dialogue}_{utterance}.wav` (also seen: `audio/`).
Labels
    `emotion` is the main label; `emotions` are all of them (`final_mul_emo`). Index order of the README.
Splits
    Official, by series: 38 train, 7 val, 11 test, disjoint. A public training script pairs dialogues and names in
    another order, so that every series is in its training and its test part: its numbers are not comparable.
Traps
    * Times have four fields, `HH:MM:SS:FF`, where FF counts frames; values above 24 occur, up to 142, and blanks after
      them. The wav files are cut already and are read whole, so that nothing depends on the times.
    * The last lines of the split lists have no newline.
    * Twelve utterances have no usable sound in EmoBox's copy.
Papers
    Zhao et al., "M3ED: Multi-modal Multi-scene Multi-label Emotional Dialogue Database", ACL 2022;
    https://github.com/AIM3-RUC/RUCM3ED
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mer.cache import MerError

from ..interfaces import CorpusInfo, LabelSpec
from ..utterance import Utterance
from .annotation import corpus_root, first_existing, read_json, read_text
from .counted import CountedCorpus
from .counts import ALL, Published

EMOTIONS = ("Happy", "Neutral", "Sad", "Disgust", "Anger", "Fear", "Surprise")
SERIES = {"train": 38, "val": 7, "test": 11}
SOUND_FOLDERS = ("modality_speech", "audio", "modality_audio")
PUBLISHED = Published(utterances={ALL: 24449}, source="paper, section 3")
FRAMES_PER_SECOND = 25.0


@dataclass(frozen=True)
class M3edCorpus(CountedCorpus):
    """M3ED with its released sound."""

    facts = CorpusInfo(
        name="m3ed",
        title="M3ED: Multi-modal Multi-scene Multi-label Emotional Dialogue",
        languages=("zh",),
        license="research only",
        gated=True,
        url="https://github.com/AIM3-RUC/RUCM3ED",
        citation="Zhao et al., ACL 2022, https://aclanthology.org/2022.acl-long.391",
        labels={"emotion": LabelSpec("class", EMOTIONS), "emotions": LabelSpec("multi", EMOTIONS)},
        protocols=("official",),
    )
    counts = PUBLISHED

    def utterances(self) -> Sequence[Utterance]:
        """List the utterances in the order of the annotation, turns sorted inside a dialogue.

        Raises
        ------
        MerError
            If a file is missing or malformed, a series is in no or two splits, or counts differ from the published.
        """
        corpus_root(self.root)
        splits = self.splits()
        folder = first_existing(self.root, SOUND_FOLDERS) or SOUND_FOLDERS[0]
        found = [_utterance(item, splits, folder) for item in self._items()]
        return self.counted(found)

    def origins(self) -> Mapping[str, tuple[str, ...]]:
        """Return per key series, times and text: equal origins are one recording."""
        return {
            item.key: (item.series, item.dialogue, item.time("StartTime"), item.time("EndTime"), item.text("Text"))
            for item in self._items()
        }

    def splits(self) -> dict[str, str]:
        """Read the split of every series.

        Raises
        ------
        MerError
            If a list is missing, a series is listed twice, or there are not 38, 7 and 11 of them.
        """
        found: dict[str, str] = {}
        for split, number in SERIES.items():
            path = self.root / "splitInfo" / f"movie_list_{split}.txt"
            names = read_text(path).split()
            for name in names:
                if name in found:
                    raise MerError(f"{path}: series {name!r} is listed twice ({found[name]} and {split})")
                found[name] = split
            if len(names) != number and not self.allow_count_mismatch:
                hint = "copy it again, or go on with --allow-count-mismatch"
                raise MerError(f"{path}: {len(names)} series instead of {number}; {hint}")
        return found

    def _items(self) -> Iterator[Item]:
        path = self.root / "annotation.json"
        seen: set[str] = set()
        for series, dialogues in _members(path, "the file", read_json(path)):
            for dialogue, parts in _members(path, series, dialogues):
                spoken = _part(path, dialogue, parts, "Dialog")
                people = _part(path, dialogue, parts, "SpeakerInfo")
                items = [Item(path, series, dialogue, key, fields, people) for key, fields in spoken.items()]
                for item in sorted(items, key=lambda item: item.turn):
                    if item.key in seen:
                        raise item.error("appears twice")
                    seen.add(item.key)
                    yield item


@dataclass(frozen=True)
class Item:
    """One utterance of `annotation.json` and its place in it."""

    path: Path
    series: str
    dialogue: str
    key: str
    fields: Any
    people: Mapping[str, Any]

    def error(self, message: str) -> MerError:
        """Build the error that names this utterance."""
        return MerError(f"{self.path}: utterance {self.key!r} {message}; copy the file again from the release")

    def text(self, name: str, fields: Any = None) -> str:
        """Return a string field."""
        fields = self.fields if fields is None else fields
        value = fields.get(name) if isinstance(fields, dict) else None
        if not isinstance(value, str):
            raise self.error(f"has no {name}")
        return value.strip()

    def time(self, name: str) -> str:
        """Return a time field in seconds, or as it is written: nothing is cut by it, so that no oddity matters."""
        written = self.text(name)
        try:
            return f"{timecode_seconds(written):.3f}"
        except ValueError:
            return written

    @property
    def turn(self) -> int:
        """Number of the utterance in its dialogue, from 0."""
        match = re.fullmatch(re.escape(self.dialogue) + r"_([0-9]{1,6})", self.key)
        if match is None or int(match[1]) < 1:
            raise self.error(f"is not named {self.dialogue}_1, {self.dialogue}_2 and so on")
        return int(match[1]) - 1

    @property
    def speaker(self) -> str:
        """A or B."""
        letter = self.text("Speaker")
        if not re.fullmatch(r"\w+", letter) or letter not in self.people:
            raise self.error(f"has a Speaker {letter!r} that SpeakerInfo does not name")
        return letter


def _members(path: Path, name: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        raise MerError(f"{path}: {name} is not an object with members; copy the file again from the release")
    return list(value.items())


def _part(path: Path, dialogue: str, parts: Any, name: str) -> dict[str, Any]:
    value = parts.get(name) if isinstance(parts, dict) else None
    if not isinstance(value, dict) or not value:
        raise MerError(f"{path}: dialogue {dialogue!r} has no {name}; copy the file again from the release")
    return value


def _utterance(item: Item, splits: Mapping[str, str], folder: str) -> Utterance:
    if item.series not in splits:
        lists = ", ".join(f"movie_list_{split}.txt" for split in SERIES)
        raise item.error(f"belongs to series {item.series!r}, which is in none of {lists}")
    if not re.fullmatch(r"\w+", item.key):
        raise item.error("is not a plain name")
    emotions = item.fields.get("EmoAnnotation")
    main = item.text("final_main_emo", emotions)
    several = tuple(
        dict.fromkeys(part.strip() for part in item.text("final_mul_emo", emotions).split(",") if part.strip())
    )
    unknown = [name for name in (main, *several) if name not in EMOTIONS]
    if unknown or not several:
        raise item.error(f"has the unknown emotion {unknown[0]!r}" if unknown else "has no emotion")
    name = item.text("Name", item.people[item.speaker])
    return Utterance(
        key=item.key,
        media=f"{folder}/{item.speaker}_{item.key}.wav",
        text=item.text("Text"),
        speaker=f"{item.series}_{name}",
        dialogue=item.dialogue,
        turn=item.turn,
        split=splits[item.series],
        labels={"emotion": main, "emotions": several},
    )


def timecode_seconds(cell: str, frames_per_second: float = FRAMES_PER_SECOND) -> float:
    """Read `HH:MM:SS:FF`; frames beyond one second, from sources of a higher rate, count as just under a second.

    Raises
    ------
    ValueError
        If the cell has another form.
    """
    match = re.fullmatch(r"(\d{1,2}):(\d{1,2}):(\d{1,2}):(\d{1,3})", cell.strip())
    if match is None:
        raise ValueError(f"{cell!r} is not a time of the form HH:MM:SS:FF")
    hours, minutes, seconds, frames = map(int, match.groups())
    return hours * 3600 + minutes * 60 + seconds + min(frames / frames_per_second, 0.999)
