"""Several videos over time: which windows each gets, what is done already, and progress."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mer.cache import MerError
from mer.stages.media.reader import media_facts

from ..terminal.console import progress_bar
from ..training.run_folder import Run
from .over_time import VideoPredictor
from .record_timeline import finished, record_timeline, run_digest
from .timeline import Timeline, TimelineHeader
from .windows import Cue, SlidingWindows, Turns, Windows, check_cues, read_cues

SUBTITLE_SUFFIXES = (".srt", ".vtt", ".ass", ".ssa")


@dataclass(frozen=True)
class WindowRequest:
    """How videos are cut."""

    length_seconds: float | None
    """None takes the lines of the subtitles as windows."""
    hop_seconds: float
    transcribe: str | None = None

    def record(self, cues: Sequence[Cue] | None) -> dict[str, Any]:
        """What a time line's header says of it."""
        words = self.transcribe or ("none" if cues is None else "subtitles")
        if self.length_seconds is None:
            return {"turns": len(cues or ()), "words": words}
        return {"length_seconds": self.length_seconds, "hop_seconds": self.hop_seconds, "words": words}

    def windows(self, cues: Sequence[Cue] | None) -> Windows:
        """The windows of one video."""
        if self.length_seconds is None:
            assert cues is not None
            return Turns(cues)
        return SlidingWindows(self.length_seconds, self.hop_seconds, cues)


def subtitles_of(videos: Sequence[Path], named: Sequence[Path]) -> list[Path | None]:
    """Subtitle file of every video: one each in the order of the videos, or a folder with files of their names.

    Raises
    ------
    MerError
        If the numbers do not fit, or a folder has none for a video.
    """
    if not named:
        return [None] * len(videos)
    if len(named) == 1 and named[0].is_dir():
        found = []
        for video in videos:
            here = [p for suffix in SUBTITLE_SUFFIXES if (p := named[0] / (video.stem + suffix)).is_file()]
            if not here:
                raise MerError(f"{named[0]}: has no subtitles of {video.name}, such as {video.stem}.srt")
            found.append(here[0])
        return list(found)
    if len(named) != len(videos):
        raise MerError(
            f"{len(videos)} videos and {len(named)} subtitle files; give --subtitles once per video, or a folder"
        )
    return list(named)


def predict_video(
    run: Run,
    predictor: VideoPredictor,
    video: Path,
    request: WindowRequest,
    subtitles: Path | None = None,
    folder: Path | None = None,
) -> tuple[Timeline, bool]:
    """Predict one video over time.

    Parameters
    ----------
    run, predictor
        The run and what was loaded of it.
    video, subtitles
        The files.
    request
        How the video is cut.
    folder
        Gets `VIDEO.jsonl`, and `VIDEO.jsonl.part` until that is complete; None keeps no file.

    Returns
    -------
    The time line, and whether it was there already.

    Raises
    ------
    MerError
        If the video or the subtitles cannot be used.
    """
    if not video.is_file():
        raise MerError(f"{video}: {'is a folder' if video.is_dir() else 'no such file'}; name a video")
    facts = media_facts(video)
    cues = None if subtitles is None else read_cues(subtitles)
    if cues is not None and subtitles is not None and facts.seconds is not None:
        check_cues(cues, subtitles, video, facts.seconds)
    header = TimelineHeader(
        video=video.name,
        video_bytes=video.stat().st_size,
        run=run.path.resolve().name,
        run_digest=run_digest(run),
        target=str(run.facts["target"]),
        kind=run.kind,
        classes=run.classes,
        models=len(run.members),
        windows=request.record(cues),
    )
    with tempfile.TemporaryDirectory(prefix="mer-predict-") as aside:
        path = (folder or Path(aside)) / f"{video.stem}.jsonl"
        there = finished(path, header)
        if there is not None:
            return there, True
        total = int(facts.seconds or 0)
        with progress_bar(video.name, total, "seconds") as bar:
            shown, begun = 0, time.monotonic()

            def on_time(seconds: float) -> None:
                nonlocal shown
                now = min(int(seconds), total)
                rate = seconds / max(time.monotonic() - begun, 1e-3)
                bar.advance(now - shown, f"seconds · {rate:.1f} × its length")
                shown = now

            return record_timeline(predictor, video, header, lambda: request.windows(cues), path, on_time), False
