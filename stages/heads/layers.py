"""Building blocks of the heads.

All of them keep fixed shapes and never branch on data, so that `torch.func.vmap` can run stacked copies of a head
(seeds and folds side by side) and `torch.compile` or CUDA graphs can capture a step. Padding may hold anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mer.cache import MerError

from ..encoders.layers import choose_layers
from .base import Batch, ModalityShape

MASKED = -1e4
"""Attention logit of a masked step: zero weight after the softmax, finite in every floating type."""


def split_last(x: Tensor, *sizes: int) -> Tensor:
    """Split the last axis into axes of these sizes."""
    return x.reshape(*x.shape[:-1], *sizes)


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of the True steps, (..., T, d) and (..., T) to (..., d), as one product: reads `x` once, copies nothing.

    Steps outside the mask may hold any finite number.
    """
    with torch.autocast(x.device.type, enabled=False):
        return (mask.to(x.dtype).unsqueeze(-2) @ x).squeeze(-2)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the steps where `mask` (..., T) is True: (..., T, d) to (..., d); zeros for a row without steps."""
    return masked_sum(x, mask) / mask.sum(-1, keepdim=True).clamp(min=1).to(x.dtype)


def locked_dropout(x: Tensor, probability: float) -> Tensor:
    """Drop whole features of a sequence (..., T, D), the same ones at every step: far fewer random numbers."""
    kept = torch.rand((*x.shape[:-2], 1, x.shape[-1]), device=x.device) >= probability
    return x * (kept.to(x.dtype) / (1 - probability))


def sinusoids(length: int, dim: int, like: Tensor) -> Tensor:
    """Sinusoidal position codes of shape (length, dim), on the device and in the dtype of `like`."""
    half = dim // 2
    rate = torch.exp(torch.arange(half, device=like.device) * (-math.log(10_000.0) / max(half - 1, 1)))
    angle = torch.arange(length, device=like.device).unsqueeze(1) * rate
    return F.pad(torch.cat([angle.sin(), angle.cos()], 1), (0, dim - 2 * half)).to(like.dtype)


def reverse_gradient(x: Tensor, factor: float | Tensor) -> Tensor:
    """Gradient reversal (DANN): `x` forward, `-factor` times the gradient backward."""
    return x.detach() + factor * (x.detach() - x)


def mlp(dim: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    """Linear, GELU, dropout, Linear."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, out))


def presence(batch: Batch, modalities: Iterable[str], drop: float, training: bool) -> Tensor:
    """Which modality each utterance brings, shape (B, M) bool, in the order of `modalities`.

    A modality without a valid step counts as absent. Training drops each with probability `drop`, but never all.
    """
    here = torch.stack([batch.present[m] & batch.valid[m].any(-1) for m in modalities], -1)
    if not training or drop == 0 or here.shape[-1] == 1:
        return here
    kept = here & (torch.rand(here.shape, device=here.device) >= drop)
    return torch.where(kept.any(-1, keepdim=True), kept, here)


def drop_steps(valid: Tensor, probability: float) -> Tensor:
    """Hide single steps (tokens) at random, never all of a row: (B, T) to (B, T)."""
    kept = valid & (torch.rand(valid.shape, device=valid.device) >= probability)
    return torch.where(kept.any(-1, keepdim=True), kept, valid)


def span_mask(valid: Tensor, probability: float, span: int) -> Tensor:
    """Draw spans covering about `probability` of the steps, as SpecAugment's time masking does: (B, T) bool."""
    starts = (torch.rand(valid.shape, device=valid.device) < probability / span).float()
    return (F.max_pool1d(F.pad(starts, (span - 1, 0)), span, 1) > 0) & valid


def chosen_layers(choice: str, stack: int) -> Tensor:
    """Share of each of `stack` layers, numbered from 0, in the mean of those that `choice` names (as `--layers` does).

    Raises
    ------
    MerError
        If the choice is none, or names a layer that is not there.
    """
    layers = choose_layers(choice, stack - 1).layers
    share = torch.zeros(stack)
    share[list(layers)] = 1 / len(layers)
    return share


