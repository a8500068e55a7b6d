"""Linking the faces of single frames into tracks, one per person and stretch of picture."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .align import weighted
from .detect import Face

ALGORITHM = 1
BRIDGE_SECONDS = 1.0
"""A track that was out of view for longer than this has ended."""
LONG_GAP_SECONDS = 0.5
"""Out of view for longer than this, or after a cut, a face must also look the same."""
LOOK_MEMORY = 0.8
REACH = 0.7
"""How far, in face widths, a face may be from where its track is expected."""
REACH_PER_SECOND = 1.5
REACH_OF_ALIKE = 1.5
"""Reach that a face gains by looking the same: someone walking by the camera moves that far between two frames."""
LOG_SIZE_GATE = math.log(1.6)
SAME_LOOK = 0.8
"""Looks (dot product of two unit pictures) at least this alike can be one person after a cut or a long gap."""
CUT_CHANGE = 0.09
CUT_UNLIKENESS = 0.3
"""Mean change of a thumbnail between two sampled frames, as a share of full scale, and 1 minus the correlation of the
two, that together mean a new shot."""
STILL_CUT_CHANGE = 0.03
STILL_CUT_RATIO = 6.0
"""In a still shot less change means a new one: so much, and so many times the usual change of the frames before."""
USUAL_FRAMES = 10

Look = npt.NDArray[np.float32]


@dataclass
class Track:
    """One person over a stretch of sampled frames."""

    number: int
    steps: list[int] = field(default_factory=list)
    """Indices of the sampled frames in which the face was found, increasing."""
    times: list[float] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)
    look: Look | None = None
    """Slowly changing mean of the face's small picture."""
    last_look: Look | None = None
    crops: list[int] = field(default_factory=list)
    """Where each step's crop is kept."""
    mouth_times: list[float] = field(default_factory=list)
    mouths: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    waiting: list[tuple[float, int, int, npt.NDArray[np.uint8]]] = field(default_factory=list)
    """Surroundings of the mouth that patches can still be cut from: time, left, top, grey pixels."""

    @property
    def best_score(self) -> float:
        """Detector's highest score over the track."""
        return max(face.score for face in self.faces)

    @property
    def mean_score(self) -> float:
        """Detector's mean score over the track."""
        return sum(face.score for face in self.faces) / len(self.faces)

    @property
    def area(self) -> float:
        """Summed area of the boxes in square pixels: large and long-lasting faces weigh most."""
        return float(sum(face.box[2] * face.box[3] for face in self.faces))

    def add(self, step: int, time_seconds: float, face: Face, look: Look) -> None:
        """Go on with a face."""
        self.steps.append(step)
        self.times.append(time_seconds)
        self.faces.append(face)
        self.last_look = look
        self.look = look if self.look is None else _blend(self.look, look)

    def steady(self, step: int) -> Face | None:
        """Face at a step, its place smoothed over the neighbouring steps (weights 1, 2, 1); None where unseen.

        Detectors place landmarks anew in every frame; their jitter would pass for motion.
        """
        index = bisect_left(self.steps, step)
        if index == len(self.steps) or self.steps[index] != step:
            return None
        near = [
            (self.faces[place], weight)
            for place, weight in ((index - 1, 1), (index, 2), (index + 1, 1))
            if 0 <= place < len(self.steps) and abs(self.steps[place] - step) <= 1
        ]
        return weighted(near)

    def likeness(self, look: Look) -> float:
        """Likeness of a face to this track in [-1, 1]."""
        if self.look is None or self.last_look is None:
            return 0.0
        return float(max(self.look @ look, self.last_look @ look))

    def expected(self, time_seconds: float) -> npt.NDArray[np.float32]:
        """Centre and size (x, y, side) at a time, moving on at most of the last speed."""
        now = _place(self.faces[-1])
        if len(self.faces) < 2 or self.times[-1] - self.times[-2] > 0.5:
            return now
        speed = (now - _place(self.faces[-2])) / (self.times[-1] - self.times[-2])
        move = 0.8 * speed * min(time_seconds - self.times[-1], 0.4)
        return np.array([now[0] + move[0], now[1] + move[1], now[2]], np.float32)


