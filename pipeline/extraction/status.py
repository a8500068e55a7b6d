"""What a running extraction has done so far, in a small file beside the cache that `mer status` reads."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mer.cache import Fate, MerError, atomic_write, read_shard_index

from .local_state import side_folder
from .tasks import ShardReport

FILE = "run-status.json"
SECONDS_BETWEEN = 2.0
SILENT_SECONDS = 300.0
"""A run that wrote nothing for so long, and whose process cannot be looked for here, may be dead."""
MOST_FAILURES = 10
Facts = dict[str, Any]


class RunStatus:
    """Keeps the status file of one run up to date, a few times a minute."""

    def __init__(self, folders: Mapping[str, Path], utterances: int) -> None:
        self._folders = folders
        self._path = next(iter(folders.values())).parent / FILE
        self._failures: deque[tuple[str, str, str]] = deque(maxlen=MOST_FAILURES)
        self._written = 0.0
        self.facts: Facts = {
            "state": "running",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "begun": time.time(),
            "utterances": utterances,
            "done": 0,
            "failed": 0,
            "media_seconds": 0.0,
            "shards": 0,
            "seconds": {},
            "why": "",
        }
        self._write()

    def clip(self, failed: bool, media_seconds: float) -> None:
        """Count one utterance."""
        self.facts["done"] += 1
        self.facts["failed"] += failed
        self.facts["media_seconds"] += media_seconds
        if time.monotonic() - self._written > SECONDS_BETWEEN:
            self._write()

    def report(self, report: ShardReport) -> None:
        """Take in a finished task: its seconds per stage, and why utterances failed."""
        self.facts["shards"] += len(report.shards)
        for stage, seconds in report.seconds.items():
            self.facts["seconds"][stage] = round(self.facts["seconds"].get(stage, 0.0) + seconds, 2)
        if not report.failed:
            return
        for name, info in report.shards:
            try:
                index = read_shard_index(self._folders[name] / f"{info.name}.h5")
            except MerError:
                continue
            for key, fate, reason in zip(index.keys, index.fates, index.reasons, strict=True):
                if fate == Fate.FAILED:
                    self._failures.append((str(key), name, str(reason)))

    def end(self, state: str, why: str = "") -> None:
        """Write how the run ended: `done`, `stopped` or `failed`."""
        self.facts |= {"state": state, "why": why}
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        facts = {**self.facts, "now": time.time(), "failures": list(self._failures)}
        try:
            with atomic_write(self._path) as temporary:
                temporary.write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
        except (OSError, MerError):
            return  # the run itself will say that the disk is full


def read_status(catalogue: Path) -> Facts:
    """Read the status of the run that writes, or wrote last, a catalogue; a run that died is `dead`.

    Raises
    ------
    MerError
        If no extraction has run for this catalogue on this machine.
    """
    path = side_folder(catalogue) / FILE
    try:
        facts: Facts = json.loads(path.read_text(encoding="utf-8"))
        silent = time.time() - float(facts["now"])
        if facts["state"] == "running" and not _alive(facts, silent):
            facts["state"] = "dead"
    except FileNotFoundError:
        raise MerError(f"{catalogue}: no extraction has told of itself there; start one with mer extract") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MerError(f"{path} cannot be read ({error}); it is made anew by the next mer extract") from error
    return facts


def _alive(facts: Facts, silent_seconds: float) -> bool:
    if facts["host"] != socket.gethostname():
        return silent_seconds < SILENT_SECONDS
    try:
        os.kill(int(facts["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
