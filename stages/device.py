"""The device that models run on."""

from __future__ import annotations

from mer.cache import MerError


def resolve_device(wanted: str) -> str:
    """Turn `auto` into `cuda` or `cpu`, and check that a named device is there.

    Raises
    ------
    MerError
        If the device is unknown or absent.
    """
    import torch

    available = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if available else "cpu"
    if wanted == "cpu":
        return wanted
    kind, _, index = wanted.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise MerError(f"device {wanted!r} is not known; use auto, cpu, cuda or cuda:0")
    if not available:
        raise MerError(f"device {wanted!r} was asked for but this machine has no usable CUDA device; use --device cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise MerError(f"device {wanted!r} is not there: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return wanted
