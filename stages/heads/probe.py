"""Probes: how far pooled features get with nothing, or one hidden layer, on top. Unimodal when one modality is used."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import ALL_STEPS, Batch, Fused, Head, HeadInputs
from .configs import LinearConfig, MlpConfig
from .layers import check_stack, chosen_layers, masked_mean, mix_layers, presence

START = 1e-3
"""Standard deviation of a linear probe's first weights."""


class LinearHead(Head):
    """Masked means of the modalities side by side, one linear layer. An absent modality contributes zeros."""

    Config = LinearConfig
    config: LinearConfig

    def __init__(self, inputs: HeadInputs, config: LinearConfig) -> None:
        super().__init__(inputs, config)
        shapes = inputs.modalities
        check_stack(config.stack, shapes.values())
        self.pooling = dict.fromkeys(shapes, ALL_STEPS)
        self.stacked = {m: shape for m, shape in shapes.items() if shape.stack > 1 and config.stack != "concat"}
        mixed = self.stacked if config.stack == "mix" else {}
        self.mix = nn.ParameterDict({m: torch.zeros(shape.stack) for m, shape in mixed.items()})
        for name, shape in self.stacked.items():
            if name not in self.mix:
                self.register_buffer(f"share_{name}", chosen_layers(config.stack, shape.stack), persistent=False)
        self.dropout = nn.Dropout(config.input_dropout)
        self.width = sum(shape.dim * (1 if m in self.stacked else shape.stack) for m, shape in shapes.items())
        self.classifier = nn.Linear(self.width, inputs.outputs)
        # Where features outnumber the training rows, what a random start puts beside the rows' span stays there.
        nn.init.normal_(self.classifier.weight, std=START)
        nn.init.zeros_(self.classifier.bias)

    def pooled(self, batch: Batch) -> Tensor:
        """Masked means, layers side by side, mixed or chosen, of shape (B, sum of the widths)."""
        present = presence(batch, self.inputs.modalities, self.config.modality_dropout, self.training)
        vectors = []
        for index, (name, shape) in enumerate(self.inputs.modalities.items()):
            mask = batch.valid[name] & present[:, index : index + 1]
            x = masked_mean(batch.values[name], mask).to(self.classifier.weight.dtype)
            if name in self.stacked:
                share = self.mix[name].softmax(0) if name in self.mix else getattr(self, f"share_{name}")
                x = mix_layers(x, share, shape)
            vectors.append(x)
        return self.dropout(torch.cat(vectors, -1))  # type: ignore[no-any-return]

    def fuse(self, batch: Batch) -> Fused:
        """The pooled features themselves."""
        return Fused(self.pooled(batch))

    def classify(self, vector: Tensor) -> Tensor:
        """(..., width) to (..., outputs)."""
        return self.classifier(vector)  # type: ignore[no-any-return]


class MlpHead(LinearHead):
    """The same pooled features through hidden layers of Linear, LayerNorm, GELU, dropout."""

    Config = MlpConfig
    config: MlpConfig

    def __init__(self, inputs: HeadInputs, config: MlpConfig) -> None:
        super().__init__(inputs, config)
        layers: list[nn.Module] = []
        for _ in range(config.layers):
            layers += [nn.Linear(self.width, config.dim), nn.LayerNorm(config.dim), nn.GELU()]
            layers += [nn.Dropout(config.dropout)]
            self.width = config.dim
        self.hidden = nn.Sequential(*layers)
        self.classifier = nn.Linear(self.width, inputs.outputs)

    def fuse(self, batch: Batch) -> Fused:
        """The last hidden layer, (B, dim)."""
        return Fused(self.hidden(self.pooled(batch)))
