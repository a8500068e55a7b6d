"""MISA (Hazarika et al., ACM MM 2020): modality-invariant and -specific vectors with reconstruction.

Losses, subspace layers and fusion follow the published code as described in fdrl.md section 4.6. Ours: a transformer
layer where MISA runs two bidirectional LSTMs over audio and video, and masks for absent modalities.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from .base import Batch, Fused, Head, HeadInputs
from .configs import MisaConfig
from .disparity import class_difference
from .inputs import ModalityEncoders
from .layers import Transformer, masked_mean
from .losses import in_float32, row_weights, weighted_mean

MOMENTS = 5


@in_float32
def central_moment_discrepancy(first: Tensor, second: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Distance of the means plus distances of the central moments 2 to 5, over rows of weight 1.

    Parameters
    ----------
    first, second
        Shape (B, d).
    a, b
        Their rows' weights, shape (B,).
    """
    means = [(x * w.unsqueeze(-1)).sum(0) / w.sum().clamp(min=1) for x, w in ((first, a), (second, b))]
    total = _distance(means[0], means[1])
    centred = [x - mean for x, mean in zip((first, second), means, strict=True)]
    for power in range(2, MOMENTS + 1):
        one, two = (
            (x.pow(power) * w.unsqueeze(-1)).sum(0) / w.sum().clamp(min=1) for x, w in zip(centred, (a, b), strict=True)
        )
        total = total + _distance(one, two)
    return total * ((a.sum() > 0) & (b.sum() > 0)).float()


def _distance(one: Tensor, two: Tensor) -> Tensor:
    return ((one - two).square().sum() + 1e-12).sqrt()


class MisaHead(Head):
    """MISA with one, two or three modalities."""

    Config = MisaConfig
    config: MisaConfig

    def __init__(self, inputs: HeadInputs, config: MisaConfig) -> None:
        super().__init__(inputs, config)
        dim, names = config.dim, list(inputs.modalities)
        self.count = len(names)
        self.width = self.count * dim
        self.encoders = ModalityEncoders(inputs, config, layers=config.layers, heads=config.heads, plain=("text",))
        self.project = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.LayerNorm(dim)) for m in names}
        )
        self.shared = nn.Sequential(nn.Linear(dim, dim), nn.Sigmoid())
        self.private = nn.ModuleDict({m: nn.Sequential(nn.Linear(dim, dim), nn.Sigmoid()) for m in names})
        self.rebuild = nn.ModuleDict({m: nn.Linear(dim, dim) for m in names})
        self.missing = nn.Parameter(torch.zeros(2 * self.count, dim))
        self.fusion = Transformer(1, dim, config.heads, expand=2, dropout=config.dropout, pre_norm=False)
        self.reduce = nn.Sequential(nn.Linear(2 * self.count * dim, self.width), nn.Dropout(config.dropout), nn.ReLU())
        self.classifier = nn.Linear(self.width, inputs.outputs)

    def fuse(self, batch: Batch) -> Fused:
        """Fuse into (B, M * dim)."""
        steps, valid, present = self.encoders(batch)
        names = list(self.inputs.modalities)
        pooled = [self.project[m](masked_mean(x, mask)) for m, x, mask in zip(names, steps, valid, strict=True)]
        shared = [self.shared(z) for z in pooled]
        private = [self.private[name](z) for name, z in zip(names, pooled, strict=True)]
        here = present.repeat(1, 2).unsqueeze(-1)
        tokens = torch.stack(private + shared, -2)
        joined = self.fusion(torch.where(here, tokens, self.missing.to(tokens.dtype)), here.squeeze(-1))
        joined = torch.where(here, joined, self.missing.to(joined.dtype))
        parts = {"pooled": pooled, "shared": shared, "private": private, "present": present}
        return Fused(self.reduce(joined.flatten(-2)), parts)

    def classify(self, vector: Tensor) -> Tensor:
        """(..., M * dim) to (..., outputs)."""
        return self.classifier(vector)  # type: ignore[no-any-return]

    def auxiliary(self, batch: Batch, fused: Fused, progress: float | Tensor) -> dict[str, Tensor]:
        """`similarity` (central moments), `difference` (soft orthogonality, summed over pairs), `reconstruction`.

        Of labelled rows.
        """
        config, parts = self.config, fused.parts
        shared, private = parts["shared"], parts["private"]
        counted = parts["present"].float().T * row_weights(batch, self.inputs.kind)
        pairs = list(combinations(range(self.count), 2))
        terms: dict[str, Tensor] = {}
        if pairs:
            moments = [central_moment_discrepancy(shared[i], shared[j], counted[i], counted[j]) for i, j in pairs]
            terms["similarity"] = config.similarity * torch.stack(moments).mean()
        sides = [(private[i], shared[i], counted[i]) for i in range(self.count)]
        sides += [(private[i], private[j], counted[i] * counted[j]) for i, j in pairs]
        first, second, rows = (torch.stack(side) for side in zip(*sides, strict=True))
        terms["difference"] = config.difference * class_difference(first, second, rows.unsqueeze(-1)).sum()
        errors = []
        for i, name in enumerate(self.inputs.modalities):
            error = (self.rebuild[name](private[i] + shared[i]) - parts["pooled"][i]).float().square().mean(-1)
            errors.append(weighted_mean(error, counted[i]))
        terms["reconstruction"] = config.reconstruction * torch.stack(errors).mean()
        return terms
