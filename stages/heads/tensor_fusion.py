"""Tensor fusion (Zadeh et al., EMNLP 2017) and low-rank multimodal fusion (Liu et al., ACL 2018).

Published: the outer product of the modalities' vectors, each with a 1 before it, under two ReLU layers (TFN); the same
product in `rank` factors per modality, never built, under a learned mix of the ranks (LMF). Ours: the adapters and
means in place of subnetworks with batch norm and an LSTM over words, any number of modalities; an absent one gives a 1
and zeros (TFN) or no factor (LMF).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Batch, Fused, Head, HeadInputs
from .configs import LmfConfig, TfnConfig
from .simple import PooledModalities


def with_one(x: Tensor) -> Tensor:
    """Put a 1 before the last axis' numbers: (..., d) to (..., d + 1)."""
    return torch.cat([torch.ones_like(x[..., :1]), x], -1)


def outer_product(vectors: list[Tensor]) -> Tensor:
    """Flattened outer product of vectors (B, d_m) with a 1 before each: (B, product of d_m + 1)."""
    product = with_one(vectors[0])
    for vector in vectors[1:]:
        product = (product.unsqueeze(-1) * with_one(vector).unsqueeze(-2)).flatten(-2)
    return product


class LowRankFusion(nn.Module):
    """Mix of `rank` elementwise products of the modalities' linear maps: the outer product under a low-rank weight."""

    def __init__(self, dims: dict[str, int], rank: int, out: int) -> None:
        super().__init__()
        self.factors = nn.ParameterDict(  # of pairs, since it sorts the names of a dict
            [(m, nn.Parameter(torch.empty(rank, dim + 1, out))) for m, dim in dims.items()]
        )
        self.weights = nn.Parameter(torch.empty(1, rank))
        self.bias = nn.Parameter(torch.zeros(out))
        for parameter in (*self.factors.values(), self.weights):
            nn.init.xavier_normal_(parameter)

    def forward(self, vectors: list[Tensor], present: Tensor) -> Tensor:
        """Map M vectors (B, d_m) with presence (B, M) to (B, out); an absent modality is no factor."""
        each = [
            torch.where(present[..., i, None, None], (with_one(x).unsqueeze(-2).unsqueeze(-2) @ factor).squeeze(-2), 1)
            for i, (x, factor) in enumerate(zip(vectors, self.factors.values(), strict=True))
        ]
        product = torch.stack(each).prod(0)  # (B, rank, out)
        return (self.weights @ product).squeeze(-2) + self.bias


class TfnHead(Head):
    """Tensor fusion: products of all subsets of the modalities' numbers, so their conjunctions are inputs."""

    Config = TfnConfig
    config: TfnConfig

    def __init__(self, inputs: HeadInputs, config: TfnConfig) -> None:
        super().__init__(inputs, config)
        self.width = config.hidden
        self.pooled = PooledModalities(inputs, config)
        self.narrow = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(config.dim, config.subspace), nn.ReLU()) for m in inputs.modalities}
        )
        self.dropout = nn.Dropout(config.dropout)
        wide = (config.subspace + 1) ** len(inputs.modalities)
        self.first, self.second = nn.Linear(wide, config.hidden), nn.Linear(config.hidden, config.hidden)
        self.classifier = nn.Linear(config.hidden, inputs.outputs)

    def fuse(self, batch: Batch) -> Fused:
        """Outer product and two ReLU layers, (B, hidden)."""
        vectors, present = self.pooled(batch)
        each = [f(vectors[..., i, :]) * present[..., i : i + 1] for i, f in enumerate(self.narrow.values())]
        return Fused(self.second(self.first(self.dropout(outer_product(each))).relu()).relu())

    def classify(self, vector: Tensor) -> Tensor:
        """(..., hidden) to (..., outputs)."""
        return self.classifier(vector)  # type: ignore[no-any-return]


class LmfHead(Head):
    """Low-rank fusion: tensor fusion without the tensor."""

    Config = LmfConfig
    config: LmfConfig

    def __init__(self, inputs: HeadInputs, config: LmfConfig) -> None:
        super().__init__(inputs, config)
        self.width = config.dim
        self.pooled = PooledModalities(inputs, config)
        self.fusion = LowRankFusion(dict.fromkeys(inputs.modalities, config.dim), config.rank, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.dim, inputs.outputs)

    def fuse(self, batch: Batch) -> Fused:
        """Low-rank product, (B, dim)."""
        vectors, present = self.pooled(batch)
        return Fused(self.dropout(self.fusion(list(vectors.unbind(-2)), present)))

    def classify(self, vector: Tensor) -> Tensor:
        """(..., dim) to (..., outputs)."""
        return self.classifier(vector)  # type: ignore[no-any-return]