def check_stack(choice: str, shapes: Iterable[ModalityShape]) -> None:
    """Refuse a choice of layers where no features have several, since it would do nothing."""
    if choice not in ("mix", "concat") and all(shape.stack == 1 for shape in shapes):
        raise MerError(
            f"head.stack = {choice!r} chooses layers, and these features have one; extract with --layers all"
        )


def mix_layers(x: Tensor, share: Tensor, shape: ModalityShape) -> Tensor:
    """Map (..., stack * dim) to (..., dim), the layers weighted by `share` of shape (stack,)."""
    return (split_last(x, shape.stack, shape.dim) * share.to(x.dtype).unsqueeze(-1)).sum(-2)


class Adapter(nn.Module):
    """One modality's way in: layer mix, noise, `LN(Linear(x))`.

    Parameters
    ----------
    shape
        Width and number of stacked layers; a stack is mixed by learned softmax weights.
    dim
        Width of the result.
    dropout
        Share of the input features dropped in training, for all steps of an utterance alike.
    noise
        Standard deviation of Gaussian noise added to the (normalised) features in training.
    hide_steps
        Probability of hiding a step in training (for tokens).
    hide_spans
        Share of steps zeroed in spans of `span` steps in training (for frames).
    input_norm
        Normalise each input row first.
    stack
        `mix`, or which of the stacked layers to take (`chosen_layers`).
    """

    share: Tensor | None

    def __init__(
        self,
        shape: ModalityShape,
        dim: int,
        *,
        dropout: float = 0.0,
        noise: float = 0.0,
        hide_steps: float = 0.0,
        hide_spans: float = 0.0,
        span: int = 10,
        input_norm: bool = False,
        stack: str = "mix",
    ) -> None:
        super().__init__()
        self.shape, self.noise, self.dropout = shape, noise, dropout
        self.hide_steps, self.hide_spans, self.span = hide_steps, hide_spans, span
        mixed = shape.stack > 1 and stack == "mix"
        self.mix = nn.Parameter(torch.zeros(shape.stack)) if mixed else None
        share = chosen_layers(stack, shape.stack) if shape.stack > 1 and not mixed else None
        self.register_buffer("share", share, persistent=False)
        self.input_norm = nn.LayerNorm(shape.dim) if input_norm else nn.Identity()
        self.linear = nn.Linear(shape.dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, stack * dim), (B, T) to (B, T, dim), (B, T); invalid steps come out as zeros."""
        x = values.to(self.linear.weight.dtype)
        share = self.share if self.mix is None else self.mix.softmax(0)
        if share is not None:
            x = mix_layers(x, share, self.shape)
        if self.training:
            x, valid = self._disturb(x, valid)
        x = self.input_norm(x)
        if self.training and self.dropout:
            x = locked_dropout(x, self.dropout)
        return torch.where(valid.unsqueeze(-1), self.norm(self.linear(x)), 0), valid

    def _disturb(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        if self.noise:
            x = x + self.noise * torch.randn(x.shape, device=x.device, dtype=x.dtype)
        if self.hide_spans:
            x = torch.where(span_mask(valid, self.hide_spans, self.span).unsqueeze(-1), 0, x)
        if self.hide_steps:
            valid = drop_steps(valid, self.hide_steps)
        return x, valid


class Attention(nn.Module):
    """Multi-head attention with a key mask, as plain matrix products: they vmap, and a row without keys gives zeros."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor, valid: Tensor | None) -> Tensor:
        """Attend from `x` (B, N, dim) to `memory` (B, T, dim) where `valid` (B, T) or (B, N, T) is True.

        None attends everywhere.
        """
        query = split_last(self.query(x), self.heads, -1).transpose(-2, -3)
        key, value = split_last(self.key_value(memory), 2 * self.heads, -1).transpose(-2, -3).chunk(2, -3)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if valid is None:
            return self._merge(scores, value)
        allowed = valid if valid.ndim == memory.ndim else valid.unsqueeze(-2)
        merged = self._merge(torch.where(allowed.unsqueeze(-3), scores, MASKED), value)
        return merged * allowed.any(-1, keepdim=True).to(merged.dtype)

    def _merge(self, scores: Tensor, value: Tensor) -> Tensor:
        mixed = (scores.softmax(-1).to(value.dtype) @ value).transpose(-2, -3)
        return self.out(mixed.flatten(-2))  # type: ignore[no-any-return]