class Linker:
    """Gives each face of each sampled frame, in order of time, to a track."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self._thumbnail: npt.NDArray[np.float32] | None = None
        self._changes: list[float] = []
        self._cut_at = -math.inf

    def is_cut(self, time_seconds: float, thumbnail: npt.NDArray[np.uint8]) -> bool:
        """Say whether a frame begins a new shot; to be asked of every frame, before its faces are linked.

        `thumbnail` is a small grey picture of the whole frame, any fixed shape; a sudden change of it is a cut, across
        which a track goes on only where the face looks the same.
        """
        cut = self._is_cut(thumbnail)
        if cut:
            self._cut_at = time_seconds
        return cut

    def link(self, step: int, time_seconds: float, faces: list[Face], looks: list[Look]) -> list[Track]:
        """Link the faces of one frame; returns the track of each face, in the order of the faces."""
        live = [
            track
            for track in self.tracks
            if track.steps[-1] == step - 1 or time_seconds - track.times[-1] <= BRIDGE_SECONDS
        ]
        pairs = sorted(
            (cost, row, column)
            for row, track in enumerate(live)
            for column in range(len(faces))
            if (cost := self._cost(track, step, time_seconds, faces[column], looks[column])) is not None
        )
        owners: dict[int, Track] = {}
        taken: set[int] = set()
        for _, row, column in pairs:
            if column not in owners and row not in taken:
                owners[column] = live[row]
                taken.add(row)
        for column, face in enumerate(faces):
            if column not in owners:
                owners[column] = Track(len(self.tracks))
                self.tracks.append(owners[column])
            owners[column].add(step, time_seconds, face, looks[column])
        return [owners[column] for column in range(len(faces))]

    def _is_cut(self, thumbnail: npt.NDArray[np.uint8]) -> bool:
        grey = thumbnail.astype(np.float32) / np.float32(255)
        before, self._thumbnail = self._thumbnail, grey
        if before is None:
            return False
        change = float(np.abs(grey - before).mean())
        usual = float(np.median(self._changes)) if len(self._changes) > 2 else math.inf
        sudden = change > CUT_CHANGE and 1 - _correlation(grey, before) > CUT_UNLIKENESS
        cut = sudden or change > max(STILL_CUT_CHANGE, STILL_CUT_RATIO * usual)
        self._changes = [] if cut else [*self._changes, change][-USUAL_FRAMES:]
        return cut

    def _cost(self, track: Track, step: int, time_seconds: float, face: Face, look: Look) -> float | None:
        """Distance of a face from where a track should be now, or None when it cannot be the same person."""
        gap = time_seconds - track.times[-1]
        likeness = track.likeness(look)
        cut = track.times[-1] < self._cut_at
        distance, size = _apart(track.expected(time_seconds), _place(face))
        missed = gap > LONG_GAP_SECONDS and track.steps[-1] < step - 1
        if (cut or missed) and likeness < SAME_LOOK:
            return None
        reach = REACH + REACH_PER_SECOND * min(gap, 0.5) + (REACH_OF_ALIKE if likeness > SAME_LOOK and not cut else 0.0)
        if distance > reach or size > LOG_SIZE_GATE:
            return None
        return distance + size + 0.5 * (1 - likeness)


def join_returns(tracks: list[Track]) -> list[Track]:
    """Join tracks that are one person coming back: not at one time, in about the same place and size, looking alike.

    Shot and reverse shot come back to one camera position, so a person seen again looks very much as before. A
    person seen from another side afterwards stays a track of their own.
    """
    joined: list[Track] = []
    for track in sorted(tracks, key=lambda track: track.steps[0]):
        best, likeness = None, SAME_LOOK
        for earlier in joined:
            if earlier.steps[-1] >= track.steps[0] or earlier.look is None or track.look is None:
                continue
            alike = float(earlier.look @ track.look)
            if same_place(earlier.faces[-1], track.faces[0]) and alike > likeness:
                best, likeness = earlier, alike
        if best is None:
            joined.append(track)
            continue
        for name in ("steps", "times", "faces", "crops", "mouth_times", "mouths"):
            getattr(best, name).extend(getattr(track, name))
        best.look, best.last_look = track.look, track.last_look
    return joined


def same_place(one: Face, other: Face) -> bool:
    """Whether two faces are near each other in the picture, and of one size, as they are from one camera position."""
    distance, size = _apart(_place(one), _place(other))
    return distance < 1.0 and size < LOG_SIZE_GATE


def _place(face: Face) -> npt.NDArray[np.float32]:
    left, top, width, height = face.box
    return np.array([left + width / 2, top + height / 2, max(width, height)], np.float32)


def _apart(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Distance of two places in mean face sizes, and absolute log ratio of their sizes."""
    distance = float(np.hypot(one[0] - other[0], one[1] - other[1])) / (float(one[2] + other[2]) / 2)
    return distance, abs(math.log(float(one[2] / other[2])))


def _blend(mean: Look, look: Look) -> Look:
    blend = LOOK_MEMORY * mean + (1 - LOOK_MEMORY) * look
    unit: Look = (blend / max(float(np.linalg.norm(blend)), 1e-6)).astype(np.float32)
    return unit


def _correlation(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    spread = float(one.std() * other.std())
    return float(((one - one.mean()) * (other - other.mean())).mean()) / spread if spread > 1e-6 else 0.0
