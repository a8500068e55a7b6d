"""Loading a model of transformers onto a device, with the hidden states that are asked for and no others."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # our batches are small, and workers are forked after use

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mer.cache import MerError

from .checkpoint import Checkpoint
from .layers import LayerChoice

_MAY_BE_MISSING = ("pooler.", "masked_spec_embed", "embeddings.position_ids", "mask_token", "lm_head.")
"""Parts of a model that no feature depends on; checkpoints of other heads often lack them."""


def check_device(device: str) -> None:
    """Check that a device is there.

    Raises
    ------
    MerError
        If it is unknown or absent.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise MerError(f"device {device!r} is not known; use cpu, cuda or cuda:0") from error
    if wanted.type == "cpu":
        return
    if wanted.type != "cuda" or not torch.cuda.is_available():
        raise MerError(f"device {device!r} is not there: this machine has no usable CUDA device; use --device cpu")
    if (wanted.index or 0) >= torch.cuda.device_count():
        raise MerError(f"device {device!r} is not there: this machine has {torch.cuda.device_count()} CUDA device(s)")


def load_model(
    checkpoint: Checkpoint, device: str, precision: str, trust_remote_code: bool, auto: Any = None, part: str = ""
) -> nn.Module:
    """Load a checkpoint as the bare model of its family; weights of a head on top are ignored.

    Parameters
    ----------
    checkpoint
        Folder with config.json and weights.
    device, precision
        Where the weights go and what they are cast to.
    trust_remote_code
        Whether Python code in the folder may run.
    auto
        Class with `from_pretrained`; `transformers.AutoModel` when None.
    part
        Name of the submodule that is wanted; the others never reach the device.

    Raises
    ------
    MerError
        If weights are missing from the files, do not fit the configuration, or hold NaN.
    """
    if auto is None:
        from transformers import AutoModel

        auto = AutoModel
    with quiet_transformers():
        try:
            model, report = auto.from_pretrained(
                checkpoint.folder,
                dtype=getattr(torch, precision),
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
        except Exception as error:  # unpickling errors, size mismatches, missing packages: all named by their text
            reason = " ".join(str(error).split())[:300]
            raise MerError(
                f"checkpoint {checkpoint.label} cannot be loaded from {checkpoint.folder}: {reason}"
            ) from error
    missing = sorted(
        name for name in report["missing_keys"] if (not part or name.startswith(f"{part}.")) and not _needless(name)
    )
    if missing:
        raise MerError(
            f"checkpoint {checkpoint.label} lacks {len(missing)} weights of its model (first: {missing[0]}); "
            f"are the files in {checkpoint.folder} complete?"
        )
    model = (getattr(model, part) if part else model).eval().requires_grad_(False)
    refuse_not_finite(model, checkpoint)
    moved: nn.Module = model.to(device)
    return moved


def _needless(name: str) -> bool:
    return any(part in name for part in _MAY_BE_MISSING)


def refuse_not_finite(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Refuse weights that hold NaN or infinity."""
    for name, parameter in model.named_parameters():
        if not _needless(name) and not bool(torch.isfinite(parameter).all()):
            raise MerError(f"weights of {checkpoint.label} hold NaN or infinity in {name}; fetch or train them again")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep the loader's report of unused head weights and its progress bars off the user's screen."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def blocks_of(model: nn.Module, depth: int, label: str) -> nn.ModuleList:
    """Find the list of transformer blocks: the outermost module list of the right length."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    fitting = [(name.count("."), name, module) for name, module in found if len(module) == depth]
    named = [entry for entry in fitting if entry[1].rpartition(".")[2] in ("layer", "layers", "blocks", "block")]
    if not named:
        raise MerError(f"the {depth} blocks of {label} were not found in {type(model).__name__}")
    return min(named, key=lambda entry: (entry[0], "conv" in entry[1], entry[1]))[2]


class _Taken(threading.local):
    """Hidden states of the pass that this thread runs."""

    def __init__(self) -> None:
        self.hidden: list[Tensor] = []


class LayerTap:
    """Takes the chosen hidden states out of a model while it runs, and drops blocks that nobody asked for.

    Parameters
    ----------
    model, depth
        The model and its number of blocks.
    choice
        Layers to take.
    reduce
        Applied to each hidden state at once, so that only what is kept stays in memory.
    label
        Name for errors.
    """

    def __init__(
        self, model: nn.Module, depth: int, choice: LayerChoice, reduce: Callable[[Tensor], Tensor], label: str
    ) -> None:
        self.choice = choice
        self.depth = depth
        self.reduce = reduce
        self._own = _Taken()
        blocks = blocks_of(model, depth, label)
        deepest = max(choice.layers)
        if 0 in choice.layers:
            blocks[0].register_forward_pre_hook(self._take_input, with_kwargs=True)
        for number in choice.layers:
            if 0 < number < depth:
                blocks[number - 1].register_forward_hook(partial(self._take_output, number))
        if deepest < depth:
            del blocks[max(deepest, 1) :]

    def _take(self, number: int, hidden: Tensor, reduce: Callable[[Tensor], Tensor]) -> None:
        if number == self.choice.layers[0]:
            self._own.hidden = []  # a pass that ran out of memory may have left some behind
        kept = reduce(hidden).float()
        if self.choice.stack or not self._own.hidden:
            self._own.hidden.append(kept)
        else:
            self._own.hidden[0] = self._own.hidden[0] + kept

    def _take_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._take(0, args[0] if args else kwargs["hidden_states"], self.reduce)

    def _take_output(self, number: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._take(number, output[0] if isinstance(output, tuple) else output, self.reduce)

    def collect(self, last: Tensor, reduce_last: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return the combined layers, float32, the last axis being one layer's width or the stack of all.

        Parameters
        ----------
        last
            The model's own output.
        reduce_last
            Replaces `reduce` for the model's own output.
        """
        if self.depth in self.choice.layers:
            self._take(self.depth, last, reduce_last or self.reduce)
        taken, self._own.hidden = self._own.hidden, []
        if self.choice.stack:
            return torch.cat(taken, dim=-1)
        return taken[0] / len(self.choice.layers) if len(self.choice.layers) > 1 else taken[0]


class _WithoutTF32:
    """Float32 products of full precision on a GPU while any thread is inside; the switch is the whole process's.

    PyTorch has two names for it. `allow_tf32` cannot be read any more once `fp32_precision` was written, so that is
    written only where a program has chosen TF32 by it, which `allow_tf32` does not undo.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: tuple[list[bool | None], list[str]] = ([], [])

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                newer = _switches("cuda.matmul", "cudnn.conv", "cudnn.rnn")
                self._before = _allowed(), [switch.fp32_precision for switch in newer]
                for switch in _switches("cuda.matmul", "cudnn"):
                    switch.allow_tf32 = False
                for switch in newer:
                    if switch.fp32_precision not in EXACT:
                        switch.fp32_precision = "ieee"
            self._inside += 1

    def __exit__(self, *reason: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            allowed, newer = self._before
            for switch, was_allowed in zip(_switches("cuda.matmul", "cudnn"), allowed, strict=True):
                if was_allowed:
                    switch.allow_tf32 = True
            for switch, precision in zip(_switches("cuda.matmul", "cudnn.conv", "cudnn.rnn"), newer, strict=True):
                if switch.fp32_precision != precision and precision not in EXACT:
                    switch.fp32_precision = precision


EXACT = ("ieee", "none")
"""Values of `fp32_precision` without rounding, once `allow_tf32` is off."""


def _switches(*names: str) -> list[Any]:
    return [operator.attrgetter(name)(torch.backends) for name in names]


def _allowed() -> list[bool | None]:
    """Values of `allow_tf32` of products and of cuDNN, None where the newer name was written and it cannot be read."""
    found: list[bool | None] = []
    for switch in _switches("cuda.matmul", "cudnn"):
        try:
            found.append(bool(switch.allow_tf32))
        except RuntimeError:
            found.append(None)
    return found


_without_tf32 = _WithoutTF32()


def full_float32(device: str) -> AbstractContextManager[None]:
    """Float32 without TF32 on a GPU, which would round the factors of products to ten bits; nothing elsewhere."""
    return _without_tf32 if device.startswith("cuda") else nullcontext()


@contextmanager
def exact_math(device: str, precision: str) -> Iterator[None]:
    """Inference without gradients; in float32 without TF32."""
    with full_float32(device) if precision == "float32" else nullcontext(), torch.inference_mode():
        yield


def settle(device: str) -> None:
    """Wait for what a device was asked to do."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def to_device(array: npt.NDArray[Any], device: str) -> Tensor:
    """Copy a host array to a device; to CUDA from pinned memory and without waiting."""
    tensor = torch.from_numpy(array)
    if device.startswith("cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensor: Tensor) -> npt.NDArray[np.float32]:
    """Copy a tensor to the host as float32, in one transfer."""
    array: npt.NDArray[np.float32] = tensor.float().cpu().numpy()
    return array
