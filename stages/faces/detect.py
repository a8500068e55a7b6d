"""Finding faces in one frame: YuNet, or OpenCV's bundled cascade where YuNet cannot be had."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mer.cache import MerError

from ..media.frames import Picture

MOST_FACES = 6
"""Only this many faces of a frame, the largest ones, can belong to a followed person."""
SMALLEST_FACE = 20.0
"""Faces narrower than this many pixels of the frame are not worth encoding."""


@dataclass(frozen=True)
class Face:
    """One face in one frame, in pixels of the frame."""

    box: npt.NDArray[np.float32]
    """Shape (4,): left, top, width, height."""
    score: float
    """Detector's confidence in [0, 1]."""
    points: npt.NDArray[np.float32] | None = None
    """Shape (5, 2): the eye and mouth corner at the left of the picture come before those at its right; order left
    eye, right eye, nose, left mouth corner, right mouth corner. None when the detector has no landmarks."""


class Detector(Protocol):
    """Finds the faces of single frames of one clip, in order; one per clip."""

    def find(self, frame: Picture) -> list[Face]:
        """Faces of a BGR frame, the largest first."""
        ...


class Yunet:
    """YuNet on a shrunken frame: a quick look at every frame, a close look at some.

    The quick look (320 x 180 pixels or as many in another shape) loses faces narrower than about a twentieth of the
    picture, so a close look with four times the pixels is taken at the first frame, at every tenth where no face is
    seen in close-up, whenever the quick look finds fewer faces than the frame before had, and always while a face in
    view is that small. What is done depends on the frames alone.
    """

    ALGORITHM = 1
    QUICK_PIXELS = 320 * 180
    CLOSE_PIXELS = 640 * 360
    CLOSE_EVERY = 10
    SCORE = 0.6
    SURE_SCORE = 0.8
    FEWEST = 2
    """A person seen in fewer frames is not believed."""
    NARROW = 16.0
    """Width in the quick look below which a face needs the close look."""
    CLOSE_UP = 1 / 8
    """Width of a face, as a share of the picture's, beside which faces too small for the quick look do not matter."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._nets: dict[tuple[int, int], Any] = {}
        self._since_close = self.CLOSE_EVERY
        self._found = 0
        self._narrow = False
        self._close_up = False

    def reset(self) -> Yunet:
        """Forget the clip before."""
        self._since_close, self._found, self._narrow, self._close_up = self.CLOSE_EVERY, 0, False, False
        return self

    def find(self, frame: Picture) -> list[Face]:
        """Faces of a BGR frame, the largest first."""
        close = self._narrow or (self._since_close >= self.CLOSE_EVERY - 1 and not self._close_up)
        faces = self._look(frame, self.CLOSE_PIXELS if close else self.QUICK_PIXELS)
        if not close and len(faces) < self._found:
            close = True
            faces = self._look(frame, self.CLOSE_PIXELS)
        self._since_close = 0 if close else self._since_close + 1
        self._found = len(faces)
        quick = _shrink(frame, self.QUICK_PIXELS)
        self._narrow = any(face.box[2] * quick < self.NARROW for face in faces)
        self._close_up = any(face.box[2] > self.CLOSE_UP * frame.shape[1] for face in faces)
        return faces

    def _look(self, frame: Picture, pixels: int) -> list[Face]:
        import cv2

        height, width = frame.shape[:2]
        shrink = _shrink(frame, pixels)
        size = (max(round(width * shrink), 1), max(round(height * shrink), 1))
        small = frame if shrink == 1.0 else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        back = np.array([width / size[0], height / size[1]], np.float32)
        rows = self._rows(np.asarray(small, np.uint8))
        return largest(
            [Face((box.reshape(2, 2) * back).reshape(4), score, points * back) for box, score, points in rows]
        )

    def _rows(self, picture: Picture) -> list[tuple[npt.NDArray[np.float32], float, npt.NDArray[np.float32]]]:
        """Box (4,), score and points (5, 2) of each face, in pixels of a picture that is looked at as it is."""
        rows = self._net((picture.shape[1], picture.shape[0])).detect(picture)[1]
        if rows is None:
            return []
        return [(row[:4], float(row[14]), row[4:14].reshape(5, 2)) for row in rows if np.isfinite(row).all()]

    def _net(self, size: tuple[int, int]) -> Any:
        import cv2

        if size not in self._nets:
            if len(self._nets) >= 8:
                self._nets.clear()
            self._nets[size] = cv2.FaceDetectorYN.create(str(self._model), "", size, self.SCORE, 0.3, 100)
        return self._nets[size]


class Cascade:
    """OpenCV's frontal-face Haar cascade: no landmarks, more false and more missed faces than YuNet."""

    ALGORITHM = 1
    PIXELS = 480 * 270
    SCORE = 0.0
    SURE_SCORE = 0.3
    FEWEST = 3
    FULL_WEIGHT = 10.0
    """Cascade weight that counts as score 1."""

    def __init__(self) -> None:
        import cv2

        self._cascade = cv2.CascadeClassifier(str(cascade_file()))

    def reset(self) -> Cascade:
        """Nothing is kept between frames."""
        return self

    def find(self, frame: Picture) -> list[Face]:
        """Faces of a BGR frame, the largest first."""
        import cv2

        height, width = frame.shape[:2]
        shrink = _shrink(frame, self.PIXELS)
        size = (max(round(width * shrink), 1), max(round(height * shrink), 1))
        grey = cv2.equalizeHist(cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA))
        boxes, _, weights = self._cascade.detectMultiScale3(grey, 1.2, 5, minSize=(24, 24), outputRejectLevels=True)
        return largest(
            [
                Face(np.asarray(box, np.float32) / np.float32(shrink), min(float(weight) / self.FULL_WEIGHT, 1.0))
                for box, weight in zip(boxes, np.ravel(weights), strict=True)
            ]
        )


def cascade_file() -> Path:
    """Path of the cascade that OpenCV's wheel brings along.

    Raises
    ------
    MerError
        If this build of OpenCV has none.
    """
    import cv2

    path = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"
    if not path.is_file():
        raise MerError("this OpenCV has no bundled face cascade; pip install 'opencv-python-headless>=4.10,<5'")
    return path


def _shrink(frame: Picture, pixels: int) -> float:
    """Scale that brings a frame down to so many pixels; 1 for a smaller one."""
    return min(math.sqrt(pixels / (frame.shape[0] * frame.shape[1])), 1.0)


def largest(faces: list[Face]) -> list[Face]:
    """Faces that are not too small, the largest first, at most `MOST_FACES`."""
    wide = [face for face in faces if face.box[2] >= SMALLEST_FACE and face.box[3] >= SMALLEST_FACE]
    return sorted(wide, key=lambda face: (-float(face.box[2] * face.box[3]), float(face.box[0])))[:MOST_FACES]


class ThreadDetectors:
    """One detector per thread: OpenCV's are not safe to share, and making one costs as much as a frame."""

    def __init__(self, make: Callable[[], Yunet | Cascade]) -> None:
        self._make = make
        self._local = threading.local()

    def fresh(self) -> Yunet | Cascade:
        """Detector of this thread, without memory of earlier clips."""
        detector: Yunet | Cascade | None = getattr(self._local, "detector", None)
        if detector is None:
            detector = self._local.detector = self._make()
        return detector.reset()
