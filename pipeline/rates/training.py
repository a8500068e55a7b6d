"""What an epoch of training costs: the engine beside the bare arithmetic and beside the usual loop.

a  mer         gather, normalise, forward, backward, clip, AdamW
b  usual loop  features from a pickle, DataLoader, shuffle, pad in collate_fn, the same head and optimiser; on a CPU,
               memory as the C library hands it out by itself
c  bare        forward and backward alone, over the same batches, assembled on the device beforehand
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mer.stages.encoders.loading import settle
from mer.stages.heads.base import Batch
from mer.stages.heads.layers import masked_mean

from ..training.engine import Finished, Trainer
from ..training.host_memory import keep_freed_batches
from ..training.model import parts_of
from ..training.prepare import Prepared, make_training_data
from ..training.progress import Silent
from ..training.run import prepare_run
from ..training.settings import TrainOptions
from ..training.shared import TrainingData
from .cache import Sides


@dataclass(frozen=True)
class EpochRates(Sides):
    """One epoch of one head, the least over the turns."""

    head: str
    utterances: int
    """Training utterances of the fold."""


def bench_epoch(options: TrainOptions, scratch: Path, repeat: int, workers: int = 0) -> EpochRates:
    """Measure one head on the first fold of a cache.

    Parameters
    ----------
    options
        What `mer train` would be asked.
    scratch
        Folder for the usual loop's pickle.
    repeat
        Turns; one more at the beginning does not count.
    workers
        Of the usual loop's DataLoader.
    """
    prepared = prepare_run(options)
    data = make_training_data(prepared)
    trainer = trainer_of(prepared, data, 1)
    kept = _assembled(trainer)
    pickled = _write_pickle(scratch / f"{options.head}.pkl", prepared)
    items = _Pickled(pickled)
    pickled.unlink()
    loader = torch.utils.data.DataLoader(
        items,
        batch_size=data.shape.size, shuffle=True, collate_fn=collate, num_workers=workers, drop_last=True,
    )  # fmt: skip
    seconds = best_of(
        repeat,
        data.device,
        {"a": lambda: epoch(trainer), "b": lambda: _usual_loop(trainer, loader), "c": lambda: _bare(trainer, kept)},
    )
    return EpochRates(seconds, options.head, len(prepared.seed_runs[0].train))


def trainer_of(prepared: Prepared, data: TrainingData, count: int) -> Trainer:
    """Return a trainer of the first `count` runs that delivers to nobody."""

    def ignore(found: Finished) -> None:
        del found

    seed_runs = prepared.seed_runs[:count]
    return Trainer(data, seed_runs, [prepared.blueprint.build(m.seed) for m in seed_runs], ignore, Silent())


def best_of(repeat: int, device: torch.device, sides: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Least seconds of each side; the sides take turns, and the first turn does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeat + 1):
        for name, work in sides.items():
            settle(str(device))
            started = time.perf_counter()
            work()
            settle(str(device))
            seconds[name].append(time.perf_counter() - started)
    return {name: min(taken[1:]) for name, taken in seconds.items()}


# --- a: mer ---------------------------------------------------------------------------------------------------------


def epoch(trainer: Trainer) -> None:
    """One epoch of the engine without validation."""
    batches = trainer.epoch_rows()
    on_device = torch.from_numpy(np.stack(batches)).to(trainer.data.device)  # type: ignore[arg-type]
    for window, start, stop in trainer.data.windows(batches):  # type: ignore[arg-type]
        for index in range(start, stop):
            trainer.train_step(window, batches[index], on_device[index], index / len(batches))


# --- c: the limit ---------------------------------------------------------------------------------------------------


def _assembled(trainer: Trainer) -> list[Batch]:
    """Gather the batches of one epoch and keep them on the device."""
    window = trainer.data.whole()
    return [trainer.gatherer.batch(window, rows) for rows in trainer.epoch_rows()]  # type: ignore[arg-type]


def _bare(trainer: Trainer, batches: Iterable[Batch]) -> None:
    """Forward and backward over assembled batches."""
    for batch in batches:
        _backward(trainer, parts_of(batch))
        for parameter in trainer.stack.parameters.values():
            parameter.grad = None


def _backward(trainer: Trainer, parts: Any) -> Tensor:
    with trainer.data.autocast():
        terms = trainer.stack.losses(parts, None, 0.5)
        total = torch.stack([term.float().sum() for term in terms.values()]).sum()
    total.backward()  # type: ignore[no-untyped-call]
    return total


# --- b: the usual loop ----------------------------------------------------------------------------------------------


class _Pickled(torch.utils.data.Dataset[dict[str, Any]]):
    """The usual data set: a pickle of one dictionary per utterance, read at once."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.items = pickle.load(file)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.items[index])


def _write_pickle(path: Path, prepared: Prepared) -> Path:
    """Write the first fold's training utterances the usual way."""
    items: list[dict[str, Any]] = [{"label": prepared.label.values[row]} for row in prepared.seed_runs[0].train]
    for modality, name in prepared.source.sets.items():
        block = prepared.store.load(name, prepared.seed_runs[0].train)
        for item, start, stop in zip(items, block.offsets[:-1], block.offsets[1:], strict=True):
            item[modality] = block.values[start:stop].astype(np.float32)
    with path.open("wb") as file:
        pickle.dump(items, file)
    return path


def collate(items: Sequence[dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Pad to the longest of the batch."""
    values, masks = {}, {}
    for modality in items[0].keys() - {"label"}:
        arrays = [torch.as_tensor(item[modality], dtype=torch.float32) for item in items]
        values[modality] = torch.nn.utils.rnn.pad_sequence(arrays, batch_first=True)
        lengths = torch.tensor([len(a) for a in arrays])
        masks[modality] = torch.arange(int(lengths.max())) < lengths[:, None]
    return values, masks, torch.as_tensor(np.stack([item["label"] for item in items]))


def _averaged(padded: Tensor, mask: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Average neighbouring steps of a padded batch, as a model that is handed all steps does in every forward pass."""
    extra = -padded.shape[1] % window
    padded, mask = torch.nn.functional.pad(padded, (0, 0, 0, extra)), torch.nn.functional.pad(mask, (0, extra))
    windows = mask.view(len(mask), -1, window)
    return masked_mean(padded.view(len(mask), -1, window, padded.shape[-1]), windows), windows.any(-1)


def _usual_loop(trainer: Trainer, loader: Any) -> None:
    """One epoch as most repositories have it: the same model and optimiser, data from a loader."""
    device = trainer.data.device
    if device.type == "cpu":
        keep_freed_batches(False)
    normalisers = {m: n for m, n in trainer.gatherer.normalisers.items() if n is not None}
    pooling = trainer.data.source.pooling
    for values, masks, labels in loader:
        on_device = {}
        for modality, padded in values.items():
            x = padded.to(device)
            if modality in normalisers:
                x = (x - normalisers[modality].mean) * normalisers[modality].scale
            masks[modality] = masks[modality].to(device)
            window = min(pooling.get(modality, 1), padded.shape[1])
            on_device[modality] = x
            if window > 1:
                on_device[modality], masks[modality] = _averaged(x, masks[modality], window)
        present = {m: mask.any(1) for m, mask in masks.items()}
        total = _backward(trainer, (on_device, masks, present, labels.to(device)))
        trainer.stack.clip(1.0)
        trainer.optimiser.step(1.0)
        total.item()  # the usual running loss
    if device.type == "cpu":
        keep_freed_batches()
