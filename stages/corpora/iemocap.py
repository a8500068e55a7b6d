"""IEMOCAP: five sessions of two actors each, 151 improvised and scripted dialogues, 10,039 evaluated turns.

Who may use it
    Academic researchers who sign the release form of USC's SAIL laboratory; no part of it may be passed on.
Layout
    `IEMOCAP_full_release/Session{1..5}/`: `dialog/EmoEvaluation/{dialog}.txt` (labels and times),
    `dialog/transcriptions/{dialog}.txt`, `dialog/avi/DivX/{dialog}.avi` (both actors in one picture) and
    `sentences/wav/{dialog}/{turn}.wav` (16 kHz). The root may be the release folder or the one above it.
    The sound of a turn is its own wav file; the face is cut out of the dialogue's avi. Without the avi files only the
    sound and the text are there.
Labels
    The categorical consensus has eleven tags. Papers use these subsets of it, chosen by `labels`:
    `4` angry, sad, neutral, and happy with excited merged (5,531 turns); `6-consensus` happy, sad, neutral, angry,
    excited, frustrated (7,380); `6` the same with 53 turns more that the widely copied feature files of dialogue
    models call happy although their consensus is none of the six (7,433). The chosen set is the target `emotion`; every
    set is also there under its own name, so that one extraction serves all. Valence, activation and dominance are means
    of the raters, 1 to 5.
Splits
    None. `session-folds` leaves one session out, `speaker-folds` one speaker, `session5-test` tests on session 5.
    A random split shares speakers and dialogues between training and test: not offered.
Traps
    * The speaker is the letter before the turn's number. The letter after the session in a name tells who wears the
      motion capture markers; folds made from it mix speakers.
    * The marked actor sits in the left half of the picture, the other in the right half; turns carry that half as
      `face_region`. The rule is MERBench's.
    * Transcript files hold lines without a time, and back channels (`…_FXX0`) that nobody rated: both are passed over.
    * Archives leave `._` stubs beside the label files.
    * Some pipelines drop turns longer than 25 s and report on what is left; nothing is dropped here.
Papers
    Busso et al., "IEMOCAP: Interactive emotional dyadic motion capture database", LREC 42, 2008;
    https://sail.usc.edu/iemocap
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.cache import MerError

from ..interfaces import CorpusInfo, LabelSpec
from ..utterance import Utterance
from .annotation import UTF8_OR_CP1252, corpus_root, first_existing, read_text
from .counts import ALL, Published, assert_counts

TAGS = ("neu", "hap", "exc", "sad", "ang", "fru", "sur", "fea", "dis", "oth", "xxx")
LABEL_SETS: Mapping[str, tuple[str, ...]] = {
    "4": ("hap", "sad", "neu", "ang"),
    "6": ("hap", "sad", "neu", "ang", "exc", "fru"),
    "6-consensus": ("hap", "sad", "neu", "ang", "exc", "fru"),
}
TARGETS = {"4": "emotion4", "6": "emotion6", "6-consensus": "emotion6_consensus"}

# Called happy by the feature files of dialogue models: dialogue -> turns.
EXTRA_HAPPY = {
    "Ses01F_impro03": "F007 F011 F014 M012",
    "Ses01F_impro06": "M017",
    "Ses01F_impro07": "F007",
    "Ses01M_impro03": "F000",
    "Ses01M_impro07": "F002",
    "Ses02F_impro03": "F002 F005 F006 F007 F020",
    "Ses02M_impro03": "F010 F026 F027",
    "Ses03F_impro02": "M003",
    "Ses03F_impro03": "F000 F003 F010 M003 M008 M013 M016 M019",
    "Ses03F_impro04": "M020",
    "Ses03F_impro07": "F000 F002 F006 M016 M020 M031",
    "Ses03M_impro02": "F001",
    "Ses03M_impro03": "F000 F019 M005 M006 M008 M009 M010 M024 M025 M026 M027 M034 M036 M037",
    "Ses03M_impro05a": "F017",
    "Ses03M_impro07": "F020 M001 M012 M021",
    "Ses05F_impro07": "M010",
}
EXTRA = frozenset(f"{dialogue}_{turn}" for dialogue, turns in EXTRA_HAPPY.items() for turn in turns.split())

LABEL_LINE = re.compile(r"\[(\d+\.\d+) - (\d+\.\d+)\]\t(\S+)\t(\w+)\t\[(\d+\.\d+), (\d+\.\d+), (\d+\.\d+)\]\s*")
TURN_NAME = re.compile(r"(Ses0([1-5])([FM])_(?:impro|script)\w+)_([FM])\d{3}")
TRANSCRIPT_LINE = re.compile(r"(\S+) \[\d+\.\d+-\d+\.\d+\]:(.*)")


def _sessions(*numbers: int) -> dict[str, int]:
    return {ALL: sum(numbers), **{f"session {n}": number for n, number in enumerate(numbers, 1)}}


PUBLISHED = Published(
    utterances={ALL: 10039},
    labelled={
        "emotion4": _sessions(1085, 1023, 1151, 1031, 1241),
        "emotion6": _sessions(1373, 1356, 1569, 1512, 1623),
        "emotion6_consensus": {ALL: 7380},
    },
    labels={
        "consensus": {
            ALL: {"neu": 1708, "hap": 595, "exc": 1041, "sad": 1084, "ang": 1103, "fru": 1849, "sur": 107, "fea": 40}
        },
        "emotion4": {ALL: {"hap": 1636, "sad": 1084, "neu": 1708, "ang": 1103}},
        "emotion6": {
            ALL: {"hap": 648, "sad": 1084, "neu": 1708, "ang": 1103, "exc": 1041, "fru": 1849},
            "session 5": {"hap": 144, "sad": 245, "neu": 384, "ang": 170, "exc": 299, "fru": 381},
        },
    },
    source="label lists of EmoBox and MERBench, joined",
)


@dataclass(frozen=True)
class Turn:
    """One evaluated turn as its label file has it."""

    name: str
    dialogue: str
    session: str
    speaker: str
    marked: bool
    """True when the speaker is the actor with the markers."""
    start_seconds: float
    end_seconds: float
    tag: str
    valence: float
    activation: float
    dominance: float


@dataclass(frozen=True)
class IemocapCorpus:
    """IEMOCAP in its full release."""

    root: Path
    labels: str = "4"
    """Label set of the target `emotion`: `4`, `6` or `6-consensus`."""
    turns: str = "all"
    """`all` evaluated turns, or only the `labelled` ones of the label set, without their context."""
    allow_count_mismatch: bool = False

    def __post_init__(self) -> None:
        if self.labels not in LABEL_SETS:
            raise MerError(f"iemocap: label set {self.labels!r} is unknown; use {', '.join(LABEL_SETS)}")
        if self.turns not in ("all", "labelled"):
            raise MerError(f"iemocap: turns {self.turns!r} is unknown; use all or labelled")

    def info(self) -> CorpusInfo:
        """Return the facts about IEMOCAP with every label set."""
        return CorpusInfo(
            name="iemocap",
            title="IEMOCAP: Interactive Emotional Dyadic Motion Capture",
            languages=("en",),
            license="signed release form, academic use only",
            gated=True,
            url="https://sail.usc.edu/iemocap/release_form.php",
            citation="Busso et al., Language Resources and Evaluation 42, 2008",
            labels={
                "emotion": LabelSpec("class", LABEL_SETS[self.labels]),
                **{TARGETS[name]: LabelSpec("class", classes) for name, classes in LABEL_SETS.items()},
                "consensus": LabelSpec("class", TAGS),
                "valence": LabelSpec("real"),
                "activation": LabelSpec("real"),
                "dominance": LabelSpec("real"),
            },
            protocols=("session-folds", "speaker-folds", "session5-test", "kfold"),
        )

    def published(self) -> Published:
        """Return the published counts, which hold for all turns."""
        return PUBLISHED

    def utterances(self) -> Sequence[Utterance]:
        """List the turns by session, dialogue and time.

        Raises
        ------
        MerError
            If a label file is missing or malformed, a turn has no transcript, or counts differ from the published.
        """
        corpus_root(self.root)
        base = first_existing(self.root, ("Session1", "IEMOCAP_full_release/Session1", "IEMOCAP/Session1"))
        if base is None:
            raise MerError(f"{self.root}: no Session1 found; give the folder IEMOCAP_full_release with --root")
        base = base.removesuffix("Session1")
        video = any((self.root / base).glob("Session*/dialog/avi/DivX/*.avi"))
        found = [
            utterance
            for session in "12345"
            if self._has_session(base, session)
            for utterance in self._session(f"{base}Session{session}", video)
        ]
        assert_counts("iemocap", PUBLISHED, found, self.allow_count_mismatch)
        return found if self.turns == "all" else [u for u in found if u.labels["emotion"] is not None]

    def _has_session(self, base: str, session: str) -> bool:
        folder = self.root / f"{base}Session{session}"
        if not folder.is_dir() and not self.allow_count_mismatch:
            raise MerError(f"{folder}: session folder is missing; unpack the whole release")
        return folder.is_dir()

    def _session(self, folder: str, video: bool) -> list[Utterance]:
        labels = self.root / folder / "dialog" / "EmoEvaluation"
        files = sorted(path for path in labels.glob("Ses*.txt"))
        if not files:
            raise MerError(f"{labels}: no label files (Ses*.txt) found; unpack the whole release")
        found = []
        for path in files:
            turns = sorted(read_turns(path), key=lambda turn: (turn.start_seconds, turn.name))
            texts = read_transcript(self.root / folder / "dialog" / "transcriptions" / path.name)
            silent = [turn.name for turn in turns if turn.name not in texts]
            if silent and not self.allow_count_mismatch:
                raise MerError(
                    f"{path.parent.parent / 'transcriptions' / path.name}: no transcript of {len(silent)} rated turns,"
                    f" such as {silent[0]}; copy it again from the release"
                )
            found += [self._utterance(folder, turn, n, texts.get(turn.name), video) for n, turn in enumerate(turns)]
        return found

    def _utterance(self, folder: str, turn: Turn, position: int, text: str | None, video: bool) -> Utterance:
        wav = f"{folder}/sentences/wav/{turn.dialogue}/{turn.name}.wav"
        sets = {TARGETS[name]: label_of(turn, name) for name in LABEL_SETS}
        return Utterance(
            key=turn.name,
            media=f"{folder}/dialog/avi/DivX/{turn.dialogue}.avi" if video else wav,
            sound_media=wav if video else None,
            text=text,
            speaker=turn.speaker,
            dialogue=turn.dialogue,
            turn=position,
            session=turn.session,
            start_seconds=turn.start_seconds if video else None,
            end_seconds=turn.end_seconds if video else None,
            labels={
                "emotion": sets[TARGETS[self.labels]],
                **sets,
                "consensus": turn.tag,
                "valence": turn.valence,
                "activation": turn.activation,
                "dominance": turn.dominance,
            },
            face_region=((0.0, 0.0, 0.5, 1.0) if turn.marked else (0.5, 0.0, 1.0, 1.0)) if video else None,
        )


def read_turns(path: Path) -> list[Turn]:
    """Read the consensus lines of one label file; rater lines and comments are passed over.

    Raises
    ------
    MerError
        If a consensus line is malformed, names another dialogue, or a turn appears twice.
    """
    found: dict[str, Turn] = {}
    # Only consensus lines matter and they are ASCII; raters' remarks come in any encoding.
    for number, line in enumerate(read_text(path, ("latin-1",)).splitlines(), 1):
        if not line.startswith("["):
            continue
        match = LABEL_LINE.fullmatch(line)
        name = match and TURN_NAME.fullmatch(match[3])
        if match is None or name is None or name[1] != path.stem or match[4] not in TAGS:
            raise MerError(f"{path} line {number}: {line[:80]!r} is not a label line of this dialogue; copy it again")
        if name[0] in found:
            raise MerError(f"{path} line {number}: turn {name[0]} appears twice; copy the file again")
        start, end = float(match[1]), float(match[2])
        if not start < end:
            raise MerError(f"{path} line {number}: turn {name[0]} ends before it starts; copy the file again")
        found[name[0]] = Turn(
            name[0], name[1], name[2], f"Ses0{name[2]}{name[4]}", name[3] == name[4], start, end, match[4],
            float(match[5]), float(match[6]), float(match[7]),
        )  # fmt: skip
    if not found:
        raise MerError(f"{path}: holds no label lines; copy it again from the release")
    return list(found.values())


def read_transcript(path: Path) -> dict[str, str]:
    """Read the texts of one dialogue; lines of another form are passed over, as the release has some."""
    lines = read_text(path, UTF8_OR_CP1252).splitlines()
    return {match[1]: match[2].strip() for line in lines if (match := TRANSCRIPT_LINE.fullmatch(line.strip()))}


def label_of(turn: Turn, label_set: str) -> str | None:
    """Return the class of a turn in a label set, None when it is not part of it."""
    if label_set == "4" and turn.tag == "exc":
        return "hap"
    if label_set == "6" and turn.name in EXTRA:
        return "hap"
    return turn.tag if turn.tag in LABEL_SETS[label_set] else None
