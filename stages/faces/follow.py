"""Faces followed from frame to frame: YuNet sees the whole picture seldom, and a small window around each known face.

A look at the whole picture costs five times a look at one window, and a face that was there 0.2 s ago is nearly
always still there. The window is scaled so that the face fills about half of it, whatever its size in the picture;
so a followed face is placed equally well near and far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..media.frames import Picture
from .align import LOOK_SIZE, tilt, unit_look, warp
from .detect import Face, Yunet, largest

Wanted = Callable[[Face], bool]


class Levels:
    """A frame and its halves, quarters and so on, each made when it is first needed."""

    def __init__(self, frame: Picture) -> None:
        self._levels = [frame]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frame."""
        height, width = self._levels[0].shape[:2]
        return width, height

    def at(self, shrink: float) -> tuple[Picture, int]:
        """Smallest level that is still at least the frame divided by `shrink`, and what it was divided by."""
        import cv2

        level, divisor = 0, 1
        while divisor * 2 <= shrink and min(self._levels[level].shape[:2]) >= 4:
            level, divisor = level + 1, divisor * 2
            if level == len(self._levels):
                above = self._levels[-1]
                height, width = above.shape[0] // 2, above.shape[1] // 2
                # Whole pairs only, so that a pixel of a level is the mean of exactly four of the one above.
                pairs = above[: height * 2, : width * 2]
                half = cv2.resize(pairs, (width, height), interpolation=cv2.INTER_AREA)
                self._levels.append(np.asarray(half, np.uint8))
        return self._levels[level], divisor

    def whole(self, size: tuple[int, int]) -> Picture:
        """Whole frame at a width and height not above its own."""
        import cv2

        picture, _ = self.at(self.size[0] / size[0])
        return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR), np.uint8)

    def cut(self, centre: tuple[float, float], width: float, angle: float, size: tuple[int, int]) -> Picture:
        """Rectangle of the frame of the given width in pixels, tilted by `angle`, scaled to `size`; black outside."""
        scale = size[0] / max(width, 1.0)
        picture, divisor = self.at(1 / scale)
        return warp(picture, (centre[0] / divisor, centre[1] / divisor), scale * divisor, angle, size)

    def crop(self, face: Face, size: int, margin: float) -> Picture:
        """Square crop of a face, its eyes level, as `face_align.crop` cuts it."""
        return self.cut(_middle(face), _side(face) * (1 + 2 * margin), tilt(face), (size, size))

    def look(self, face: Face, margin: float) -> npt.NDArray[np.float32]:
        """Small grey picture that tells people apart, as `face_align.look` makes it of a crop."""
        return unit_look(self.cut(_middle(face), _side(face) * (1 + 2 * margin), tilt(face), (LOOK_SIZE, LOOK_SIZE)))


@dataclass
class _Followed:
    """A known face, and the window around it when YuNet last placed it."""

    face: Face
    window: Picture | None = None
    middle: tuple[float, float] = (0.0, 0.0)
    side: float = 1.0


