"""Checking a cache or pack down to the last byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .catalogue import SetIndex
from .errors import MerError
from .progress import Progress, tally
from .shard import Fate, ShardIndex, checksum, read_shard_index
from .source import is_url
from .store import FeatureStore


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a cache."""

    key: str
    """The utterance, or empty when it is about more than one."""
    set_name: str
    what: str
    repair: str


def verify(path: Path | str, progress: Progress | None = None) -> list[Problem]:
    """Compare every checksum and check every invariant of the format, one utterance in memory at a time.

    Parameters
    ----------
    path
        Cache or pack; a URL is read in place.
    progress
        Called with the bytes of features checked so far, and those in all.

    Returns
    -------
    One entry per damaged utterance, and others for what concerns no single one; empty when all is well.

    Raises
    ------
    MerError
        If the catalogue or pack itself cannot be opened, or none of its shards is there.
    """
    store = FeatureStore.open(path)
    store.check_shards()
    report = tally(progress, sum(index.value_bytes() for index in store.sets.values()))
    return [problem for name in store.sets for problem in _check_set(store, name, report)]


def _check_set(store: FeatureStore, set_name: str, report: Callable[[int], None]) -> Iterator[Problem]:
    index, keys = store.index(set_name), store.utterances.keys
    step_bytes = index.value_bytes() // max(1, int(index.length.sum()))
    broken: dict[int, str] = {}
    order = np.argsort(index.shard, kind="stable")
    bounds = np.searchsorted(index.shard[order], np.arange(len(index.shards) + 1))
    for shard in range(len(index.shards)):
        rows = order[bounds[shard] : bounds[shard + 1]]
        told = _check_shard(store, set_name, shard, rows)
        if told:
            broken[shard] = told
            if not len(rows):
                yield Problem("", set_name, told, store.repair())
    for row, key in enumerate(keys):
        shard = int(index.shard[row])
        what = broken.get(shard) if shard >= 0 else None
        what = what or _check_row(store, set_name, index, row)
        if what:
            yield Problem(key, set_name, what, store.repair())
        report(int(index.length[row]) * step_bytes)


def _check_shard(store: FeatureStore, set_name: str, shard: int, rows: npt.NDArray[np.int64]) -> str:
    """Say what is wrong with a whole shard, or nothing; `rows` are the utterances it answers for."""
    index, info = store.index(set_name), store.index(set_name).shards[shard]
    location = store.shard_location(set_name, shard)
    if is_url(location):
        return ""
    try:
        content = read_shard_index(location)
    except MerError as error:
        return str(error)
    if content.info != info:
        return f"{location} is not the shard the catalogue names"
    if content.spec != index.spec:
        return f"{location} holds features of another spec"
    return _compare(store, index, rows, content, location)


def _compare(
    store: FeatureStore, index: SetIndex, rows: npt.NDArray[np.int64], content: ShardIndex, location: str
) -> str:
    position = {key: at for at, key in enumerate(content.keys)}
    keys = [store.utterances.keys[row] for row in rows.tolist()]
    if not set(keys) <= set(position):
        return f"{location} does not hold {next(key for key in keys if key not in position)!r}"
    at = np.array([position[key] for key in keys], np.int64)
    length = np.diff(content.offsets)[at]
    pairs: dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {
        "fates": (content.fates[at], index.fates[rows]),
        "lengths": (length, index.length[rows]),
        "offsets": (content.offsets[at] * (length > 0), index.start[rows] * (length > 0)),
        "checksums": (content.checksums[at] * (length > 0), index.checksums[rows] * (length > 0)),
        "sources": (content.sources[at], index.sources[rows]),
        "coverage": (content.coverage[at], index.coverage[rows]),
    }
    wrong = [name for name, (there, here) in pairs.items() if not np.array_equal(there, here)]
    return f"{', '.join(wrong)} in {location} differ from the catalogue" if wrong else ""


def _check_row(store: FeatureStore, set_name: str, index: SetIndex, row: int) -> str:
    """Say what is wrong with one utterance, or nothing."""
    if index.fates[row] != Fate.OK:
        return ""
    try:
        values, times, valid = store.raw(set_name, row)
    except MerError as error:
        return str(error)
    if checksum(values, times, valid) != index.checksums[row]:
        return "its features do not match their checksum"
    if (valid > 1).any() or values[valid == 0].any():
        return "a step that is not valid holds values"
    spoilt = np.isinf(values).any() if index.spec.has_gaps else not np.isfinite(values).all()
    if spoilt or not np.isfinite(times).all():
        return "values or times are not finite"
    share = np.float32(valid.mean()) if len(valid) else np.float32(0)
    if not np.isclose(share, index.coverage[row], atol=1e-6):
        return f"its coverage is {share:.6f} but the catalogue says {index.coverage[row]:.6f}"
    return ""
