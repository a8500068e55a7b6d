"""A pack to send around."""

from pathlib import Path

import numpy as np
import pytest

from mer.cache import FeatureSequence, LabelColumn, UtteranceTable
from mer.cache.exchange.bridge import save
from mer.cache.exchange.pack import Imported, PackSet
from mer.cache.pack import PackOptions
from mer.cache.pack import pack as make


def _make_pack(home: Path, max_bytes: int | None = None, steps: int = 30) -> Path:
    """Pack sixty utterances with two feature sets: about 600 kB, or parts of bounded size."""
    rng = np.random.default_rng(0)
    keys = [f"utt{at:03d}" for at in range(60)]
    table = UtteranceTable.of(
        keys,
        split=["train"] * 40 + ["test"] * 20,
        speaker=["a", "b"] * 30,
        labels={"emotion": LabelColumn("class", ("calm", "angry | *loud*"), rng.integers(0, 2, 60))},
    )
    sets = []
    for modality, count in (("audio", steps), ("text", 8)):
        made = [FeatureSequence.of(rng.normal(size=(count, 64)), np.arange(count) * 0.02) for _ in keys]
        sets.append(PackSet(modality, f"enc-{modality}", 64, made))
    save(Imported(table, sets, [], {"name": "made"}), home / "loose/pack.h5", "test", "0" * 64, 1 << 20)
    return make(home / "loose/pack.h5", home / "pack.h5", PackOptions("CC-BY-4.0", max_bytes=max_bytes))[0]


@pytest.fixture
def pack(tmp_path) -> Path:
    """A licensed pack in one file."""
    return _make_pack(tmp_path)


@pytest.fixture
def parts(tmp_path) -> Path:
    """The catalogue of a licensed pack in parts of at most 2 MiB."""
    return _make_pack(tmp_path, 2 << 20, steps=300)


@pytest.fixture(name="make_pack")
def make_pack_fixture():
    """Maker of other packs."""
    return _make_pack