class FollowingYunet(Yunet):
    """YuNet in a window around each known face, and on the whole picture only at the start of a shot and now and then.

    A window that looks as it did when the face was placed shows the face in the same place; any other is given to
    YuNet, and a face counts only where it is found again. The whole picture is looked at when one of few faces is
    lost, and every fifth frame for those who came in. Where no face is in view for five looks, every third frame is
    looked at. Three sizes serve, each 640 x 360, 320 x 180 or 160 x 90 pixels or as many in another shape:

    * a small look while a face in close-up is in view;
    * else a quick look; and where that shows no close-up, a close look after it when the shot is new, a face was lost,
      or ten frames (of no face: ten looks) have passed since the last one.

    What is done depends on the frames alone.
    """

    ALGORITHM = 2
    SMALL_PIXELS = 160 * 90
    WINDOW_PIXELS = 128
    WINDOW_SHARE = 1.5
    """Side of a window over the longer side of the face."""
    STILL = 0.08
    """Mean change of a window, as a share of its own contrast, below which the face did not move."""
    LOOK_EVERY = 5
    CROWD = 3
    """While so many are still followed, one who is lost waits for the next look."""
    EMPTY_LOOKS = 5
    EMPTY_EVERY = 3
    SAME_FACE = 0.4
    """Overlap (intersection over union) from which two boxes are one face."""
    LARGEST_STEP = 1.6
    """Ratio of sizes in two frames beyond which a face in the window is another one."""

    def __init__(self, model: Path) -> None:
        super().__init__(model)
        self._followed: list[_Followed] = []
        self._since_look = 0
        self._empty = 0

    def reset(self) -> FollowingYunet:
        """Forget the clip before."""
        super().reset()
        self._followed, self._since_look, self._empty = [], self.LOOK_EVERY, 0
        return self

    def find(self, frame: Picture) -> list[Face]:
        """Faces of a BGR frame of the same shot as the one before, the largest first."""
        return self.find_in(Levels(frame), False, lambda face: True)

    def find_in(self, levels: Levels, new_shot: bool, wanted: Wanted) -> list[Face]:
        """Faces of a frame that are wanted, the largest first; `new_shot` says that nothing before tells about it."""
        if new_shot:
            self._followed, self._since_look, self._empty = [], self.LOOK_EVERY, 0
            self._since_close, self._close_up = self.CLOSE_EVERY, False
        self._since_look += 1
        known = len(self._followed)
        self._followed = self._follow(levels, wanted)
        lost = len(self._followed) < min(known, self.CROWD)
        every = self.LOOK_EVERY if known else (self.EMPTY_EVERY if self._empty >= self.EMPTY_LOOKS else 1)
        if lost or self._since_look >= every:
            self._look_for_more(levels, lost, wanted)
        chosen = largest([followed.face for followed in self._followed])
        self._followed = [followed for followed in self._followed if any(followed.face is face for face in chosen)]
        self._close_up = any(face.box[2] > self.CLOSE_UP * levels.size[0] for face in chosen)
        return chosen

    def _follow(self, levels: Levels, wanted: Wanted) -> list[_Followed]:
        """Known faces where they are now, without those that are lost or became one with another."""
        kept: list[_Followed] = []
        for known in self._followed:
            now = self._placed(levels, known)
            if now and wanted(now.face) and all(_overlap(now.face, one.face) < self.SAME_FACE for one in kept):
                kept.append(now)
        return kept

    def _placed(self, levels: Levels, known: _Followed) -> _Followed | None:
        """Known face in this frame, or None when it is not where it was."""
        if known.window is not None:
            window = self._window(levels, known.middle, known.side)
            if _change(window, known.window) < self.STILL:
                return known
        middle, side = _middle(known.face), self.WINDOW_SHARE * _side(known.face)
        found = self._in_window(self._window(levels, middle, side), middle, side)
        alike = [
            (float(np.hypot(*np.subtract(_middle(face), middle))), index)
            for index, face in enumerate(found)
            if 1 / self.LARGEST_STEP < _side(face) / _side(known.face) < self.LARGEST_STEP
        ]
        return self._known(levels, found[min(alike)[1]]) if alike else None

    def _known(self, levels: Levels, face: Face) -> _Followed:
        middle, side = _middle(face), self.WINDOW_SHARE * _side(face)
        return _Followed(face, self._window(levels, middle, side), middle, side)

    def _window(self, levels: Levels, middle: tuple[float, float], side: float) -> Picture:
        return levels.cut(middle, side, 0.0, (self.WINDOW_PIXELS, self.WINDOW_PIXELS))

    def _in_window(self, window: Picture, middle: tuple[float, float], side: float) -> list[Face]:
        """Faces YuNet sees in a window, in pixels of the frame."""
        scale = np.float32(side / self.WINDOW_PIXELS)
        corner = np.array([middle[0] - side / 2, middle[1] - side / 2], np.float32)
        return [
            Face(np.concatenate([box[:2] * scale + corner, box[2:] * scale]), score, points * scale + corner)
            for box, score, points in self._rows(window)
        ]

    def _look_for_more(self, levels: Levels, lost: bool, wanted: Wanted) -> None:
        """Look at the whole picture and follow what is new, each placed by its window where that shows it too."""
        self._since_look = 0
        known = [followed.face for followed in self._followed]
        for face in self._seen(levels, lost):
            if wanted(face) and all(_overlap(face, one) < self.SAME_FACE for one in known):
                known.append(face)
                new = _Followed(face, None, _middle(face), self.WINDOW_SHARE * _side(face))
                again = self._placed(levels, new)
                same = again is not None and wanted(again.face) and _overlap(again.face, face) > self.SAME_FACE
                self._followed.append(again if again is not None and same else new)
        self._empty = 0 if self._followed else self._empty + 1

    def _seen(self, levels: Levels, lost: bool) -> list[Face]:
        width, _ = levels.size
        self._since_close += self.LOOK_EVERY if self._followed else 1
        if self._close_up and not lost:
            return self._look_at(levels, self.SMALL_PIXELS)
        faces = self._look_at(levels, self.QUICK_PIXELS)
        close_up = any(face.box[2] > self.CLOSE_UP * width for face in faces)
        if not close_up and (lost or self._since_close >= self.CLOSE_EVERY):
            self._since_close = 0
            faces = self._look_at(levels, self.CLOSE_PIXELS)
        return faces

    def _look_at(self, levels: Levels, pixels: int) -> list[Face]:
        width, height = levels.size
        shrink = min((pixels / (width * height)) ** 0.5, 1.0)
        size = (max(round(width * shrink), 1), max(round(height * shrink), 1))
        back = np.array([width / size[0], height / size[1]], np.float32)
        rows = self._rows(levels.whole(size))
        return largest(
            [Face((box.reshape(2, 2) * back).reshape(4), score, points * back) for box, score, points in rows]
        )


def _middle(face: Face) -> tuple[float, float]:
    left, top, width, height = (float(value) for value in face.box)
    return left + width / 2, top + height / 2


def _side(face: Face) -> float:
    return float(max(face.box[2], face.box[3]))


def _change(window: Picture, before: Picture) -> float:
    """Mean absolute change of green between two windows over the standard deviation of the first."""
    import cv2

    green, was = window[..., 1], before[..., 1]
    return float(cv2.mean(cv2.absdiff(green, was))[0]) / max(float(was.std()), 1.0)


def _overlap(one: Face, other: Face) -> float:
    """Intersection over union of two boxes."""
    (a, b, c, d), (e, f, g, h) = one.box.tolist(), other.box.tolist()
    shared = max(min(a + c, e + g) - max(a, e), 0.0) * max(min(b + d, f + h) - max(b, f), 0.0)
    whole: float = c * d + g * h - shared
    return shared / whole if whole > 0 else 0.0
