"""DRKF: decoupled representations with knowledge fusion (arXiv 2508.01644), on cached features.

Rests on the released training script and the framework figure; the paper's body was not available. `docs/heads.md` says
which term is whose. Trainable adapters stand in for the encoders the authors fine-tune. With `fusion=steps` the head
attends over all steps as released; by default it attends over one vector per modality, weighed by their agreement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from . import losses
from .agreement import Agreement
from .base import Batch, Fused, Head, HeadInputs
from .configs import DrkfConfig
from .inputs import ModalityEncoders
from .layers import Transformer, masked_mean, sinusoids, split_last
from .pairs import all_origins, pair_targets, sample_origins

MAX_POSITIONS = 2800
"""Longest fusion sequence of the released code; longer ones are cut at the end (faithful variant)."""


class ResidualCascade(nn.Module):
    """Progressive augmentation `G(x + sum_k o_k)`, `o_k = dec_k(enc_k(x + o_1 + ... + o_{k-1}))` (drkf.md section 3.2).

    Widths d/4, d/8, d/16, at least 16 lest ReLUs die, as the released 256, 128, 64 of 1024.
    """

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        wide, middle, narrow = (max(16, dim // part) for part in (4, 8, 16))
        self.encoders = nn.ModuleList(
            nn.Sequential(
                nn.Linear(dim, wide), nn.LeakyReLU(), nn.Linear(wide, middle), nn.LeakyReLU(), nn.Linear(middle, narrow)
            )
            for _ in range(blocks)
        )
        self.decoders = nn.ModuleList(
            nn.Sequential(
                nn.Linear(narrow, middle), nn.ReLU(), nn.Linear(middle, wide), nn.ReLU(), nn.Linear(wide, dim)
            )
            for _ in range(blocks)
        )
        self.transition = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        for encode, decode in zip(self.encoders, self.decoders, strict=True):
            x = x + decode(encode(x))
        return self.transition(x)  # type: ignore[no-any-return]


class FusionEncoder(nn.Module):
    """Self-attention over `CLS, steps of m1, SEP, steps of m2, SEP, ...`; the state at CLS is the fused vector.

    Corrected: learned CLS and SEP, modality embeddings, positions restarting per modality, key masks, pre-norm; with
    `readout="mean"` neither CLS nor SEP, and the mean of the steps' states is the fused vector.
    Faithful: zero CLS and SEP, one running learned position, no modality embedding, no masks, post-norm, in the
    released `order` of modalities.
    """

    def __init__(self, order: Sequence[int], config: DrkfConfig) -> None:
        super().__init__()
        dim = config.dim
        self.order = order
        self.faithful = config.variant == "faithful"
        self.marked = config.readout == "cls"
        self.transformer = Transformer(
            config.fusion_layers, dim, config.heads, expand=config.expand, dropout=config.dropout,
            pre_norm=not self.faithful,
        )  # fmt: skip
        if self.faithful:
            self.positions = nn.Parameter(0.02 * torch.randn(MAX_POSITIONS, dim))
            self.norm = nn.LayerNorm(dim)
            return
        if self.marked:
            self.cls = nn.Parameter(0.02 * torch.randn(dim))
            self.sep = nn.Parameter(0.02 * torch.randn(dim))
        self.kind = nn.Parameter(0.1 * torch.randn(len(order), dim))
        self.gain = nn.Parameter(torch.tensor(0.1))

    def forward(self, steps: Sequence[Tensor], valid: Sequence[Tensor], present: Tensor) -> Tensor:
        """Fuse M sequences (B, T_m, dim) with masks (B, T_m) and presence (B, M) into (B, dim)."""
        if self.faithful:
            return self._released(steps)
        placed = [
            x + kind + self.gain * sinusoids(x.shape[-2], x.shape[-1], x)
            for x, kind in zip(steps, self.kind, strict=True)
        ]
        masks = [mask & present[:, index : index + 1] for index, mask in enumerate(valid)]
        if self.marked:
            return self._at_cls(placed, masks, present)
        allowed = torch.cat(masks, -1)
        return masked_mean(self.transformer(torch.cat(placed, -2), allowed), allowed)

    def _at_cls(self, steps: Sequence[Tensor], masks: Sequence[Tensor], present: Tensor) -> Tensor:
        size = present.shape[0]
        pieces, allowed = [self.cls.expand(size, 1, -1)], [torch.ones_like(present[:, :1])]
        for index, (x, mask) in enumerate(zip(steps, masks, strict=True)):
            pieces += [x, (self.sep + self.kind[index]).expand(size, 1, -1)]
            allowed += [mask, present[:, index : index + 1]]
        return self.transformer(torch.cat(pieces, -2), torch.cat(allowed, -1), readout=1).squeeze(-2)  # type: ignore[no-any-return]

    def _released(self, steps: Sequence[Tensor]) -> Tensor:
        mark = torch.zeros_like(steps[0][:, :1])
        sequence = torch.cat([mark, *(piece for i in self.order for piece in (steps[i], mark))], -2)
        sequence = sequence[:, :MAX_POSITIONS]
        sequence = self.norm(sequence + self.positions[: sequence.shape[-2]])
        return self.transformer(sequence, None, readout=1).squeeze(-2)  # type: ignore[no-any-return]


class VectorFusion(nn.Module):
    """Self-attention over one vector per modality, whose states are weighed, put side by side and mapped to one vector.

    Ours: the released encoder reads all steps (`FusionEncoder`).
    """

    def __init__(self, count: int, config: DrkfConfig) -> None:
        super().__init__()
        dim = config.dim
        self.transformer = None
        if count > 1:  # one vector has nothing to attend to
            self.kind = nn.Parameter(0.1 * torch.randn(count, dim))
            self.transformer = Transformer(
                config.fusion_layers, dim, config.heads, expand=config.expand, dropout=config.dropout
            )
        self.reduce = nn.Sequential(nn.Linear(count * dim, dim), nn.GELU(), nn.Dropout(config.fusion_dropout))

    def forward(self, vectors: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        """Fuse vectors (B, M, dim) under weights and presence (B, M) into (B, dim)."""
        states = vectors
        if self.transformer is not None:
            states = self.transformer(vectors + self.kind, present) * weights.unsqueeze(-1)
        return self.reduce(torch.where(present.unsqueeze(-1), states, 0).flatten(-2))  # type: ignore[no-any-return]


class DrkfHead(Head):
    """DRKF with `variant="corrected"` (default) or `"faithful"`; one, two or three modalities."""

    Config = DrkfConfig
    config: DrkfConfig

    def __init__(self, inputs: HeadInputs, config: DrkfConfig) -> None:
        super().__init__(inputs, config)
        dim, names = config.dim, list(inputs.modalities)
        self.faithful = config.variant == "faithful"
        self.over_steps = config.fusion == "steps"
        self.width = dim
        order = sorted(range(len(names)), key=lambda i: self.faithful and names[i] != "audio")  # released: sound first
        self.pairs = list(combinations(order, 2))
        entry = replace(config, modality_dropout=0.0) if self.faithful else config
        self.encoders = ModalityEncoders(inputs, entry, layers=config.adapter_layers, heads=config.heads)
        if not self.over_steps:
            self.fusion_of_vectors = VectorFusion(len(names), config)
            self.classifier = nn.Linear(dim, inputs.outputs)
            if self.pairs:
                self.agreement = Agreement(names, dim, config.ed_size, config.dropout)
            self._representation_parts(names)
            return
        self.fusion = FusionEncoder(order, config)
        self.classifier = nn.Linear(dim, inputs.outputs)
        self._representation_parts(names)
        if self.pairs:
            self.discriminator = nn.Linear(dim, 2 * len(self.pairs))
        if self.faithful and "text" in names:
            self.pooler = nn.Sequential(nn.Linear(dim, dim), nn.Tanh())

    def _representation_parts(self, names: list[str]) -> None:
        """What the terms on the representations need; over steps all of it, as runs of earlier versions have it."""
        config, dim = self.config, self.config.dim
        contrast, guess = bool(config.intra or config.cross), bool(config.kl or config.unimodal)
        if self.over_steps or config.intra or config.mse or config.kl:
            self.augmenters = nn.ModuleDict({m: ResidualCascade(dim, config.blocks) for m in names})
        if self.over_steps or contrast or guess:
            self.projections = nn.ModuleDict(
                {m: nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)) for m in names}
            )
        if self.over_steps or guess:
            self.unimodal = nn.ModuleDict({m: nn.Linear(dim, self.inputs.outputs) for m in names})
        if self.over_steps or contrast:
            self.theta = nn.Parameter(torch.tensor(1.0))

    def fuse(self, batch: Batch) -> Fused:
        """Fuse into (B, dim). Over steps, the shuffled sequences of emotion discrimination ride along in training."""
        steps, valid, present = self.encoders(batch)
        parts: dict[str, Any] = {"steps": steps, "valid": valid, "present": present}
        if not self.over_steps:
            return self._fuse_vectors(parts)
        if not (self.training and self.pairs and self.config.ed and batch.labels is not None):
            return Fused(self.fusion(steps, valid, present), parts)
        member = losses.membership(batch.labels, self.inputs.kind, len(self.inputs.classes), bins=5)
        origins = self._origins(member, present)
        columns = [origins[:, index] for index in range(len(steps))]
        both = self.fusion(
            [torch.cat([x, x[rows]]) for x, rows in zip(steps, columns, strict=True)],
            [torch.cat([mask, mask[rows]]) for mask, rows in zip(valid, columns, strict=True)],
            torch.cat([present, torch.stack([present[rows, i] for i, rows in enumerate(columns)], -1)]),
        )
        parts |= {"member": member, "origins": origins, "shuffled": both[batch.size :]}
        return Fused(both[: batch.size], parts)

    def _fuse_vectors(self, parts: dict[str, Any]) -> Fused:
        present = parts["present"]
        pairs = zip(parts["steps"], parts["valid"], strict=True)
        vectors = torch.stack([masked_mean(x, mask) for x, mask in pairs], -2)
        weights = present.to(vectors.dtype)
        if self.pairs:
            parts["emotions"] = self.agreement(vectors)
            weights = self.agreement.weights(parts["emotions"], present)
        return Fused(self.fusion_of_vectors(vectors, weights, present), parts)

    def classify(self, vector: Tensor) -> Tensor:
        """Emotion classification, (..., dim) to (..., outputs)."""
        return self.classifier(vector)  # type: ignore[no-any-return]

    def auxiliary(self, batch: Batch, fused: Fused, progress: float | Tensor) -> dict[str, Tensor]:
        """Terms of drkf.md section 4: `intra`, `cross`, `mse`, `kl`, `unimodal`, `ed`; of labelled rows."""
        config = self.config
        known = losses.row_weights(batch, self.inputs.kind)
        counted = fused.parts["present"].float() * known.unsqueeze(-1)
        terms: dict[str, Tensor] = {}
        if "emotions" in fused.parts and config.ed and batch.labels is not None:
            member = losses.membership(batch.labels, self.inputs.kind, len(self.inputs.classes), bins=5)
            terms["ed"] = config.ed * self.agreement.loss(fused.parts["emotions"], member, counted)
        if not self.over_steps and not any((config.intra, config.cross, config.mse, config.kl, config.unimodal)):
            return terms
        views = self._views(fused)
        terms |= self._contrast(views, counted)
        if config.mse:
            terms["mse"] = config.mse * self._reconstruction(fused, known)
        if (config.kl or config.unimodal) and batch.labels is not None:
            terms |= self._divergence(batch, views, counted)
        if "shuffled" in fused.parts:
            terms["ed"] = config.ed * self._discrimination(fused)
        return terms

    def _origins(self, member: Tensor, present: Tensor) -> Tensor:
        if self.faithful:
            return all_origins(member.shape[0], present.shape[-1], self.config.ed_limit, member.device)
        return sample_origins(member, present, self.config.ed_rounds)

    def _views(self, fused: Fused) -> dict[str, tuple[Tensor, Tensor]]:
        """Per modality the raw and the augmented vector (B, dim); also leaves the augmented steps in `parts`."""
        views, augmented = {}, []
        for name, x, mask in zip(self.inputs.modalities, fused.parts["steps"], fused.parts["valid"], strict=True):
            changed = self.augmenters[name](x) if hasattr(self, "augmenters") else x
            augmented.append(changed)
            project = self.projections[name] if hasattr(self, "projections") else nn.Identity()
            if self.faithful:  # unmasked means, text through a pooler on the first step, augmented view not projected
                raw = self.pooler(x[:, 0]) if name == "text" else x.mean(-2)
                views[name] = (project(raw), changed.mean(-2))
            else:
                views[name] = (project(masked_mean(x, mask)), project(masked_mean(changed, mask)))
        fused.parts["augmented"] = augmented
        return views

    def _contrast(self, views: dict[str, tuple[Tensor, Tensor]], counted: Tensor) -> dict[str, Tensor]:
        config = self.config
        terms: dict[str, Tensor] = {}
        if not (config.intra or config.cross):
            return terms
        temperature = self.theta.sigmoid()
        if config.intra:
            each = [losses.nt_xent(*pair, temperature, counted[:, i]) for i, pair in enumerate(views.values())]
            terms["intra"] = config.intra * torch.stack(each).sum()
        if config.cross and self.pairs:
            raw = [pair[0] for pair in views.values()]
            both = [
                losses.info_nce(raw[i], raw[j], temperature, counted[:, i] * counted[:, j], symmetric=not self.faithful)
                for i, j in self.pairs
            ]
            terms["cross"] = config.cross * torch.stack(both).mean()
        return terms

    def _reconstruction(self, fused: Fused, known: Tensor) -> Tensor:
        each = []
        for changed, x, valid in zip(fused.parts["augmented"], fused.parts["steps"], fused.parts["valid"], strict=True):
            mask = torch.ones_like(valid) if self.faithful else valid
            target = x if self.faithful else x.detach()
            each.append(losses.masked_mse(changed, target, mask * known.unsqueeze(-1)))
        return torch.stack(each).sum()

    def _divergence(self, batch: Batch, views: dict[str, tuple[Tensor, Tensor]], counted: Tensor) -> dict[str, Tensor]:
        assert batch.labels is not None
        if self.faithful:
            known = losses.row_weights(batch, self.inputs.kind)
            return {"kl": self._released_kl(views, known)} if self.config.kl else {}
        kind, config = self.inputs.kind, self.config
        divergence, own = [], []
        for index, (name, (raw, changed)) in enumerate(views.items()):
            guess, after = self.unimodal[name](raw), self.unimodal[name](changed)
            weight = counted[:, index]
            own.append(losses.prediction_loss(guess, batch.labels, kind, weight))
            if config.kl_target == "label":
                divergence.append(losses.prediction_loss(after, batch.labels, kind, weight))
            else:
                divergence.append(losses.output_divergence(guess, after, kind, weight))
        terms: dict[str, Tensor] = {}
        if config.kl:
            terms["kl"] = config.kl * torch.stack(divergence).sum()
        if config.unimodal:
            terms["unimodal"] = config.unimodal * torch.stack(own).sum()
        return terms

    def _released_kl(self, views: dict[str, tuple[Tensor, Tensor]], known: Tensor) -> Tensor:
        """As released: every modality's term is built from the text views and the text classifier."""
        name = "text" if "text" in views else next(iter(views))
        raw, changed = views[name]
        classify = self.unimodal[name]
        term = losses.pseudo_kl(classify(raw).softmax(-1), classify(changed).softmax(-1), known)
        return self.config.kl**2 * len(views) * term

    def _discrimination(self, fused: Fused) -> Tensor:
        """Per pair of modalities: do their donors share an emotion? Two-way cross-entropy, averaged over pairs."""
        parts = fused.parts
        answers = split_last(self.discriminator(parts["shuffled"]).float(), len(self.pairs), 2).log_softmax(-1)
        each = []
        for index, (first, second) in enumerate(self.pairs):
            target, weight = pair_targets(parts["member"], parts["present"], parts["origins"], first, second)
            answer = answers[:, index]
            each.append(losses.weighted_mean(-(target * answer[:, 1] + (1 - target) * answer[:, 0]), weight))
        return torch.stack(each).mean()
