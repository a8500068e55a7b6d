"""One video's predictions over time, written down as they come: interrupted, it goes on where it stopped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import xxhash

from mer.cache import DamagedError, canonical_json

from ..training.run_folder import Run
from .over_time import VideoPredictor
from .timeline import Prediction, Timeline, TimelineHeader, read_lines, read_timeline, row_record, write_line
from .windows import Windows


def run_digest(run: Run) -> str:
    """Digest of what a run predicts with: its facts and its weights."""
    digest = xxhash.xxh3_128(canonical_json({key: run.facts[key] for key in ("features", "classes", "head")}).encode())
    for member in run.members:
        digest.update(run.model_path(member["name"]).read_bytes())
    return digest.hexdigest()


def finished(path: Path, header: TimelineHeader) -> Timeline | None:
    """The time line of an earlier call, where it is complete and is of the same run, video and windows."""
    if not path.is_file():
        return None
    try:
        found = read_timeline(path)
    except DamagedError:
        return None
    return found if found.header == header else None


def record_timeline(
    predictor: VideoPredictor,
    video: Path,
    header: TimelineHeader,
    make_windows: Callable[[], Windows],
    path: Path,
    on_time: Callable[[float], None] = lambda _: None,
) -> Timeline:
    """Predict a video and write its JSON-lines file; `path` appears when it is complete.

    Until then the lines stand in `path` plus `.part`. The same call goes on from there: the video is watched again,
    and only windows that are not in the file are encoded.

    Raises
    ------
    MerError
        If the video cannot be read, or the file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    rows = _known(part, header)
    with part.open("w", encoding="utf-8") as file:
        write_line(file, header.record())
        for row in rows:
            write_line(file, row_record(header, row))

        def take(new: list[Prediction]) -> None:
            for row in new:
                write_line(file, row_record(header, row))
            file.flush()
            rows.extend(new)

        known = rows[-1].window + 1 if rows else 0
        watched = predictor.watch(video, make_windows(), take, on_time, known)
        write_line(file, {"seconds": round(watched.seconds, 3), "notes": list(watched.notes)})
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    return read_timeline(path)


def _known(part: Path, header: TimelineHeader) -> list[Prediction]:
    """Rows of whole windows that an interrupted call left; the last window may lack people, so it is done again."""
    if not part.is_file():
        return []
    try:
        found, rows, _ = read_lines(part)
    except DamagedError:
        return []
    if found != header or not rows:
        return []
    last = rows[-1].window
    return [row for row in rows if row.window < last]
