"""Who says what, when and in which mood: the script of the demo corpus, drawn from a seed without touching media.

The mood of an utterance reaches its words, its voice and its face independently. In each of them it is shown with
probability `SHOWN`; otherwise that one channel shows something else, and more faintly. So no modality alone can be
perfect, and together they say more than any one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

MOODS = ("neutral", "joy", "anger", "sadness")
SHARES = (0.31, 0.24, 0.23, 0.22)
VALENCE = {"neutral": 0.0, "joy": 0.8, "anger": -0.7, "sadness": -0.6}
SHOWN = 0.76
SPLITS: dict[str, tuple[float, int]] = {"train": (0.56, 10), "val": (0.20, 4), "test": (0.24, 4)}
"""Per split its share of the clips and its number of speakers; nobody speaks in two splits."""

OPENERS = ("well", "so", "you know", "listen", "okay", "look", "hey", "right")
TOPICS = (
    "about the meeting",
    "about the train",
    "about your letter",
    "about dinner",
    "about the phone call",
    "about the garden",
    "about my brother",
    "about the old car",
)
CLAUSES = {
    "neutral": (
        "it starts at nine on monday",
        "the paper is on the table",
        "we can talk on monday",
        "it is the same as usual",
        "I put it on the list",
        "the bus leaves at nine as usual",
    ),
    "joy": (
        "I love it so much",
        "this is wonderful news",
        "what a lovely surprise",
        "we finally won",
        "I am so happy for you",
        "that is the best news ever",
    ),
    "anger": (
        "stop lying to me",
        "I told you never to do that",
        "this is outrageous",
        "how dare you do that",
        "get out and leave me alone",
        "I am sick of your excuses",
    ),
    "sadness": (
        "I miss her every day",
        "nobody came and I cried",
        "everything is gone now",
        "I feel so lost without him",
        "we had to say goodbye",
        "I cried and nobody called",
    ),
}

AWKWARD = ("no sound", "no face", "truncated file", "no transcript")
"""One clip of each kind is in the training split, so that a run shows how such clips end."""


@dataclass(frozen=True)
class Shown:
    """What one channel shows."""

    mood: str
    strength: float
    """0 is nothing, 1 the full expression."""


@dataclass(frozen=True)
class Line:
    """One utterance of the script."""

    number: int
    """Position in the corpus, from 0; seeds everything drawn for this clip."""
    key: str
    split: str
    dialogue: str
    turn: int
    speaker: int
    mood: str
    valence: float
    words: str
    voice: Shown
    face: Shown
    awkward: str = ""
    """One of `AWKWARD`, or empty."""

    @property
    def file_name(self) -> str:
        """Name of the clip."""
        return self.key.replace("/", "_") + ".mp4"


def write_script(clips: int, seed: int) -> list[Line]:
    """Draw the whole script; equal arguments give equal scripts.

    Parameters
    ----------
    clips
        Number of utterances, at least 16.
    seed
        Seed of everything random.
    """
    counts = _split_counts(clips)
    rng = np.random.default_rng([seed, 1])
    lines: list[Line] = []
    first_speaker = dialogue = 0
    for split, (_, speakers) in SPLITS.items():
        moods = _moods(counts[split], rng)
        for turns in _dialogue_lengths(counts[split], rng):
            pair = first_speaker + rng.permutation(speakers)[:2]
            for turn in range(turns):
                lines.append(_line(len(lines), split, dialogue, turn, int(pair[turn % 2]), moods.pop(), rng))
            dialogue += 1
        first_speaker += speakers
    return lines


def _line(number: int, split: str, dialogue: int, turn: int, speaker: int, mood: str, rng: np.random.Generator) -> Line:
    words, voice, face = (_shown(mood, rng) for _ in range(3))
    # every other one of the first clips, so that the smallest corpus has them all
    kind, rest = divmod(number - 2, 2)
    awkward = AWKWARD[kind] if split == "train" and rest == 0 and 0 <= kind < len(AWKWARD) else ""
    return Line(
        number=number,
        key=f"{split}/d{dialogue:02d}_u{turn}",
        split=split,
        dialogue=f"d{dialogue:02d}",
        turn=turn,
        speaker=speaker,
        mood=mood,
        valence=round(float(np.clip(VALENCE[mood] + rng.normal(0, 0.12), -1, 1)), 2),
        words=_words(words, rng),
        voice=voice,
        face=face,
        awkward=awkward,
    )


def _split_counts(clips: int) -> dict[str, int]:
    counts = {split: round(share * clips) for split, (share, _) in SPLITS.items()}
    counts["train"] += clips - sum(counts.values())
    return counts


def _moods(count: int, rng: np.random.Generator) -> list[str]:
    """Deal the moods in their shares, so that even a small split has each of them, and shuffle."""
    bounds = np.round(np.cumsum(SHARES) * count).astype(int)
    dealt = [MOODS[int(np.searchsorted(bounds, place, side="right"))] for place in range(count)]
    rng.shuffle(dealt)
    return dealt


def _dialogue_lengths(count: int, rng: np.random.Generator) -> Iterator[int]:
    while count > 0:
        turns = min(int(rng.integers(4, 7)), count)
        yield turns
        count -= turns


def _shown(mood: str, rng: np.random.Generator) -> Shown:
    if rng.random() < SHOWN:
        return Shown(mood, float(rng.uniform(0.65, 1.0)))
    others = [other for other in MOODS if other != mood]
    masked = "neutral" if mood != "neutral" and rng.random() < 0.5 else _pick(others, rng)
    return Shown(masked, float(rng.uniform(0.35, 0.7)))


def _words(shown: Shown, rng: np.random.Generator) -> str:
    parts = [_pick(CLAUSES[shown.mood], rng)]
    if rng.random() < 0.5:
        parts.insert(0, _pick(OPENERS, rng))
    if rng.random() < 0.5 and len(parts[-1].split()) < 6:
        parts.append(_pick(TOPICS, rng))
    return " ".join(parts)


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
