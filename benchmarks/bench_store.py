"""Reading and size of the feature store beside the plain ways: `readinto`, a padded pickle, a folder of .npy files.

Run `python benchmarks/bench_store.py` for a few seconds' worth, `--gigabytes 1` for the figures of
docs/benchmarks-store.md. Files are read once before timing, so all sides read from the page cache; rounds alternate
between the sides and the median counts.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mer.cache import (
    Catalogue,
    Fate,
    FeatureSequence,
    FeatureSpec,
    FeatureStore,
    PackOptions,
    SetIndex,
    ShardRow,
    UtteranceTable,
    pack,
    read_shard_index,
    shard_folder,
    verify,
    write_catalogue,
    write_shard,
)
from mer.pipeline.rates.cache import medians, read_bytes

DIM = 768
MEAN_STEPS = 118
"""Mean length of the utterances; lengths follow a gamma distribution, as in spoken corpora."""
PER_SHARD = 100
ROUNDS = 5


def make_cache(folder: Path, gigabytes: float) -> Path:
    """Write a sharded cache of random float16 features."""
    count = max(50, int(gigabytes * 1e9 / (MEAN_STEPS * DIM * 2)))
    rng = np.random.default_rng(0)
    lengths = np.maximum(1, rng.gamma(2.0, MEAN_STEPS / 2, count)).astype(int)
    keys = [f"train/dia{i // 12}_utt{i % 12}" for i in range(count)]
    spec, path, found = FeatureSpec("audio", "random", {"checkpoint": "none"}, DIM), folder / "cache.h5", []
    for first in range(0, count, PER_SHARD):
        rows = [
            ShardRow(
                keys[i], bytes(16), Fate.OK, "", FeatureSequence.of(_values(rng, lengths[i]), np.arange(lengths[i]))
            )
            for i in range(first, min(first + PER_SHARD, count))
        ]
        info = write_shard(shard_folder(path, spec.set_name), spec, rows)
        found.append(read_shard_index(shard_folder(path, spec.set_name) / f"{info.name}.h5"))
    index = SetIndex(
        spec,
        np.concatenate([made.fates for made in found]),
        [""] * count,
        np.repeat(np.arange(len(found), dtype=np.int32), [len(made.keys) for made in found]),
        np.concatenate([made.offsets[:-1] for made in found]),
        np.concatenate([np.diff(made.offsets) for made in found]),
        np.concatenate([made.checksums for made in found]),
        np.concatenate([made.sources for made in found]),
        np.concatenate([made.coverage for made in found]),
        [made.info for made in found],
    )
    write_catalogue(path, Catalogue({"name": "bench"}, UtteranceTable.of(keys), {spec.set_name: index}, {}))
    return path


def _values(rng: np.random.Generator, steps: int) -> np.ndarray:
    return rng.standard_normal((steps, DIM), np.float32)


def write_padded(store: FeatureStore, path: Path) -> None:
    """Write what MMSA-style scripts keep: a pickle of one padded float32 array and the lengths."""
    block = store.load(store.pick("audio"))
    lengths = np.diff(block.offsets)
    padded = np.zeros((len(lengths), int(np.quantile(lengths, 0.99)), DIM), np.float32)
    for row, (start, end) in enumerate(zip(block.offsets, block.offsets[1:], strict=False)):
        part = block.values[start:end][: padded.shape[1]]
        padded[row, : len(part)] = part
    with path.open("wb") as file:
        pickle.dump(
            {"train": {"audio": padded, "audio_lengths": lengths.tolist(), "id": store.utterances.keys}}, file, 4
        )


def write_folder(store: FeatureStore, folder: Path) -> None:
    """Write one .npy file per utterance."""
    folder.mkdir()
    block = store.load(store.pick("audio"))
    for row in range(len(block)):
        np.save(folder / f"{row}.npy", block.values[block.offsets[row] : block.offsets[row + 1]])


def unpickle(path: Path) -> object:
    """Load a pickle of our own making."""
    with path.open("rb") as file:
        return pickle.load(file)


def random_microseconds(store: FeatureStore, folder: Path, count: int = 2000) -> dict[str, float]:
    """Median microseconds of one utterance drawn at random, with and without its checksum, and as an .npy file."""
    rng = np.random.default_rng(1)
    drawn, name = rng.integers(len(store.utterances), size=count).tolist(), store.pick("audio")
    sides: dict[str, Callable[[int], object]] = {
        "random utterance": lambda row: store.read(name, store.utterances.keys[row], verify=False),
        "random utterance, checksum compared": lambda row: store.read(name, store.utterances.keys[row]),
        "random .npy file": lambda row: np.load(folder / f"{row}.npy"),
    }
    found = {}
    for label, side in sides.items():
        taken = []
        for row in [*drawn, *drawn]:
            begin = time.perf_counter()
            side(row)
            taken.append(time.perf_counter() - begin)
        found[label] = statistics.median(taken[count:]) * 1e6
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=0.05, help="size of the feature set [0.05: seconds]")
    parser.add_argument("--folder", type=Path, help="where to work [a temporary folder]")
    parser.add_argument("--memory", action="store_true", help="only the peak memory of mer pack and mer verify")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        begin = time.perf_counter()
        cache = make_cache(folder, options.gigabytes)
        written = time.perf_counter() - begin
        if options.memory:
            report_memory(cache, folder / "pack.h5")
            return
        begin = time.perf_counter()
        pack(cache, folder / "pack.h5", PackOptions("CC0-1.0"))
        packed = time.perf_counter() - begin
        report(cache, folder, written, packed)


def report_memory(cache: Path, out: Path) -> None:
    """Print the peak memory of making and of verifying a pack, each in a process of its own."""
    commands = (["pack", str(cache), "-o", str(out), "--license", "CC0-1.0"], ["verify", str(out)])
    program = "import sys; from mer.pipeline.cli import main; main(sys.argv[1:])"
    for command in commands:
        child = subprocess.Popen([sys.executable, "-c", program, *command], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"mer {command[0]} failed")
        seconds = used.ru_utime + used.ru_stime
        print(f"mer {command[0]:8} peak memory {used.ru_maxrss / 1e3:6.0f} MB, {seconds:6.1f} s of CPU")
    print(f"pack of {out.stat().st_size / 1e9:.2f} GB")


def report(cache: Path, folder: Path, written: float, packed: float) -> None:
    """Print sizes, rates and ratios."""
    sharded, one = FeatureStore.open(cache), FeatureStore.open(folder / "pack.h5")
    name = one.pick("audio")
    values = one.sets[name].value_bytes()
    write_padded(one, folder / "padded.pkl")
    write_folder(one, folder / "npy")
    print(f"{len(one.utterances):,} utterances x {DIM} dims, {values / 1e9:.3f} GB of float16 values")
    print(f"made in {written:.1f} s (random numbers included), packed in {packed:.1f} s\n")
    size, pickled = (folder / "pack.h5").stat().st_size, (folder / "padded.pkl").stat().st_size
    print(f"pack            {size / values:8.4f} x the bytes of the values")
    print(f"padded pickle   {pickled / values:8.4f} x")
    seconds = medians(
        ROUNDS,
        {
            "readinto of the pack": lambda: read_bytes(folder / "pack.h5"),
            "store, packed": lambda: one.load(name),
            "store, sharded": lambda: sharded.load(name),
            "store, packed, checksums compared": lambda: one.load(name, verify=True),
            "folder of .npy": lambda: [np.load(folder / "npy" / f"{row}.npy") for row in range(len(one.utterances))],
        },
    ) | medians(1, {"padded pickle": lambda: unpickle(folder / "padded.pkl")})
    print(f"\n{'bulk read':36}{'seconds':>9}{'GB/s':>8}{'x readinto':>12}")
    for label, taken in seconds.items():
        print(f"{label:36}{taken:9.3f}{values / taken / 1e9:8.2f}{seconds['readinto of the pack'] / taken:12.2f}")
    print()
    for label, micros in random_microseconds(one, folder / "npy").items():
        print(f"{label:36}{micros:9.1f} microseconds")
    opened = medians(
        3, {"open": lambda: FeatureStore.open(folder / "pack.h5"), "verify": lambda: verify(folder / "pack.h5")}
    )
    print(f"\nopen the pack {opened['open'] * 1e3:.0f} ms, verify it {opened['verify']:.2f} s")


if __name__ == "__main__":
    main()
