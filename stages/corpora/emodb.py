"""EmoDB, the Berlin database of emotional speech: 535 recordings by ten actors in seven emotions, no picture.

Who may use it
    Anyone; it is free to download at http://emodb.bilderbar.info (version 1).
Layout
    `wav/03a01Wa.wav`: speaker (two digits), sentence, emotion letter of the German word, version. 16 kHz.
Labels
    anger (W), boredom (L), disgust (E), fear (A), happiness (F), neutral (N), sadness (T).
Splits
    None. `speaker-folds` leaves one actor out. EmoBox's five folds are random ones in which every actor is on both
    sides: not offered.
Traps
    * The letters are of German words: T is Trauer (sadness), W is Wut (anger), A is Angst (fear).
    * Only recordings that listeners recognised were published, so the sentences are not balanced over emotions.
    * There is no list beside the files: what is missing shows in the counts only.
Papers
    Burkhardt et al., "A Database of German Emotional Speech", Interspeech 2005.
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
from .counted import CountedCorpus
from .counts import ALL, Published

EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "N": "neutral",
    "T": "sadness",
}
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
NAME = re.compile(rf"(03|08|09|1[0-6])({'|'.join(SENTENCES)})([{''.join(EMOTIONS)}])([a-z])")
COUNTS = (127, 81, 46, 69, 71, 79, 62)
PUBLISHED = Published(
    utterances={ALL: 535},
    labels={"emotion": {ALL: dict(zip(EMOTIONS.values(), COUNTS, strict=True))}},
    source="EmoBox",
)


@dataclass(frozen=True)
class EmoDbCorpus(CountedCorpus):
    """EmoDB from its archive."""

    facts = CorpusInfo(
        name="emodb",
        title="EmoDB: Berlin Database of Emotional Speech",
        languages=("de",),
        license="free to download, no licence text",
        gated=False,
        url="http://emodb.bilderbar.info",
        citation="Burkhardt et al., Interspeech 2005",
        labels={"emotion": LabelSpec("class", tuple(EMOTIONS.values()))},
        protocols=("speaker-folds", "kfold"),
    )
    counts = PUBLISHED

    def utterances(self) -> Sequence[Utterance]:
        """List the recordings by name.

        Raises
        ------
        MerError
            If there are none, one is there twice, or counts differ from the published ones.
        """
        files: dict[str, str] = {}
        for path in files_below(corpus_root(self.root), "", (".wav", ".flac")):
            name = Path(path).stem
            if NAME.fullmatch(name) and files.setdefault(name, path) != path:
                raise MerError(f"{self.root}: {path} and {files[name]} are the same recording; remove one copy")
        if not files:
            raise MerError(
                f"{self.root}: no recording such as wav/03a01Wa.wav found; give the corpus folder with --root"
            )
        found = [_utterance(name, path) for name, path in sorted(files.items())]
        return self.counted(found)


def _utterance(name: str, path: str) -> Utterance:
    return Utterance(
        key=name,
        media=path,
        text=SENTENCES[name[2:5]],
        speaker=name[:2],
        labels={"emotion": EMOTIONS[name[5]]},
    )
