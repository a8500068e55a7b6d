"""Emotion shuffling: whose modalities make up an utterance (drkf.md sections 3.7, 7.8 and 8)."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_origins(member: Tensor, present: Tensor, rounds: int) -> Tensor:
    """Draw shuffled utterances: of every two donors half share an emotion and half do not, where the batch has such.

    Row i keeps its first modality; each other modality comes from another utterance, all of them distinct.

    Parameters
    ----------
    member
        Rows by classes, shape (B, K), as `membership` gives; all-zero rows lend nothing.
    present
        Shape (B, M), bool.
    rounds
        Shuffled utterances per row.

    Returns
    -------
    Tensor
        Shape (rounds * B, M), int64: the row each modality is taken from.
    """
    drawn = [_partners(member, present) for _ in range(rounds)]
    return torch.cat(drawn)


def _partners(member: Tensor, present: Tensor) -> Tensor:
    size, device = member.shape[0], member.device
    rows = torch.arange(size, device=device)
    same = (member @ member.T > 0).float()
    known = (member.sum(-1) > 0).float()
    free = 1 - torch.eye(size, device=device)
    origins = [rows]
    other = 1 - same
    for column in range(1, present.shape[-1]):
        wanted = (torch.rand(size, device=device).argsort() < size // 2).float().unsqueeze(-1)
        fits = same * wanted + other * (1 - wanted)
        lendable = known * present[:, column].float()
        score = torch.rand(size, size, device=device) + 2 * fits + 4 * lendable.unsqueeze(0) + 8 * free
        chosen = score.argmax(-1)
        origins.append(chosen)
        picked = (chosen.unsqueeze(-1) == rows).float()
        free = free * (1 - picked)
        # Where neither this donor nor the next shall match the row, these two match: else too few of theirs would.
        apart = (picked * other).sum(-1, keepdim=True)
        other = other * (1 - apart + apart * (picked @ same))
    return torch.stack(origins, -1)


def all_origins(size: int, modalities: int, limit: int, device: torch.device) -> Tensor:
    """All ordered pairs i != j of a batch as the released code enumerates them, or `limit` random ones of them.

    Any third modality (not in the released code) comes from a random row that is neither i nor j where there is one.
    Shape (min(limit, size * (size - 1)), modalities), int64.
    """
    first = torch.arange(size, device=device).repeat_interleave(size - 1)
    step = torch.arange(1, size, device=device).repeat(size)
    pairs = torch.stack([first, (first + step) % size], -1)
    if len(pairs) > limit:
        pairs = pairs[torch.rand(len(pairs), device=device).argsort()[:limit]]
    for _ in range(2, modalities):
        used = (pairs.unsqueeze(-1) == torch.arange(size, device=device)).any(-2).float()
        other = (torch.rand(used.shape, device=device) - 2 * used).argmax(-1)
        pairs = torch.cat([pairs, other.unsqueeze(-1)], -1)
    return pairs[:, :modalities]


def pair_targets(member: Tensor, present: Tensor, origins: Tensor, first: int, second: int) -> tuple[Tensor, Tensor]:
    """Whether the donors of two modalities share an emotion, and the weight of the answer.

    The weight is 0 where a donor is unlabelled, lacks the modality, or gives both: a genuine pair is never asked about.

    Returns
    -------
    tuple
        Targets and weights, both of shape (N,), float.
    """
    one, two = origins[:, first], origins[:, second]
    a, b = member[one], member[two]
    target = ((a * b).sum(-1) > 0).float()
    usable = present[one, first] & present[two, second] & (a.sum(-1) > 0) & (b.sum(-1) > 0) & (one != two)
    return target, usable.float()
