"""Which stretches of a video are predicted, and what is said in each."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from mer.cache import MerError
from mer.cache.release import install_line

SHORTEST_SECONDS = 0.25
"""A rest of a video that is shorter than this gets no window of its own."""
ROUNDING_SECONDS = 1e-6


@dataclass(frozen=True)
class Cue:
    """One line of a subtitle file."""

    start_seconds: float
    end_seconds: float
    text: str


@dataclass(frozen=True)
class Window:
    """One stretch of a video."""

    index: int
    start_seconds: float
    end_seconds: float
    text: str | None
    """What is said in it; None where no words are known of the whole video."""


class Windows(Protocol):
    """Gives the windows of a video as far as it has been read, in a fixed order."""

    @property
    def oldest_seconds(self) -> float:
        """Start of the earliest window still to come."""
        ...

    def due(self, seconds: float) -> Iterator[Window]:
        """Windows that end within the first `seconds` and were not given yet."""
        ...

    def rest(self, seconds: float) -> Iterator[Window]:
        """The windows still to come of a video that ends after `seconds`."""
        ...


class SlidingWindows:
    """Windows of one length, one every `hop_seconds`; the last one may be shorter and ends with the video."""

    def __init__(self, length_seconds: float, hop_seconds: float, words: Sequence[Cue] | None = None) -> None:
        if not 0 < hop_seconds <= length_seconds or length_seconds < SHORTEST_SECONDS:
            raise MerError(
                f"windows of {length_seconds:g} s every {hop_seconds:g} s are not possible; "
                f"give a length of {SHORTEST_SECONDS} s or more and a hop of at most the length"
            )
        self._length, self._hop = length_seconds, hop_seconds
        self._words = words
        self._count = 0

    @property
    def oldest_seconds(self) -> float:
        """Start of the earliest window still to come."""
        return round(self._count * self._hop, 6)  # as the window itself says it

    def due(self, seconds: float) -> Iterator[Window]:
        """Windows that end within the first `seconds` and were not given yet."""
        while self.oldest_seconds + self._length <= seconds + ROUNDING_SECONDS:
            yield self._next(self.oldest_seconds + self._length)

    def rest(self, seconds: float) -> Iterator[Window]:
        """The windows still to come of a video that ends after `seconds`."""
        yield from self.due(seconds)
        covered = self.oldest_seconds - self._hop + self._length if self._count else 0.0
        if seconds - max(covered, self.oldest_seconds) >= SHORTEST_SECONDS or not self._count:
            yield self._next(seconds)

    def _next(self, end_seconds: float) -> Window:
        start = self.oldest_seconds
        text = None if self._words is None else words_between(self._words, start, end_seconds)
        made = Window(self._count, round(float(start), 6), round(float(end_seconds), 6), text)
        self._count += 1
        return made


class Turns:
    """One window for each cue of a subtitle file, in the order in which they end."""

    def __init__(self, cues: Sequence[Cue]) -> None:
        self._cues = sorted(cues, key=lambda cue: (cue.end_seconds, cue.start_seconds))
        later = accumulate((cue.start_seconds for cue in reversed(self._cues)), min)
        self._oldest = [*reversed(list(later)), float("inf")]
        self._count = 0

    @property
    def oldest_seconds(self) -> float:
        """Start of the earliest window still to come."""
        return self._oldest[self._count]

    def due(self, seconds: float) -> Iterator[Window]:
        """Windows that end within the first `seconds` and were not given yet."""
        while self._count < len(self._cues) and self._cues[self._count].end_seconds <= seconds:
            yield self._next(float("inf"))

    def rest(self, seconds: float) -> Iterator[Window]:
        """The windows still to come of a video that ends after `seconds`."""
        yield from self.due(seconds)
        while self._count < len(self._cues):
            if self._cues[self._count].start_seconds + SHORTEST_SECONDS <= seconds:
                yield self._next(seconds)
            else:
                self._count += 1

    def _next(self, most_seconds: float) -> Window:
        cue = self._cues[self._count]
        made = Window(self._count, cue.start_seconds, min(cue.end_seconds, most_seconds), cue.text)
        self._count += 1
        return made


def words_between(cues: Sequence[Cue], start_seconds: float, end_seconds: float) -> str:
    """Words said in a stretch: those whose middle lies in it, the words of a cue spread evenly by their letters."""
    said = []
    for cue in cues:
        if cue.end_seconds <= start_seconds or cue.start_seconds >= end_seconds:
            continue
        words = cue.text.split()
        letters = [0, *accumulate(len(word) + 1 for word in words)]
        span = cue.end_seconds - cue.start_seconds
        for place, word in enumerate(words):
            middle = cue.start_seconds + span * (letters[place] + letters[place + 1]) / 2 / letters[-1]
            if start_seconds <= middle < end_seconds:
                said.append(word)
    return " ".join(said)


def read_cues(path: Path) -> list[Cue]:
    """Read a subtitle file (.srt, .vtt, .ass and what else pysubs2 knows), in the order of time.

    Raises
    ------
    MerError
        If it is missing, is no subtitle file, holds no words, or the library that reads it is not installed.
    """
    pysubs2 = subtitle_library()
    try:
        events = pysubs2.load(str(path), encoding="utf-8-sig")
    except OSError as error:
        raise MerError(f"{path}: cannot be read ({error.strerror}); name a subtitle file") from error
    except (pysubs2.exceptions.Pysubs2Error, ValueError) as error:
        raise MerError(f"{path}: is no subtitle file in UTF-8; give an .srt or .vtt file") from error
    cues = [
        Cue(event.start / 1000, event.end / 1000, " ".join(event.plaintext.split()))
        for event in events
        if not event.is_comment and event.end > event.start and event.plaintext.strip()
    ]
    if not cues:
        raise MerError(f"{path}: holds no words with times; give an .srt or .vtt file")
    return sorted(cues, key=lambda cue: (cue.start_seconds, cue.end_seconds))


def check_cues(cues: Sequence[Cue], path: Path, video: Path, seconds: float) -> None:
    """Refuse the subtitles of another video: more than a tenth of their lines begin after the end of this one.

    Raises
    ------
    MerError
        If they are.
    """
    late = len(cues) - bisect.bisect_left([cue.start_seconds for cue in cues], seconds)
    if late > len(cues) / 10:
        raise MerError(
            f"{path}: {late} of its {len(cues)} lines begin after the end of {video.name} ({seconds:.1f} s); "
            "give the subtitles of this video"
        )


def subtitle_library() -> Any:
    """The module pysubs2.

    Raises
    ------
    MerError
        If it is not installed.
    """
    try:
        import pysubs2
    except ImportError as error:
        raise MerError(f"subtitles need the library pysubs2; {install_line('timeline')}") from error
    return pysubs2
