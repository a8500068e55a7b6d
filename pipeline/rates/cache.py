"""Reading the feature cache beside a folder of .npy files and beside the bare bytes; and a random cache to read."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mer.cache import FeatureSequence, FeatureStore, LabelColumn, UtteranceTable
from mer.cache.exchange.bridge import save
from mer.cache.exchange.pack import Imported, PackSet

CLASSES = ("neutral", "joy", "surprise", "anger")
FRAMES_PER_SECOND = 50.0
TOKENS_PER_SECOND = 3.3
MEAN_SECONDS = 3.1
"""Of MELD's utterances; lengths follow a gamma distribution."""
UTTERANCES_PER_DIALOGUE = 10
DRAWN = 500
"""Utterances read one by one."""


@dataclass(frozen=True)
class Sides:
    """Seconds of three ways to do one thing."""

    seconds: dict[str, float]
    """Of a `mer`, b the usual way, c the limit."""

    @property
    def over_loop(self) -> float:
        """How many times faster `mer` is than the usual way."""
        return self.seconds["b"] / self.seconds["a"]

    @property
    def of_limit(self) -> float:
        """Share of the limit's rate that `mer` reaches."""
        return self.seconds["c"] / self.seconds["a"]


@dataclass(frozen=True)
class StoreRates(Sides):
    """Reading everything, b one .npy file per utterance, c the bytes alone with `readinto`; medians over the turns."""

    utterances: int
    value_bytes: int
    microseconds: dict[str, float]
    """Microseconds to read one utterance drawn at random: a `mer`, b its .npy file."""


def random_cache(path: Path, utterances: int, dim: int) -> Path:
    """Write a cache of random text and sound features, float16, in MELD-like lengths with official splits."""
    rng = np.random.default_rng(0)
    seconds = np.maximum(0.3, rng.gamma(2.0, MEAN_SECONDS / 2, utterances))
    dialogues = [f"d{i // UTTERANCES_PER_DIALOGUE}" for i in range(utterances)]
    splits = [("train", "train", "train", "val", "test")[i // UTTERANCES_PER_DIALOGUE % 5] for i in range(utterances)]
    table = UtteranceTable.of(
        [f"{dialogue}_u{i}" for i, dialogue in enumerate(dialogues)],
        {"emotion": LabelColumn.of("class", CLASSES, [CLASSES[code] for code in rng.integers(4, size=utterances)])},
        dialogue=dialogues,
        split=splits,
    )
    sets = []
    for modality, pace in (("text", TOKENS_PER_SECOND), ("audio", FRAMES_PER_SECOND)):
        steps = np.maximum(1, (seconds * pace).astype(int))
        made = [
            FeatureSequence.of(rng.standard_normal((n, dim), np.float32), np.arange(n, dtype=np.float32) / pace)
            for n in steps
        ]
        sets.append(PackSet(modality, "random", dim, made))
    save(Imported(table, sets, [], {"protocols": ["official"]}), path, "random", "0" * 64, 1 << 40, "float16")
    return path


def bench_store(path: Path, scratch: Path, repeat: int) -> StoreRates:
    """Measure the largest set of a cache; everything was read before, so all sides read from the page cache."""
    store = FeatureStore.open(path)
    name = max(store.sets, key=lambda each: store.sets[each].value_bytes())
    block = store.load(name)
    pieces = [block.values[start:stop] for start, stop in zip(block.offsets[:-1], block.offsets[1:], strict=True)]
    files = [scratch / f"{row}.npy" for row in range(len(pieces))]
    for file, piece in zip(files, pieces, strict=True):
        np.save(file, piece)
    whole = scratch / "values.bin"
    whole.write_bytes(np.ascontiguousarray(block.values).tobytes())
    keys = store.utterances.keys
    rows = [row for row in np.random.default_rng(1).integers(len(pieces), size=DRAWN) if len(pieces[row])]
    seconds = medians(
        repeat,
        {
            "a": lambda: store.load(name),
            "b": lambda: np.concatenate([np.load(file) for file in files]),
            "c": lambda: read_bytes(whole),
        },
    )
    microseconds = {
        "a": _microseconds(lambda row: store.read(name, keys[row]), rows),
        "b": _microseconds(lambda row: np.load(files[row]), rows),
    }
    return StoreRates(seconds, len(pieces), store.sets[name].value_bytes(), microseconds)


def read_bytes(path: Path) -> None:
    """Read a file into memory the shortest way."""
    buffer = np.empty(path.stat().st_size, np.uint8)
    with path.open("rb", buffering=0) as file:
        done = 0
        while done < len(buffer):
            done += file.readinto(buffer[done:].data)


def medians(repeat: int, sides: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each side; the sides take turns, and the first turn only warms up."""
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeat + 1):
        for side, work in sides.items():
            started = time.perf_counter()
            work()
            taken[side].append(time.perf_counter() - started)
    return {side: statistics.median(seconds[1:]) for side, seconds in taken.items()}


def _microseconds(read: Callable[[int], object], rows: list[int]) -> float:
    taken = []
    for row in [*rows, *rows]:  # the first round only warms up
        started = time.perf_counter()
        read(row)
        taken.append(time.perf_counter() - started)
    return 1e6 * statistics.median(taken[len(rows) :])
