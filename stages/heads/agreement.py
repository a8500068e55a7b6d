"""Emotion discrimination over one vector per modality: do two modalities, of one utterance or of two, share an emotion?

The released script asks this of the fused state of every pair of utterances, through the fusion encoder. Here each
modality has an emotion vector and a pair's answer is their scaled cosine, so that all pairs of a batch cost one matrix
product; and the answers for an utterance's own modalities weigh them in its fusion. Both are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import in_float32, weighted_mean


class Agreement(nn.Module):
    """Emotion vectors of the modalities, and how far they agree.

    Parameters
    ----------
    names
        Modalities; two or more.
    dim, size
        Width of a modality's vector, and of its emotion vector.
    dropout
        Dropout before the emotion vectors.
    """

    def __init__(self, names: Sequence[str], dim: int, size: int, dropout: float) -> None:
        super().__init__()
        self.emotion = nn.ModuleDict({m: nn.Linear(dim, size) for m in names})
        self.dropout = nn.Dropout(dropout)
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def forward(self, vectors: Tensor) -> Tensor:
        """Emotion vectors of length 1: (B, M, dim) to (B, M, size)."""
        each = [layer(self.dropout(vectors[..., i, :])) for i, layer in enumerate(self.emotion.values())]
        return F.normalize(torch.stack(each, -2), dim=-1)

    def answers(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits of "these two share an emotion" for all pairs of rows: (N, size), (K, size) to (N, K)."""
        return self.log_scale.exp() * (first @ second.transpose(-1, -2)) - self.offset

    def weights(self, emotions: Tensor, present: Tensor) -> Tensor:
        """Weight of each modality, (B, M): its mean agreement with the others that are there, over that of all.

        The weights of the modalities present average 1; a modality alone has weight 1.
        """
        count = present.shape[-1]
        others = present.unsqueeze(-2) & ~torch.eye(count, dtype=torch.bool, device=present.device)
        others = others.to(emotions.dtype)
        agreed = (self.answers(emotions, emotions).sigmoid() * others).sum(-1) / others.sum(-1).clamp(min=1)
        here = present.to(emotions.dtype)
        mean = (agreed * here).sum(-1, keepdim=True) / here.sum(-1, keepdim=True).clamp(min=1)
        several = here.sum(-1, keepdim=True) > 1
        return torch.where(several, agreed / mean.clamp(min=1e-4), 1) * here

    def loss(self, emotions: Tensor, member: Tensor, counted: Tensor) -> Tensor:
        """Two-way cross-entropy over all pairs of different utterances, averaged over pairs of modalities.

        Matching and other pairs count half each, however many there are. The genuine pairing is never asked about.

        Parameters
        ----------
        emotions
            Shape (B, M, size).
        member
            Rows by classes, shape (B, K), as `losses.membership` gives.
        counted
            Shape (B, M), 1 for what is labelled and present.
        """
        pairs = list(combinations(range(emotions.shape[-2]), 2))
        logits = torch.stack([self.answers(emotions[:, i], emotions[:, j]) for i, j in pairs])
        asked = torch.stack([counted[:, i].unsqueeze(-1) * counted[:, j].unsqueeze(-2) for i, j in pairs])
        return balanced_pairs(logits, member, asked)


@in_float32
def balanced_pairs(logits: Tensor, member: Tensor, asked: Tensor) -> Tensor:
    """Mean of the losses of matching and of other pairs of rows (P, B, B), averaged over P; not the diagonal."""
    same = (member @ member.T > 0).float()
    known = (member.sum(-1) > 0).float()
    strangers = (1 - torch.eye(len(member), device=member.device)) * known.unsqueeze(-1) * known.unsqueeze(-2)
    each = []
    for logit, weight in zip(logits, asked * strangers, strict=True):
        matching = weighted_mean(F.softplus(-logit), weight * same)
        each.append((matching + weighted_mean(F.softplus(logit), weight * (1 - same))) / 2)
    return torch.stack(each).mean()
