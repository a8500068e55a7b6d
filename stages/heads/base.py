"""What a head is: ragged features of one batch in, fused vectors and predictions out, loss terms on the side.

The training engine owns the rest: batching, the task loss, dialogue context, optimiser, seeds and folds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

ALL_STEPS = 1 << 30
"""More steps than any utterance has: for `Head.pooling`, one mean over the whole utterance."""


@dataclass(frozen=True)
class ModalityShape:
    """Shape of one modality's features."""

    dim: int
    """Width of one layer's feature row."""
    stack: int = 1
    """Number of layers kept side by side; a row has `stack * dim` numbers."""


@dataclass(frozen=True)
class HeadInputs:
    """What a head is built for."""

    modalities: Mapping[str, ModalityShape]
    """Modality name to shape, in the order of the fusion sequence."""
    kind: str
    """`class`, `multi` or `real`."""
    classes: tuple[str, ...]
    """Class names; empty for `real`."""

    @property
    def outputs(self) -> int:
        """Number of outputs: the classes, or 1 for a number."""
        return len(self.classes) if self.kind != "real" else 1


@dataclass
class Batch:
    """One batch. Padding and masked steps hold zeros and are False in `valid`; they must not influence anything."""

    values: dict[str, Tensor]
    """Per modality, shape (B, T_m, stack * dim), floating."""
    valid: dict[str, Tensor]
    """Per modality, shape (B, T_m), bool. T_m is at least 1."""
    present: dict[str, Tensor]
    """Per modality, shape (B,), bool: the utterance has this modality. Heads must ignore absent ones."""
    labels: Tensor | None = None
    """`class`: (B,) int64, -1 unlabelled; `multi`: (B, C) float, NaN unlabelled; `real`: (B,) float, NaN unlabelled.

    In training, numbers are given with mean 0 and standard deviation 1 over the training rows.
    """

    @property
    def size(self) -> int:
        """Number of utterances."""
        return next(iter(self.present.values())).shape[0]


@dataclass
class Fused:
    """What a head makes of a batch before classifying."""

    vector: Tensor
    """Shape (B, width)."""
    parts: dict[str, Any] = field(default_factory=dict)
    """Intermediate tensors that `auxiliary` needs; meaning private to the head."""


class Head(nn.Module, ABC):
    """Base of all heads. A subclass names its frozen config dataclass in `Config` and sets `self.width`.

    What `config.pooling` says, or `self.pooling` is set to, is averaged once and not in every batch.
    """

    Config: ClassVar[type[Any]]
    width: int
    inputs: HeadInputs
    pooling: Mapping[str, int]
    """Modality to the number of cached steps that are averaged into each step the head is given; 1 if left out."""

    def __init__(self, inputs: HeadInputs, config: Any) -> None:
        super().__init__()
        self.inputs = inputs
        self.config = config
        self.pooling = getattr(config, "pooling", {})

    @abstractmethod
    def fuse(self, batch: Batch) -> Fused:
        """Fuse the modalities of each utterance into one vector of shape (B, width)."""

    @abstractmethod
    def classify(self, vector: Tensor) -> Tensor:
        """Map fused (or context-enriched) vectors (..., width) to outputs (..., inputs.outputs)."""

    def auxiliary(self, batch: Batch, fused: Fused, progress: float | Tensor) -> dict[str, Tensor]:
        """Training-only loss terms by name, already weighted. `progress` runs from 0 to 1 over training.

        A 0-d tensor is welcome too: it keeps a compiled or captured step from being made anew for every value.
        """
        return {}

    def forward(self, batch: Batch) -> Tensor:
        """Outputs of shape (B, inputs.outputs)."""
        return self.classify(self.fuse(batch).vector)
