"""Upright pictures of a face and of its mouth, cut out of a frame by one affine map each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..media.frames import Picture
from .detect import Face

EYE_LINE_SHARE = 0.2
"""Eyes nearer than this share of the box width are seen from the side; their line says nothing about the tilt."""
MOUTH_SIZE = (32, 24)
"""Width and height of a mouth patch in pixels."""
MOUTH_WIDTH_SHARE = 0.62
"""Width of a mouth patch as a share of the box width."""
LOOK_SIZE = 24
"""Side of the small grey picture that tells people apart."""


def tilt(face: Face) -> float:
    """Angle of the eye line in radians, 0 without landmarks or from the side."""
    if face.points is None:
        return 0.0
    across = face.points[1] - face.points[0]
    if np.hypot(*across) < EYE_LINE_SHARE * face.box[2]:
        return 0.0
    return math.atan2(float(across[1]), float(across[0]))


def crop(frame: Picture, face: Face, size: int, margin: float) -> Picture:
    """Square crop of a face, its eyes level, shape (size, size, 3) in the channel order of the frame.

    The crop is centred on the box; its side is the longer side of the box times `1 + 2 * margin`. What lies outside
    the frame is black.
    """
    left, top, width, height = (float(value) for value in face.box)
    centre = (left + width / 2, top + height / 2)
    side = max(width, height) * (1 + 2 * margin)
    return _cut(frame, centre, side, tilt(face), (size, size))


def look(picture: Picture) -> npt.NDArray[np.float32]:
    """Small grey picture of a face crop with mean 0 and norm 1, shape (LOOK_SIZE²,); a dot product compares two."""
    import cv2

    return unit_look(np.asarray(cv2.resize(picture, (LOOK_SIZE, LOOK_SIZE), interpolation=cv2.INTER_AREA), np.uint8))


def unit_look(small: Picture) -> npt.NDArray[np.float32]:
    """Grey of a colour picture with mean 0 and norm 1, flat."""
    flat: npt.NDArray[np.float32] = small.mean(axis=2, dtype=np.float32).ravel()
    flat -= flat.mean()
    flat /= np.float32(max(float(np.linalg.norm(flat)), 1e-6))
    return flat


def mouth(grey: Picture, face: Face) -> Picture:
    """Patch around the mouth, its corners level, shape (24, 32), grey."""
    return _cut(grey, mouth_middle(face), MOUTH_WIDTH_SHARE * float(face.box[2]), tilt(face), MOUTH_SIZE)


def mouth_middle(face: Face) -> tuple[float, float]:
    """Middle of the mouth, from the landmarks where there are some."""
    if face.points is None:
        left, top, width, height = (float(value) for value in face.box)
        return left + width / 2, top + 0.8 * height
    middle = (face.points[3] + face.points[4]) / 2
    return float(middle[0]), float(middle[1])


def between(before: Face, after: Face, share: float) -> Face:
    """Face at a moment between two detections, `share` of the way from the first to the second."""
    return weighted([(before, 1 - share), (after, share)])


def weighted(faces: Sequence[tuple[Face, float]]) -> Face:
    """Weighted mean of the places of one person's face; landmarks only where all have them."""
    total = sum(weight for _, weight in faces)
    box = sum((face.box * np.float32(weight / total) for face, weight in faces), np.zeros(4, np.float32))
    points = np.zeros((5, 2), np.float32)
    for face, weight in faces:
        if face.points is None:
            return Face(box, min(face.score for face, _ in faces))
        points = points + face.points * np.float32(weight / total)
    return Face(box, min(face.score for face, _ in faces), points)


def _cut(picture: Picture, centre: tuple[float, float], width: float, angle: float, size: tuple[int, int]) -> Picture:
    """Cut a rectangle of the given width in pixels, tilted by `angle`, and scale it to `size`."""
    scale = size[0] / max(width, 1.0)
    x, y = centre
    fold = int(1 / scale)
    if fold > 1:
        # warpAffine looks at four pixels only; shrinking more than twofold needs averaging first.
        picture, left, top = _folded(picture, centre, width * max(1.0, size[1] / size[0]), fold)
        x, y, scale = (x - left) / fold, (y - top) / fold, scale * fold
    return warp(picture, (x, y), scale, angle, size)


def warp(picture: Picture, centre: tuple[float, float], scale: float, angle: float, size: tuple[int, int]) -> Picture:
    """Rectangle of `size` around a centre, the picture scaled by `scale` (above 1/2) and turned; black outside."""
    import cv2

    x, y = centre
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    # Positions are of pixel edges, warpAffine's are of pixel centres: hence the halves.
    matrix = np.array(
        [
            [cos, sin, size[0] / 2 - 0.5 - cos * (x - 0.5) - sin * (y - 0.5)],
            [-sin, cos, size[1] / 2 - 0.5 + sin * (x - 0.5) - cos * (y - 0.5)],
        ]
    )
    return np.asarray(cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR), np.uint8)


def _folded(picture: Picture, centre: tuple[float, float], side: float, fold: int) -> tuple[Picture, int, int]:
    """Part of the picture that a tilted square around a centre can touch, averaged over `fold` x `fold` pixels.

    Also returns the part's left and top in the picture.
    """
    import cv2

    height, width = picture.shape[:2]
    reach = side * 0.75 + fold
    left = min(max(int(centre[0] - reach), 0), max(width - fold, 0))
    top = min(max(int(centre[1] - reach), 0), max(height - fold, 0))
    columns = max(int(min(centre[0] + reach, width) - left) // fold, 1)
    rows = max(int(min(centre[1] + reach, height) - top) // fold, 1)
    part = picture[top : top + rows * fold, left : left + columns * fold]
    return np.asarray(cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8), left, top
