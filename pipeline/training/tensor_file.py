"""The state of training in one safetensors file that appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mer.cache import DamagedError, atomic_write


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able facts atomically.

    Raises
    ------
    MerError
        If the disk is full or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            save_file(ready, str(temporary), metadata={"mer": json.dumps(facts)})
        except SafetensorError as error:  # a full disk arrives as this; atomic_write knows the sentence
            raise RuntimeError(str(error)) from error


def load_tensors(path: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises
    ------
    DamagedError
        If the file is missing, truncated or of another kind; the message ends with `remedy`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {})["mer"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 -- not a dict
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: is damaged or missing ({error}); {remedy}") from error


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of the generators that training draws from."""
    state = {"random/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["random/cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Go on drawing where `random_state` was taken."""
    torch.set_rng_state(state["random/cpu"])
    if device.type == "cuda" and "random/cuda" in state:
        torch.cuda.set_rng_state(state["random/cuda"], device)
