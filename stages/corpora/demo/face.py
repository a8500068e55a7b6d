"""A schematic face, shaded enough for face detectors to see one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]
"""Blue, green, red, each 0-255."""

SHIFT = 4
"""OpenCV's drawing functions take fixed-point coordinates; this many fractional bits make motion smooth."""


RED = (-0.22, -0.16, 0.10)
PALE = (0.22, 0.08, -0.10)
"""What a flush and a pallor do to blue, green and red of the skin, as shares."""


@dataclass(frozen=True)
class Look:
    """What a synthetic speaker looks like."""

    skin: Colour = (150, 180, 225)
    hair: Colour = (35, 45, 70)
    shirt: Colour = (150, 100, 60)
    wall: Colour = (205, 200, 190)
    wide: float = 1.0
    """Width of the head relative to the average."""
    fringe: float = 0.5
    """How far the hair comes down the forehead, 0 to 1."""
    long_hair: bool = False


@dataclass(frozen=True)
class Pose:
    """What the face does at one moment. Zero is at rest, one is the full expression."""

    mouth_open: float = 0.0
    mouth_curve: float = 0.0
    """Positive lifts the corners of the mouth."""
    mouth_wide: float = 0.0
    brow_raise: float = 0.0
    brow_slant: float = 0.0
    """Positive lifts the inner ends (sad), negative lowers them (angry)."""
    eye_open: float = 1.0
    flush: float = 0.0
    """Positive reddens the skin, negative pales it."""
    gaze: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    """Offset of the head in fractions of the frame height."""
    tilt_degrees: float = 0.0


