"""What the recurrent baselines share: modalities cut into the same number of steps, and an LSTM that can be stacked.

The published models read word-aligned features. Cached modalities are not aligned, so each utterance's steps are
averaged into `segments` equal parts of its length: the same part of every modality is about the same time. The LSTM is
written as plain products, since `torch.func.vmap` has no rule for PyTorch's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Batch, HeadInputs
from .configs import RecurrentConfig
from .inputs import ModalityEncoders


def segment_means(x: Tensor, valid: Tensor, segments: int) -> Tensor:
    """Mean of the valid steps in each of `segments` equal parts: (B, T, d), (B, T) to (B, segments, d).

    With fewer steps than parts a step stands in several; a row without steps gives zeros.
    """
    place = valid.cumsum(-1).unsqueeze(-2) - 1
    count = valid.sum(-1)[..., None, None]
    part = torch.arange(segments, device=x.device).unsqueeze(-1)
    start = torch.div(part * count, segments, rounding_mode="floor")
    stop = torch.maximum(start + 1, torch.div((part + 1) * count, segments, rounding_mode="floor"))
    share = ((place >= start) & (place < stop) & valid.unsqueeze(-2)).to(x.dtype)
    return share @ torch.where(valid.unsqueeze(-1), x, 0) / share.sum(-1, keepdim=True).clamp(min=1)


class LstmCell(nn.Module):
    """One step of an LSTM, with the gates in PyTorch's order: input, forget, cell, output."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.from_input = nn.Linear(dim, 4 * hidden)
        self.from_state = nn.Linear(hidden, 4 * hidden)

    def start(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Zero state and cell for inputs (B, T, dim)."""
        zero = x.new_zeros(*x.shape[:-2], self.hidden)
        return zero, zero

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Take a step (B, dim) and the pair of state and cell (B, hidden) to the next pair."""
        let, keep, new, out = (self.from_input(x) + self.from_state(state[0])).chunk(4, -1)
        cell = keep.sigmoid() * state[1] + let.sigmoid() * new.tanh()
        return out.sigmoid() * cell.tanh(), cell


class AlignedModalities(nn.Module):
    """Adapter of every modality and its means over equal parts of the utterance."""

    def __init__(self, inputs: HeadInputs, config: RecurrentConfig) -> None:
        super().__init__()
        self.segments = config.segments
        self.encoders = ModalityEncoders(inputs, config)

    def forward(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Per modality (B, segments, dim), zeros where it is absent; and presence (B, M)."""
        steps, valid, present = self.encoders(batch)
        return [segment_means(x, mask, self.segments) for x, mask in zip(steps, valid, strict=True)], present