class TransformerLayer(nn.Module):
    """Attention and feed-forward with residuals; norms before (default) or, as in BERT, after.

    With `memory` it attends to another sequence (normalised by the same norm), else to itself.
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, pre_norm: bool = True) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = Attention(dim, heads)
        self.feed = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor | None, memory: Tensor | None = None, readout: int = 0) -> Tensor:
        """Map (B, T, dim) to (B, T, dim), or to the first `readout` steps only, which costs far less."""
        source = x if memory is None else memory
        x = x[..., :readout, :] if readout else x
        if self.pre_norm:
            keys = self.norm1(source)
            queries = (keys[..., :readout, :] if readout else keys) if memory is None else self.norm1(x)
            x = x + self.dropout(self.attention(queries, keys, valid))
            return x + self.dropout(self.feed(self.norm2(x)))  # type: ignore[no-any-return]
        x = self.norm1(x + self.dropout(self.attention(x, source, valid)))
        return self.norm2(x + self.dropout(self.feed(x)))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """A stack of layers with a final norm (pre-norm only)."""

    def __init__(
        self, layers: int, dim: int, heads: int, *, expand: int = 2, dropout: float = 0.1, pre_norm: bool = True
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerLayer(dim, heads, expand * dim, dropout, pre_norm) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim) if pre_norm and layers else nn.Identity()

    def forward(self, x: Tensor, valid: Tensor | None, memory: Tensor | None = None, readout: int = 0) -> Tensor:
        """Map (B, T, dim) to (B, T, dim), or to (B, readout, dim): the last layer then computes only those steps."""
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x = layer(x, valid, memory, readout if index == last else 0)
        return self.norm(x)  # type: ignore[no-any-return]


class AttentivePool(nn.Module):
    """Masked attentive pooling: `s_t = w tanh(W h_t)`, softmax over the valid steps; zeros for a row without any."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, dim)
        self.score = nn.Linear(dim, 1, bias=False)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Map (B, T, dim), (B, T) to (B, dim)."""
        return (self.weights(x, valid).unsqueeze(-2) @ x).squeeze(-2)

    def weights(self, x: Tensor, valid: Tensor) -> Tensor:
        """Weights of the steps, (B, T); they add up to 1 over the valid ones."""
        score = torch.where(valid, self.score(self.hidden(x).tanh()).squeeze(-1), MASKED)
        return score.softmax(-1).to(x.dtype) * valid.to(x.dtype)


class StatisticsPool(nn.Module):
    """Attentive statistics pooling (Okabe et al., Interspeech 2018): weighted mean and standard deviation, mapped to d.

    Zeros for a row without valid steps.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention = AttentivePool(dim)
        self.out = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Map (B, T, dim), (B, T) to (B, dim)."""
        weight = self.attention.weights(x, valid).unsqueeze(-2)
        mean = (weight @ x).squeeze(-2)
        spread = (weight @ (x - mean.unsqueeze(-2)).square()).squeeze(-2).clamp(min=1e-6).sqrt()
        return self.out(torch.cat([mean, spread], -1)) * valid.any(-1, keepdim=True).to(x.dtype)  # type: ignore[no-any-return]


class SequenceEncoder(nn.Module):
    """Adapter, position codes with a learned gain, and a transformer; without layers it is the adapter alone."""

    def __init__(self, adapter: Adapter, layers: int, dim: int, heads: int, *, expand: int, dropout: float) -> None:
        super().__init__()
        self.adapter = adapter
        self.transformer = Transformer(layers, dim, heads, expand=expand, dropout=dropout) if layers else None
        self.gain = nn.Parameter(torch.tensor(0.1)) if layers else None

    def forward(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, stack * D), (B, T) to (B, T, dim), (B, T)."""
        x, valid = self.adapter(values, valid)
        if self.transformer is None or self.gain is None:
            return x, valid
        x = x + self.gain * sinusoids(x.shape[-2], x.shape[-1], x)
        return self.transformer(x, valid), valid