@dataclass
class FacePainter:
    """Draws one speaker: the still parts once, the moving parts per frame."""

    look: Look
    size: tuple[int, int]
    """Width and height of the frame in pixels."""
    _wall: npt.NDArray[np.float32] = field(init=False, repr=False)
    _head: npt.NDArray[np.uint8] = field(init=False, repr=False)
    _alpha: npt.NDArray[np.float32] = field(init=False, repr=False)
    _skin: npt.NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        width, height = self.size
        self._unit = height * 0.345
        self._centre = np.array([width / 2, height * 0.50])
        self._wall = self._paint_wall()
        self._head, self._alpha, self._skin = self._paint_head()

    def draw(self, pose: Pose) -> npt.NDArray[np.uint8]:
        """Return one frame, BGR, shape (height, width, 3)."""
        import cv2

        head = self._tinted(pose.flush)
        self._paint_eyes(head, pose)
        self._paint_mouth(head, pose)
        turn = cv2.getRotationMatrix2D((self._centre[0], self._centre[1] + self._unit), pose.tilt_degrees, 1.0)
        turn[:, 2] += np.array(pose.shift) * self.size[1]
        head = cv2.warpAffine(head, turn, self.size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        alpha = cv2.warpAffine(self._alpha, turn, self.size, flags=cv2.INTER_LINEAR)[..., None]
        blended = self._wall + (head - self._wall) * alpha
        return np.asarray(cv2.GaussianBlur(blended.astype(np.uint8), (3, 3), 0.6))

    def empty(self) -> npt.NDArray[np.uint8]:
        """Return the scene without anybody in it."""
        return self._wall.astype(np.uint8)

    # the still parts

    def _paint_wall(self) -> npt.NDArray[np.float32]:
        import cv2

        width, height = self.size
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
        light = 1.06 - 0.22 * rows / height - 0.10 * np.abs(columns / width - 0.4)
        wall = np.clip(np.array(self.look.wall, np.float32) * light[..., None], 0, 255)
        shelf = int(height * 0.78)
        wall[shelf:] *= 0.80
        return np.asarray(cv2.GaussianBlur(wall, (0, 0), height / 60))

    def _paint_head(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the picture, where it covers the wall, and where it is the skin of the face."""
        import cv2

        width, height = self.size
        look = self.look
        head = np.zeros((height, width, 3), np.uint8)
        head[:] = look.hair
        alpha = np.zeros((height, width), np.uint8)
        skin_low = _scale(look.skin, 0.72)

        def both(kind: str, *args: Any, colour: Colour) -> None:
            getattr(self, kind)(head, *args, colour=colour)
            getattr(self, kind)(alpha, *args, colour=(255, 255, 255))

        wide = 0.80 * look.wide
        if look.long_hair:
            both("_ellipse", (0, 0.12), (wide + 0.20, 1.25), colour=_scale(look.hair, 0.85))
        both("_ellipse", (0, 2.12), (1.45, 1.0), colour=look.shirt)
        both("_ellipse", (0, 1.05), (0.36, 0.55), colour=skin_low)
        both("_ellipse", (0, -0.18), (wide + 0.10, 1.02), colour=look.hair)
        for side in (-1, 1):
            both("_ellipse", (side * wide * 0.99, 0.06), (0.12, 0.20), colour=_scale(look.skin, 0.85))
        both("_ellipse", (0, 0.05), (wide, 1.06), colour=look.skin)
        head = self._shade(head, wide)
        skin = np.zeros_like(alpha)
        self._ellipse(skin, (0, 0.05), (wide, 1.06), colour=(255, 255, 255))
        self._paint_fringe(head, wide)
        self._paint_fringe(skin, wide, colour=(0, 0, 0))
        soft, skin_soft = (cv2.GaussianBlur(mask, (0, 0), 0.8).astype(np.float32) / 255 for mask in (alpha, skin))
        return head, np.asarray(soft), np.asarray(skin_soft)

    def _shade(self, head: npt.NDArray[np.uint8], wide: float) -> npt.NDArray[np.uint8]:
        """Light from above and in front: dark sockets and sides, bright cheeks, forehead and bridge of the nose."""
        rows, columns = np.mgrid[0 : self.size[1], 0 : self.size[0]].astype(np.float32)
        x = (columns - self._centre[0]) / self._unit
        y = (rows - self._centre[1]) / self._unit

        def blob(cx: float, cy: float, rx: float, ry: float) -> npt.NDArray[np.float32]:
            return np.asarray(np.exp(-(((x - cx) / rx) ** 2) - ((y - cy) / ry) ** 2))

        light = 1.10 - 0.34 * np.clip((x / wide) ** 2 + ((y - 0.05) / 1.08) ** 2, 0, 1.2) ** 2
        for side in (-1, 1):
            light -= 0.30 * blob(side * 0.34, -0.17, 0.22, 0.14)
            light += 0.12 * blob(side * 0.40, 0.28, 0.20, 0.16)
            light -= 0.22 * blob(side * 0.13, 0.33, 0.055, 0.045)
            light -= 0.10 * blob(side * 0.17, 0.08, 0.05, 0.20)
        light += 0.12 * blob(0, 0.10, 0.07, 0.26) + 0.08 * blob(0, -0.60, 0.45, 0.20)
        light -= 0.16 * blob(0, 0.40, 0.14, 0.05)
        light -= 0.10 * blob(0, 0.83, 0.22, 0.06)
        light = np.where(y > 1.25, 1.0 - 0.1 * np.abs(x), light)
        return np.asarray(np.clip(head * light[..., None], 0, 255).astype(np.uint8))

    def _paint_fringe(self, head: npt.NDArray[np.uint8], wide: float, colour: Colour | None = None) -> None:
        low = -0.82 + 0.25 * self.look.fringe
        arc = np.linspace(0, np.pi, 24)
        outer = np.stack([(wide + 0.06) * np.cos(arc), 0.02 - 1.16 * np.sin(arc)], 1)
        inner = np.stack(
            [np.linspace(-(wide + 0.02), wide + 0.02, 24), low + 0.35 * np.linspace(-1, 1, 24) ** 4 + 0.05], 1
        )
        self._polygon(head, np.concatenate([outer, inner]), colour=colour or self.look.hair)

    # the moving parts

    def _tinted(self, flush: float) -> npt.NDArray[np.uint8]:
        """Copy the still head with the blood in its skin moved."""
        gain = abs(flush) * np.array(RED if flush > 0 else PALE, np.float32)
        return np.asarray(np.clip(self._head * (1 + self._skin[..., None] * gain), 0, 255).astype(np.uint8))

    def _paint_eyes(self, head: npt.NDArray[np.uint8], pose: Pose) -> None:
        dark = _scale(self.look.hair, 0.7)
        for side in (-1, 1):
            x, y = side * 0.34, -0.14
            opened = 0.085 * max(pose.eye_open, 0.0)
            if opened > 0.015:
                self._ellipse(head, (x, y), (0.165, opened + 0.012), colour=_scale(self.look.skin, 0.42))
                self._ellipse(head, (x, y + 0.004), (0.145, opened), colour=(225, 228, 230))
                iris = min(0.078, opened * 1.05)
                self._ellipse(head, (x + 0.05 * pose.gaze, y), (0.078, iris), colour=(45, 55, 70))
                self._ellipse(head, (x + 0.05 * pose.gaze, y), (0.04, min(0.04, opened)), colour=(12, 12, 14))
                self._ellipse(head, (x + 0.05 * pose.gaze - 0.025, y - 0.028), (0.014, 0.014), colour=(245, 245, 245))
            lid = np.linspace(-1, 1, 9)
            curve = np.stack([x + 0.17 * lid, y - opened * (1 - lid**2) + 0.012 * lid**2], 1)
            self._line(head, curve, 0.045, dark)
            along = np.linspace(-1, 1, 9)
            inner = -side * along
            height = -0.36 - 0.09 * pose.brow_raise - 0.10 * pose.brow_slant * inner
            brow = np.stack([x + 0.21 * along, height - 0.035 * (1 - along**2)], 1)
            self._line(head, brow, 0.075, dark)

    def _paint_mouth(self, head: npt.NDArray[np.uint8], pose: Pose) -> None:
        lip = _mix(self.look.skin, (60, 50, 140), 0.60)
        half = 0.27 * (1 + 0.28 * pose.mouth_wide)
        opened = 0.20 * max(pose.mouth_open, 0.0)
        along = np.linspace(-1, 1, 15)
        bend = -0.13 * pose.mouth_curve * (along**2 - 0.5)
        arch = 1 - along**2
        middle = 0.60 + bend
        x = half * along
        top = np.stack([x, middle - (0.055 + 0.30 * opened) * arch], 1)
        bottom = np.stack([x, middle + (0.070 + 1.00 * opened) * arch], 1)
        self._polygon(head, np.concatenate([top, bottom[::-1]]), colour=lip)
        inside_top = np.stack([0.88 * x, middle - (0.008 + 0.22 * opened) * arch], 1)
        inside_bottom = np.stack([0.88 * x, middle + (0.008 + 0.80 * opened) * arch], 1)
        self._polygon(head, np.concatenate([inside_top, inside_bottom[::-1]]), colour=(35, 25, 60))
        if opened > 0.05:
            teeth = np.stack([0.70 * x, middle - 0.20 * opened * arch + 0.30 * opened * arch], 1)
            upper = np.stack([0.70 * x, middle - 0.21 * opened * arch], 1)
            self._polygon(head, np.concatenate([upper, teeth[::-1]]), colour=(215, 222, 226))

    # drawing in head units: the origin between the eyes, one unit about half the height of the head

    def _pixels(self, points: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        return np.asarray(np.round((self._centre + points * self._unit) * (1 << SHIFT)).astype(np.int32))

    def _ellipse(
        self, image: npt.NDArray[np.uint8], centre: tuple[float, float], radii: tuple[float, float], *, colour: Colour
    ) -> None:
        import cv2

        x, y = self._pixels(np.array(centre))
        axes = tuple(max(1, round(r * self._unit * (1 << SHIFT))) for r in radii)
        cv2.ellipse(image, (int(x), int(y)), axes, 0, 0, 360, colour, -1, cv2.LINE_AA, SHIFT)

    def _polygon(self, image: npt.NDArray[np.uint8], points: npt.NDArray[Any], *, colour: Colour) -> None:
        import cv2

        cv2.fillPoly(image, [self._pixels(points)], colour, cv2.LINE_AA, SHIFT)

    def _line(self, image: npt.NDArray[np.uint8], points: npt.NDArray[Any], thick: float, colour: Colour) -> None:
        import cv2

        width = max(1, round(thick * self._unit))
        cv2.polylines(image, [self._pixels(points)], False, colour, width, cv2.LINE_AA, SHIFT)


def _scale(colour: Colour, by: float) -> Colour:
    return _clip(*(part * by for part in colour))


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    return _clip(*(a * (1 - share) + b * share for a, b in zip(one, other, strict=True)))


def _clip(blue: float, green: float, red: float) -> Colour:
    return min(255, int(blue)), min(255, int(green)), min(255, int(red))
