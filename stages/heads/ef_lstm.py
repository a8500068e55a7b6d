"""EF-LSTM: an LSTM over the modalities side by side at every step (the early fusion baseline of MMSA).

Published: concatenation, LSTM, dropout, Linear, ReLU, dropout, Linear. Ours: equal parts of the utterance in place of
aligned words, adapters in place of batch norm over the steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Batch, Fused, Head, HeadInputs
from .configs import EfLstmConfig
from .recurrent import AlignedModalities, LstmCell


class EfLstmHead(Head):
    """Early fusion by one LSTM. An absent modality contributes zeros."""

    Config = EfLstmConfig
    config: EfLstmConfig

    def __init__(self, inputs: HeadInputs, config: EfLstmConfig) -> None:
        super().__init__(inputs, config)
        self.width = config.hidden
        self.aligned = AlignedModalities(inputs, config)
        self.lstm = LstmCell(len(inputs.modalities) * config.dim, config.hidden)
        self.out = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(config.hidden, config.hidden), nn.ReLU(), nn.Dropout(config.dropout)
        )
        self.classifier = nn.Linear(config.hidden, inputs.outputs)

    def fuse(self, batch: Batch) -> Fused:
        """State after the last part through one ReLU layer, (B, hidden)."""
        each, _ = self.aligned(batch)
        x = torch.cat(each, -1)
        state = self.lstm.start(x)
        for step in x.unbind(-2):
            state = self.lstm(step, state)
        return Fused(self.out(state[0]))

    def classify(self, vector: Tensor) -> Tensor:
        """(..., hidden) to (..., outputs)."""
        return self.classifier(vector)  # type: ignore[no-any-return]
