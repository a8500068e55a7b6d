"""Finders, and real talkers side by side in one picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from training.toy import load_benchmark

from mer.stages.faces.finder import FaceFinder, LoadedFinder, Region, resolve_finder
from mer.stages.interfaces import FaceCrops
from mer.stages.media.reader import read_media
from mer.stages.media.request import MediaRequest

bench = load_benchmark("bench_speaking")
Talker, talker, side_by_side = bench.Talker, bench.talker, bench.side_by_side


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
