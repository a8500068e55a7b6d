"""Early fusion: pooled modalities side by side into an MLP. The baseline every other head must beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Batch, Fused, Head, HeadInputs
from .configs import ConcatConfig
from .inputs import sequence_encoders
from .layers import AttentivePool, masked_mean, presence


class ConcatHead(Head):
    """Adapter and pooling per modality, concatenation, one hidden layer. An absent modality contributes zeros."""

    Config = ConcatConfig
    config: ConcatConfig

    def __init__(self, inputs: HeadInputs, config: ConcatConfig) -> None:
        super().__init__(inputs, config)
        names = list(inputs.modalities)
        self.width = config.hidden
        self.encoders = sequence_encoders(inputs, config)
        self.pools = nn.ModuleDict({m: AttentivePool(config.dim) for m in names if config.pool == "attention"})
        self.hidden = nn.Sequential(
            nn.Linear(len(names) * config.dim, config.hidden), nn.GELU(), nn.Dropout(config.dropout)
        )
        self.classifier = nn.Linear(config.hidden, inputs.outputs)

    def fuse(self, batch: Batch) -> Fused:
        """Pool, concatenate, and map to (B, hidden)."""
        present = presence(batch, self.inputs.modalities, self.config.modality_dropout, self.training)
        pooled = []
        for index, name in enumerate(self.inputs.modalities):
            mask = batch.valid[name] & present[:, index : index + 1]
            x, mask = self.encoders[name](batch.values[name], mask)
            pooled.append(self.pools[name](x, mask) if name in self.pools else masked_mean(x, mask))
        return Fused(self.hidden(torch.cat(pooled, -1)))

    def classify(self, vector: Tensor) -> Tensor:
        """(..., hidden) to (..., outputs)."""
        return self.classifier(vector)  # type: ignore[no-any-return]
