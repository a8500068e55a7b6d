"""Convolutions of wav2vec2's kind: exact for a padded batch, and on a CPU over one stretch of sound after another.

A whole clip's activations (40 MB behind the first convolution for six seconds) pass through memory several times and
are given back to the system between layers; those of a stretch stay in the processor's cache. The frames are the same
ones: each is computed from the samples it sees; a normalisation over the clip becomes part of the filters beforehand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from .audio import FrameGrid

STRETCH_FRAMES = 50
"""Frames of the last convolution per stretch: a second of sound."""


class BatchLengths(threading.local):
    """Lengths of the clips in the batch that this thread encodes; set before every forward pass."""

    first: Sequence[int] = ()
    """Frames of each clip behind the first convolution; empty stands for all."""
    valid: Tensor | None = None
    """Frames of each clip in the transformer, shape (B, 1, T), or None when the batch has no padding."""


class ClipGroupNorm(nn.Module):
    """Group normalisation with one group per channel, over the frames of each clip and not over its padding."""

    def __init__(self, norm: nn.GroupNorm, lengths: BatchLengths) -> None:
        super().__init__()
        self.norm = norm
        self.lengths = lengths

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise hidden, shape (B, C, T), row by row with the very operation that a single clip would see."""
        frames = self.lengths.first
        if all(count == hidden.shape[2] for count in frames):
            return self.norm(hidden)  # type: ignore[no-any-return]
        out = torch.zeros_like(hidden)
        for row, count in enumerate(frames):
            out[row : row + 1, :, :count] = functional.group_norm(
                hidden[row : row + 1, :, :count], self.norm.num_groups, self.norm.weight, self.norm.bias, self.norm.eps
            )
        return out


def fold_weight_norm(model: nn.Module) -> None:
    """Compute normalised weights once; as parametrisations they are computed anew in every forward pass."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, str(name))


class FramedConvolution(nn.Module):
    """A convolution of one channel as one matrix product over overlapping frames.

    On a CPU the general kernel takes ten times as long for it.
    """

    def __init__(self, convolution: nn.Conv1d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.kernel, self.stride = convolution.kernel_size[0], convolution.stride[0]

    def frames(self, sound: Tensor) -> Tensor:
        """View sound, shape (B, 1, samples), as what each frame sees, (B, kernel, T)."""
        return sound[:, 0].unfold(-1, self.kernel, self.stride).transpose(1, 2)

    def forward(self, sound: Tensor) -> Tensor:
        """Convolve sound, shape (B, 1, samples), into (B, C, T)."""
        out = self.weight[:, 0] @ self.frames(sound)
        return out if self.bias is None else out + self.bias[:, None]


def is_framable(layer: object) -> bool:
    """Tell whether a layer is a convolution of one channel of the plain kind."""
    if not isinstance(layer, nn.Conv1d):
        return False
    return layer.in_channels == 1 and layer.padding == (0,) and layer.dilation == (1,)


def in_stretches(convolve: Callable[[Tensor], Tensor], sound: Tensor, grid: FrameGrid) -> Tensor:
    """Convolve sound, shape (B, 1, samples), into (B, C, frames), `STRETCH_FRAMES` at a time.

    Parameters
    ----------
    convolve : callable
        Convolutions without padding, from (B, 1, samples) to (B, C, frames).
    sound : Tensor
    grid : FrameGrid
        Of these convolutions.
    """
    frames = grid.frames(sound.shape[2])
    pieces = []
    for start in range(0, frames, STRETCH_FRAMES):
        begin, count = start * grid.stride, min(STRETCH_FRAMES, frames - start)
        pieces.append(convolve(sound[:, :, begin : begin + grid.samples(count)]))
    return torch.cat(pieces, -1)


class StretchedConvolutions(nn.Module):
    """In place of a model's `feature_extractor`: the same layers, a stretch at a time.

    Parameters
    ----------
    layers : nn.ModuleList
        The convolutional layers; the first convolution is framed, its norm a `ClipGroupNorm` if it is over the clip.
    grid : FrameGrid
        Of all layers together.
    lengths : BatchLengths
    """

    def __init__(self, layers: nn.ModuleList, grid: FrameGrid, lengths: BatchLengths) -> None:
        super().__init__()
        self.layers = layers
        self.grid = grid
        self.lengths = lengths

    def forward(self, sound: Tensor) -> Tensor:
        """Map sound, shape (B, samples), to (B, C, frames)."""
        sound = sound[:, None]
        first = self._first(sound)

        def convolve(piece: Tensor) -> Tensor:
            hidden = first(piece)
            for layer in self.layers[1:]:
                hidden = layer(hidden)
            return hidden

        return in_stretches(convolve, sound, self.grid)

    def _first(self, sound: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the first layer for this batch, its clips' normalisation folded into the filters."""
        layer: Any = self.layers[0]
        norm = getattr(layer, "layer_norm", None)
        if not isinstance(norm, ClipGroupNorm):
            return layer  # type: ignore[no-any-return]
        filters, biases = normalising_filters(layer.conv, norm.norm, sound, self.lengths.first)

        def normalised(piece: Tensor) -> Tensor:
            return layer.activation(torch.baddbmm(biases, filters, layer.conv.frames(piece)))  # type: ignore[no-any-return]

        return normalised


def normalising_filters(
    convolution: FramedConvolution, norm: nn.GroupNorm, sound: Tensor, counts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Fold the normalisation of each channel over the frames of a clip into the filters before it.

    A channel is `w x` for the samples x under its filter w, so its mean and variance over the clip are `w E[x]` and
    `w Cov[x] w`. A bias of the convolution would cancel and is left out.

    Parameters
    ----------
    convolution : FramedConvolution
        One channel in, C out.
    norm : nn.GroupNorm
        One group per channel.
    sound : Tensor, shape (B, 1, samples)
    counts : sequence of int
        Frames of each clip; what lies behind them is padding. Empty where there is none.

    Returns
    -------
    tuple of Tensor
        Filters (B, C, kernel) and biases (B, C, 1), in the dtype of the weights.
    """
    taps = convolution.weight[:, 0].double()
    frames = convolution.frames(sound)
    filters, biases = [], []
    for row, count in enumerate(counts or [frames.shape[2]] * len(frames)):
        seen = frames[row, :, :count].double()
        mean = seen.mean(1)
        apart = seen - mean[:, None]
        variance = ((taps @ (apart @ apart.T / count)) * taps).sum(1)
        scale = norm.weight.double() / (variance + norm.eps).sqrt()
        filters.append(taps * scale[:, None])
        biases.append((norm.bias.double() - scale * (taps @ mean))[:, None])
    dtype = convolution.weight.dtype
    return torch.stack(filters).to(dtype), torch.stack(biases).to(dtype)


def stretch_convolutions(extractor: Any, grid: FrameGrid, lengths: BatchLengths) -> Any:
    """Return a faster stand-in for a model's `feature_extractor` on a CPU, or itself where it is of another kind."""
    first = extractor.conv_layers[0]
    norm = getattr(first, "layer_norm", None)
    if not is_framable(first.conv):
        return extractor
    if isinstance(norm, ClipGroupNorm) and norm.norm.num_groups != norm.norm.num_channels:
        return extractor
    first.conv = FramedConvolution(first.conv)
    return StretchedConvolutions(extractor.conv_layers, grid, lengths)
