"""RAVDESS, speech: 24 actors say two sentences in eight emotions, 1,440 clips with sound and picture.

Who may use it
    Anyone, non-commercially, under CC BY-NC-SA 4.0; https://zenodo.org/records/1188976.
Layout
    `Actor_01/01-01-03-02-01-01-01.mp4` and so on, in any folder below the root. The seven numbers are modality (01
    sound and picture, 02 picture, 03 sound), vocal channel (01 speech), emotion, intensity, statement, repetition,
    actor. A clip is taken from its 01 file, else from its 03 file (wav or flac). All 1,440 clips are listed, found or
    not.
Labels
    `emotion` in the order of the file codes, and `intensity`.
Splits
    None. `emobox-folds` are EmoBox's six folds of four actors, kept here in `session`; `speaker-folds` leave one actor
    out.
Traps
    * Every actor says the same two sentences: text carries nothing, and folds must be disjoint in actors.
    * Neutral has no strong intensity: 96 clips against 192 of each other class.
    * Files 03-01-03-01-02-01-07 and 03-01-03-01-02-02-07 are one recording in at least one copy of the corpus.
Papers
    Livingstone and Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song", PLoS ONE 13, 2018.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.cache import MerError

from ..interfaces import CorpusInfo, LabelSpec
from ..utterance import Utterance
from .annotation import corpus_root, files_below
from .counts import ALL, Published, assert_counts

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
INTENSITIES = ("normal", "strong")
STATEMENTS = ("Kids are talking by the door.", "Dogs are sitting by the door.")
FOLDS = {
    "1": (1, 11, 20, 21),
    "2": (4, 10, 12, 14),
    "3": (8, 9, 19, 23),
    "4": (3, 5, 7, 24),
    "5": (2, 15, 16, 18),
    "6": (6, 13, 17, 22),
}
FOLD_OF_ACTOR = {actor: fold for fold, actors in FOLDS.items() for actor in actors}
NAME = re.compile(r"(0[13])-(01-0[1-8]-0[12]-0[12]-0[12]-(?:0[1-9]|1[0-9]|2[0-4]))")
SUFFIXES = (".mp4", ".wav", ".flac", ".avi", ".mkv")
PUBLISHED = Published(
    utterances={ALL: 1440},
    labels={"emotion": {ALL: {name: 96 if name == "neutral" else 192 for name in EMOTIONS}}},
    source="PLoS ONE paper and EmoBox",
)


@dataclass(frozen=True)
class RavdessCorpus:
    """The speech part of RAVDESS."""

    root: Path
    modality: str = "auto"
    """`auto` takes the clip with picture where it is there, `audio` always the sound file."""

    def __post_init__(self) -> None:
        if self.modality not in ("auto", "audio"):
            raise MerError(f"ravdess: modality {self.modality!r} is unknown; use auto or audio")

    def info(self) -> CorpusInfo:
        """Return the facts about RAVDESS."""
        return CorpusInfo(
            name="ravdess",
            title="RAVDESS: Ryerson Audio-Visual Database of Emotional Speech",
            languages=("en",),
            license="CC-BY-NC-SA-4.0",
            gated=False,
            url="https://zenodo.org/records/1188976",
            citation="Livingstone and Russo, PLoS ONE 13(5), 2018",
            labels={"emotion": LabelSpec("class", EMOTIONS), "intensity": LabelSpec("class", INTENSITIES)},
            protocols=("emobox-folds", "speaker-folds", "kfold"),
        )

    def published(self) -> Published:
        """Return the published counts."""
        return PUBLISHED

    def utterances(self) -> Sequence[Utterance]:
        """List the 1,440 clips by actor.

        Raises
        ------
        MerError
            If the root holds no file of RAVDESS, or one clip in two places.
        """
        files = self._files()
        found = [
            _utterance(emotion, intensity, statement, repetition, actor, files)
            for actor in range(1, 25)
            for emotion in range(1, 9)
            for intensity in (1, 2)
            for statement in (1, 2)
            for repetition in (1, 2)
            if (emotion, intensity) != (1, 2)
        ]
        return assert_counts("ravdess", PUBLISHED, found, False)

    def listed_key(self, key: str) -> str:
        """Turn a key of EmoBox, `ravdess-03-01-05-01-02-01-18`, into ours."""
        return key.removeprefix("ravdess-03-")

    def _files(self) -> dict[str, str]:
        """Return the file of each clip name (without its modality)."""
        found: dict[tuple[str, str], str] = {}
        for path in files_below(corpus_root(self.root), "", SUFFIXES):
            match = NAME.fullmatch(Path(path).stem)
            if match is None:
                continue
            before = found.setdefault((match[2], match[1]), path)
            if before != path:
                raise MerError(f"{self.root}: {path} and {before} are the same clip; remove one copy")
        if not found:
            raise MerError(
                f"{self.root}: no file of RAVDESS (01-01-….mp4 or 03-01-….wav) found; give its folder with --root"
            )
        wanted = ("03",) if self.modality == "audio" else ("03", "01")
        return {name: path for kind in wanted for (name, modality), path in found.items() if modality == kind}


def _utterance(
    emotion: int, intensity: int, statement: int, repetition: int, actor: int, files: dict[str, str]
) -> Utterance:
    name = f"01-{emotion:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}-{actor:02d}"
    return Utterance(
        key=name,
        media=files.get(name, f"Actor_{actor:02d}/01-{name}.mp4"),
        text=STATEMENTS[statement - 1],
        speaker=f"{actor:02d}",
        session=FOLD_OF_ACTOR[actor],
        labels={"emotion": EMOTIONS[emotion - 1], "intensity": INTENSITIES[intensity - 1]},
    )
