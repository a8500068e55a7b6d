"""The shards of a feature set that are there, and the fates they give to utterances."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence, Set
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
    check_shard,
    read_shard_index,
    shard_folder,
)


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
        for row, (key, source) in enumerate(zip(index.keys, index.sources, strict=True)):
            self.rows[str(key), bytes(source)] = (number, row)

    def fate(self, key: str, source: bytes) -> Fate:
        """Fate of an utterance, PENDING when no shard answers for it."""
        found = self.rows.get((key, source))
        if found is None:
            return Fate.PENDING
        return Fate(int(self.indexes[found[0]].fates[found[1]]))

    def with_features_of(self, keys: Set[str]) -> list[int]:
        """Shards with features of some utterances, made from whatever sources: a clip that is away may come back."""
        return [
            number
            for number, index in enumerate(self.indexes)
            if any(key in keys and fate == Fate.OK for key, fate in zip(index.keys, index.fates, strict=True))
        ]


def load_known(catalogue: Path, set_name: str, index: SetIndex | None, complain: Callable[[str], None]) -> KnownShards:
    """Read the index of every shard the last catalogue lists, leaving out what is gone or damaged."""
    known = KnownShards()
    folder = shard_folder(catalogue, set_name)
    for info in index.shards if index is not None else ():
        path = folder / f"{info.name}.h5"
        try:
            check_shard(path, deep=True)
            known.add(info, read_shard_index(path))
        except DamagedError as error:
            complain(str(error))
    return known


def index_set(
    spec: FeatureSpec,
    folder: Path,
    shards: Iterable[str],
    wanted: Sequence[tuple[str, bytes]],
    durations_seconds: npt.NDArray[np.float64],
) -> SetIndex:
    """Collect the fates of a feature set from its shards, one entry per utterance of the table.

    `wanted` gives the key and the source digest of every utterance; a shard row made from other sources (an older
    transcript, another file) does not answer. Nor does a shard that cannot be read: its utterances are pending. Noted
    lengths of streams are filled into `durations_seconds`, the longest of each clip.
    """
    known = KnownShards()
    for name in shards:
        with suppress(DamagedError):
            index = read_shard_index(folder / f"{name}.h5")
            known.add(index.info, index)
    columns = _empty_columns(len(wanted))
    used: dict[int, int] = {}
    for position, (key, source) in enumerate(wanted):
        columns["sources"][position] = np.frombuffer(source, np.uint8)
        found = known.rows.get((key, source))
        if found is None:
            continue
        shard, row = found
        index = known.indexes[shard]
        columns["fates"][position] = index.fates[row]
        columns["reasons"][position] = index.reasons[row]
        columns["shard"][position] = used.setdefault(shard, len(used))
        columns["start"][position] = index.offsets[row]
        columns["length"][position] = index.offsets[row + 1] - index.offsets[row]
        columns["checksums"][position] = index.checksums[row]
        columns["coverage"][position] = index.coverage[row]
        if index.notes[row]:
            noted = json.loads(index.notes[row]).get("duration_seconds", np.nan)
            durations_seconds[position] = np.fmax(durations_seconds[position], noted)
    without = {key for (key, _), fate in zip(wanted, columns["fates"], strict=True) if fate != Fate.OK}
    kept = [*used, *(number for number in known.with_features_of(without) if number not in used)]
    return SetIndex(spec=spec, shards=[known.infos[shard] for shard in kept], **columns)


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
