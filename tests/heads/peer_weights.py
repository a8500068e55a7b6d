"""Weights and inputs that are the same wherever they are made, so that our modules can be held against their peers'."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def wave(number: int, *shape: int) -> Tensor:
    """A tensor of sines; `number` sets the phase."""
    count = torch.Size(shape).numel()
    return (0.5 * torch.sin(number + 0.7 * torch.arange(count, dtype=torch.float64))).view(shape).float()


def fill(number: int, *modules: nn.Module) -> int:
    """Fill the parameters of modules in their order, and return the next number."""
    for module in modules:
        for parameter in module.parameters():
            parameter.data = wave(number, *parameter.shape)
            number += 1
    return number
