"""emotion2vec (Ma et al., arXiv 2312.15185): its published checkpoints, read without its framework.

The files hold tensors and nothing else, so they are read with `weights_only=True`. The model is data2vec 2.0's audio
encoder: convolutions with layer normalisation, a positional stack of convolutions, and blocks that normalise after
each step and attend with a distance penalty (ALiBi) under learned scales. A few learned tokens go in front of the
frames and are taken off again. Nothing is trained here, so the parts that
serve training are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mer.cache import MerError

from ..interfaces import Waveform
from .audio import FrameGrid, LiveAudio, at_least, normalised, pad_right
from .checkpoint import Checkpoint
from .convolutions import FramedConvolution, in_stretches, is_framable
from .loading import LayerTap, refuse_not_finite, to_device
from .pretrained import AudioEncoder
from .weights import weight_files

_AUDIO = r"modality_encoders\.AUDIO\."
RENAMED: tuple[tuple[str, str], ...] = (
    (_AUDIO + r"local_encoder\.conv_layers\.(\d+)\.0\.", r"convolutions.\1."),
    (_AUDIO + r"local_encoder\.conv_layers\.(\d+)\.2\.1\.", r"norms.\1."),
    (_AUDIO + r"project_features\.1\.", "input_norm."),
    (_AUDIO + r"project_features\.2\.", "project."),
    (_AUDIO + r"relative_positional_encoder\.(\d+)\.0\.", r"positions.\1."),
    (_AUDIO + r"context_encoder\.norm\.", "first_norm."),
    (_AUDIO + r"context_encoder\.blocks\.(\d+)\.", r"blocks.\1."),
    (_AUDIO + "(extra_tokens|alibi_scale)$", r"\1"),
    (r"blocks\.(\d+)\.", r"later.\1."),
)
"""Names in the published files and the names they have here; the first one that matches counts."""


class Block(nn.Module):
    """Attention and feed-forward, each added to its input and then normalised."""

    def __init__(self, width: int, heads: int, inner: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, eps)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Encode x, shape (B, N, width), with `bias`, broadcastable to (B, heads, N, N), added to the scores."""
        size, steps, width = x.shape
        query, key, value = self.qkv(x).view(size, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        x = self.norm1(x + self.out(mixed.transpose(1, 2).reshape(size, steps, width)))
        y: Tensor = self.norm2(x + self.down(functional.gelu(self.up(x))))
        return y


class Emotion2vec(nn.Module):
    """The encoder of emotion2vec."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, heads, depth = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
        channels = [1, *config["conv_dim"]]
        kernel = max(3, config["conv_pos_width"] // config["conv_pos_depth"])
        self.strides = list(config["conv_stride"])
        self.grid: FrameGrid | None = None
        self.per_layer = bool(config["alibi_scale_per_layer"])
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, size, stride, bias=False)
            for before, after, size, stride in zip(
                channels, channels[1:], config["conv_kernel"], self.strides, strict=False
            )
        )
        self.norms = nn.ModuleList(nn.LayerNorm(after) for after in channels[1:])
        self.input_norm = nn.LayerNorm(channels[-1])
        self.project = nn.Linear(channels[-1], width)
        self.positions = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=config["conv_pos_groups"])
            for _ in range(config["conv_pos_depth"])
        )
        self.first_norm = nn.LayerNorm(width, config["norm_eps"])
        self.extra_tokens = nn.Parameter(torch.zeros(1, config["num_extra_tokens"], width))
        self.alibi_scale = nn.Parameter(
            torch.ones(depth if self.per_layer else 1, 1, heads if config["alibi_scale_per_head"] else 1, 1, 1)
        )
        self.blocks = nn.ModuleList(
            Block(width, heads, int(width * config["mlp_ratio"]), config["norm_eps"]) for _ in range(depth)
        )
        self.register_buffer("slopes", torch.tensor(alibi_slopes(heads)), persistent=False)

    def forward(self, sound: Tensor, valid: Tensor | None) -> Tensor:
        """Encode sound, shape (B, samples), into (B, T, width).

        `valid`, shape (B, T), marks the frames of each clip; None when no clip is padded.
        """
        x = sound[:, None]
        x = self._convolve(x) if self.grid is None else in_stretches(self._convolve, x, self.grid)
        x = self.project(self.input_norm(x.transpose(1, 2)))
        x = x + self._positions(x, valid)
        extra = self.extra_tokens.shape[1]
        x = self.first_norm(torch.cat([self.extra_tokens.expand(len(x), -1, -1), x], dim=1))
        distance = self._distance(x.shape[1] - extra, extra)
        hidden = 0.0 if valid is None else self._hidden(valid, extra)
        for number, block in enumerate(self.blocks):
            scale = self.alibi_scale[number if self.per_layer else 0].clamp(min=0).float()
            x = block(x, distance * scale + hidden)
        frames: Tensor = x[:, extra:]
        return frames

    def _convolve(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.gelu(norm(convolution(x).transpose(1, 2)).transpose(1, 2))
        return x

    def convolve_in_stretches(self, grid: FrameGrid) -> None:
        """Do what is faster on a CPU; `grid` is that of the convolutions."""
        self.grid = grid
        if is_framable(self.convolutions[0]):
            self.convolutions[0] = FramedConvolution(self.convolutions[0])  # type: ignore[arg-type]

    def _positions(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Positional convolutions, each of which sees zeros where a clip has ended."""
        keep = 1.0 if valid is None else valid[:, None, :].to(x.dtype)
        steps = x.shape[1]
        x = x.transpose(1, 2)
        for convolution in self.positions:
            x = convolution(x * keep)[..., :steps]
            x = functional.gelu(functional.layer_norm(x.transpose(1, 2), x.shape[1:2]).transpose(1, 2))
        return x.transpose(1, 2)

    def _distance(self, steps: int, extra: int) -> Tensor:
        """Minus the distance of two frames times each head's slope, (heads, N, N); extra tokens are near to all."""
        place = torch.arange(steps, device=self.extra_tokens.device)
        apart = (place[None] - place[:, None]).abs()
        slopes: Any = self.slopes
        return functional.pad(-apart * slopes.float()[:, None, None], (extra, 0, extra, 0))

    @staticmethod
    def _hidden(valid: Tensor, extra: int) -> Tensor:
        """Minus infinity on the frames beyond a clip's end, (B, 1, 1, N)."""
        known = functional.pad(valid, (extra, 0), value=True)
        return torch.zeros(known.shape, device=known.device).masked_fill(~known, -math.inf)[:, None, None, :]


def alibi_slopes(heads: int) -> list[float]:
    """Slopes of ALiBi (Press et al., arXiv 2108.12409): a geometric series, filled up from the next longer one."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (number + 1) / power) for number in range(power)]
    if power < heads:
        slopes += alibi_slopes(2 * power)[0::2][: heads - power]
    return slopes


def read_weights(checkpoint: Checkpoint, prenet: int) -> dict[str, Tensor]:
    """Read the tensors of a published file under the names they have here.

    Raises
    ------
    MerError
        If the file holds anything but tensors, or cannot be read.
    """
    (path,) = weight_files(Path(checkpoint.folder))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises errors of many kinds
        reason = " ".join(str(error).split())[:200]
        raise MerError(f"checkpoint {checkpoint.label} cannot be loaded from {path}: {reason}") from error
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    found = {}
    for name, tensor in content.items():
        plain = re.sub(r"^(module\.|d2v_model\.)+", "", name)
        for pattern, replacement in RENAMED:
            if re.match(pattern, plain):
                found[_place(re.sub("^" + pattern, replacement, plain), prenet)] = tensor
                break
    return found


def _place(name: str, prenet: int) -> str:
    """Number the later blocks after the first ones, the positional layers from 0, and name the parts of a block."""
    name = re.sub(r"^later\.(\d+)", lambda match: f"blocks.{int(match[1]) + prenet}", name)
    name = re.sub(r"^positions\.(\d+)", lambda match: f"positions.{int(match[1]) - 1}", name)
    for old, new in (("attn.qkv", "qkv"), ("attn.proj", "out"), ("mlp.fc1", "up"), ("mlp.fc2", "down")):
        name = name.replace(old, new)
    return name


class LiveEmotion2vec(LiveAudio):
    """emotion2vec on a device."""

    def __init__(self, encoder: AudioEncoder, device: str) -> None:
        found = encoder.found
        config = found.config
        super().__init__(encoder, device, FrameGrid.of_convolutions(config["conv_kernel"], config["conv_stride"]))
        model = Emotion2vec(config)
        weights = read_weights(found, config["prenet_depth"])
        if weights.get("alibi_scale", torch.zeros(0)).dim() == 4:
            weights["alibi_scale"] = weights["alibi_scale"][None]
        missing = sorted(set(model.state_dict()) - set(weights))
        if missing:
            raise MerError(
                f"checkpoint {found.label} lacks {len(missing)} weights of its model (first: {missing[0]}); "
                f"are the files in {found.folder} complete?"
            )
        try:
            model.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise MerError(f"checkpoint {found.label} does not fit its config.yaml: {reason}") from error
        refuse_not_finite(model, found)
        self.model = model.eval().requires_grad_(False).to(device, getattr(torch, encoder.precision))
        if device == "cpu":
            self.model.convolve_in_stretches(self.grid)
        extra = int(config["num_extra_tokens"])
        self.tap = LayerTap(self.model, self.depth, self.choice, lambda hidden: hidden[:, extra:], found.label)

    def prepare(self, wave: Waveform) -> Waveform:
        """Normalise a clip and bring it to the least length the convolutions need."""
        return at_least(normalised(wave, eps=1e-5) if self.encoder.normalises() else wave, self.grid.field)

    def forward(self, pieces: list[Waveform]) -> Tensor:
        """See `LiveAudio.forward`."""
        frames = np.array([self.grid.frames(len(piece)) for piece in pieces])
        ragged = frames.min() < frames.max()
        valid = to_device(np.arange(frames.max()) < frames[:, None], self.device) if ragged else None
        sound = to_device(pad_right(pieces), self.device).to(self.model.extra_tokens.dtype)
        return self.tap.collect(self.model(sound, valid), lambda hidden: hidden)
