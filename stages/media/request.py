"""What is wanted from a clip, and what was read of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mer.cache import MerError

from ..interfaces import Waveform
from .frames import Picture

CHANNELS = ("center", "mean", "first")


class MediaError(MerError):
    """Raised when a clip cannot be read at all; the message names the file and says why."""


@dataclass(frozen=True)
class MediaRequest:
    """What is wanted from a clip. Every field can change the numbers."""

    sound: bool = True
    frames_fps: float | None = None
    """Frames wanted per second, or None for no picture."""
    channel: str = "mean"
    """Mix to mono: `mean` of all channels; `first`; or `center`, the front-centre channel of a surround layout (the
    third one when a layout of three or more channels is not named) and the first one where there is no centre, which
    is EmoBox's rule for MELD."""
    start_seconds: float | None = None
    """Start of the half-open span, None for the beginning. Zero is where the earlier of sound and picture starts."""
    end_seconds: float | None = None
    max_seconds: float | None = None
    """Read at most this much from the start of the span; what is left out is told in a note."""
    grey_fps: float | None = None
    """Rate of grey pictures for the second sink, for following motion at a higher rate than the frames."""

    def __post_init__(self) -> None:
        if self.channel not in CHANNELS:
            raise MediaError(f"channel {self.channel!r} is unknown; use one of {', '.join(CHANNELS)}")
        for name in ("frames_fps", "max_seconds", "grey_fps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise MediaError(f"{name} must be a positive number, got {value!r}")
        if (self.start_seconds or 0.0) < 0 or not self.start < self.end:
            raise MediaError(f"span [{self.start_seconds}, {self.end_seconds}) seconds is empty or starts before zero")

    @property
    def start(self) -> float:
        """Start of the span in seconds."""
        return self.start_seconds or 0.0

    @property
    def end(self) -> float:
        """End of the span in seconds as asked for, before `max_seconds`; infinite when open."""
        return float("inf") if self.end_seconds is None else self.end_seconds

    @property
    def stop(self) -> float:
        """Where reading stops: the end of the span, or earlier by `max_seconds`."""
        return min(self.end, self.start + (self.max_seconds or float("inf")))


@dataclass(frozen=True)
class Media:
    """What was read. A problem string is empty when that half is as asked for (or was not asked for)."""

    waveform: Waveform | None
    """None when there is no usable sound, `sound_problem` says why; and when a sink took it."""
    sound_problem: str
    duration_seconds: float
    """Length of what was read: the longer of sound and picture."""
    picture_seconds: float = 0.0
    frames: Sequence[tuple[float, Picture]] = ()
    """The sampled frames when no sink was given; empty otherwise."""
    picture_problem: str = ""
    notes: tuple[str, ...] = field(default=())
    """Oddities that did not stop the reading: damaged packets, gaps, a cut to `max_seconds`."""
