"""One pass over a video: its windows as they go by, with the sound, faces and words of each person in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mer.stages.faces.people import PeopleWatcher, Sighting
from mer.stages.interfaces import SAMPLE_RATE_HZ, FaceCrops, Waveform
from mer.stages.media.frames import Picture
from mer.stages.media.limits import MediaLimits
from mer.stages.media.reader import SHORTEST_SOUND_SECONDS, MediaFacts, media_facts, read_media
from mer.stages.media.request import MediaError, MediaRequest

from .windows import Window, Windows

MOST_APART_SECONDS = 60.0
"""Sound and picture that lie further apart in a file are not waited for: what waits is held in memory."""


@dataclass(frozen=True)
class Moment:
    """What there is of one person in one window."""

    window: Window
    person: int
    """From 1; 0 where no face was found, or none is looked for."""
    leads: bool
    """Whether the sound and the words are taken to be this person's."""
    why: str
    """How the one who leads was chosen, or empty."""
    waveform: Waveform | None = None
    faces: FaceCrops | None = None
    text: str | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    """Modality to the reason why it is not there."""


@dataclass(frozen=True)
class Watched:
    """A video that was read to its end."""

    seconds: float
    notes: tuple[str, ...]


OnWindow = Callable[[list[Moment]], None]


class VideoPass:
    """Reads a video once and hands out its windows.

    Memory holds the sound and the face crops from the start of the oldest window still to come, and no more.

    Parameters
    ----------
    path
        The video; a file with sound alone will do.
    windows
        Which stretches.
    loaded_finder
        `mer.stages.faces.finder.LoadedFinder`, or None when no faces are wanted.
    fps
        Frames per second in which faces are looked for.
    channel
        How sound is mixed to mono.
    on_window
        Called with the moments of each window, at least one.
    on_time
        Called with the seconds read so far.

    Raises
    ------
    MediaError
        If the file is not media, or has neither sound nor picture.
    """

    def __init__(
        self,
        path: Path,
        windows: Windows,
        loaded_finder: Any,
        fps: float,
        channel: str,
        on_window: OnWindow,
        on_time: Callable[[float], None],
    ) -> None:
        self.facts: MediaFacts = media_facts(path)
        if not self.facts.sound and not self.facts.picture:
            raise MediaError(f"clip {path} has neither sound nor picture; name a video or a sound file")
        self._path, self._windows, self._fps, self._channel = path, windows, fps, channel
        self._on_window, self._on_time = on_window, on_time
        watching = loaded_finder is not None and self.facts.picture
        self._faces_wanted = loaded_finder is not None
        self._watcher = PeopleWatcher(loaded_finder) if watching else None
        self._grey_fps = loaded_finder.finder.grey_fps if watching else None
        self._pieces: deque[Waveform] = deque()
        self._held_from = 0
        """Sample at which the first piece begins."""
        self._heard = 0

    def run(self) -> Watched:
        """Read the video from beginning to end."""
        watcher = self._watcher
        request = MediaRequest(
            channel=self._channel, frames_fps=self._fps if watcher else None, grey_fps=self._grey_fps
        )
        grey = watcher.add_grey if watcher and self._grey_fps else None
        read = read_media(
            self._path,
            request,
            self._frame if watcher else None,
            grey,
            on_sound=self._sound,
            limits=MediaLimits(hours=float("inf")),  # what is read here is not kept
        )
        seconds = max(read.duration_seconds, read.picture_seconds)
        for window in self._windows.rest(seconds):
            self._give(window)
        if watcher:
            watcher.close()
        self._on_time(seconds)
        return Watched(seconds, read.notes)

    def _frame(self, time_seconds: float, picture: Picture) -> None:
        assert self._watcher is not None
        self._watcher.add(time_seconds, picture)
        self._go_on()

    def _sound(self, piece: Waveform) -> None:
        self._pieces.append(piece)
        self._heard += len(piece)
        self._go_on()

    def _reached(self) -> float:
        """Seconds of the video of which sound and picture are there."""
        heard = self._heard / SAMPLE_RATE_HZ if self.facts.sound else float("inf")
        seen = self._watcher.seconds if self._watcher else float("inf")
        low, high = min(heard, seen), max(heard, seen)
        return low if high == float("inf") else max(low, high - MOST_APART_SECONDS)

    def _go_on(self) -> None:
        reached = self._reached()
        given = False
        for window in self._windows.due(reached):
            self._give(window)
            given = True
        if given:
            self._forget(min(self._windows.oldest_seconds, reached))
            self._on_time(reached)

    def _forget(self, before_seconds: float) -> None:
        if self._watcher:
            self._watcher.forget(before_seconds)
        sample = int(before_seconds * SAMPLE_RATE_HZ)
        while self._pieces and self._held_from + len(self._pieces[0]) <= sample:
            self._held_from += len(self._pieces.popleft())

    def _waveform(self, window: Window) -> Waveform | None:
        """Sound of a window; None where there is too little to encode."""
        first = round(window.start_seconds * SAMPLE_RATE_HZ) - self._held_from
        last = round(window.end_seconds * SAMPLE_RATE_HZ) - self._held_from
        parts, at = [], 0
        for piece in self._pieces:
            if at < last and at + len(piece) > first:
                parts.append(piece[max(first - at, 0) : max(last - at, 0)])
            at += len(piece)
        waveform = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        return waveform if len(waveform) >= SHORTEST_SOUND_SECONDS * SAMPLE_RATE_HZ else None

    def _give(self, window: Window) -> None:
        waveform = self._waveform(window)
        silent = {} if waveform is not None else {"audio": "no sound here" if self.facts.sound else "no sound stream"}
        sightings: list[Sighting] = []
        if self._watcher:
            sightings = self._watcher.people(window.start_seconds, window.end_seconds, waveform)
        if not sightings:
            unseen = "no face found" if self.facts.picture else "no picture stream"
            missing = silent | ({"face": unseen} if self._faces_wanted else {})
            self._on_window([Moment(window, 0, True, "", waveform, None, window.text, missing)])
            return
        leader = next(sighting.person for sighting in sightings if sighting.leads)
        elsewhere = f"taken to be person {leader}'s"
        moments = []
        for seen in sightings:
            if seen.leads:
                moments.append(Moment(window, seen.person, True, seen.why, waveform, seen.faces, window.text, silent))
            else:
                apart = {"audio": elsewhere, "text": elsewhere}
                moments.append(Moment(window, seen.person, False, "", None, seen.faces, None, apart))
        self._on_window(moments)
