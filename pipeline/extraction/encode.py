"""Step 4: tasks -> shards, with progress, and an early end where everything fails alike."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mer.cache import Fate, MerError, check_shard, read_shard_index

from ..terminal.console import ProgressBar, progress_bar
from ..terminal.interrupt import INTERRUPTED
from .decoding import TaskSettings
from .execute import execute
from .isolation import clip_helpers
from .options import Execution
from .plan import Plan
from .status import RunStatus
from .tasks import ShardReport, loaded_encoder

logger = logging.getLogger("mer.extract")

SAME_FAILURES_BEFORE_STOP = 24
"""So many utterances failing for one reason, with none encoded, end the run: something general is wrong."""


class StoppedError(MerError):
    """Raised when an extraction was stopped by hand; the message says how to go on."""

    exit_code = INTERRUPTED


def encode(plan: Plan, settings: TaskSettings, execution: Execution) -> list[ShardReport]:
    """Carry out the tasks of a plan, with progress on the terminal.

    Returns
    -------
    One report per finished task; a task whose shards were there is in none.

    Raises
    ------
    StoppedError
        If it was stopped by hand.
    MerError
        If a checkpoint or device is unusable, or everything fails alike.
    """
    if not plan.tasks:
        return []
    if not execution.workers and not execution.scheduler:
        if settings.isolated and any(made.modality != "text" for task in plan.tasks for made in task.sets):
            clip_helpers().start(settings.decode_threads)  # they start while the encoders are loaded
        for made in {made.name: made for task in plan.tasks for made in task.sets}.values():
            loaded_encoder(made, settings)  # a bad checkpoint or device is told before any clip is decoded
    reports: list[ShardReport] = []
    with progress_bar("extracting", plan.utterances_to_do) as bar:
        folders = {made.name: Path(made.folder) for made in plan.sets}
        meter, status = _Meter(bar, folders), RunStatus(folders, plan.utterances_to_do)

        def on_report(report: ShardReport) -> None:
            reports.append(report)
            status.report(report)
            meter.check(report)

        def on_clip(failed: bool, media_seconds: float) -> None:
            meter.clip(failed, media_seconds)
            status.clip(failed, media_seconds)

        try:
            execute(plan.tasks, settings, execution, on_report, on_clip)
        except KeyboardInterrupt:
            status.end("stopped")
            raise StoppedError(
                f"interrupted after {meter.clips} clips; finished shards are kept, run the same command again to go on"
            ) from None
        except Exception as error:
            status.end("failed", str(error))
            raise
        status.end("done")
    _remove_damaged(reports, {made.name: Path(made.folder) for made in plan.sets})
    return reports


def _remove_damaged(reports: Sequence[ShardReport], folders: Mapping[str, Path]) -> None:
    """Compare what was made with what can be read back; a damaged shard is removed, so that it counts as lost."""
    for report in reports:
        for name, info in report.shards:
            path = folders[name] / f"{info.name}.h5"
            try:
                check_shard(path, deep=True)
            except MerError as error:
                logger.warning("%s", error)
                path.unlink(missing_ok=True)


class _Meter:
    """Counts clips, hours and failures, and writes them beside the bar."""

    def __init__(self, bar: ProgressBar, folders: Mapping[str, Path]) -> None:
        self.bar = bar
        self.folders = folders
        self.started = time.perf_counter()
        self.clips = 0
        self.failed = 0
        self.media_seconds = 0.0
        self.reasons: Counter[str] = Counter()
        """Why utterances failed that have no features in any set, one reason each."""
        self.any_encoded = False

    def clip(self, failed: bool, media_seconds: float) -> None:
        """Count one utterance."""
        self.clips += 1
        self.failed += failed
        self.media_seconds += media_seconds
        elapsed = max(1e-6, time.perf_counter() - self.started)
        pace = f"{self.clips / elapsed:.1f} clips/s · {self.media_seconds / elapsed:.1f} h media/h"
        self.bar.advance(1, f"{pace} · {self.failed} failed")

    def check(self, report: ShardReport) -> None:
        """Stop a run in which everything fails alike."""
        self.any_encoded = self.any_encoded or report.failed < report.clips
        if self.any_encoded:
            return
        indexes = [read_shard_index(self.folders[name] / f"{info.name}.h5") for name, info in report.shards]
        for row in range(report.clips):
            self.any_encoded = self.any_encoded or any(index.fates[row] == Fate.OK for index in indexes)
            self.reasons[next(index.reasons[row] for index in indexes if index.fates[row] == Fate.FAILED)] += 1
        reason, count = self.reasons.most_common(1)[0]
        if count >= SAME_FAILURES_BEFORE_STOP and not self.any_encoded:
            raise MerError(f"stopped: all of the first {count} utterances failed the same way: {reason}")
