"""Small trained runs on made-up features whose names and transcripts try to become markup."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faces.conftest import cascade, watch, yunet

from mer.cache import (
    Catalogue,
    Fate,
    FeatureSequence,
    FeatureSpec,
    LabelColumn,
    ShardRow,
    UtteranceTable,
    shard_folder,
    write_catalogue,
    write_shard,
)
from mer.pipeline.extraction.known_shards import index_set
from mer.pipeline.training.run import train
from mer.pipeline.training.settings import build_options

__all__ = ["cascade", "features", "make_run", "watch", "yunet"]

CLASSES = ("calm", "joy <mark>&", "anger")
NASTY = '<script>alert("x")</script> & <img src=x onerror=alert(1)>'
COUNT = 90


def write_features(path: Path) -> Path:
    """Write a cache of text and audio features; each modality shows the class, blurred by noise."""
    rng = np.random.default_rng(0)
    codes = np.arange(COUNT) % 3
    keys = [f"d{i // 6}/u{i % 6}" for i in range(COUNT)]
    sources = [hashlib.md5(key.encode()).digest() for key in keys]
    table = UtteranceTable.of(
        keys,
        {
            "emotion": LabelColumn("class", CLASSES, codes),
            "valence": LabelColumn("real", (), codes - 1 + rng.normal(0, 0.2, COUNT)),
            "tags": LabelColumn("multi", ("loud", "fast"), np.stack([codes > 0, codes > 1], 1).astype(np.float32)),
        },
        text=[f"{NASTY} number {i}" for i in range(COUNT)],
        media=[None] * COUNT,
        speaker=[f"s{i // 6 % 5}" for i in range(COUNT)],
        dialogue=[f"d{i // 6}" for i in range(COUNT)],
        turn=np.arange(COUNT) % 6,
        split=["train" if i < 54 else "val" if i < 66 else "test" for i in range(COUNT)],
    )
    sets = {}
    for modality, dim in (("text", 6), ("audio", 5)):
        spec = FeatureSpec(modality, f"made-{modality}", {"checkpoint": "<i>none</i>", "layers": "last"}, dim)
        signs = rng.normal(0, 1, (3, dim))
        rows = []
        for key, source, code in zip(keys, sources, codes, strict=True):
            steps = int(rng.integers(1, 5))
            values = (signs[code] + rng.normal(0, 1.2, (steps, dim))).astype(np.float32)
            rows.append(ShardRow(key, source, Fate.OK, "", FeatureSequence.of(values, np.arange(steps))))
        folder = shard_folder(path, spec.set_name)
        info = write_shard(folder, spec, rows)
        sets[spec.set_name] = index_set(
            spec, folder, [info.name], list(zip(keys, sources, strict=True)), np.zeros(COUNT)
        )
    corpus = {"name": "made", "title": 'Made "up" <corpus>', "license": "CC0-1.0; synthetic", "protocols": ["official"]}
    write_catalogue(path, Catalogue(corpus, table, sets, {}))
    return path


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("features") / "made.h5")


@pytest.fixture(scope="session")
def make_run(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that trains a run on the made-up features and gives its folder; equal calls train once."""
    folder = tmp_path_factory.mktemp("runs")
    made: dict[str, Path] = {}

    def build(name: str = "plain", **settings: object) -> Path:
        if name not in made:
            given = {"head": "concat", "seeds": 2, "device": "cpu", "train.epochs": 6, **settings}
            options = build_options({"features": features, "out": folder / name, **given})
            made[name] = train(options).path
        return made[name]

    return build
