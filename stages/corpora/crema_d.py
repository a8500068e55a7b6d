"""CREMA-D: 7,442 clips of 91 actors who say one of 12 sentences in one of six emotions.

Who may use it
    Anyone, under the Open Database License; https://github.com/CheyneyComputerScience/CREMA-D.
Layout
    `VideoFlash/1001_DFA_ANG_XX.flv` and `AudioWAV/1001_DFA_ANG_XX.wav`: actor, sentence, emotion, level. With
    `SentenceFilenames.csv` beside them every clip of the release is listed, without it the clips that are found. The
    sound is read from the wav file, the face from the flv file; with only one of the folders, from that.
Labels
    The emotion that was acted, and its level: low, middle, high, or not asked for.
Splits
    None. `speaker-folds` leaves one actor out; EmoBox's single fold is a random one in which every actor is on both
    sides, hence not offered.
Traps
    * Git LFS: a clone without it has text files of 130 bytes called `.wav`; `mer corpora check` finds these unreadable.
    * What raters heard differs from what was acted in a third of the clips; these labels are what was acted.
    * 1076_MTI_SAD_XX is reported to be silent (not verified).
Papers
    Cao et al., "CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset", IEEE Trans. Affective Computing 5, 2014.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.cache import MerError

from ..interfaces import CorpusInfo, LabelSpec
from ..utterance import Utterance
from .annotation import corpus_root, files_below, read_table, refuse_repeats
from .counted import CountedCorpus
from .counts import ALL, Published

EMOTIONS = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "ANG": "angry", "FEA": "fear", "DIS": "disgust"}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
NAME = re.compile(rf"(10[0-9]{{2}})_({'|'.join(SENTENCES)})_({'|'.join(EMOTIONS)})_({'|'.join(LEVELS)})")
LIST = "SentenceFilenames.csv"
PUBLISHED = Published(
    utterances={ALL: 7442},
    labels={"emotion": {ALL: dict(zip(EMOTIONS.values(), (1087, 1271, 1271, 1271, 1271, 1271), strict=True))}},
    source="EmoBox",
)


@dataclass(frozen=True)
class CremaDCorpus(CountedCorpus):
    """CREMA-D from its repository."""

    facts = CorpusInfo(
        name="crema-d",
        title="CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset",
        languages=("en",),
        license="ODbL-1.0",
        gated=False,
        url="https://github.com/CheyneyComputerScience/CREMA-D",
        citation="Cao et al., IEEE Transactions on Affective Computing 5, 2014",
        labels={
            "emotion": LabelSpec("class", tuple(EMOTIONS.values())),
            "level": LabelSpec("class", tuple(LEVELS.values())),
        },
        protocols=("speaker-folds", "kfold"),
    )
    counts = PUBLISHED

    def utterances(self) -> Sequence[Utterance]:
        """List the clips by name.

        Raises
        ------
        MerError
            If the list is malformed, there is nothing, or counts differ from the published ones.
        """
        corpus_root(self.root)
        video = {Path(name).stem: name for name in files_below(self.root, "VideoFlash", (".flv", ".mp4"))}
        sound = {Path(name).stem: name for name in files_below(self.root, "AudioWAV", (".wav", ".flac"))}
        names = sorted(self._listed() or {name for name in {**video, **sound} if NAME.fullmatch(name)})
        if not names:
            raise MerError(
                f"{self.root}: no VideoFlash or AudioWAV clips found; give the repository's folder with --root"
            )
        found = [self._utterance(name, video, sound) for name in names]
        return self.counted(found)

    def listed_key(self, key: str) -> str:
        """Turn a key of EmoBox, `cremad-1087-IWL-ANG-XX`, into ours."""
        return key.removeprefix("cremad-").replace("-", "_")

    def _listed(self) -> set[str]:
        path = self.root / LIST
        if not path.is_file():
            return set()
        table = read_table(path, ("Filename",), row_ids=True)
        refuse_repeats((row.filled("Filename"), row) for row in table)
        for row in table:
            if NAME.fullmatch(row.text("Filename")) is None:
                raise row.error(f"Filename {row.text('Filename')!r} is not actor_sentence_emotion_level")
        return {row.text("Filename") for row in table}

    def _utterance(self, name: str, video: dict[str, str], sound: dict[str, str]) -> Utterance:
        actor, sentence, emotion, level = name.split("_")
        wav = sound.get(name, f"AudioWAV/{name}.wav")
        return Utterance(
            key=name,
            media=video.get(name, f"VideoFlash/{name}.flv") if video else wav,
            sound_media=wav if video and sound else None,
            text=SENTENCES[sentence],
            speaker=actor,
            labels={"emotion": EMOTIONS[emotion], "level": LEVELS[level]},
        )
