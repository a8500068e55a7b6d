"""Loss terms of the heads, each a mean over weighted rows, in float32 whatever the autocast.

Rows carry weights of 0 or 1 instead of being selected, so shapes never depend on the data; a term none of whose rows
count is 0 and stays attached to the graph.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Batch

P = ParamSpec("P")
BLOCKED = -1e9
"""Logit of an excluded candidate (float32)."""


def in_float32(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Run a loss with autocast off and its floating tensors in float32."""

    def widen(value: object) -> object:
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        kind = next((value.device.type for value in args if isinstance(value, Tensor)), "cpu")
        with torch.autocast(kind, enabled=False):
            return function(*map(widen, args), **{name: widen(value) for name, value in kwargs.items()})  # type: ignore[arg-type]

    return wrapped


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of `values` under weights of the same shape; 0 when all weights are 0."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)


def ramp(progress: float | Tensor) -> float | Tensor:
    """DANN's schedule `2 / (1 + exp(-10 p)) - 1`, from 0 at the start to about 1; equals `tanh(5 p)`."""
    return torch.tanh(5 * progress) if isinstance(progress, Tensor) else math.tanh(5 * progress)


# ---------------------------------------------------------------------------------------------------- targets


def known_rows(labels: Tensor, kind: str) -> Tensor:
    """Which rows are labelled: (B,) bool."""
    if kind == "class":
        return labels >= 0
    return ~labels.isnan() if kind == "real" else ~labels.isnan().any(-1)


def row_weights(batch: Batch, kind: str) -> Tensor:
    """1 for rows that may be learned from, 0 for unlabelled ones: (B,) float. Without any labels all rows count."""
    if batch.labels is None:
        return torch.ones_like(next(iter(batch.present.values())), dtype=torch.float32)
    return known_rows(batch.labels, kind).float()


def membership(labels: Tensor, kind: str, classes: int, bins: int) -> Tensor:
    """Rows by classes, shape (B, K) of 0 and 1; an unlabelled row is all 0.

    Numbers have no classes, so `real` rows are put into `bins` quantile groups of the batch (equal numbers share one).
    """
    if kind == "class":
        return (labels.unsqueeze(-1) == torch.arange(classes, device=labels.device)).float()
    if kind == "multi":
        return (labels.nan_to_num() > 0.5).float()
    known = known_rows(labels, kind).float()
    values = labels.nan_to_num()
    below = (values.unsqueeze(0) < values.unsqueeze(1)).float() + 0.5 * (values.unsqueeze(0) == values.unsqueeze(1))
    rank = (below * known).sum(-1) / known.sum().clamp(min=1)
    group = (rank * bins).long().clamp(max=bins - 1)
    return (group.unsqueeze(-1) == torch.arange(bins, device=labels.device)).float() * known.unsqueeze(-1)


@in_float32
def prediction_loss(outputs: Tensor, labels: Tensor, kind: str, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy, binary cross-entropy or squared error, averaged over labelled rows of weight 1.

    Parameters
    ----------
    outputs
        Shape (B, C), or (B, 1) for `real`.
    labels
        As in `Batch.labels`.
    kind
        `class`, `multi` or `real`.
    weight
        Shape (B,); None counts every labelled row.
    """
    rows = known_rows(labels, kind).float()
    rows = rows if weight is None else rows * weight
    if kind == "class":
        loss = -(outputs.log_softmax(-1) * membership(labels, kind, outputs.shape[-1], 0)).sum(-1)
    elif kind == "multi":
        loss = F.binary_cross_entropy_with_logits(outputs, labels.nan_to_num(), reduction="none").mean(-1)
    else:
        loss = (outputs.squeeze(-1) - labels.nan_to_num()).square()
    return weighted_mean(loss, rows)


# ---------------------------------------------------------------------------------- contrast (drkf.md section 4)


@in_float32
def nt_xent(first: Tensor, second: Tensor, temperature: Tensor | float, weight: Tensor | None = None) -> Tensor:
    """NT-Xent of two views (B, d): each of the 2B vectors must find its other view among the 2B - 1 others."""
    size = first.shape[0]
    rows = torch.ones(size, device=first.device) if weight is None else weight
    views = F.normalize(torch.cat([first, second]), dim=-1)
    both = torch.cat([rows, rows])
    allowed = ~torch.eye(2 * size, dtype=torch.bool, device=first.device) & (both > 0)
    scores = torch.where(allowed, views @ views.T / temperature, BLOCKED)
    positive = (views[:size] * views[size:]).sum(-1) / temperature
    return weighted_mean(scores.logsumexp(-1) - torch.cat([positive, positive]), both)


@in_float32
def info_nce(
    query: Tensor, key: Tensor, temperature: Tensor | float, weight: Tensor | None = None, symmetric: bool = False
) -> Tensor:
    """InfoNCE of paired vectors (B, d): `query` i must find `key` i; the mean of both directions if `symmetric`."""
    rows = torch.ones(query.shape[0], device=query.device) if weight is None else weight
    scores = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).T / temperature
    scores = torch.where((rows > 0).unsqueeze(0) & (rows > 0).unsqueeze(1), scores, BLOCKED)
    positive = scores.diagonal(dim1=-2, dim2=-1)
    loss = weighted_mean(scores.logsumexp(-1) - positive, rows)
    if symmetric:
        loss = (loss + weighted_mean(scores.logsumexp(-2) - positive, rows)) / 2
    return loss


# ------------------------------------------------------------------------------ reconstruction and divergence


@in_float32
def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the elements of the steps in `mask` (B, T)."""
    return weighted_mean((prediction - target).square().mean(-1), mask)


def _times_log(share: Tensor) -> Tensor:
    """`x log x`, 0 at 0, where `torch.xlogy` would give a NaN gradient."""
    return share * share.clamp(min=torch.finfo(share.dtype).tiny).log()


@in_float32
def pseudo_kl(p: Tensor, q: Tensor, weight: Tensor | None = None) -> Tensor:
    """The released code's "KL": mean of `q (log q - p)` over the elements of rows of weight 1; can be negative.

    `p` is not in log space.
    """
    rows = torch.ones(p.shape[0], device=p.device) if weight is None else weight
    return weighted_mean((_times_log(q) - q * p).mean(-1), rows)


@in_float32
def kl_divergence(p: Tensor, log_q: Tensor, weight: Tensor | None = None) -> Tensor:
    """`KL(p || q)` of distributions (B, C), the second as its logarithm, averaged over rows of weight 1."""
    rows = torch.ones(p.shape[0], device=p.device) if weight is None else weight
    return weighted_mean((_times_log(p) - p * log_q).sum(-1), rows)


@in_float32
def output_divergence(target: Tensor, output: Tensor, kind: str, weight: Tensor) -> Tensor:
    """KL between the distributions two output vectors stand for; `target` gets no gradient.

    Categorical for `class`, independent Bernoulli for `multi` (mean over classes), unit-variance normal for `real`.
    """
    target = target.detach()
    if kind == "class":
        return kl_divergence(target.softmax(-1), output.log_softmax(-1), weight)
    if kind == "real":
        return weighted_mean((target - output).square().sum(-1) / 2, weight)
    p = target.sigmoid()
    cross = F.binary_cross_entropy_with_logits(output, p, reduction="none")
    entropy = F.binary_cross_entropy_with_logits(target, p, reduction="none")
    return weighted_mean((cross - entropy).mean(-1), weight)
