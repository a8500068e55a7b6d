"""Faces at 5 per second beside the bare decoding of the same frames, clip by clip and side by side in one run.

    python benchmarks/bench_video.py CLIPS_DIR --yunet face_detection_yunet_2023mar.onnx

CLIPS_DIR is searched for videos. Each is also encoded again as 1280x720 H.264 (x264 medium, CRF 23, its own rate), the
usual form of television corpora. Per clip, in CPU seconds of one thread:

* bare: PyAV decodes every picture frame and converts the sampled ones to BGR, nothing else;
* faces: `mer`'s whole pass: sound to 16 kHz, frames, detection, tracks, mouths, choice, aligned crops.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from mer.stages.faces.finder import LoadedFinder, resolve_finder
from mer.stages.media.reader import read_media
from mer.stages.media.request import MediaRequest

FPS = 5.0
SUFFIXES = {".mp4", ".mov", ".mpg", ".avi", ".mkv"}
SIZE_720P = (1280, 720)


@dataclass(frozen=True)
class Row:
    """Measurements of one clip, in CPU seconds."""

    name: str
    size: tuple[int, int]
    media_seconds: float
    bare: float
    faces: float
    stages: dict[str, float]


def bare_decode(path: Path) -> tuple[int, int]:
    """Decode every frame with one thread, convert the sampled ones; returns the frame size."""
    size = (0, 0)
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        due = 0.0
        for frame in container.decode(stream):
            size = (frame.width, frame.height)
            if frame.time is not None and frame.time >= due:
                frame.to_ndarray(format="bgr24")
                due += 1 / FPS
    return size


def with_faces(path: Path, loaded: LoadedFinder, stages: dict[str, float]) -> float:
    """Run the whole pass, adding CPU seconds of its parts to `stages`; returns the length of the clip."""
    watcher = loaded.watch()

    def timed(name: str, call: Callable[..., object]) -> Callable[..., None]:
        def run(*given: object) -> None:
            started = time.process_time()
            call(*given)
            stages[name] = stages.get(name, 0.0) + time.process_time() - started

        return run

    request = MediaRequest(frames_fps=FPS, grey_fps=loaded.finder.grey_fps)
    media = read_media(path, request, timed("watch", watcher.add), timed("grey", watcher.add_grey))
    timed("choose", watcher.finish)(media.waveform)
    return media.duration_seconds


def as_720p(path: Path, folder: Path) -> Path:
    """Encode a clip again at 1280x720, padded to keep its shape, with its sound."""
    made = folder / f"{path.stem}-720p.mp4"
    with av.open(str(path)) as source, av.open(str(made), "w") as out:
        picture = source.streams.best("video")
        options = {"preset": "medium", "crf": "23"}
        stream = out.add_stream("libx264", rate=picture.average_rate or 25, options=options)
        stream.width, stream.height, stream.pix_fmt = *SIZE_720P, "yuv420p"
        for index, frame in enumerate(source.decode(picture)):
            pixels = frame.to_ndarray(format="bgr24")
            scale = min(SIZE_720P[0] / pixels.shape[1], SIZE_720P[1] / pixels.shape[0])
            size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
            canvas = np.zeros((SIZE_720P[1], SIZE_720P[0], 3), np.uint8)
            top, left = (SIZE_720P[1] - size[1]) // 2, (SIZE_720P[0] - size[0]) // 2
            canvas[top : top + size[1], left : left + size[0]] = cv2.resize(
                pixels, size, interpolation=cv2.INTER_LINEAR
            )
            shown = av.VideoFrame.from_ndarray(canvas, format="bgr24")
            shown.pts, shown.time_base = index, 1 / (picture.average_rate or 25)
            out.mux(stream.encode(shown))
        out.mux(stream.encode(None))
    return made


def measure(path: Path, loaded: LoadedFinder, repeats: int) -> Row:
    """Best of several runs, the two kinds in turn so that other load meets both."""
    bare, faces, best = float("inf"), float("inf"), {}
    for _ in range(repeats):
        started = time.process_time()
        size = bare_decode(path)
        bare = min(bare, time.process_time() - started)
        stages: dict[str, float] = {}
        started = time.process_time()
        media_seconds = with_faces(path, loaded, stages)
        spent = time.process_time() - started
        if spent < faces:
            faces, best = spent, stages
    return Row(path.name, size, media_seconds, bare, faces, best)


def report(rows: list[Row]) -> None:
    """Print the table and the ratio over all clips and over the 720p ones."""
    print(f"{'clip':44} {'size':>10} {'s':>5} {'bare':>7} {'faces':>7} {'ratio':>6}   of which watch, grey, choose")
    for row in rows:
        parts = " ".join(f"{row.stages.get(name, 0):6.3f}" for name in ("watch", "grey", "choose"))
        size = f"{row.size[0]}x{row.size[1]}"
        ratio = row.faces / row.bare
        print(
            f"{row.name:44} {size:>10} {row.media_seconds:5.1f} {row.bare:7.3f} {row.faces:7.3f} {ratio:6.2f}   {parts}"
        )
    for name, some in (("all clips", rows), ("1280x720 only", [row for row in rows if row.size == SIZE_720P])):
        bare, faces = sum(row.bare for row in some), sum(row.faces for row in some)
        media = sum(row.media_seconds for row in some)
        if bare:
            print(f"{name}: faces / bare = {faces / bare:.2f}; {media / faces:.0f} media seconds per CPU second")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB; {platform.machine()}, PyAV {av.__version__}, OpenCV {cv2.__version__}")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--yunet", type=Path)
    parser.add_argument("--policy", default="speaking")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    loaded = resolve_finder("auto", given.yunet, policy=given.policy).load()
    clips = sorted(path for path in given.clips.rglob("*") if path.suffix in SUFFIXES)
    with tempfile.TemporaryDirectory() as folder:
        made = [as_720p(path, Path(folder)) for path in clips]
        report([measure(path, loaded, given.repeats) for path in [*clips, *made]])


if __name__ == "__main__":
    main()
