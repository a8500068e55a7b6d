"""Mouth patches of the followed faces, for telling who speaks: cut at once, or only when there is a choice to make."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..media.frames import Picture
from .align import MOUTH_SIZE, MOUTH_WIDTH_SHARE, between, mouth, mouth_middle
from .detect import Face
from .tracks import Track

MOST_GREY_FRAMES = 64
SLACK_SHARE = 0.3
"""Room around a mouth that is kept for later, as a share of the width of the face: so far may it move in one step."""
REGIONS_IN_MEMORY = 16 << 20
"""Bytes of grey regions kept per clip before their patches are cut all the same."""


class MouthsAtOnce:
    """Cuts the patches of every face as the frames come, one sampled frame late so that places can be smoothed."""

    def __init__(self) -> None:
        self._grey: list[tuple[float, Picture]] = []
        self._older: list[tuple[float, Picture]] = []

    def add_grey(self, time_seconds: float, grey: Picture, tracks: Sequence[Track]) -> None:
        """Take a grey picture (H, W) of a moment between the sampled frames."""
        if len(self._grey) < MOST_GREY_FRAMES:
            self._grey.append((time_seconds, grey))

    def add(self, times: Sequence[float], frame: Picture, tracks: Sequence[Track], seen: bool) -> None:
        """Take a sampled frame (BGR) after its faces were linked; `times` ends with its own."""
        if not self._grey and seen:
            self._grey.append((times[-1], _grey_of(frame)))
        self._cut(times[:-1], tracks)
        self._older, self._grey = self._grey, []

    def finish(self, times: Sequence[float], tracks: Sequence[Track]) -> None:
        """Cut what is left at the end of the clip."""
        self._cut(times, tracks)
        self.close()

    def close(self) -> None:
        """Forget the pictures."""
        self._grey, self._older = [], []

    def _cut(self, times: Sequence[float], tracks: Sequence[Track]) -> None:
        if len(times) < 2:
            return
        step = len(times) - 1
        before_seconds, span = times[-2], times[-1] - times[-2]
        for track in tracks:
            older, newer = track.steady(step - 1), track.steady(step)
            if older is None or newer is None:
                continue
            for moment, picture in self._older:
                share = (moment - before_seconds) / span
                if 0 < share <= 1:
                    track.mouth_times.append(moment)
                    track.mouths.append(mouth(picture, between(older, newer, share)))


class MouthsWhenNeeded:
    """Keeps the surroundings of each mouth, and cuts patches out of them only when there are people to choose from.

    The whole pictures are let go at once, so that the decoder can use their memory again.
    """

    def __init__(self) -> None:
        self._seen_until = -1
        self._any_grey = False
        self._bytes = 0

    def add_grey(self, time_seconds: float, grey: Picture, tracks: Sequence[Track]) -> None:
        """Take a grey picture (H, W) of a moment between the sampled frames."""
        self._any_grey = True
        for track in tracks:
            if track.steps[-1] == self._seen_until:
                self._keep(time_seconds, grey, track)

    def add(self, times: Sequence[float], frame: Picture, tracks: Sequence[Track], seen: bool) -> None:
        """Take a sampled frame (BGR) after its faces were linked; `times` ends with its own."""
        self._seen_until = len(times) - 1
        if not self._any_grey and seen:
            self.add_grey(times[-1], _grey_of(frame), tracks)
        self._any_grey = False
        if self._bytes > REGIONS_IN_MEMORY:
            self._cut(times[:-1], tracks)

    def finish(self, times: Sequence[float], tracks: Sequence[Track]) -> None:
        """Cut the patches where there is more than one track to choose from."""
        if len(tracks) > 1:
            self._cut(times, tracks)

    def close(self) -> None:
        """Nothing is held here; the regions go with their tracks."""

    def _keep(self, moment: float, grey: Picture, track: Track) -> None:
        face = track.faces[-1]
        (x, y), width = mouth_middle(face), float(face.box[2])
        reach = [(MOUTH_WIDTH_SHARE / 2 * share + SLACK_SHARE) * width for share in (1, MOUTH_SIZE[1] / MOUTH_SIZE[0])]
        left, top = max(int(x - reach[0]), 0), max(int(y - reach[1]), 0)
        part = grey[top : max(int(y + reach[1]), 0), left : max(int(x + reach[0]), 0)].copy()
        if part.size:
            track.waiting.append((moment, left, top, part))
            self._bytes += part.nbytes

    def _cut(self, times: Sequence[float], tracks: Sequence[Track]) -> None:
        """Cut what lies between sampled frames whose faces are known and can be smoothed."""
        for track in tracks:
            later = []
            for moment, left, top, part in track.waiting:
                step = bisect_left(times, moment)
                if step >= len(times):
                    later.append((moment, left, top, part))
                    continue
                self._bytes -= part.nbytes
                older, newer = track.steady(step - 1), track.steady(step)
                if older is None or newer is None:
                    continue
                share = (moment - times[step - 1]) / (times[step] - times[step - 1])
                track.mouth_times.append(moment)
                track.mouths.append(mouth(part, _moved(between(older, newer, share), left, top)))
            track.waiting = later


def _grey_of(frame: Picture) -> Picture:
    import cv2

    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)


def _moved(face: Face, left: int, top: int) -> Face:
    """Face in pixels of a part of the picture that begins at `left` and `top`."""
    corner = np.array([left, top], np.float32)
    points = None if face.points is None else face.points - corner
    return replace(face, box=face.box - np.array([left, top, 0, 0], np.float32), points=points)
