"""What the runs of one training share: data, recipe and device, and who the runs are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mer.stages.encoders.loading import full_float32

from .batches import EpochShape, dialogues_of
from .pooling import RowIndices
from .settings import Recipe
from .tensors import Gatherer, Normaliser, Source, Window

WINDOW_TURNS = 96
"""Longest stretch of a dialogue seen at once by a context layer; longer dialogues are cut into equal parts."""


@dataclass(frozen=True)
class SeedRun:
    """One run of the team: a seed on a fold."""

    fold: int
    fold_name: str
    seed: int
    train: RowIndices
    val: RowIndices
    test: RowIndices
    context_only: RowIndices
    """Unlabelled rows of the same dialogues, which a context layer sees but nothing is learned from or scored on."""

    @property
    def name(self) -> str:
        """Name of this run's files."""
        return f"{self.fold_name}-seed{self.seed}"


@dataclass
class TrainingData:
    """Everything the runs share: data, recipe, device."""

    source: Source
    labels: npt.NDArray[Any]
    dialogue: Sequence[str]
    turn: npt.NDArray[np.int64]
    recipe: Recipe
    kind: str
    scale: float
    """How far the target's numbers reach (`metrics.scale_of`)."""
    metric: str
    shape: EpochShape
    device: torch.device
    half: bool
    """Autocast to bfloat16."""
    in_context: bool
    budget_bytes: float
    """Bytes of features on the device at once when streaming."""
    normalisers: Mapping[str, Sequence[Normaliser | None]]
    """Modality to one normaliser per fold."""
    priors: npt.NDArray[np.float32]
    """Shape (folds, outputs): what an utterance without any modality is predicted as."""
    _whole: Window | None = field(default=None, repr=False)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Context in which forward passes run."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half)

    def arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        """Context in which training runs, backward passes included: with float32 asked for, cuDNN leaves TF32 alone."""
        return contextlib.nullcontext() if self.half else full_float32(self.device.type)

    def whole(self) -> Window:
        """All features on the device, moved there the first time."""
        if self._whole is None:
            self._whole = self.source.window(self.device)
        return self._whole

    def gatherer(self, seed_runs: Sequence[SeedRun], stacked: bool) -> Gatherer:
        """Return the gatherer for these runs; several take one normaliser each."""
        chosen: dict[str, Normaliser | None] = {}
        for modality, each in self.normalisers.items():
            first = each[seed_runs[0].fold]
            if first is None or not stacked:
                chosen[modality] = first
                continue
            both = [n for n in (each[m.fold] for m in seed_runs) if n is not None]
            chosen[modality] = Normaliser(torch.stack([n.mean for n in both]), torch.stack([n.scale for n in both]))
        return Gatherer.of(self.source, torch.from_numpy(self.labels), chosen, self.device)

    def windows(self, batches: Sequence[RowIndices]) -> Iterator[tuple[Window, int, int]]:
        """Yield windows and the range of batches each holds: one for all, or blocks that fit when streaming."""
        if not self.source.streamed:
            yield self.whole(), 0, len(batches)
            return
        start = 0
        while start < len(batches):
            stop, rows = start + 1, np.unique(batches[start])
            while stop < len(batches):
                wider = np.union1d(rows, batches[stop])
                if self.source.bytes_of(wider) > self.budget_bytes:
                    break
                rows, stop = wider, stop + 1
            yield self.source.window(self.device, rows), start, stop
            start = stop


def context_dialogues(data: TrainingData, seed_run: SeedRun, rows: RowIndices) -> list[RowIndices]:
    """Dialogues of `rows` with the unlabelled companions of theirs, leaving out utterances without any modality."""
    known = {data.dialogue[row] for row in rows} - {""}
    beside = np.array([row for row in seed_run.context_only if data.dialogue[row] in known], dtype=np.int64)
    whole = np.union1d(rows, beside)
    whole = whole[data.source.any_present[whole]]
    return dialogues_of(whole, data.dialogue, data.turn, WINDOW_TURNS)
