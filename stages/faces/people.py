"""Everybody in view of a long clip, stretch by stretch, with memory that does not grow with its length.

`FaceWatcher` waits for the end of a clip and follows one person. Here a stretch is asked for as soon as it has been
seen; every person in it gives crops of their own and keeps a number over the whole clip.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ..interfaces import FaceCrops, Waveform
from ..media.frames import Picture
from .detect import Face
from .finder import FaceWatcher, LoadedFinder, choose
from .mouths import MouthsAtOnce
from .tracks import SAME_LOOK, Look, Track, same_place

UNLIKE_LOOK = 0.9
"""A view of a person is kept where it is less alike than this to those kept before."""
MOST_VIEWS = 12
KEPT_FACES = 3
"""Faces of a track that stay when its past is forgotten: what the linker looks at."""


@dataclass
class _Seen:
    """What stays of a track when its past is forgotten."""

    person: int = 0
    """From 1; 0 until it is decided."""
    best_score: float = 0.0
    since: int = -1
    """First and last step."""
    until: int = -1
    views: list[tuple[Face, Look]] = field(default_factory=list)
    """How the person looked and where: the first view, and others that were unlike those before."""

    def add(self, track: Track) -> None:
        """Take the newest face of the track."""
        face, look = track.faces[-1], track.last_look
        self.best_score = max(self.best_score, face.score)
        self.since = track.steps[-1] if self.since < 0 else self.since
        self.until = track.steps[-1]
        if look is None or any(float(known @ look) > UNLIKE_LOOK for _, known in self.views):
            return
        self.views = [*self.views[:1], *self.views[1:][1 - MOST_VIEWS :], (face, look)][:MOST_VIEWS]

    def likeness(self, later: _Seen) -> float:
        """Greatest likeness of a view of this track to one of a later track, in about the same place."""
        return max(
            (
                float(look @ other)
                for face, look in self.views
                for there, other in later.views
                if same_place(face, there)
            ),
            default=-1.0,
        )


@dataclass(frozen=True)
class Sighting:
    """One person over one stretch of a clip."""

    person: int
    """From 1, in the order in which people were first seen; the same over the whole clip."""
    faces: FaceCrops
    """Times from the start of the stretch. The note `crops` numbers the crops of the whole clip."""
    leads: bool
    """Whether the face policy would follow this person: the one who speaks, else the largest."""
    evidence: float | None
    """How well the mouth goes with the sound (`speaking_evidence`); None where that was not measured."""
    why: str
    """How the one who leads was chosen: `speaking`, `largest`, `central` or `only`."""


class PeopleWatcher(FaceWatcher):
    """Watches a clip as `FaceWatcher` does, and gives the people of a stretch while it goes on.

    A person who was out of view and comes back keeps their number where they look as they did at some time before, in
    about the same place. One who is seen from another side afterwards gets a new number.
    """

    def __init__(self, loaded: LoadedFinder) -> None:
        self._pictures = _RecentCrops()
        super().__init__(loaded.finder, loaded.detectors.fresh(), loaded.finder.region, self._pictures)
        self._mouths = MouthsAtOnce()  # a stretch is asked for while the clip goes on, also with one person in it
        self._seen: dict[int, _Seen] = {}
        """What is known of every track."""
        self._people: list[list[_Seen]] = []
        """Tracks of every person."""

    def add(self, time_seconds: float, frame: Picture) -> None:
        """Take the next sampled frame, BGR of shape (H, W, 3)."""
        super().add(time_seconds, frame)
        for track in self._linker.tracks:
            if track.steps[-1] == len(self._times) - 1:
                self._seen.setdefault(track.number, _Seen()).add(track)

    @property
    def seconds(self) -> float:
        """Time of the newest frame; before the first one, less than any."""
        return self._times[-1] if self._times else -1.0

    @property
    def held_crops(self) -> int:
        """Face crops in memory: those of steps that were not forgotten."""
        return len(self._pictures)

    def people(self, start_seconds: float, end_seconds: float, waveform: Waveform | None) -> list[Sighting]:
        """Everybody who was seen in a stretch, in the order of their numbers.

        Parameters
        ----------
        start_seconds, end_seconds
            Half-open; its frames have been added and not been forgotten.
        waveform
            Sound of the stretch, which tells who speaks; None where there is none.
        """
        first, last = bisect_left(self._times, start_seconds), bisect_left(self._times, end_seconds)
        times = np.asarray(self._times[first:last], np.float64) - start_seconds
        if not len(times):
            return []
        fewest = min(self._detector.FEWEST, len(times))
        seen: dict[int, Track] = {}
        for track in self._linker.tracks:
            if track.steps[-1] < first:
                continue
            part = _between(track, first, last, start_seconds)
            if len(part.steps) < fewest or self._seen[track.number].best_score < self._detector.SURE_SCORE:
                continue
            person = self._number(track)
            seen[person] = _joined(seen[person], part) if person in seen else replace(part, number=person)
        tracks = [seen[person] for person in sorted(seen)]
        relative = times.tolist()
        chosen, note = choose(tracks, self._finder.policy, waveform, relative, self._frame_size, self._finder.region)
        evidence = {entry["id"]: entry["speaking"] for entry in note["tracks"]}
        return [
            Sighting(track.number, self._crops_of(track, times), track is chosen, evidence[track.number], note["used"])
            for track in tracks
        ]

    def forget(self, before_seconds: float) -> None:
        """Give back what lies before a time; no later stretch may begin earlier."""
        step = bisect_left(self._times, before_seconds)
        kept: list[int] = []
        for track in self._linker.tracks:
            spare = min(bisect_left(track.steps, step), max(len(track.steps) - KEPT_FACES, 0))
            for name in ("steps", "times", "faces", "crops"):
                del getattr(track, name)[:spare]
            old = bisect_left(track.mouth_times, before_seconds)
            del track.mouth_times[:old], track.mouths[:old]
            kept += track.crops[bisect_left(track.steps, step) :]
        self._pictures.keep(kept)

    def _number(self, track: Track) -> int:
        """Person of a track; decided once, when a stretch with enough of the track is asked for."""
        seen = self._seen[track.number]
        if not seen.person:
            likeness = SAME_LOOK
            for place, tracks in enumerate(self._people):
                # Somebody who is in view now cannot come back.
                alike = (
                    -1.0
                    if any(one.until >= seen.since for one in tracks)
                    else max(one.likeness(seen) for one in tracks)
                )
                if alike > likeness:
                    seen.person, likeness = place + 1, alike
            if not seen.person:
                self._people.append([])
                seen.person = len(self._people)
            self._people[seen.person - 1].append(seen)
        return seen.person

    def _crops_of(self, track: Track, times: npt.NDArray[np.float64]) -> FaceCrops:
        valid = np.zeros(len(times), np.bool_)
        valid[track.steps] = True
        note = {"crops": list(track.crops)}
        return FaceCrops(self._pictures.take(track.crops), times.astype(np.float32), valid, note)


def _between(track: Track, first: int, last: int, start_seconds: float) -> Track:
    """Part of a track, its steps and times counted from the start of the stretch."""
    low, high = bisect_left(track.steps, first), bisect_left(track.steps, last)
    heard = range(bisect_left(track.mouth_times, start_seconds), len(track.mouth_times))
    end = track.times[high - 1] if high > low else start_seconds
    mouths = [place for place in heard if track.mouth_times[place] <= end]
    return Track(
        track.number,
        [step - first for step in track.steps[low:high]],
        [time - start_seconds for time in track.times[low:high]],
        track.faces[low:high],
        track.look,
        track.last_look,
        track.crops[low:high],
        [track.mouth_times[place] - start_seconds for place in mouths],
        [track.mouths[place] for place in mouths],
    )


def _joined(one: Track, other: Track) -> Track:
    """Two parts of one person, in the order of time."""
    first, second = sorted((one, other), key=lambda track: track.steps[0])
    both = {
        name: [*getattr(first, name), *getattr(second, name)]
        for name in ("steps", "times", "faces", "crops", "mouth_times", "mouths")
    }
    return Track(one.number, look=second.look, last_look=second.last_look, **both)


class _RecentCrops:
    """Crops of the recent past, in memory, in the place of the pile that `FaceWatcher` keeps."""

    def __init__(self) -> None:
        self._held: dict[int, Picture] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._held)

    def put(self, picture: Picture) -> int:
        """Keep a BGR crop; returns its place."""
        self._held[self._count] = picture
        self._count += 1
        return self._count - 1

    def take(self, places: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Crops at the given places as RGB, shape (n, size, size, 3)."""
        return np.stack([self._held[place][..., ::-1] for place in places])

    def keep(self, places: Sequence[int]) -> None:
        """Forget all others."""
        self._held = {place: self._held[place] for place in places}

    def close(self) -> None:
        """Give the memory back."""
        self._held = {}
