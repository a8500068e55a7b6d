"""MSP-IMPROV: six dyads of actors in improvised scenes built around a target sentence, 8,438 turns.

Who may use it
    Academic researchers whose institution signs the licence of the MSP laboratory at UT Dallas.
Layout
    Established from the readers of several public projects, not from the release itself. `Evalution.txt` (spelled so;
    also `Evaluation.txt`) holds one line a turn, `UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:2.6; V:3.4; D:2.8 ; N:3.2;`,
    followed by the lines of its raters. Clips are `session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.{avi,wav}`, or the same
    below `Audio/` and `Video/`.
Labels
    Angry, sad, happy, neutral; other (O) and no agreement (X) have none. Activation, valence, dominance, naturalness,
    1 to 5.
Splits
    None. `session-folds` leaves one dyad out.
Traps
    * Labels name `UTD-IMPROV-…`, files `MSP-IMPROV-…`.
    * The scene is S (target sentence, improvised), R (target sentence, read), T or P (the rest, and between takes).
    * The actor in the middle of a name is the one of the target sentence. Who speaks a turn is taken from the first
      letter of the last field; this reading is unverified, hence no leave-one-speaker-out protocol.
    * Whether a turn's number counts the scene or its speaker is not known: turns carry no position in their dialogue.
    * A mean of dominance or another scale can be NaN.
Papers
    Busso et al., "MSP-IMPROV: An Acted Corpus of Dyadic Interactions to Study Emotion Perception", IEEE Trans.
    Affective Computing 8, 2017.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.cache import MerError

from ..interfaces import CorpusInfo, LabelSpec
from ..utterance import Utterance
from .annotation import corpus_root, files_below, first_existing, read_text
from .counted import CountedCorpus
from .counts import ALL, Published

EMOTIONS = {"A": "angry", "S": "sad", "H": "happy", "N": "neutral"}
SCALES = ("activation", "valence", "dominance", "naturalness")
LABEL_FILES = ("Evalution.txt", "Evaluation.txt", "MSP-IMPROV/Evalution.txt", "MSP-IMPROV/Evaluation.txt")
VALUE = r"\s*(\d+(?:\.\d+)?|NaN)\s*"
LINE = re.compile(rf"UTD-IMPROV-(\S+)\.avi;\s*([A-Z]);\s*A:{VALUE};\s*V:{VALUE};\s*D:{VALUE};\s*N:{VALUE};?\s*")
NAME = re.compile(r"(S\d\d[AHNS])-([FM])0([1-6])-([A-Z])-([FM])[FM]\d\d")
PUBLISHED = Published(
    utterances={ALL: 8438},
    labels={"emotion": {ALL: {"angry": 792, "sad": 885, "happy": 2644, "neutral": 3477}}},
    source="paper, tables 3 and 4",
)


@dataclass(frozen=True)
class MspImprovCorpus(CountedCorpus):
    """MSP-IMPROV with its label file."""

    facts = CorpusInfo(
        name="msp-improv",
        title="MSP-IMPROV: Acted Corpus of Dyadic Interactions",
        languages=("en",),
        license="signed licence, academic use only",
        gated=True,
        url="https://www.lab-msp.com/MSP/MSP-Improv.html",
        citation="Busso et al., IEEE Transactions on Affective Computing 8(1), 2017",
        labels={
            "emotion": LabelSpec("class", tuple(EMOTIONS.values())),
            **{scale: LabelSpec("real") for scale in SCALES},
        },
        protocols=("session-folds", "kfold"),
    )
    counts = PUBLISHED

    def utterances(self) -> Sequence[Utterance]:
        """List the turns by name.

        Raises
        ------
        MerError
            If the label file is missing or malformed, or counts differ from the published ones.
        """
        root = corpus_root(self.root)
        place = first_existing(root, LABEL_FILES) or LABEL_FILES[0]
        video = {Path(path).stem: path for path in files_below(root, "", (".avi", ".mp4"))}
        sound = {Path(path).stem: path for path in files_below(root, "", (".wav",))}
        lines = _read_lines(root / place)
        found = [_utterance(name, match, video, sound) for name, match in sorted(lines.items())]
        return self.counted(found)


def _read_lines(path: Path) -> dict[str, re.Match[str]]:
    """Return the label line of every turn; raters' lines, which name no clip, are passed over."""
    found: dict[str, re.Match[str]] = {}
    for number, line in enumerate(read_text(path, ("latin-1",)).splitlines(), 1):
        if not line.lstrip().startswith("UTD-"):
            continue
        match = LINE.fullmatch(line.strip())
        if match is None or NAME.fullmatch(match[1]) is None or match[2] not in (*EMOTIONS, "O", "X"):
            raise MerError(f"{path} line {number}: {line[:80]!r} is not a label line; copy the file again")
        if match[1] in found:
            raise MerError(f"{path} line {number}: turn {match[1]} appears twice; copy the file again")
        found[match[1]] = match
    if not found:
        raise MerError(f"{path}: holds no label lines (UTD-IMPROV-…); copy the file again")
    return found


def _utterance(name: str, line: re.Match[str], video: dict[str, str], sound: dict[str, str]) -> Utterance:
    scene, target, session, kind, speaker = NAME.findall(name)[0]
    folder, stem = f"session{session}/{scene}/{kind}", f"MSP-IMPROV-{name}"
    wav = sound.get(stem, f"{folder}/{stem}.wav")
    values = [None if value == "NaN" else float(value) for value in line.groups()[2:]]
    return Utterance(
        key=name,
        media=video.get(stem, f"{folder}/{stem}.avi") if video else wav,
        sound_media=wav if video and sound else None,
        speaker=f"{speaker}0{session}",
        dialogue=f"{scene}-{target}0{session}-{kind}",
        session=session,
        labels={"emotion": EMOTIONS.get(line[2]), **dict(zip(SCALES, values, strict=True))},
    )
