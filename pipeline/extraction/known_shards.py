"""The shards of a feature set that are there, and the fates they give to utterances."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import (
    DamagedError,
    Fate,
    FeatureSpec,
    SetIndex,
    ShardIndex,
    ShardInfo,
    read_shard_index,
    shard_folder,
)

from .checked_shards import CheckedShards


@dataclass
class KnownShards:
    """The shards of one feature set that are sound, and which of their rows answer for which utterance."""

    infos: list[ShardInfo] = field(default_factory=list)
    rows: dict[tuple[str, bytes], tuple[int, int]] = field(default_factory=dict)
    """(key, source digest) to (shard, row); a later shard overrides an earlier one."""
    indexes: list[ShardIndex] = field(default_factory=list)

    def add(self, info: ShardInfo, index: ShardIndex) -> None:
        """Take in one shard."""
        number = len(self.infos)
        self.infos.append(info)
        self.indexes.append(index)
        sources = index.sources.tobytes()
        width = index.sources.shape[1]
        for row, key in enumerate(index.keys):
            self.rows[key, sources[row * width : (row + 1) * width]] = (number, row)

    def fate(self, key: str, source: bytes) -> Fate:
        """Fate of an utterance, PENDING when no shard answers for it."""
        found = self.rows.get((key, source))
        if found is None:
            return Fate.PENDING
        return Fate(int(self.indexes[found[0]].fates[found[1]]))

    def with_features_of(self, keys: Set[str]) -> list[int]:
        """Shards with features of some utterances, made from whatever sources: a clip that is away may come back."""
        if not keys:
            return []
        return [
            number
            for number, index in enumerate(self.indexes)
            if any(key in keys for key, ok in zip(index.keys, (index.fates == Fate.OK).tolist(), strict=True) if ok)
        ]


def load_known(
    catalogue: Path,
    set_name: str,
    index: SetIndex | None,
    complain: Callable[[str], None],
    checked: CheckedShards,
) -> KnownShards:
    """Read the index of every shard the last catalogue lists, leaving out what is gone or damaged."""
    known = KnownShards()
    folder = shard_folder(catalogue, set_name)
    for info in index.shards if index is not None else ():
        path = folder / f"{info.name}.h5"
        try:
            known.add(info, checked.read(path))
        except DamagedError as error:
            complain(str(error))
    return known


def index_set(
    spec: FeatureSpec,
    folder: Path,
    shards: Iterable[str],
    wanted: Sequence[tuple[str, bytes]],
    durations_seconds: npt.NDArray[np.float64],
    read: Mapping[str, ShardIndex] | None = None,
) -> SetIndex:
    """Collect the fates of a feature set from its shards, one entry per utterance of the table.

    `wanted` gives the key and the source digest of every utterance; a shard row made from other sources (an older
    transcript, another file) does not answer. Nor does a shard that cannot be read: its utterances are pending. Noted
    lengths of streams are filled into `durations_seconds`, the longest of each clip. Shards in `read`, by name, are not
    read again.
    """
    known = KnownShards()
    there = read or {}
    for name in shards:
        path = folder / f"{name}.h5"
        with suppress(DamagedError):
            index = there[name] if name in there else read_shard_index(path)
            known.add(index.info, index)
    columns = _empty_columns(len(wanted))
    if wanted:
        columns["sources"] = np.frombuffer(b"".join(source for _, source in wanted), np.uint8).reshape(-1, 16).copy()
    found = [known.rows.get(pair, (-1, -1)) for pair in wanted]
    shard, row = np.array(found, np.int64).reshape(-1, 2).T
    at = np.flatnonzero(shard >= 0)
    used: dict[int, int] = {}
    if len(at):
        first = np.cumsum([0, *(len(index.keys) for index in known.indexes)])
        from_all = first[shard[at]] + row[at]

        def gathered(column: Callable[[ShardIndex], npt.NDArray[Any]]) -> npt.NDArray[Any]:
            return np.concatenate([column(index) for index in known.indexes])[from_all]

        columns["fates"][at] = gathered(lambda index: index.fates)
        columns["start"][at] = gathered(lambda index: index.offsets[:-1])
        columns["length"][at] = gathered(lambda index: np.diff(index.offsets))
        columns["checksums"][at] = gathered(lambda index: index.checksums)
        columns["coverage"][at] = gathered(lambda index: index.coverage)
        used = {number: place for place, number in enumerate(dict.fromkeys(shard[at].tolist()))}
        columns["shard"][at] = [used[number] for number in shard[at].tolist()]
    for position, number, place in zip(at.tolist(), shard[at].tolist(), row[at].tolist(), strict=True):
        index = known.indexes[number]
        columns["reasons"][position] = index.reasons[place]
        if index.notes[place]:
            noted = json.loads(index.notes[place]).get("duration_seconds", np.nan)
            durations_seconds[position] = np.fmax(durations_seconds[position], noted)
    without = {wanted[position][0] for position in np.flatnonzero(columns["fates"] != Fate.OK).tolist()}
    kept = [*used, *(number for number in known.with_features_of(without) if number not in used)]
    return SetIndex(spec=spec, shards=[known.infos[number] for number in kept], **columns)


def _empty_columns(count: int) -> dict[str, Any]:
    return {
        "fates": np.full(count, Fate.PENDING, np.uint8),
        "reasons": [""] * count,
        "shard": np.full(count, -1, np.int32),
        "start": np.zeros(count, np.int64),
        "length": np.zeros(count, np.int64),
        "checksums": np.zeros(count, np.uint64),
        "sources": np.zeros((count, 16), np.uint8),
        "coverage": np.zeros(count, np.float32),
    }
