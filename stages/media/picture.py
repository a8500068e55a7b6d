"""Decoded picture frames to upright BGR or grey pictures, sampled by time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .limits import MediaLimits

if TYPE_CHECKING:
    from .frames import FrameSink, Picture

SLACK_SECONDS = 0.002
"""Containers round times to a millisecond; a frame that early still counts as being at its grid point."""


BEHIND_SECONDS = 0.5
"""A time that lags by less is one of a frame shown twice or out of order, and the next ones catch up."""
TICK_SECONDS = 1e-4
"""What such a frame is put behind the last one; times are stored as float32."""


class Grid:
    """Picks, for every k, the first time at or after k / fps, each time at most once."""

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._next = 0

    def wants(self, time_seconds: float) -> bool:
        """Say whether the frame at this time is sampled; times must not decrease."""
        if time_seconds + SLACK_SECONDS < self._next / self._fps:
            return False
        self._next = math.floor((time_seconds + SLACK_SECONDS) * self._fps) + 1
        return True


class FrameClock:
    """Times of frames from their timestamps, counted on at the average rate where those are missing or impossible."""

    def __init__(self, origin_seconds: float, rate: float, longest_gap: float) -> None:
        self.impossible = 0
        self._origin = origin_seconds
        self._step = 1.0 / rate
        self._longest_gap = longest_gap
        self._last: float | None = None

    def at(self, frame: Any) -> float:
        """Seconds from the clip's time zero; strictly increasing."""
        stamp = frame.pts if frame.pts is not None else (frame.dts if self._last is None else None)
        time = None if stamp is None else float(stamp * frame.time_base) - self._origin
        if self._last is None:
            self._last = time if time is not None else 0.0
        elif time is not None and self._last < time <= self._last + self._longest_gap:
            self._last = time
        else:
            # MPEG program streams leave out times as a matter of course; one that goes back or leaps is damage.
            self.impossible += time is not None
            late = time is not None and self._last - BEHIND_SECONDS < time <= self._last
            self._last += TICK_SECONDS if late else self._step
        return self._last


class PictureReader:
    """Hands sampled frames of a span to the sinks."""

    def __init__(
        self,
        clock: FrameClock,
        span: tuple[float, float],
        frames: tuple[float, FrameSink] | None,
        grey: tuple[float, FrameSink] | None,
        step_seconds: float,
        aspect: float,
        limits: MediaLimits | None = None,
    ) -> None:
        self.done = False
        self.problem = ""
        """Why the picture cannot be used, once it is known; nothing more is read then."""
        self._limits = limits or MediaLimits()
        self.sampled = 0
        self.decoded = 0
        self.seconds = 0.0
        self.clock = clock
        self._start, self._stop = span
        self._frames = (Grid(frames[0]), frames[1]) if frames else None
        self._grey = (Grid(grey[0]), grey[1]) if grey else None
        self._step = step_seconds
        self._aspect = aspect
        self._scaler = Scaler()

    def feed(self, frame: Any) -> None:
        """Take one decoded frame; grey comes before colour when both want it."""
        self.decoded += 1
        absolute = self.clock.at(frame)
        time = absolute - self._start
        if absolute >= self._stop - 1e-6:
            self.done = True
        if time < -SLACK_SECONDS or self.done:
            return
        time = max(time, 0.0)
        size = self._limits.picture_problem(_display_width(frame, self._aspect), frame.height)
        if self.give_up(size or self._limits.length_problem(time)):
            return
        self.seconds = min(time + self._step, self._stop - self._start)
        if self._grey is not None and self._grey[0].wants(time):
            self._grey[1](time, to_grey(frame, self._aspect, self._scaler))
        if self._frames is not None and self._frames[0].wants(time):
            self.sampled += 1
            self._frames[1](time, to_bgr(frame, self._aspect, self._scaler))

    def give_up(self, problem: str) -> bool:
        """Stop reading where there is a problem, and say whether there is one."""
        if problem:
            self.problem, self.done = problem, True
        return bool(problem)


class Scaler:
    """FFmpeg's scaler, set up once for all frames of a clip and run in one thread.

    Left to itself PyAV sets one up for every frame, with a thread per core.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._scaler = VideoReformatter()
        self._one_thread: dict[str, Any] = {"threads": 1}

    def to(self, frame: Any, pixels: str, width: int) -> Picture:
        """Pixels of a frame in another format, its height kept."""
        try:
            made = self._scaler.reformat(frame, width, frame.height, pixels, **self._one_thread)
        except TypeError:  # PyAV before 16 has one thread and no such argument
            self._one_thread = {}
            made = self._scaler.reformat(frame, width, frame.height, pixels)
        return np.asarray(made.to_ndarray(), np.uint8)


def to_bgr(frame: Any, aspect: float = 1.0, scaler: Scaler | None = None) -> Picture:
    """One PyAV video frame as BGR, shape (H, W, 3), upright, with square pixels."""
    return _upright((scaler or Scaler()).to(frame, "bgr24", _display_width(frame, aspect)), frame)


def to_grey(frame: Any, aspect: float = 1.0, scaler: Scaler | None = None) -> Picture:
    """One PyAV video frame as grey, shape (H, W); the luma plane itself where the pixel format has one."""
    layout = frame.format.name
    if aspect == 1.0 and layout.startswith(("yuv4", "yuvj4", "gray", "nv12")) and frame.format.components[0].bits == 8:
        plane = frame.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        return _upright(rows[:, : frame.width], frame)
    return _upright((scaler or Scaler()).to(frame, "gray", _display_width(frame, aspect)), frame)


def _display_width(frame: Any, aspect: float) -> int:
    width: int = frame.width
    return max(1, round(width * aspect))


def _upright(picture: Picture, frame: Any) -> Picture:
    """Undo the rotation that phones write as metadata: degrees counter-clockwise, in quarter turns."""
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
