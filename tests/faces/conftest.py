"""Finders, and real talkers side by side in one picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from mer.stages.corpora.demo_media import Picture, Sound, write_media
from mer.stages.faces import FaceFinder, LoadedFinder, Region, resolve_finder
from mer.stages.media import MediaRequest, read_media
from mer.stages.protocols import FaceCrops

HEIGHT = 288
FPS = 25


@dataclass(frozen=True)
class Talker:
    """A real talking clip at a common height and rate."""

    frames: list[npt.NDArray[np.uint8]]
    waveform: npt.NDArray[np.float32]

    @property
    def width(self) -> int:
        return int(self.frames[0].shape[1])


@cache
def talker(path: Path) -> Talker:
    """Read a clip; each moment of the common rate shows the frame that was on screen then."""
    media = read_media(path, MediaRequest(frames_fps=60))
    times = np.array([time for time, _ in media.frames])
    shape = media.frames[0][1].shape
    size = (2 * round(shape[1] * HEIGHT / shape[0] / 2), HEIGHT)
    shown = [
        max(0, int(np.searchsorted(times, moment / FPS + 1e-3, side="right")) - 1)
        for moment in range(int(media.duration_seconds * FPS))
    ]
    frames = [cv2.resize(media.frames[index][1], size, interpolation=cv2.INTER_AREA) for index in shown]
    assert media.waveform is not None
    return Talker(frames, media.waveform)


def side_by_side(path: Path, left: Talker, right: Talker, sound: Talker | None) -> Path:
    """Write both in one picture with the sound of one of them, or with none."""
    count = min(len(left.frames), len(right.frames))
    frames = [np.concatenate(pair, axis=1) for pair in zip(left.frames[:count], right.frames[:count], strict=True)]
    track = None if sound is None else Sound(sound.waveform[: count * 16_000 // FPS, None], 16_000)
    write_media(path, Picture(frames, float(FPS), (left.width + right.width, HEIGHT)), track)
    return path


@pytest.fixture(scope="session")
def yunet(shared_data: Path) -> FaceFinder:
    return resolve_finder("yunet", shared_data / "weights" / "face_detection_yunet_2023mar.onnx")


@pytest.fixture(scope="session")
def cascade() -> FaceFinder:
    return resolve_finder("cascade")


Watch = Callable[..., FaceCrops]


@pytest.fixture(scope="session")
def watch() -> Watch:
    """Return a function that reads a clip and gives the crops of the chosen person."""
    loaded: dict[FaceFinder, LoadedFinder] = {}

    def run(
        path: Path, finder: FaceFinder, policy: str = "speaking", region: Region | None = None, fps: float = 5.0
    ) -> FaceCrops:
        finder = replace(finder, policy=policy)
        watcher = loaded.setdefault(finder, finder.load()).watch(region)
        request = MediaRequest(frames_fps=fps, grey_fps=finder.grey_fps)
        media = read_media(path, request, watcher.add, watcher.add_grey)
        return watcher.finish(media.waveform)

    return run
