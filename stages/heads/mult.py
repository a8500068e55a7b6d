"""Cross-modal transformer in the shape of MulT (Tsai et al., ACL 2019).

Every modality attends to every other one through its own stack of cross-modal layers; the results are joined per target
modality, pass a self-attention layer, are pooled and concatenated. Ours: masked means where MulT reads the last step,
linear adapters where it convolves over time, masks for padding and absent modalities.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Batch, Fused, Head, HeadInputs
from .configs import MultConfig
from .inputs import ModalityEncoders
from .layers import Transformer, masked_mean, sinusoids


class MultHead(Head):
    """Cross-modal transformer with one (then plain self-attention), two or three modalities."""

    Config = MultConfig
    config: MultConfig

    def __init__(self, inputs: HeadInputs, config: MultConfig) -> None:
        super().__init__(inputs, config)
        dim, names = config.dim, list(inputs.modalities)
        joined = dim * max(1, len(names) - 1)
        self.width = joined * len(names)
        self.encoders = ModalityEncoders(inputs, config)

        def stack(layers: int, width: int) -> Transformer:
            return Transformer(layers, width, config.heads, expand=config.expand, dropout=config.dropout)

        self.cross = nn.ModuleDict(
            {f"{to}_from_{source}": stack(config.layers, dim) for to in names for source in names if to != source}
        )
        self.memory = nn.ModuleDict({m: stack(config.memory_layers, joined) for m in names})
        self.gain = nn.Parameter(torch.tensor(0.1))
        self.residual = nn.Sequential(
            nn.Linear(self.width, self.width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(self.width, self.width),
        )
        self.classifier = nn.Linear(self.width, inputs.outputs)

    def fuse(self, batch: Batch) -> Fused:
        """Fuse into (B, M * (M - 1) * dim)."""
        names = list(self.inputs.modalities)
        encoded, masks, _ = self.encoders(batch)
        placed = [x + self.gain * sinusoids(x.shape[-2], x.shape[-1], x) for x in encoded]
        steps, valid = dict(zip(names, placed, strict=True)), dict(zip(names, masks, strict=True))
        pooled = []
        for to in names:
            views = [
                self.cross[f"{to}_from_{source}"](steps[to], valid[source], steps[source])
                for source in names
                if source != to
            ]
            x = torch.cat(views, -1) if views else steps[to]
            pooled.append(masked_mean(self.memory[to](x, valid[to]), valid[to]))
        vector = torch.cat(pooled, -1)
        return Fused(vector + self.residual(vector))

    def classify(self, vector: Tensor) -> Tensor:
        """(..., width) to (..., outputs)."""
        return self.classifier(vector)  # type: ignore[no-any-return]
