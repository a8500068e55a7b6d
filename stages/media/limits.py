"""Bounds on what a clip may ask for: a few bytes of header can otherwise take any amount of memory and time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from mer.cache import MerError

TROUBLE = (ValueError, ArithmeticError, MemoryError, OSError, RuntimeError)
"""What libraries raise on content that they cannot deal with; PyAV's and OpenCV's own errors come on top."""


@dataclass(frozen=True)
class MediaLimits:
    """What a clip may have. One that has more is not decoded further: its fate says which bound it broke."""

    hours: float = 4.0
    """Length of what is read of a clip."""
    gap_seconds: float = 600.0
    """Longest hole in the sound that silence stands for."""
    megapixels: float = 64.0
    """Width times height of a picture, in millions; 8K video has 33."""
    channels: int = 64
    """Channels of the sound."""
    lowest_rate_hz: int = 1000
    highest_rate_hz: int = 768_000

    def sound_problem(self, stream: Any) -> str:
        """Say which bound a PyAV audio stream or frame breaks; empty when none."""
        rate, channels = stream.sample_rate or 0, len(stream.layout.channels)
        if rate and not self.lowest_rate_hz <= rate <= self.highest_rate_hz:
            bound = "lowest_rate_hz" if rate < self.lowest_rate_hz else "highest_rate_hz"
            return f"its sound has {rate} samples a second; {self._advice(bound)}"
        if channels > self.channels:
            return f"its sound has {channels} channels; {self._advice('channels')}"
        return ""

    def picture_problem(self, width: int, height: int) -> str:
        """Say that a picture is too large; empty when it is not."""
        if width * height > self.megapixels * 1e6:
            return f"its picture has {width} x {height} pixels; {self._advice('megapixels')}"
        return ""

    def length_problem(self, seconds: float) -> str:
        """Say that so many seconds are too many; empty when they are not."""
        if seconds > self.hours * 3600:
            return f"it lasts {seconds / 3600:.2f} hours or more; {self._advice('hours')}"
        return ""

    def gap_problem(self, seconds: float, at_seconds: float) -> str:
        """Say that a hole in the sound is too long; empty when it is not."""
        if seconds > self.gap_seconds:
            return f"its sound is missing for {seconds:.0f} s at {at_seconds:.2f} s; {self._advice('gap_seconds')}"
        return ""

    def _advice(self, name: str) -> str:
        return f"the bound is {getattr(self, name):g}: if that is right, give --media-limit {name}=NUMBER"


def parse_limits(items: Iterable[str]) -> MediaLimits:
    """Limits from `NAME=NUMBER` items, the others as they are by default.

    Raises
    ------
    MerError
        If a name is unknown or a number is not positive.
    """
    given: dict[str, Any] = dict(_parsed(items))
    return replace(MediaLimits(), **given)


def _parsed(items: Iterable[str]) -> Iterator[tuple[str, float]]:
    known = {field.name for field in fields(MediaLimits)}
    for item in items:
        name, _, value = item.partition("=")
        if name not in known:
            raise MerError(f"--media-limit {item!r} is not known; the limits are {', '.join(sorted(known))}")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not number > 0:
            raise MerError(f"--media-limit {item!r} needs a positive number; write it as {name}=NUMBER")
        yield name, number
