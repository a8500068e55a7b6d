"""What is trained: a head, its dialogue context if any, and the loss of the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mer.cache import MerError
from mer.stages.heads.base import Batch, Head, HeadInputs
from mer.stages.registry import find

from .batches import DialogueBatch
from .settings import Recipe, make_config

Parts = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], Tensor]
"""A batch as plain values: values, valid, present per modality, and labels."""


@dataclass(frozen=True)
class DialogueLayout:
    """Where the utterances of a batch stand in their dialogues; tensors on the device."""

    dialogue: Tensor
    turn: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, batch: DialogueBatch, device: torch.device) -> DialogueLayout:
        """Move the places of a dialogue batch to the device."""
        return cls(torch.from_numpy(batch.dialogue).to(device), torch.from_numpy(batch.turn).to(device), batch.shape)


class Model(nn.Module):
    """A head with the target's loss; `forward` gives loss terms when `progress` is given, outputs otherwise."""

    class_weight: Tensor
    unit: Tensor
    """Mean and standard deviation of the training rows' numbers: what a head of a `real` target learns is in them."""

    def __init__(
        self,
        head: Head,
        context: nn.Module | None,
        recipe: Recipe,
        class_weight: Tensor | None = None,
        unit: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.context = context
        self.kind = head.inputs.kind
        self.smoothing = recipe.label_smoothing
        self.real_loss = recipe.real_loss
        self.hide_turns = recipe.hide_turns
        weight = torch.ones(head.inputs.outputs) if class_weight is None else class_weight
        self.register_buffer("class_weight", weight.float(), persistent=False)
        self.register_buffer("unit", torch.tensor([0.0, 1.0]) if unit is None else unit.float(), persistent=False)

    def forward(self, parts: Parts, layout: DialogueLayout | None = None, progress: float | None = None) -> Any:
        """Return loss terms by name (weighted), or the pair of outputs (B, C) and fused vectors (B, width).

        Parameters
        ----------
        parts : tuple
            values, valid, present, labels.
        layout : Layout, optional
            Needed by a model with context.
        progress : float, optional
            0 to 1 over training; None asks for outputs.
        """
        values, valid, present, labels = parts
        if self.kind == "real":
            labels = (labels - self.unit[0]) / self.unit[1]
        batch = Batch(values, valid, present, labels if progress is not None else None)
        fused = self.head.fuse(batch)
        vector = fused.vector
        if self.context is not None:
            assert layout is not None
            vector = self._in_context(vector, layout)
        outputs = self.head.classify(vector)
        if progress is None:
            return (outputs.float() * self.unit[1] + self.unit[0] if self.kind == "real" else outputs), vector
        return {"task": self.task_loss(outputs, labels), **self.head.auxiliary(batch, fused, progress)}

    def _in_context(self, vector: Tensor, layout: DialogueLayout) -> Tensor:
        """Lay vectors (n, width) out by dialogue and turn, apply the context layer, and take them back."""
        assert self.context is not None
        if self.training and self.hide_turns:
            vector = vector * (torch.rand_like(vector[:, :1]) >= self.hide_turns)
        grid = vector.new_zeros(*layout.shape, vector.shape[-1])
        valid = torch.zeros(layout.shape, dtype=torch.bool, device=vector.device)
        place = (layout.dialogue, layout.turn)
        grid = grid.index_put(place, vector)
        valid = valid.index_put(place, torch.ones_like(layout.turn, dtype=torch.bool))
        return self.context(grid, valid)[place]  # type: ignore[no-any-return]

    def task_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the labelled rows of a batch; zero when there are none. Always float32."""
        outputs = outputs.float()
        if self.kind == "class":
            known = labels >= 0
            target = labels.clamp(min=0)
            logs = outputs.log_softmax(-1)
            each = -logs.gather(-1, target[..., None]).squeeze(-1)
            each = (1 - self.smoothing) * each - self.smoothing * logs.mean(-1)
            weight = self.class_weight[target] * known
        elif self.kind == "multi":
            known = ~labels.isnan().any(-1)
            each = F.binary_cross_entropy_with_logits(outputs, labels.nan_to_num(), reduction="none").mean(-1)
            weight = known.float()
        else:
            known = ~labels.isnan()
            gap = outputs.squeeze(-1) - labels.nan_to_num()
            each = gap.abs() if self.real_loss == "l1" else gap.square()
            weight = known.float()
        return (each * weight).sum() / weight.sum().clamp(min=1e-8)


def parts_of(batch: Batch) -> Parts:
    """Take a batch apart for calls that need plain values."""
    assert batch.labels is not None
    return batch.values, batch.valid, batch.present, batch.labels


def probabilities(kind: str, outputs: Tensor) -> Tensor:
    """Outputs as people use them: softmax for classes, sigmoid for sets, the number itself otherwise. float32."""
    outputs = outputs.float()
    if kind == "class":
        return outputs.softmax(-1)
    return outputs.sigmoid() if kind == "multi" else outputs


def class_weights(labels: npt.NDArray[Any], classes: int, wanted: str) -> Tensor | None:
    """Weights of the classes from training labels, averaging 1 over the rows; classes without rows weigh 1."""
    if wanted == "none":
        return None
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weight = np.where(counts > 0, 1.0 / np.maximum(counts, 1), 0.0)
    weight = np.sqrt(weight) if wanted == "sqrt" else weight
    weight = weight * counts.sum() / (weight * counts).sum()
    return torch.from_numpy(np.where(counts > 0, weight, 1.0).astype(np.float32))


def unit_of(labels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Mean and standard deviation of the numbers of the training rows.

    Heads start near zero and move in steps of the learning rate: in the numbers' own unit a mean of 50 is out of reach.
    """
    numbers = labels.astype(np.float64)
    return np.array([numbers.mean(), numbers.std() or 1.0], dtype=np.float32)


@dataclass(frozen=True)
class Blueprint:
    """How to build the model of any seed and fold of a run."""

    head: str
    head_settings: Mapping[str, Any]
    context: str
    context_settings: Mapping[str, Any]
    inputs: HeadInputs
    recipe: Recipe

    def build(self, seed: int, class_weight: Tensor | None = None, unit: Tensor | None = None) -> Model:
        """Build a model on the CPU; its initial weights depend on the seed alone.

        Raises
        ------
        MerError
            If the head is unknown or a setting does not fit.
        """
        made = find("head", self.head)
        config = make_config(made.Config, self.head_settings, "head.")
        torch.manual_seed(seed)
        head = made(self.inputs, config)
        context = self._context(head.width) if self.context != "none" else None
        if context is None and self.context_settings:
            raise MerError(
                "settings of [context] are given but no context is chosen; add --context bigru or transformer"
            )
        return Model(head, context, self.recipe, class_weight, unit)

    def _context(self, width: int) -> nn.Module:
        from mer.stages.heads.context import make_context

        return make_context(self.context, width, self.context_settings)
