"""Fine-grained alignment: class-wise distance between the modalities' shared vectors (fdrl.md section 4.2).

Everything here is a reconstruction: FDRL's abstract names the component, its equations were not available.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import reverse_gradient
from .losses import BLOCKED, in_float32, weighted_mean


def gaussian_kernel(x: Tensor, rows: Tensor) -> Tensor:
    """Mean of five Gaussian kernels, widths 1/4 to 4 times the mean squared distance of the counted rows.

    Parameters
    ----------
    x
        Shape (..., N, d), float32.
    rows
        Shape (..., N), 1 for rows that set the bandwidth.

    Returns
    -------
    Tensor
        Shape (..., N, N).
    """
    square = x.square().sum(-1)
    distance = (square.unsqueeze(-1) + square.unsqueeze(-2) - 2 * x @ x.transpose(-1, -2)).clamp(min=0)
    count = rows.sum(-1)
    total = (distance * rows.unsqueeze(-1) * rows.unsqueeze(-2)).sum((-1, -2))
    scale = (total / (count.square() - count).clamp(min=1)).detach().clamp(min=1e-6)
    # The five widths are powers of two, so each kernel is the square of the one before.
    kernel = torch.exp(-distance / (4 * scale)[..., None, None])
    mean = kernel
    for _ in range(4):
        kernel = kernel.square()
        mean = mean + kernel
    return mean / 5


@in_float32
def label_lmmd(first: Tensor, second: Tensor, first_member: Tensor, second_member: Tensor) -> Tensor:
    """Label-conditional maximum mean discrepancy, biased estimate, averaged over the classes both sides have.

    Parameters
    ----------
    first, second
        Vectors of two modalities, shape (..., B, d).
    first_member, second_member
        Rows by classes with the modality's absent rows zeroed, shape (..., B, K). One column of ones is ordinary MMD.

    Returns
    -------
    Tensor
        Shape (...), between 0 and 2.
    """
    counts = first_member.sum(-2), second_member.sum(-2)
    kept = ((counts[0] > 0) & (counts[1] > 0)).float()
    rows = (torch.cat([first_member, second_member], -2).sum(-1) > 0).float()
    kernel = gaussian_kernel(torch.cat([first, second], -2), rows)
    signed = torch.cat(
        [
            first_member / counts[0].clamp(min=1).unsqueeze(-2),
            -second_member / counts[1].clamp(min=1).unsqueeze(-2),
        ],
        -2,
    )
    distance = (signed * (kernel @ signed)).sum(-2)
    return (distance * kept).sum(-1) / kept.sum(-1).clamp(min=1)


class ClassDiscriminators(nn.Module):
    """One discriminator per class telling modalities apart (MADA form): Linear, LayerNorm, ReLU, Linear."""

    def __init__(self, classes: int, dim: int, modalities: int) -> None:
        super().__init__()
        hidden = max(8, dim // 2)
        self.into = nn.Parameter(torch.randn(classes, dim, hidden) * dim**-0.5)
        self.out = nn.Parameter(torch.randn(classes, hidden, modalities) * hidden**-0.5)
        # The classes' vectors end to end: weight decay spares what has one axis.
        self.scale = nn.Parameter(torch.ones(classes * hidden))
        self.shift = nn.Parameter(torch.zeros(classes * hidden))
        self.bias = nn.Parameter(torch.zeros(classes * modalities))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, d) to logits (K, N, M)."""
        scale, shift, bias = (v.view(len(self.into), 1, -1) for v in (self.scale, self.shift, self.bias))
        hidden = x.unsqueeze(0) @ self.into
        hidden = F.layer_norm(hidden, hidden.shape[-1:]) * scale + shift
        return hidden.relu() @ self.out + bias


def class_adversary(
    discriminators: ClassDiscriminators, shared: Tensor, member: Tensor, factor: float | Tensor
) -> Tensor:
    """Cross-entropy of telling which modality a shared vector is from, each row before its class's discriminator.

    The encoders receive `-factor` times the gradient, the discriminators the plain one. log M means full confusion.

    Parameters
    ----------
    discriminators
        One per class.
    shared
        Shape (M, B, d).
    member
        Shape (M, B, K), absent rows zeroed.
    factor
        Strength of the gradient reversal.
    """
    modalities, size, _ = shared.shape
    rows = member.flatten(0, 1)
    logits = discriminators(reverse_gradient(shared.flatten(0, 1), factor)).float().log_softmax(-1)
    truth = torch.eye(modalities, device=shared.device).repeat_interleave(size, 0)
    loss = -(logits * truth).sum(-1).T
    return weighted_mean(loss, rows / rows.sum(-1, keepdim=True).clamp(min=1))


@in_float32
def cross_modal_contrast(shared: Tensor, member: Tensor, temperature: float) -> Tensor:
    """Supervised contrast over all modalities' vectors; positives share a class and come from another modality.

    Parameters
    ----------
    shared
        Shape (M, B, d).
    member
        Shape (M, B, K), absent rows zeroed.
    temperature
        Fixed temperature of the cosine.
    """
    modalities, size, _ = shared.shape
    vectors, rows = F.normalize(shared.flatten(0, 1), dim=-1), member.flatten(0, 1)
    counted = rows.sum(-1) > 0
    source = torch.arange(modalities, device=shared.device).repeat_interleave(size)
    other = ~torch.eye(modalities * size, dtype=torch.bool, device=shared.device)
    scores = torch.where(other & counted.unsqueeze(0), vectors @ vectors.T / temperature, BLOCKED)
    positive = ((rows @ rows.T > 0) & (source.unsqueeze(0) != source.unsqueeze(1))).float()
    log_share = scores - scores.logsumexp(-1, keepdim=True)
    each = -(positive * log_share).sum(-1) / positive.sum(-1).clamp(min=1)
    return weighted_mean(each, (positive.sum(-1) > 0).float())
