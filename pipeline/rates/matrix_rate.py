"""Floating-point operations of a model, and the rate at which a device multiplies matrices, to set them against."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mer.stages.encoders.loading import settle

WIDTH = {"cuda": 8192, "cpu": 2048}
"""Side of the square matrices that are multiplied: large enough to fill the device, small enough to fit it."""
ROUNDS = 5
MULTIPLICATIONS = {"cuda": 20, "cpu": 2}
"""Products per round."""


def matrix_rate(device: str, precision: str) -> float:
    """Measure the rate of a large matrix product on all cores of a device, in floating-point operations a second.

    Parameters
    ----------
    device : str
        `cpu`, `cuda` or `cuda:i`.
    precision : str
        Name of the dtype, such as `bfloat16`.
    """
    kind = torch.device(device).type
    width, count = WIDTH[kind], MULTIPLICATIONS[kind]
    left, right = (torch.randn(width, width, device=device).to(getattr(torch, precision)) for _ in range(2))
    seconds = []
    for _ in range(ROUNDS + 1):  # the first round only warms up
        settle(device)
        started = time.perf_counter()
        for _ in range(count):
            left @ right
        settle(device)
        seconds.append(time.perf_counter() - started)
    return float(2 * width**3 * count / min(seconds[1:]))


def operations(run: Callable[[], Any]) -> float:
    """Count the floating-point operations of the matrix products, convolutions and attentions in a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())
