"""Write arrays that were not extracted by `mer` into a cache, for benchmarks and tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer.cache import (
    Catalogue,
    Fate,
    FeatureSequence,
    FeatureSpec,
    ShardRow,
    shard_folder,
    write_catalogue,
    write_shard,
)
from mer.pipeline.extraction.known_shards import index_set
from mer.pipeline.extraction.publish import utterance_table
from mer.stages.interfaces import LabelSpec
from mer.stages.utterance import Utterance

PER_SHARD = 512


def write_cache(
    path: Path,
    utterances: Sequence[Utterance],
    labels: Mapping[str, LabelSpec],
    features: Sequence[tuple[FeatureSpec, Sequence[Any]]],
    name: str = "",
    protocols: Sequence[str] = ("official",),
) -> Path:
    """Write a sharded cache.

    Parameters
    ----------
    features : sequence of pairs
        Spec and, per utterance, an array (T, D), a `FeatureSequence`, or None where there is nothing.
    """
    durations = np.full(len(utterances), np.nan)
    sets = {}
    for spec, arrays in features:
        folder = shard_folder(path, spec.set_name)
        shards, wanted = [], []
        for rows in _cut(rows_of(utterances, arrays)):
            shards.append(write_shard(folder, spec, rows).name)
            wanted += [(row.key, row.source) for row in rows]
        sets[spec.set_name] = index_set(spec, folder, shards, wanted, durations)
    facts = {"name": name or path.stem, "protocols": list(protocols)}
    table = utterance_table(utterances, labels, durations)
    write_catalogue(path, Catalogue(facts, table, sets, {"made": "from published arrays"}))
    return path


def rows_of(utterances: Sequence[Utterance], arrays: Sequence[Any]) -> Iterator[ShardRow]:
    """Turn arrays into shard rows; the digest of the numbers stands in for the digest of the media."""
    for utterance, array in zip(utterances, arrays, strict=True):
        if array is None:
            yield ShardRow(utterance.key, bytes(16), Fate.MISSING, "not in the source")
            continue
        sequence = array
        if not isinstance(array, FeatureSequence):
            sequence = FeatureSequence.of(np.asarray(array), np.arange(len(array), dtype=np.float32))
        source = hashlib.md5(np.ascontiguousarray(sequence.values).tobytes()).digest()
        yield ShardRow(utterance.key, source, Fate.OK, "", sequence)


def _cut(rows: Iterator[ShardRow]) -> Iterator[list[ShardRow]]:
    part: list[ShardRow] = []
    for row in rows:
        part.append(row)
        if len(part) == PER_SHARD:
            yield part
            part = []
    if part:
        yield part
