"""Dialogue context: a light layer over the fused vectors of one dialogue, in turn order, that any head can carry.

Both layers are residual, so an utterance alone in its dialogue is still told by its own vector.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from mer.cache import MerError

from .configs import CONTEXTS, ContextConfig, one_of
from .layers import Transformer, sinusoids


class RecurrentContext(nn.Module):
    """GRUs over the turns, forward and (unless causal) backward. Not for `torch.func.vmap`, which knows no GRU."""

    def __init__(self, width: int, config: ContextConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.forward_gru = nn.GRU(width, config.hidden, config.layers, batch_first=True)
        self.backward_gru = None if config.causal else nn.GRU(width, config.hidden, config.layers, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.hidden * (1 if config.causal else 2), width)

    def forward(self, vectors: Tensor, valid: Tensor) -> Tensor:
        """Map (dialogues, turns, width) to the same shape; the True turns of `valid` must come first in each row."""
        x = self.dropout(self.norm(vectors)) * valid.unsqueeze(-1)
        states = [_run(self.forward_gru, x)]
        if self.backward_gru is not None:
            turn = torch.arange(valid.shape[-1], device=valid.device)
            last = valid.sum(-1, keepdim=True) - 1
            order = torch.where(turn <= last, last - turn, turn).unsqueeze(-1)
            mirrored = _run(self.backward_gru, torch.take_along_dim(x, order, -2))
            states.append(torch.take_along_dim(mirrored, order, -2))
        return vectors + self.out(self.dropout(torch.cat(states, -1)))  # type: ignore[no-any-return]


def _run(gru: nn.GRU, x: Tensor) -> Tensor:
    """States of every turn, in float32: under autocast, cuDNN takes float16 for its own layers."""
    with torch.autocast(x.device.type, enabled=False):
        states: Tensor = gru(x.float())[0]
    return states


class AttentionContext(nn.Module):
    """Self-attention over the turns; causal sees the present and earlier turns only."""

    def __init__(self, width: int, config: ContextConfig) -> None:
        super().__init__()
        self.causal = config.causal
        self.into = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.hidden), nn.Dropout(config.dropout))
        self.gain = nn.Parameter(torch.tensor(0.1))
        self.transformer = Transformer(config.layers, config.hidden, config.heads, dropout=config.dropout)
        self.out = nn.Linear(config.hidden, width)

    def forward(self, vectors: Tensor, valid: Tensor) -> Tensor:
        """Map (dialogues, turns, width) to the same shape."""
        x = self.into(vectors)
        x = x + self.gain * sinusoids(x.shape[-2], x.shape[-1], x)
        seen = valid.unsqueeze(-2)
        if self.causal:
            turn = torch.arange(valid.shape[-1], device=valid.device)
            seen = seen & (turn.unsqueeze(-2) <= turn.unsqueeze(-1))
        return vectors + self.out(self.transformer(x, seen))  # type: ignore[no-any-return]


def make_context(kind: str, width: int, settings: Mapping[str, Any]) -> nn.Module:
    """Build a context layer over vectors of `width`.

    Raises
    ------
    MerError
        If the kind or a setting is unknown.
    """
    one_of("kind", kind, CONTEXTS[1:], section="context")
    known = [field.name for field in fields(ContextConfig)]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise MerError(f"unknown setting context.{name}; {hint}")
    config = ContextConfig(**settings)
    return RecurrentContext(width, config) if kind == "bigru" else AttentionContext(width, config)
