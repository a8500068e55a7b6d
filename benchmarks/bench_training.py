"""What an epoch costs: `mer train` beside the bare arithmetic, beside the usual loop, and 25 runs beside one.

    python benchmarks/bench_training.py --scale 0.1 --heads concat drkf

The features are random, the sizes IEMOCAP's: 5,531 utterances with the durations of the EmoBox list, wav2vec2-large (50
frames a second, 1024 wide) and RoBERTa-large (1024 wide; 3.3 tokens a second is an assumption, the list has no words).

    a  mer         one epoch of the training engine: gather, normalise, forward, backward, clip, AdamW
    b  bare        forward and backward alone, over the same batches, assembled on the device beforehand
    c  usual loop  features from a pickle, DataLoader, shuffle, pad in collate_fn, the same head and optimiser
    d  25 runs     one epoch of 5 folds x 5 seeds, side by side or one after the other, against one run's epoch
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from caches import write_cache

from mer.cache import FeatureSpec, FeatureStore
from mer.pipeline.arena import Arena
from mer.pipeline.console import results, table
from mer.pipeline.engine import Finished, Trainer
from mer.pipeline.live import Silent
from mer.pipeline.model import parts_of
from mer.pipeline.prepare import Prepared, make_arena, prepare
from mer.pipeline.settings import build_options
from mer.stages.heads.base import Batch
from mer.stages.heads.layers import masked_mean
from mer.stages.protocols import LabelSpec
from mer.stages.utterance import Utterance

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "annotations" / "emobox" / "iemocap" / "iemocap.jsonl"
CLASSES = ("ang", "hap", "neu", "sad")
FRAMES_PER_SECOND = 50.0
TOKENS_PER_SECOND = 3.3


def iemocap_like(path: Path, durations: Path, scale: float, dim: int) -> Path:
    """Write a cache with IEMOCAP's lengths and random float16 features; every `1 / scale`-th utterance of the list."""
    rows = [json.loads(line) for line in durations.read_text().splitlines() if line]
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


def trainer_for(prepared: Prepared, arena: Arena, count: int) -> Trainer:
    """Return a trainer of the first `count` runs."""

    def ignore(found: Finished) -> None:
        del found

    members = prepared.members[:count]
    return Trainer(arena, members, [prepared.blueprint.build(m.seed) for m in members], ignore, Silent())


