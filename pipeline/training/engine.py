"""The training loop of a team of runs: epochs, validation, early stopping, checkpoints."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mer.cache import MerError

from ..scores.metrics import better, loss_of, score
from .batches import DialogueBatch, dialogue_batches, epoch_batches
from .model import DialogueLayout, Model, parts_of
from .pooling import RowIndices
from .scoring import predict
from .shared import SeedRun, TrainingData, context_dialogues
from .stacked import Optimiser, StackedModels, State, load_state, stack_models
from .tensor_file import load_tensors, random_state, restore_random_state, save_tensors
from .tensors import Window

logger = logging.getLogger("mer.train")

SAVING_SHARE = 20.0
"""At least so many times the time a checkpoint takes lies between two."""


class DivergedError(MerError):
    """A loss is not finite any more."""


class Watch(Protocol):
    """Who is told about progress."""

    def begin(self, seed_runs: Sequence[SeedRun], epochs: int, steps: int) -> None:
        """A team starts or goes on."""

    def step(self, utterances: int) -> None:
        """A step was made with so many utterances."""

    def epoch(self, seed_runs: Sequence[SeedRun], entries: Sequence[Mapping[str, float]]) -> None:
        """An epoch ended; one history entry per run."""


@dataclass
class Finished:
    """One run after selection."""

    seed_run: SeedRun
    state: State
    """Weights of the best epoch, without the leading axis."""
    best_epoch: int
    best_score: float
    history: list[dict[str, float]]


@dataclass
class Progress:
    """Where a team stands; JSON-able but for the tensors kept beside it."""

    epoch: int = 0
    step: int = 0
    best_score: list[float] = field(default_factory=list)
    best_loss: list[float] = field(default_factory=list)
    best_epoch: list[int] = field(default_factory=list)
    history: list[list[dict[str, float]]] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    stopped: list[bool] = field(default_factory=list)
    """Runs of a stack whose patience is spent: they go along until the stack is thinned, but nothing counts."""


class Trainer:
    """Trains one team and hands over each run when it is finished."""

    def __init__(
        self,
        data: TrainingData,
        seed_runs: Sequence[SeedRun],
        models: Sequence[Model],
        deliver: Callable[[Finished], None],
        watch: Watch,
    ) -> None:
        self.data = data
        self.recipe = data.recipe
        self.seed_runs = list(seed_runs)
        self.names = [m.name for m in seed_runs]
        self.deliver = deliver
        self.watch = watch
        self.stack = stack_models(models, data.device)
        self.optimiser = Optimiser(self.stack, self.recipe.lr, self.recipe.weight_decay)
        self.gatherer = data.gatherer(self.seed_runs, isinstance(self.stack, StackedModels))
        self.progress = Progress(
            best_score=[float("nan")] * len(seed_runs),
            best_loss=[float("nan")] * len(seed_runs),
            best_epoch=[-1] * len(seed_runs),
            history=[[] for _ in seed_runs],
            members=list(self.names),
            stopped=[False] * len(seed_runs),
        )
        self.best: State = {}
        self.sums: dict[str, Tensor] = {}
        self.due = 0.0
        entropy = [number for m in seed_runs for number in (m.seed, m.fold)]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def fit(self, checkpoint: Path | None = None, every_seconds: float = 30.0) -> None:
        """Train to the end, writing `checkpoint` now and then; goes on from it when it exists."""
        if checkpoint is not None and checkpoint.exists():
            self.load(checkpoint)
        self.due = time.monotonic() + every_seconds
        while self.seed_runs and self.progress.epoch < self.recipe.epochs:
            with self.data.arithmetic():
                self._fit_epoch(checkpoint, every_seconds)
            self._save_if_due(checkpoint, every_seconds)
        for index in range(len(self.seed_runs)):
            self.hand_over(index)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)

    def _fit_epoch(self, checkpoint: Path | None, every_seconds: float) -> None:
        """Train the rest of the current epoch."""
        batches = self.epoch_rows()
        self.watch.begin(self.seed_runs, self.recipe.epochs, len(batches))
        rows = [b.rows if isinstance(b, DialogueBatch) else b for b in batches]
        skipped = self.progress.step
        on_device = None if self.data.in_context else torch.from_numpy(np.stack(rows)).to(self.data.device)
        for window, start, stop in self.data.windows(rows[skipped:]):
            for index in range(skipped + start, skipped + stop):
                placed = None if on_device is None else on_device[index]
                self.train_step(window, batches[index], placed, index / len(batches))
                self.progress.step = index + 1
                self._save_if_due(checkpoint, every_seconds)
        self.end_epoch()

    def _save_if_due(self, checkpoint: Path | None, every_seconds: float) -> None:
        """Save now and then: every so many seconds, and less often where saving itself takes long."""
        started = time.monotonic()
        if checkpoint is None or not self.seed_runs or started < self.due:
            return
        self.save(checkpoint)
        took = time.monotonic() - started
        self.due = started + took + max(every_seconds, SAVING_SHARE * took if every_seconds else 0.0)

    def epoch_rows(self) -> list[RowIndices] | list[DialogueBatch]:
        """Batches of the current epoch: arrays (B,), (R, B) for a stack, or dialogues in turn order."""
        data, epoch = self.data, self.progress.epoch
        if data.in_context:
            seed_run = self.seed_runs[0]
            dialogues = context_dialogues(data, seed_run, seed_run.train)
            return dialogue_batches(dialogues, self.recipe.batch_size, seed_run.seed, seed_run.fold, epoch)
        cost = data.source.cost
        each = [epoch_batches(m.train, cost, data.shape, m.seed, m.fold, epoch) for m in self.seed_runs]
        return list(np.stack(each, axis=1)) if isinstance(self.stack, StackedModels) else list(each[0])

    def train_step(
        self, window: Window, batch: RowIndices | DialogueBatch, on_device: Tensor | None, within: float
    ) -> None:
        """One update of all runs of the team."""
        recipe = self.recipe
        progress = (self.progress.epoch + within) / recipe.epochs
        layout, rows = None, batch
        if isinstance(batch, DialogueBatch):
            layout, rows = DialogueLayout.of(batch, self.data.device), batch.rows
        assert isinstance(rows, np.ndarray)
        gathered = self.gatherer.batch(window, rows, on_device)
        if layout is not None:
            gathered.labels = self._masked_labels(rows, self.seed_runs[0].train)
        with self.data.autocast():
            terms = self.stack.losses(parts_of(gathered), layout, progress)
            total = torch.stack([term.float().sum() for term in terms.values()]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        if recipe.clip:
            self.stack.clip(recipe.clip)
        self.optimiser.step(rate_at(progress, recipe.warmup))
        for name, term in terms.items():
            held = self.sums.get(name)
            self.sums[name] = term.detach().float() if held is None else held + term.detach().float()
        self.watch.step(rows.size)

    def _masked_labels(self, rows: RowIndices, counted: RowIndices) -> Tensor:
        """Labels of the rows, hidden where a row is only context."""
        labels = self.data.labels[rows].copy()
        labels[~np.isin(rows, counted)] = -1 if self.data.kind == "class" else np.nan
        return torch.from_numpy(labels).to(self.data.device)

    def end_epoch(self) -> None:
        """Validate, remember the best weights, retire runs that no longer improve."""
        progress, recipe = self.progress, self.recipe
        steps = max(progress.step, 1)
        losses = {name: (value / steps).cpu().numpy() for name, value in self.sums.items()}
        predictions = predict(self.data, self.stack, self.gatherer, self.seed_runs, [m.val for m in self.seed_runs])
        improved, entries = [], []
        for index, seed_run in enumerate(self.seed_runs):
            if progress.stopped[index]:
                entries.append(progress.history[index][-1])
                continue
            entry = {name: float(value[index]) for name, value in losses.items()}
            labels, outputs = self.data.labels[seed_run.val], predictions[index][0]
            if not np.isfinite([*entry.values(), outputs.sum()]).all():
                raise DivergedError(
                    f"training of {seed_run.name} diverged in epoch {progress.epoch + 1} (a loss or a validation "
                    f"answer is not finite); lower --lr (now {recipe.lr:g}) or check the features with mer verify"
                )
            found = score(self.data.kind, labels, outputs, self.data.scale)
            entry |= {f"val_{name}": value for name, value in found.items()}
            entry["val_loss"] = loss_of(self.data.kind, labels, outputs)
            if self._is_better(index, found[self.data.metric], entry["val_loss"]):
                progress.best_score[index], progress.best_loss[index] = found[self.data.metric], entry["val_loss"]
                progress.best_epoch[index] = progress.epoch
                improved.append(index)
            entry["epoch"] = progress.epoch + 1
            progress.history[index].append(entry)
            entries.append(entry)
        self._remember(improved)
        self.watch.epoch(self.seed_runs, entries)
        progress.epoch, progress.step, self.sums = progress.epoch + 1, 0, {}
        self._retire()

    def _is_better(self, index: int, value: float, loss: float) -> bool:
        """Whether an epoch beats a run's best one; equal scores are told apart by the validation loss."""
        progress, metric = self.progress, self.data.metric
        best = progress.best_score[index]
        tied = value == best and loss < progress.best_loss[index]
        return progress.best_epoch[index] < 0 or tied or better(metric, value, best)

    def _remember(self, improved: Sequence[int]) -> None:
        """Keep a copy of the weights of the runs that just improved."""
        state = self.stack.state()
        if not self.best:
            self.best = {name: tensor.clone() for name, tensor in state.items()}
        elif improved:
            index = torch.tensor(list(improved), device=self.data.device)
            for name, tensor in state.items():
                self.best[name][index] = tensor[index]

    def _retire(self) -> None:
        """Hand over runs whose patience is spent, once that is all of them or at least half of a stack."""
        patience = self.recipe.patience
        if not patience:
            return
        progress = self.progress
        for index, best in enumerate(progress.best_epoch):
            progress.stopped[index] |= progress.epoch - 1 - best >= patience
        spent = [index for index, stopped in enumerate(progress.stopped) if stopped]
        if len(spent) == len(self.seed_runs):
            progress.epoch = self.recipe.epochs
        elif spent and 2 * len(spent) >= len(self.seed_runs):
            for index in spent:
                self.hand_over(index)
            self._keep([i for i in range(len(self.seed_runs)) if i not in spent])

    def _keep(self, staying: list[int]) -> None:
        self.optimiser.keep(staying)
        index = torch.tensor(staying, device=self.data.device)
        self.best = {name: tensor[index].clone() for name, tensor in self.best.items()}
        for name in ("best_score", "best_loss", "best_epoch", "history", "members", "stopped"):
            setattr(self.progress, name, [getattr(self.progress, name)[i] for i in staying])
        self.seed_runs = [self.seed_runs[i] for i in staying]
        self.gatherer = self.data.gatherer(self.seed_runs, stacked=True)

    def hand_over(self, index: int) -> None:
        """Deliver one run with its best weights."""
        progress = self.progress
        state = {name: tensor[index].cpu().clone() for name, tensor in self.best.items()}
        best = progress.best_epoch[index]
        self.deliver(
            Finished(self.seed_runs[index], state, best + 1, progress.best_score[index], progress.history[index])
        )

    def save(self, path: Path) -> None:
        """Write everything needed to go on as if nothing had happened."""
        tensors = {f"model/{name}": tensor for name, tensor in self.stack.state().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"optimiser/{name}": tensor for name, tensor in self.optimiser.state().items()}
        tensors |= {f"sums/{name}": tensor for name, tensor in self.sums.items()}
        tensors |= random_state(self.data.device)
        save_tensors(path, tensors, {**vars(self.progress), "team": self.names})

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote; leave it alone if other runs were stacked, as on another device.

        Raises
        ------
        DamagedError
            If the checkpoint cannot be read.
        """
        tensors, facts = load_tensors(path, "delete it to train these runs from their start, or use --overwrite")
        if facts.pop("team", None) != self.names:
            logger.info("%s: is of other runs side by side; these start anew: %s", path, ", ".join(self.names))
            return
        parts: dict[str, State] = {}
        for key, tensor in tensors.items():
            section, _, name = key.partition("/")
            parts.setdefault(section, {})[name] = tensor
        staying = [self.names.index(name) for name in facts["members"]]
        if len(staying) < len(self.names):
            self.optimiser.keep(staying)
            self.seed_runs = [self.seed_runs[i] for i in staying]
            self.gatherer = self.data.gatherer(self.seed_runs, stacked=True)
        load_state(self.stack, parts["model"])
        self.optimiser.load(parts.get("optimiser", {}))
        self.best = {name: t.to(self.data.device) for name, t in parts.get("best", {}).items()}
        self.sums = {name: t.to(self.data.device) for name, t in parts.get("sums", {}).items()}
        self.progress = Progress(**facts)
        restore_random_state(tensors, self.data.device)


def rate_at(progress: float, warmup: float) -> float:
    """Share of the peak learning rate at `progress` in [0, 1): linear warm-up, then a cosine down to zero."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
