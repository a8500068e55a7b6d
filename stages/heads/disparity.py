"""Fine-grained disparity: class-wise redundancy between vectors that should differ (fdrl.md section 4.3).

A reconstruction, as `alignment`. All estimators take batches of pairs: vectors (..., B, d) and rows by classes
(..., B, K), with rows zeroed where either side is absent; one column of ones gives the marginal (global) form.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import in_float32

SMALLEST_CLASS = 4
"""The debiased estimator needs this many rows of a class; smaller classes are skipped."""


def _sums(first: Tensor, second: Tensor, member: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per class of Gram matrices K, L (..., B, B): tr(KL), 1'K1, 1'L1 and 1'KL1, each (..., K)."""
    trace = (member * ((first * second) @ member)).sum(-2)
    one, two = first @ member, second @ member
    return trace, (member * one).sum(-2), (member * two).sum(-2), (member * one * two).sum(-2)


def unbiased_hsic(first: Tensor, second: Tensor, member: Tensor) -> Tensor:
    """Debiased HSIC within each class, averaged with the class sizes as weights.

    `first` and `second` are Gram matrices (..., B, B) with zero diagonal; classes under `SMALLEST_CLASS` are skipped.
    """
    count = member.sum(-2)
    kept = (count >= SMALLEST_CLASS).float()
    n = count.clamp(min=SMALLEST_CLASS)
    trace, one, two, cross = _sums(first, second, member)
    hsic = (trace + one * two / ((n - 1) * (n - 2)) - 2 / (n - 2) * cross) / (n * (n - 3))
    weight = kept * count
    return (hsic * weight).sum(-1) / weight.sum(-1).clamp(min=1)


@in_float32
def class_cka(first: Tensor, second: Tensor, member: Tensor) -> Tensor:
    """Debiased class-conditional CKA of row-normalised vectors: about 0 if independent within classes, 1 if equal.

    The denominator gets no gradient. Shape (...).
    """
    hollow = 1 - torch.eye(first.shape[-2], device=first.device)
    one, two = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    one, two = one @ one.transpose(-1, -2) * hollow, two @ two.transpose(-1, -2) * hollow
    with torch.no_grad():
        own = unbiased_hsic(one, one, member).clamp(min=1e-6) * unbiased_hsic(two, two, member).clamp(min=1e-6)
    return (unbiased_hsic(one, two, member) / own.sqrt()).relu()


@in_float32
def class_hsic(first: Tensor, second: Tensor, member: Tensor) -> Tensor:
    """Biased linear HSIC of row-normalised vectors, `tr(R K R L) / (n - 1)^2`, averaged over classes of 2 rows or more.

    Its bias rewards collapsing the rows of a class: for batches of 128 and more. Shape (...).
    """
    one, two = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    count = member.sum(-2)
    kept = (count >= 2).float()
    n = count.clamp(min=2)
    trace, a, b, cross = _sums(one @ one.transpose(-1, -2), two @ two.transpose(-1, -2), member)
    hsic = (trace - 2 / n * cross + a * b / n.square()) / (n - 1).square()
    return (hsic * kept).sum(-1) / kept.sum(-1).clamp(min=1)


@in_float32
def class_difference(first: Tensor, second: Tensor, member: Tensor) -> Tensor:
    """MISA's difference: class means taken off, rows normalised (norm detached), mean squared entry of `A'B`.

    Shape (...).
    """
    one, two = _centred(first, member), _centred(second, member)
    return (one.transpose(-1, -2) @ two).square().mean((-1, -2))


def _centred(x: Tensor, member: Tensor) -> Tensor:
    means = member.transpose(-1, -2) @ x / member.sum(-2).clamp(min=1).unsqueeze(-1)
    classes = member.sum(-1, keepdim=True)
    x = (x - member / classes.clamp(min=1) @ means) * (classes > 0).float()
    return x / (x.detach().square().sum(-1, keepdim=True).sqrt() + 1e-6)
