"""Small caches as `mer extract` leaves them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from mer.cache import (
    Catalogue,
    Fate,
    FeatureSequence,
    FeatureSpec,
    LabelColumn,
    SetIndex,
    ShardRow,
    UtteranceTable,
    read_shard_index,
    shard_folder,
    write_catalogue,
    write_shard,
)

CLASSES = ("neutral", "joy", "sadness")


def make_spec(modality: str = "audio", dim: int = 4, dtype: str = "float16", name: str = "tiny") -> FeatureSpec:
    return FeatureSpec(
        modality, name, {"checkpoint": "local/tiny", "revision": "0123abc", "layers": "last"}, dim, dtype=dtype
    )


def make_rows(keys: Sequence[str], dim: int = 4, seed: int = 0) -> list[ShardRow]:
    """Rows of 0 to 6 steps; the third is missing, the fourth failed, and some steps are not valid."""
    rows = []
    for position, key in enumerate(keys):
        rng = np.random.default_rng([seed, position])
        source = hashlib.md5(key.encode()).digest()
        if position % 10 == 2:
            rows.append(ShardRow(key, source, Fate.MISSING, "no sound stream"))
        elif position % 10 == 3:
            rows.append(ShardRow(key, source, Fate.FAILED, "truncated file"))
        else:
            steps = int(rng.integers(0, 7)) if position else 5
            valid = rng.random(steps) < 0.8
            values = rng.normal(0, 2, (steps, dim)).astype(np.float32)
            times = np.arange(steps, dtype=np.float32) * 0.02 + 0.01
            rows.append(ShardRow(key, source, Fate.OK, "", FeatureSequence(values, times, valid), {"index": position}))
    return rows


def make_table(keys: Sequence[str]) -> UtteranceTable:
    count = len(keys)
    codes = np.arange(count) % (len(CLASSES) + 1) - 1
    several = np.random.default_rng(1).random((count, 2)).round().astype(np.float32)
    several[::5] = np.nan
    labels = {
        "emotion": LabelColumn("class", CLASSES, codes),
        "valence/arousal": LabelColumn("real", (), np.where(codes < 0, np.nan, codes / 3)),
        "tags": LabelColumn("multi", ("loud", "fast"), several),
    }
    return UtteranceTable.of(
        keys,
        labels,
        text=[None if i % 7 == 6 else ("" if i % 7 == 5 else f"words {i} — ünï\0code") for i in range(count)],
        media=[f"clips/{i}.mp4" for i in range(count)],
        speaker=[f"speaker {i % 3}" for i in range(count)],
        dialogue=[f"d{i // 4}" for i in range(count)],
        turn=np.arange(count) % 4,
        split=[("train", "val", "test")[i % 3] for i in range(count)],
        duration_seconds=np.linspace(0.5, 3, count) if count else np.zeros(0),
    )


def write_set(path: Path, spec: FeatureSpec, rows: Sequence[ShardRow], per_shard: int = 4) -> SetIndex:
    """Write the shards of one set and index them as the extraction does."""
    index = SetIndex(
        spec=spec,
        fates=np.zeros(len(rows), np.uint8),
        reasons=[""] * len(rows),
        shard=np.full(len(rows), -1, np.int32),
        start=np.zeros(len(rows), np.int64),
        length=np.zeros(len(rows), np.int64),
        checksums=np.zeros(len(rows), np.uint64),
        sources=np.zeros((len(rows), 16), np.uint8),
        coverage=np.zeros(len(rows), np.float32),
    )
    folder = shard_folder(path, spec.set_name)
    for number, first in enumerate(range(0, len(rows), per_shard)):
        info = write_shard(folder, spec, rows[first : first + per_shard])
        content = read_shard_index(folder / f"{info.name}.h5")
        here = slice(first, first + per_shard)
        index.fates[here], index.shard[here] = content.fates, number
        index.reasons[here] = content.reasons
        index.start[here], index.length[here] = content.offsets[:-1], np.diff(content.offsets)
        index.checksums[here], index.sources[here] = content.checksums, content.sources
        index.coverage[here] = content.coverage
        index.shards.append(info)
    return index


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests need no durability; waiting for the disk is most of their time."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def make_cache(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a sharded cache and gives its path."""

    def build(
        keys: Sequence[str] | None = None,
        specs: Sequence[FeatureSpec] | None = None,
        path: Path = tmp_path / "tiny.h5",
        per_shard: int = 4,
        rows: Sequence[Sequence[ShardRow]] | None = None,
        **corpus: object,
    ) -> Path:
        keys = [f"train/dia{i // 3}_utt{i % 3}" for i in range(13)] if keys is None else keys
        specs = [make_spec(), make_spec("text", 3, "float32", "words")] if specs is None else specs
        if rows is None:
            rows = [make_rows(keys, spec.dim, seed) for seed, spec in enumerate(specs)]
        sets = {spec.set_name: write_set(path, spec, made, per_shard) for spec, made in zip(specs, rows, strict=True)}
        facts = {"name": "tiny", "title": "Tiny corpus", "license": "CC0-1.0", "gated": False, **corpus}
        provenance = {"mer": "0.1.0", "command": ["mer", "extract", "--corpus", "tiny", "--out", "tiny.h5"]}
        write_catalogue(path, Catalogue(dict(facts), make_table(keys), sets, provenance))
        return path

    return build
