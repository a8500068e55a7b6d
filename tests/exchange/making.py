"""Caches for the exchange tests."""

from pathlib import Path

import numpy as np

from mer.cache import FeatureSequence, FeatureStore, LabelColumn, UtteranceTable
from mer.cache.exchange.bridge import save
from mer.cache.exchange.pack import Imported, PackSet

EMOTIONS = ("neutral", "joy", "anger")


def sequence(rng, steps: int, dim: int, invalid: bool = False) -> FeatureSequence:
    """Random steps; with `invalid` the first one is masked."""
    values = rng.normal(size=(steps, dim)).astype(np.float32)
    valid = np.ones(steps, np.bool_)
    if invalid and steps:
        valid[0] = False
        values[0] = 0
    return FeatureSequence(values, ((np.arange(steps) + 0.5) * 0.2).astype(np.float32), valid)


def store(path: Path, table: UtteranceTable, sets: list[PackSet], dtype: str = "float32") -> FeatureStore:
    """Write a cache and open it."""
    save(Imported(table, sets, [], {"name": "made", "license": "CC0-1.0"}), path, "test", "0" * 64, 1 << 20, dtype)
    return FeatureStore.open(path)


def small(path: Path, modalities=("text", "audio", "face")) -> FeatureStore:
    """Eight utterances in three dialogues and three splits, with a gap in every kind of thing."""
    rng = np.random.default_rng(5)
    keys = [f"dia{d}_utt{u}" for d in range(2) for u in range(3)] + ["späß/../x", "last one"]
    splits = ["train"] * 3 + ["val"] * 3 + ["test"] * 2
    table = UtteranceTable.of(
        keys,
        text=["Hello, you.", "Nein – so?", "", "well", None, "ah", "什么", "end"],
        speaker=["Ann", "Bob", "Ann", "Cy", "Cy", "Di", "Ed", "Ed"],
        dialogue=["d0"] * 3 + ["d1"] * 3 + ["d2"] * 2,
        turn=np.array([0, 1, 2, 0, 1, 2, 0, 1]),
        split=splits,
        labels={
            "emotion": LabelColumn.of(
                "class", EMOTIONS, ["joy", "neutral", "anger", "joy", None, "neutral", "joy", "anger"]
            ),
            "valence": LabelColumn.of("real", (), [0.5, -1.25, 0, 1, None, 2, -3, 0.125]),
            "tags": LabelColumn.of("multi", ("a", "b"), [(), ("a",), ("a", "b"), None, (), ("b",), (), ("a",)]),
        },
    )
    steps = {"text": [3, 4, 1, 2, 5, 1, 6, 2], "audio": [9, 7, 8, 1, 0, 4, 5, 3], "face": [2, 3, 4, 2, 1, 2, 3, 4]}
    dims = {"text": 6, "audio": 5, "face": 4}
    sets = []
    for modality in modalities:
        made = [sequence(rng, n, dims[modality], modality == "face") for n in steps[modality]]
        if modality == "face":
            made[3] = None
        sets.append(PackSet(modality, f"enc-{modality}", dims[modality], made))
    return store(path, table, sets)


def same_features(left: FeatureStore, left_set: str, right: FeatureStore, right_set: str) -> None:
    """Compare every utterance of two sets: fates, values, times, validity."""
    np.testing.assert_array_equal(left.sets[left_set].fates, right.sets[right_set].fates)
    one, other = left.load(left_set), right.load(right_set)
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_array_equal(one.values.astype(np.float32), other.values.astype(np.float32))
    np.testing.assert_array_equal(one.times, other.times)
    np.testing.assert_array_equal(one.valid, other.valid)


def same_tables(left: UtteranceTable, right: UtteranceTable) -> None:
    """Compare every column and label of two tables."""
    assert list(left.labels) == list(right.labels)
    for name, column in left.labels.items():
        assert (column.kind, column.classes) == (right.labels[name].kind, right.labels[name].classes)
        np.testing.assert_array_equal(column.values, right.labels[name].values)
    for name in ("keys", "text", "media", "speaker", "dialogue", "split", "session"):
        assert getattr(left, name) == getattr(right, name)
    for name in ("turn", "start_seconds", "end_seconds", "machine_text", "duration_seconds"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
