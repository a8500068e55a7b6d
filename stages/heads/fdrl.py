"""FDRL-style head: shared and private subspaces with fine-grained alignment, disparity and predictor.

After arXiv 2312.13567. Only the abstract of the paper was available. What it states is built in; every equation,
width and weight is a reconstruction, tied to the nearest published relative in `docs/heads.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor, nn

from . import disparity, losses
from .alignment import ClassDiscriminators, class_adversary, cross_modal_contrast, label_lmmd
from .base import Batch, Fused, Head, HeadInputs
from .configs import FdrlConfig
from .inputs import ModalityEncoders
from .layers import AttentivePool, Transformer, mlp

REDUNDANCY: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cka": disparity.class_cka,
    "hsic": disparity.class_hsic,
    "misa": disparity.class_difference,
}


def subspace(dim: int, dropout: float) -> nn.Sequential:
    """Encoder into a subspace: Linear, GELU, dropout, Linear, LayerNorm."""
    return nn.Sequential(mlp(dim, dim, dim, dropout), nn.LayerNorm(dim))


class FdrlHead(Head):
    """Shared and private encoders over attentively pooled modalities; one, two or three of them."""

    Config = FdrlConfig
    config: FdrlConfig

    def __init__(self, inputs: HeadInputs, config: FdrlConfig) -> None:
        super().__init__(inputs, config)
        dim, names = config.dim, list(inputs.modalities)
        self.count = len(names)
        self.width = self.count * dim
        self.pairs = list(combinations(range(self.count), 2))
        self.groups = inputs.outputs if inputs.kind != "real" else config.bins
        self.encoders = ModalityEncoders(
            inputs, config, layers=config.layers, heads=config.heads, expand=config.expand, input_norm=True
        )
        self.pools = nn.ModuleDict({m: AttentivePool(dim) for m in names})
        self.project = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.LayerNorm(dim)) for m in names}
        )
        tokens = 2 * self.count if config.split else self.count
        self.missing = nn.Parameter(0.02 * torch.randn(tokens, dim))
        self.kind = nn.Parameter(0.1 * torch.randn(tokens, dim))
        self.fusion = Transformer(1, dim, config.heads, expand=config.expand, dropout=config.dropout)
        self.reduce = nn.Sequential(nn.Linear(tokens * dim, self.width), nn.Dropout(config.fusion_dropout), nn.GELU())
        self.classifier = nn.Linear(self.width, inputs.outputs)
        if config.split:
            self.shared = subspace(dim, config.dropout)
            self.private = nn.ModuleDict({m: subspace(dim, config.dropout) for m in names})
            self._train_only_parts(names)

    def _train_only_parts(self, names: list[str]) -> None:
        config, dim, outputs = self.config, self.config.dim, self.inputs.outputs
        if config.predictor in ("both", "shared"):
            self.predict_shared = mlp(dim, dim // 2, outputs, config.dropout)
        if config.predictor in ("both", "private"):
            self.predict_private = nn.ModuleDict({m: mlp(dim, dim // 2, outputs, config.dropout) for m in names})
        if config.align == "adversary" and self.pairs:
            self.discriminators = ClassDiscriminators(
                self.groups if config.align_scope == "class" else 1, dim, self.count
            )
        if config.disparity == "classify":
            self.tell_private = nn.Linear(dim, self.count * self.groups)

    def fuse(self, batch: Batch) -> Fused:
        """Fuse into (B, M * dim)."""
        steps, valid, present = self.encoders(batch)
        names = list(self.inputs.modalities)
        pooled = [self.project[m](self.pools[m](x, mask)) for m, x, mask in zip(names, steps, valid, strict=True)]
        if not self.config.split:
            return Fused(self._join(pooled, present), {})
        shared = list(self.shared(torch.stack(pooled, 0)))
        private = [self.private[name](z) for name, z in zip(names, pooled, strict=True)]
        vector = self._join(shared + private, present.repeat(1, 2))
        parts = {"shared": torch.stack(shared), "private": torch.stack(private), "present": present}
        return Fused(vector, parts)

    def _join(self, tokens: list[Tensor], present: Tensor) -> Tensor:
        stacked = torch.stack(tokens, -2)
        stacked = torch.where(present.unsqueeze(-1), stacked, self.missing.to(stacked.dtype)) + self.kind
        joined = self.fusion(stacked, present)
        # An absent token still stands in the concatenation, as a learned constant that the others must not reach.
        joined = torch.where(present.unsqueeze(-1), joined, self.missing.to(joined.dtype))
        return self.reduce(joined.flatten(-2))  # type: ignore[no-any-return]

    def classify(self, vector: Tensor) -> Tensor:
        """(..., M * dim) to (..., outputs)."""
        return self.classifier(vector)  # type: ignore[no-any-return]

    def auxiliary(self, batch: Batch, fused: Fused, progress: float | Tensor) -> dict[str, Tensor]:
        """Terms `predict`, `align` and `disparity`; the last two grow with `progress` (fdrl.md section 4.1)."""
        config = self.config
        if not config.split or batch.labels is None:
            return {}
        rise = losses.ramp(progress) if config.ramp else 1.0
        member = losses.membership(batch.labels, self.inputs.kind, self.groups, config.bins)
        scopes = {"class": member, "global": losses.row_weights(batch, self.inputs.kind).unsqueeze(-1)}
        present = fused.parts["present"].float().T
        terms: dict[str, Tensor] = {}
        if config.predictor != "none" and config.predict_weight:
            terms["predict"] = config.predict_weight * self._prediction(batch.labels, fused, present)
        if config.align != "none" and config.align_weight and self.pairs:
            terms["align"] = config.align_weight * self._alignment(
                fused.parts["shared"], scopes[config.align_scope], present, rise
            )
        if config.disparity == "classify" and config.disparity_weight:
            told = self._tell_apart(fused.parts["private"], member, present)
            terms["disparity"] = config.disparity_weight * rise * told
        elif config.disparity != "none" and config.disparity_weight:
            redundancy = self._disparity(fused, scopes[config.disparity_scope], present)
            terms["disparity"] = config.disparity_weight * rise * redundancy
        return terms

    def _prediction(self, labels: Tensor, fused: Fused, present: Tensor) -> Tensor:
        """Section 4.4: every encoder's output must still tell the label."""
        kind, each = self.inputs.kind, []
        for index, name in enumerate(self.inputs.modalities):
            if self.config.predictor in ("both", "shared"):
                guess = self.predict_shared(fused.parts["shared"][index])
                each.append(losses.prediction_loss(guess, labels, kind, present[index]))
            if self.config.predictor in ("both", "private"):
                guess = self.predict_private[name](fused.parts["private"][index])
                each.append(losses.prediction_loss(guess, labels, kind, present[index]))
        return torch.stack(each).mean()

    def _alignment(self, shared: Tensor, groups: Tensor, present: Tensor, rise: float | Tensor) -> Tensor:
        """Section 4.2; the adversary carries the ramp in its gradient reversal instead."""
        config = self.config
        rows = present.unsqueeze(-1) * groups
        if config.align == "adversary":
            return class_adversary(self.discriminators, shared, rows, rise)
        if config.align == "contrastive":
            return rise * cross_modal_contrast(shared, rows, config.temperature)
        sides = [torch.stack([x[pair[k]] for pair in self.pairs]) for x in (shared, rows) for k in (0, 1)]
        return rise * label_lmmd(*sides).mean()

    def _disparity(self, fused: Fused, groups: Tensor, present: Tensor) -> Tensor:
        """Section 4.3 over (private, private) and, unless switched off, (shared, private) pairs."""
        config, shared, private = self.config, fused.parts["shared"], fused.parts["private"]
        pairs = [(private[i], private[j], present[i] * present[j]) for i, j in self.pairs]
        if config.disparity_pairs == "all":
            pairs += [(shared[i], private[i], present[i]) for i in range(self.count)]
        if not pairs:
            return losses.weighted_mean(private, torch.zeros_like(private))
        first, second, rows = (torch.stack(side) for side in zip(*pairs, strict=True))
        return REDUNDANCY[config.disparity](first, second, rows.unsqueeze(-1) * groups).mean()

    def _tell_apart(self, private: Tensor, member: Tensor, present: Tensor) -> Tensor:
        """The discriminative reading: name modality and class of a private vector."""
        logits = self.tell_private(private).float().log_softmax(-1)
        rows = present.unsqueeze(-1) * member / member.sum(-1, keepdim=True).clamp(min=1)
        own = torch.stack([logits[i, :, i * self.groups : (i + 1) * self.groups] for i in range(self.count)])
        return losses.weighted_mean(-own, rows)
