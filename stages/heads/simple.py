"""Heads that treat each modality as one vector: early, late and gated fusion."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from . import losses
from .base import Batch, Fused, Head, HeadInputs
from .configs import ConcatConfig, GatedConfig, LateConfig, PooledConfig
from .inputs import ModalityEncoders
from .layers import MASKED, AttentivePool, StatisticsPool, masked_mean


class PooledModalities(nn.Module):
    """Adapter and pooling of every modality."""

    def __init__(self, inputs: HeadInputs, config: PooledConfig) -> None:
        super().__init__()
        self.encoders = ModalityEncoders(inputs, config)
        kinds: dict[str, type[nn.Module]] = {"attention": AttentivePool, "statistics": StatisticsPool}
        pooled = inputs.modalities if config.pool in kinds else ()
        self.pools = nn.ModuleList(kinds[config.pool](config.dim) for _ in pooled)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors (B, M, dim), zero for absent modalities, and presence (B, M)."""
        steps, valid, present = self.encoders(batch)
        pools: list[Callable[[Tensor, Tensor], Tensor]] = list(self.pools) or [masked_mean] * len(steps)
        return torch.stack([pool(x, mask) for pool, x, mask in zip(pools, steps, valid, strict=True)], -2), present


class ConcatHead(Head):
    """Early fusion: the modalities' vectors side by side, one hidden layer. An absent modality contributes zeros."""

    Config = ConcatConfig
    config: ConcatConfig

    def __init__(self, inputs: HeadInputs, config: ConcatConfig) -> None:
        super().__init__(inputs, config)
        self.width = config.hidden
        self.pooled = PooledModalities(inputs, config)
        self.hidden = nn.Sequential(
            nn.Linear(len(inputs.modalities) * config.dim, config.hidden), nn.GELU(), nn.Dropout(config.dropout)
        )
        self.classifier = nn.Linear(config.hidden, inputs.outputs)

    def fuse(self, batch: Batch) -> Fused:
        """Pool, concatenate, and map to (B, hidden)."""
        vectors, _ = self.pooled(batch)
        return Fused(self.hidden(vectors.flatten(-2)))

    def classify(self, vector: Tensor) -> Tensor:
        """(..., hidden) to (..., outputs)."""
        return self.classifier(vector)  # type: ignore[no-any-return]


class LateHead(Head):
    """Late fusion: a classifier per modality, their outputs averaged with learned weights over those present.

    The fused vector is the weighted modality vectors side by side; since the classifiers are linear, mapping it by all
    of them at once is the average of their outputs.
    """

    Config = LateConfig
    config: LateConfig

    def __init__(self, inputs: HeadInputs, config: LateConfig) -> None:
        super().__init__(inputs, config)
        count = len(inputs.modalities)
        self.width = count * config.dim
        self.pooled = PooledModalities(inputs, config)
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(config.dim, config.dim), nn.GELU(), nn.Dropout(config.dropout))
            for _ in range(count)
        )
        self.trust = nn.Parameter(torch.zeros(count)) if count > 1 else None
        self.classifiers = nn.ModuleList(nn.Linear(config.dim, inputs.outputs, bias=False) for _ in range(count))
        self.bias = nn.Parameter(torch.zeros(inputs.outputs))

    def fuse(self, batch: Batch) -> Fused:
        """Weighted modality vectors, (B, M * dim)."""
        vectors, present = self.pooled(batch)
        each = torch.stack([layer(vectors[..., i, :]) for i, layer in enumerate(self.hidden)], -2)
        share = present.to(each.dtype)
        if self.trust is not None:
            share = torch.where(present, self.trust.to(each.dtype), MASKED).softmax(-1) * share
        return Fused((each * share.unsqueeze(-1)).flatten(-2), {"each": each, "present": present})

    def classify(self, vector: Tensor) -> Tensor:
        """(..., M * dim) to (..., outputs)."""
        pieces = vector.chunk(len(self.classifiers), -1)
        outputs = [classify(piece) for classify, piece in zip(self.classifiers, pieces, strict=True)]
        return torch.stack(outputs).sum(0) + self.bias

    def auxiliary(self, batch: Batch, fused: Fused, progress: float | Tensor) -> dict[str, Tensor]:
        """`unimodal`: each modality's classifier must do on its own."""
        if batch.labels is None or not self.config.unimodal:
            return {}
        each, present = fused.parts["each"], fused.parts["present"].float()
        own = [
            losses.prediction_loss(classify(each[:, i]) + self.bias, batch.labels, self.inputs.kind, present[:, i])
            for i, classify in enumerate(self.classifiers)
        ]
        return {"unimodal": self.config.unimodal * torch.stack(own).mean()}


class GatedHead(Head):
    """Gated multimodal unit: `sum_m g_m tanh(W_m x_m)`, gates by softmax over the present modalities."""

    Config = GatedConfig
    config: GatedConfig

    def __init__(self, inputs: HeadInputs, config: GatedConfig) -> None:
        super().__init__(inputs, config)
        count = len(inputs.modalities)
        self.width = config.dim
        self.pooled = PooledModalities(inputs, config)
        self.transform = nn.ModuleList(nn.Linear(config.dim, config.dim) for _ in range(count))
        self.gate = nn.Linear(count * config.dim, count) if count > 1 else None
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.dim, inputs.outputs)

    def fuse(self, batch: Batch) -> Fused:
        """Gated sum, (B, dim)."""
        vectors, present = self.pooled(batch)
        each = torch.stack([layer(vectors[..., i, :]) for i, layer in enumerate(self.transform)], -2).tanh()
        share = present.to(each.dtype)
        if self.gate is not None:
            share = torch.where(present, self.gate(vectors.flatten(-2)), MASKED).softmax(-1).to(each.dtype) * share
        return Fused(self.dropout((each * share.unsqueeze(-1)).sum(-2)))

    def classify(self, vector: Tensor) -> Tensor:
        """(..., dim) to (..., outputs)."""
        return self.classifier(vector)  # type: ignore[no-any-return]
