"""How often the person who speaks is followed: real talkers side by side in one picture, with the sound of one of them.

    python benchmarks/bench_speaking.py CLIPS_DIR --yunet face_detection_yunet_2023mar.onnx

Every ordered pair of the talking clips below CLIPS_DIR (folders `talking` and `grid`) is written as one clip with
the sound of the left one, and the choice of `--face-policy speaking` is counted: right, wrong, or left to the largest
face for want of evidence. The form of the evidence and its thresholds were chosen on these very talkers.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mer.pipeline.terminal.console import progress_bar, results, table
from mer.stages.corpora.demo.media import Picture, Sound, write_media
from mer.stages.faces.finder import LoadedFinder, resolve_finder
from mer.stages.media.reader import read_media
from mer.stages.media.request import MediaRequest

HEIGHT = 288
FPS = 25
FACE_FPS = 5.0
SUFFIXES = {".mp4", ".mpg"}


@dataclass(frozen=True)
class Talker:
    """A real talking clip at a common height and rate."""

    frames: list[npt.NDArray[np.uint8]]
    waveform: npt.NDArray[np.float32]

    @property
    def width(self) -> int:
        """Pixels."""
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


def outcome(path: Path, finder: LoadedFinder, grey_fps: float, boundary: int, speaker_is_left: bool) -> str:
    """`right`, `wrong` or `largest` (not enough evidence) for one clip of two."""
    watcher = finder.watch(None)
    media = read_media(path, MediaRequest(frames_fps=FACE_FPS, grey_fps=grey_fps), watcher.add, watcher.add_grey)
    note = watcher.finish(media.waveform).note
    if note["used"] != "speaking":
        return "largest"
    chosen = next(track for track in note["tracks"] if track["id"] == note["chosen"])
    return "right" if (chosen["boxes"][0][0] < boundary) == speaker_is_left else "wrong"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--yunet", type=Path, required=True, help="the detector's file")
    arguments = parser.parse_args()
    files = [p for name in ("talking", "grid") for p in sorted((arguments.clips / name).iterdir())]
    files = [path for path in files if path.suffix in SUFFIXES]
    found = resolve_finder("yunet", arguments.yunet)
    finder = found.load()
    counts: Counter[str] = Counter()
    mistaken = []
    pairs = list(itertools.permutations(files, 2))
    with tempfile.TemporaryDirectory() as folder, progress_bar("pairs", len(pairs)) as bar:
        for left, right in pairs:
            one, other = talker(left), talker(right)
            clip = side_by_side(Path(folder) / "pair.mp4", one, other, one)
            said = outcome(clip, finder, found.grey_fps, one.width, speaker_is_left=True)
            counts[said] += 1
            mistaken += [f"{left.stem} beside {right.stem}"] if said == "wrong" else []
            bar.advance()
    made = table(f"{len(files)} talkers", "ordered pairs", ">right", ">wrong", ">left to the largest")
    made.add_row(str(len(pairs)), *(str(counts[name]) for name in ("right", "wrong", "largest")))
    results.print(made)
    for pair in mistaken:
        results.print(f"wrong: {pair}")


if __name__ == "__main__":
    main()
