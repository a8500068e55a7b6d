"""A picture of what the face stage did with one clip: frames with boxes, who was followed, and the evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import Fate, FeatureStore, MerError, atomic_write
from mer.stages.media.frames import Picture
from mer.stages.media.reader import read_media
from mer.stages.media.request import MediaRequest

from ..extraction.jobs import media_path

COLOURS = ((80, 200, 60), (60, 120, 240), (230, 160, 40), (200, 80, 200), (60, 210, 230), (160, 160, 160))
"""BGR, the first for the chosen track alone; the others take the rest in turn, over and over."""
TILE_WIDTH = 320
COLUMNS = 4
LINE = 22
INK = (30, 30, 30)


@dataclass(frozen=True)
class ShownClip:
    """One utterance, its sampled frames and what was noted about its faces."""

    key: str
    frames: Sequence[tuple[int, float, Picture]]
    """Step, seconds and frame, in order."""
    steps: int
    note: Mapping[str, Any]
    fate: str


def clip_to_show(store: FeatureStore, key: str, root: Path, set_name: str | None, most_frames: int) -> ShownClip:
    """Read the notes of one utterance and the frames they are about.

    Raises
    ------
    MerError
        If there is no such utterance, it has no clip, the clip is not below `root`, or its face features were made
        before a note was kept.
    """
    name = store.pick("face", set_name)
    row = int(store.utterances.rows([key])[0])
    media = media_path(root, store.utterances.media[row])
    if media is None:
        raise MerError(f"utterance {key} has no clip in this corpus; there is nothing to draw")
    fate = Fate(int(store.sets[name].fates[row]))
    note = store.notes(name, key)
    if fate == Fate.OK and "tracks" not in note:
        raise MerError(f"the features of {key} in {name} carry no face tracks; extract them again with `mer extract`")
    start, end = (None if math.isnan(value) else float(value) for value in _span(store, row))
    fps = float(store.sets[name].spec.inputs.get("fps", 5.0))  # type: ignore[arg-type]
    # A first pass counts the steps; drawing all of a long clip would need all of its frames at once.
    request = MediaRequest(sound=False, frames_fps=fps, start_seconds=start, end_seconds=end)
    seen: list[float] = []
    read_media(media, request, lambda time, _: seen.append(time))
    wanted = set(np.linspace(0, len(seen) - 1, min(most_frames, len(seen))).round().astype(int).tolist())
    frames: list[tuple[int, float, Picture]] = []
    step = iter(range(len(seen)))

    def keep(time: float, frame: Picture) -> None:
        if (index := next(step)) in wanted:
            frames.append((index, time, frame.copy()))

    read_media(media, request, keep)
    if not frames:
        raise MerError(f"{media} shows no frame; there is nothing to draw")
    return ShownClip(key, frames, len(seen), note, fate.name.lower())


def _span(store: FeatureStore, row: int) -> tuple[float, float]:
    return store.utterances.start_seconds[row], store.utterances.end_seconds[row]


def draw(clip: ShownClip) -> npt.NDArray[np.uint8]:
    """Contact sheet, BGR: a heading, one line per track, and the frames with the boxes of every track."""
    tracks = sorted(clip.note.get("tracks", []), key=lambda track: track["id"] != clip.note.get("chosen"))
    colours = colours_of([track["id"] for track in tracks], clip.note.get("chosen"))
    tiles = [_tile(step, time, frame, tracks, colours, clip.note) for step, time, frame in clip.frames]
    columns = min(COLUMNS, len(tiles))
    blank = np.full_like(tiles[0], 255)
    rows = [
        np.concatenate([*tiles[first : first + columns], *[blank] * (first + columns - len(tiles))], axis=1)
        for first in range(0, len(tiles), columns)
    ]
    sheet = np.concatenate(rows)
    heading = _heading(clip, tracks, colours, max(sheet.shape[1], 640))
    if heading.shape[1] > sheet.shape[1]:
        sheet = np.pad(sheet, ((0, 0), (0, heading.shape[1] - sheet.shape[1]), (0, 0)), constant_values=255)
    return np.concatenate([heading, sheet])


def colours_of(tracks: Sequence[int], chosen: int | None) -> dict[int, tuple[int, int, int]]:
    """Colour of every track: no other looks like the chosen one."""
    others = [track for track in tracks if track != chosen]
    rest = COLOURS[1:]
    return {track: rest[index % len(rest)] for index, track in enumerate(others)} | (
        {} if chosen is None else {chosen: COLOURS[0]}
    )


def check_picture_name(path: Path) -> None:
    """Refuse a name without a picture format's suffix.

    Raises
    ------
    MerError
        If the suffix names no picture format.
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise MerError(f"{path} names no picture format; end it in .png, .jpg or .webp")


def write_picture(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write a picture in the format of its suffix, whole or not at all."""
    import cv2

    encoded = cv2.imencode(path.suffix.lower(), picture)[1].tobytes()
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded)


def _tile(
    step: int,
    time: float,
    frame: Picture,
    tracks: Sequence[Mapping[str, Any]],
    colours: Mapping[int, tuple[int, int, int]],
    note: Mapping[str, Any],
) -> npt.NDArray[np.uint8]:
    """One frame at tile width with the boxes of its step; the chosen track's box is thick."""
    import cv2

    scale = TILE_WIDTH / frame.shape[1]
    tile = cv2.resize(frame, (TILE_WIDTH, max(round(frame.shape[0] * scale), 1)), interpolation=cv2.INTER_AREA)
    for track in tracks:
        index = step - int(track["first"])
        box = track["boxes"][index] if 0 <= index < len(track["boxes"]) else None
        if box is None:
            continue
        left, top, width, height = (round(value * scale) for value in box)
        chosen = track["id"] == note.get("chosen")
        cv2.rectangle(tile, (left, top), (left + width, top + height), colours[track["id"]], 4 if chosen else 2)
        _write(tile, str(track["id"]), (left + 2, max(top - 4, 12)), colours[track["id"]])
    strip = np.full((LINE, TILE_WIDTH, 3), 255, np.uint8)
    _write(strip, f"{time:.2f} s", (4, 15), INK)
    return np.concatenate([np.asarray(tile, np.uint8), strip])


def _heading(
    clip: ShownClip,
    tracks: Sequence[Mapping[str, Any]],
    colours: Mapping[int, tuple[int, int, int]],
    width: int,
) -> npt.NDArray[np.uint8]:
    note = clip.note
    if tracks:
        first = f"followed {note['chosen']}: {note['used']} (policy {note['policy']}), {note['coverage']:.0%} of frames"
        first += f"; {note['why']}" if note.get("why") else ""
    else:
        first = f"no face was followed: {clip.fate}"
    lines = [(f"{clip.key}: {len(clip.frames)} of {clip.steps} frames", INK), (first, INK)]
    for track in tracks:
        heard = "not measured" if track["speaking"] is None else f"{track['speaking']:+.2f}"
        since, until = track["seconds"]
        seen = sum(box is not None for box in track["boxes"])
        text = (
            f"{track['id']}: {since:.1f} to {until:.1f} s, {seen} frames, score {track['score']:.2f}, speaking {heard}"
        )
        lines.append((text, colours[track["id"]]))
    heading = np.full((LINE * len(lines) + 8, width, 3), 255, np.uint8)
    for row, (text, colour) in enumerate(lines):
        _write(heading, text, (6, LINE * (row + 1) - 4), colour)
    return heading


def _write(picture: npt.NDArray[np.uint8], text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    import cv2

    ascii_text = text.encode("ascii", "replace").decode()  # OpenCV's fonts have nothing else
    cv2.putText(picture, ascii_text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
