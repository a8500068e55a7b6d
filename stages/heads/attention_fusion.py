"""Attention fusion as MERBench has it (Lian et al. 2024): weights of the modalities from all of them side by side.

Published: three-layer ReLU encoders, the weights from another one on the concatenation, without a softmax, and the
weighted sum of the encoded modalities. Ours: adapters before the encoders, any number of modalities, no part of an
absent one in the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Batch, Fused, Head, HeadInputs
from .configs import AttentionConfig
from .simple import PooledModalities


def relu_encoder(dim: int, hidden: int, dropout: float) -> nn.Sequential:
    """Dropout and three layers of Linear and ReLU."""
    layers: list[nn.Module] = [nn.Dropout(dropout)]
    for width in (dim, hidden, hidden):
        layers += [nn.Linear(width, hidden), nn.ReLU()]
    return nn.Sequential(*layers)


class AttentionHead(Head):
    """Weighted sum of the modalities' vectors; the weights depend on the utterance and are not bounded."""

    Config = AttentionConfig
    config: AttentionConfig

    def __init__(self, inputs: HeadInputs, config: AttentionConfig) -> None:
        super().__init__(inputs, config)
        dim, count = config.dim, len(inputs.modalities)
        self.width = dim
        self.pooled = PooledModalities(inputs, config)
        self.encode = nn.ModuleDict({m: relu_encoder(dim, dim, config.dropout) for m in inputs.modalities})
        self.attention = nn.Sequential(relu_encoder(count * dim, dim, config.dropout), nn.Linear(dim, count))
        self.classifier = nn.Linear(dim, inputs.outputs)

    def fuse(self, batch: Batch) -> Fused:
        """Weighted sum of the encoded modalities, (B, dim)."""
        vectors, present = self.pooled(batch)
        encoded = [
            encode(vectors[..., i, :]) * present[..., i : i + 1] for i, encode in enumerate(self.encode.values())
        ]
        return Fused(self.combine(encoded))

    def combine(self, encoded: list[Tensor]) -> Tensor:
        """Weigh and add up encoded modalities (B, dim)."""
        weight = self.attention(torch.cat(encoded, -1))
        return (torch.stack(encoded, -1) @ weight.unsqueeze(-1)).squeeze(-1)  # type: ignore[no-any-return]

    def classify(self, vector: Tensor) -> Tensor:
        """(..., dim) to (..., outputs)."""
        return self.classifier(vector)  # type: ignore[no-any-return]