def settle(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_of(repeat: int, device: torch.device, work: Callable[[], Any]) -> float:
    """Shortest time in seconds, after one round that does not count."""
    seconds = []
    for _ in range(repeat + 1):
        settle(device)
        started = time.perf_counter()
        work()
        settle(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def epoch(trainer: Trainer) -> None:
    """One epoch of the engine without validation."""
    batches = trainer.epoch_rows()
    on_device = torch.from_numpy(np.stack(batches)).to(trainer.arena.device)
    for window, start, stop in trainer.arena.windows(batches):
        for index in range(start, stop):
            trainer.train_step(window, batches[index], on_device[index], index / len(batches))


def assembled(trainer: Trainer) -> list[Batch]:
    """Gather the batches of one epoch and keep them on the device."""
    window = trainer.arena.whole()
    return [trainer.gatherer.batch(window, rows) for rows in trainer.epoch_rows()]


def bare(trainer: Trainer, batches: list[Batch]) -> None:
    """Forward and backward over assembled batches."""
    for batch in batches:
        with trainer.arena.autocast():
            terms = trainer.team.losses(parts_of(batch), None, 0.5)
            total = torch.stack([term.float().sum() for term in terms.values()]).sum()
        total.backward()
        for parameter in trainer.team.parameters.values():
            parameter.grad = None


class Pickled(torch.utils.data.Dataset[dict[str, Any]]):
    """The usual data set: a pickle of one dictionary per utterance, read at once."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.items = pickle.load(file)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.items[index])


def collate(items: list[dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Pad to the longest of the batch."""
    values, masks = {}, {}
    for modality in ("text", "audio"):
        arrays = [torch.as_tensor(item[modality], dtype=torch.float32) for item in items]
        values[modality] = torch.nn.utils.rnn.pad_sequence(arrays, batch_first=True)
        lengths = torch.tensor([len(a) for a in arrays])
        masks[modality] = torch.arange(int(lengths.max())) < lengths[:, None]
    return values, masks, torch.tensor([item["label"] for item in items])


def write_pickle(path: Path, prepared: Prepared) -> Path:
    """Write the first fold's training utterances the usual way."""
    items: list[dict[str, Any]] = [{"label": int(prepared.label.values[row])} for row in prepared.members[0].train]
    store: FeatureStore = prepared.store
    for modality, name in prepared.source.sets.items():
        block = store.load(name, prepared.members[0].train)
        for item, start, stop in zip(items, block.offsets[:-1], block.offsets[1:], strict=True):
            item[modality] = block.values[start:stop].astype(np.float32)
    with path.open("wb") as file:
        pickle.dump(items, file)
    return path


def averaged(padded: Tensor, mask: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Average neighbouring steps of a padded batch, as a model that is handed all steps does in every forward pass."""
    extra = -padded.shape[1] % window
    padded, mask = torch.nn.functional.pad(padded, (0, 0, 0, extra)), torch.nn.functional.pad(mask, (0, extra))
    windows = mask.view(len(mask), -1, window)
    return masked_mean(padded.view(len(mask), -1, window, padded.shape[-1]), windows), windows.any(-1)


def usual_loop(trainer: Trainer, loader: Any) -> None:
    """One epoch as most repositories have it: the same model and optimiser, data from a loader."""
    device = trainer.arena.device
    normalisers = {m: n for m, n in trainer.gatherer.normalisers.items() if n is not None}
    pooling = trainer.arena.source.pooling
    for values, masks, labels in loader:
        on_device = {}
        for modality, padded in values.items():
            normaliser = normalisers[modality]
            on_device[modality] = (padded.to(device) - normaliser.mean) * normaliser.scale
            masks[modality] = masks[modality].to(device)
            window = min(pooling.get(modality, 1), padded.shape[1])
            if window > 1:
                on_device[modality], masks[modality] = averaged(on_device[modality], masks[modality], window)
        present = {m: mask.any(1) for m, mask in masks.items()}
        with trainer.arena.autocast():
            terms = trainer.team.losses((on_device, masks, present, labels.to(device)), None, 0.5)
            total = torch.stack([term.float().sum() for term in terms.values()]).sum()
        total.backward()
        trainer.team.clip(1.0)
        trainer.optimiser.step(1.0)
        total.item()  # the usual running loss


def measure(cache: Path, head: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Times in seconds per epoch of one head."""
    given = {
        "features": cache, "head": head, "device": arguments.device, "protocol": "session-folds", "seeds": 5,
        "train.batch_size": arguments.batch,
    }  # fmt: skip
    prepared = prepare(build_options(given, settings=arguments.settings))
    arena = make_arena(prepared)
    device = arena.device
    one = trainer_for(prepared, arena, 1)
    times = {"a": best_of(arguments.repeat, device, lambda: epoch(one))}
    kept = assembled(one)
    times["b"] = best_of(arguments.repeat, device, lambda: bare(one, kept))
    loader = torch.utils.data.DataLoader(
        Pickled(write_pickle(cache.with_suffix(f".{head}.pkl"), prepared)),
        batch_size=arena.shape.size, shuffle=True, collate_fn=collate, num_workers=arguments.workers, drop_last=True,
    )  # fmt: skip
    times["c"] = best_of(arguments.repeat, device, lambda: usual_loop(one, loader))
    if arguments.runs > 1:
        many = trainer_for(prepared, arena, arguments.runs)
        times["d"] = best_of(1, device, lambda: epoch(many))
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
    parser.add_argument("--set", dest="settings", nargs="*", default=[])
    arguments = parser.parse_args()
    cache = arguments.out / f"iemocap-{arguments.scale:g}-{arguments.dim}.h5"
    if not cache.is_file():
        arguments.out.mkdir(parents=True, exist_ok=True)
        iemocap_like(cache, arguments.durations, arguments.scale, arguments.dim)
    made = table(
        f"Seconds per epoch, {len(FeatureStore.open(cache).utterances)} utterances, width {arguments.dim}, "
        f"{torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} thread(s)'}",
        "head", ">a mer", ">b bare", ">c usual loop", f">d {arguments.runs} runs", ">a / b", ">c / a", ">d / a",
    )  # fmt: skip
    for head in arguments.heads:
        times = measure(cache, head, arguments)
        d = times.get("d", float("nan"))
        ratios = (times["a"] / times["b"], times["c"] / times["a"], d / times["a"])
        made.add_row(
            head, *(f"{times.get(k, float('nan')):.2f}" for k in "abcd"), *(f"{ratio:.2f}" for ratio in ratios)
        )
    results.print(made)


if __name__ == "__main__":
    main()
