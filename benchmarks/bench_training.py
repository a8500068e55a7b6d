"""What an epoch costs: `mer train` beside the bare arithmetic, beside the usual loop, and 25 runs beside one.

    python benchmarks/bench_training.py --scale 0.1 --heads concat drkf

The features are random, the sizes IEMOCAP's: 5,531 utterances with the durations of the EmoBox list, wav2vec2-large (50
frames a second, 1024 wide) and RoBERTa-large (1024 wide; 3.3 tokens a second is an assumption, the list has no words).

    a  mer         one epoch of the training engine: gather, normalise, forward, backward, clip, AdamW
    b  usual loop  features from a pickle, DataLoader, shuffle, pad in collate_fn, the same head and optimiser; on a
                   CPU, memory as the C library hands it out by itself
    c  bare        forward and backward alone, over the same batches, assembled on the device beforehand
    d  25 runs     one epoch of 5 folds x 5 seeds, side by side or one after the other, against one run's epoch
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from caches import write_cache

from mer.cache import FeatureSpec, FeatureStore
from mer.pipeline.rates.cache import FRAMES_PER_SECOND, TOKENS_PER_SECOND
from mer.pipeline.rates.training import bench_epoch, best_of, epoch, trainer_of
from mer.pipeline.terminal.console import results, table
from mer.pipeline.training.prepare import make_training_data
from mer.pipeline.training.run import prepare_run
from mer.pipeline.training.settings import build_options
from mer.stages.interfaces import LabelSpec
from mer.stages.utterance import Utterance

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "annotations" / "emobox" / "iemocap" / "iemocap.jsonl"
CLASSES = ("ang", "hap", "neu", "sad")


def iemocap_like(path: Path, durations: Path, scale: float, dim: int) -> Path:
    """Write a cache with IEMOCAP's lengths and random float16 features; every `1 / scale`-th utterance of the list."""
    if durations.is_file():
        rows = [json.loads(line) for line in durations.read_text().splitlines() if line]
    else:  # as many lengths of the list's median and mean, five sessions of two speakers
        seconds = np.random.default_rng(1).lognormal(np.log(3.58), np.sqrt(2 * np.log(4.55 / 3.58)), 5531).clip(0.6, 34)
        rows = [
            {
                "key": f"iemocap-Ses0{1 + n % 5}{'FM'[n % 2]}_impro{n // 60:02}_{'FM'[n % 2]}{n:04}",
                "emo": CLASSES[n % 4],
                "length": length,
            }
            for n, length in enumerate(seconds.tolist())
        ]
    rows = rows[:: max(1, round(1 / scale))]
    rng = np.random.default_rng(0)
    utterances, audio, text = [], [], []
    for number, row in enumerate(rows):
        name = row["key"].removeprefix("iemocap-")
        dialogue = name.rpartition("_")[0]
        utterances.append(
            Utterance(
                key=name, speaker=name[:5] + name[-4], dialogue=dialogue, turn=number, session=name[:5],
                labels={"emotion": row["emo"] if row["emo"] in CLASSES else "hap"},
            )
        )  # fmt: skip
        steps = (max(1, round(row["length"] * FRAMES_PER_SECOND)), max(3, round(row["length"] * TOKENS_PER_SECOND) + 2))
        for arrays, count in zip((audio, text), steps, strict=True):
            arrays.append(rng.standard_normal((count, dim), dtype=np.float32).astype(np.float16))
    specs = [FeatureSpec(m, "random", {"checkpoint": "none"}, dim) for m in ("text", "audio")]
    labels = {"emotion": LabelSpec("class", CLASSES)}
    return write_cache(path, utterances, labels, list(zip(specs, (text, audio), strict=True)), "iemocap-like")


def measure(cache: Path, head: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Times in seconds per epoch of one head."""
    given = {
        "features": cache, "head": head, "device": arguments.device, "protocol": "session-folds", "seeds": 5,
        "train.batch_size": arguments.batch,
    }  # fmt: skip
    options = build_options(given, settings=arguments.settings)
    times = bench_epoch(options, cache.parent, arguments.repeat, arguments.workers).seconds
    if arguments.runs > 1:
        prepared = prepare_run(options)
        data = make_training_data(prepared)
        many = trainer_of(prepared, data, arguments.runs)
        times["d"] = best_of(1, data.device, {"d": lambda: epoch(many)})["d"]
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--durations", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, required=True, help="folder for the cache")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the utterances")
    parser.add_argument("--dim", type=int, default=1024, help="width of the features")
    parser.add_argument("--heads", nargs="+", default=["concat", "drkf", "fdrl"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="of the usual loop's DataLoader")
    parser.add_argument("--runs", type=int, default=25, help="runs stacked side by side; 1 leaves d out")
    parser.add_argument("--json", type=Path, help="also write the times, in seconds, to this file")
    parser.add_argument("--set", dest="settings", nargs="*", default=[])
    arguments = parser.parse_args()
    cache = arguments.out / f"iemocap-{arguments.scale:g}-{arguments.dim}.h5"
    if not cache.is_file():
        arguments.out.mkdir(parents=True, exist_ok=True)
        iemocap_like(cache, arguments.durations, arguments.scale, arguments.dim)
    made = table(
        f"Seconds per epoch, {len(FeatureStore.open(cache).utterances)} utterances, width {arguments.dim}, "
        f"{torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} thread(s)'}",
        "head", ">a mer", ">b usual loop", ">c bare", f">d {arguments.runs} runs", ">b / a", ">a / c", ">d / a",
    )  # fmt: skip
    found = {}
    for head in arguments.heads:
        times = found[head] = measure(cache, head, arguments)
        d = times.get("d", float("nan"))
        ratios = (times["b"] / times["a"], times["a"] / times["c"], d / times["a"])
        made.add_row(
            head, *(f"{times.get(k, float('nan')):.2f}" for k in "abcd"), *(f"{ratio:.2f}" for ratio in ratios)
        )
    results.print(made)
    if arguments.json:
        arguments.json.write_text(json.dumps({"runs": arguments.runs, "seconds": found}, indent=2))


if __name__ == "__main__":
    main()
