"""A face finder whose decoder crashes, hangs, swallows memory or raises, by the brightness of the picture."""

from __future__ import annotations

import ctypes
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from media.handmade import write_timed

from mer.stages.faces.finder import FaceFinder, resolve_finder

BRIGHTNESS = {"crash": 40, "hang": 80, "memory": 120, "fault": 160, "trouble": 200}
"""Grey value of the picture that makes each trouble."""


def write_odd_clip(path: Path, trouble: str) -> Path:
    """One second of a picture that makes a trouble."""
    frame = np.full((48, 64, 3), BRIGHTNESS[trouble], np.uint8)
    return write_timed(path, [frame] * 5, [index / 5 for index in range(5)])


@dataclass(frozen=True)
class OddFinder(FaceFinder):
    """Finds no faces, and more than faces in odd pictures."""

    @classmethod
    def make(cls, *_: Any, **__: Any) -> OddFinder:
        """As `resolve_finder`, of which it takes the place."""
        finder = resolve_finder("cascade", policy="largest")
        return cls(**{field.name: getattr(finder, field.name) for field in dataclasses.fields(FaceFinder)})

    def load(self) -> Any:
        return _Loaded(super().load())


class _Loaded:
    def __init__(self, loaded: Any) -> None:
        self._loaded = loaded

    def watch(self, region: Any = None) -> Any:
        watcher = self._loaded.watch(region)
        whole = watcher.add

        def add(time_seconds: float, picture: Any) -> None:
            if picture.std() < 8:  # one colour: none of the clips that others draw
                _be_odd(float(picture.mean()))
            whole(time_seconds, picture)

        watcher.add = add
        return watcher


def _be_odd(brightness: float) -> None:
    trouble = min(BRIGHTNESS, key=lambda name: abs(BRIGHTNESS[name] - brightness))
    if abs(BRIGHTNESS[trouble] - brightness) > 6:
        return
    if trouble == "crash":
        ctypes.string_at(0)
    if trouble == "hang":
        time.sleep(600)
    if trouble == "memory":
        held = [np.empty(1 << 27) for _ in range(1000)]  # a gigabyte each
        raise AssertionError(len(held))
    if trouble == "fault":
        raise KeyError("a fault of ours")
    if trouble == "trouble":
        raise OSError("a bus error of the grabber")
