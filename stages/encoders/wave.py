"""Audio encoders of the wav2vec2 kind: both its families, its conformer, HuBERT, WavLM, UniSpeech, data2vec, SEW.

Padding must not change the features of a clip. Three things see to it: the clip is normalised before it is padded;
the group normalisation of the first convolution (`feat_extract_norm = "group"`) averages over the frames of the clip
alone; and the convolutions between attentions (positional ones, a conformer's) see zeros beyond the end of the clip, as
they do when it is encoded alone. The transformer itself is masked.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from ..interfaces import Waveform
from .audio import FrameGrid, LiveAudio, at_least, normalised, pad_right
from .convolutions import BatchLengths, ClipGroupNorm, fold_weight_norm, stretch_convolutions
from .fourier import FourierConvolution, by_fourier
from .loading import LayerTap, load_model, to_device
from .pretrained import AudioEncoder


def guard_padding(model: nn.Module, lengths: BatchLengths) -> None:
    """Zero the padding in the input of every convolution behind the feature extractor that looks sideways."""

    def zero(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return None if lengths.valid is None else (args[0] * lengths.valid.to(args[0].dtype), *args[1:])

    for name, module in model.named_modules():
        sideways = "pos_conv_embed" in name or name.endswith("depthwise_conv")
        if sideways and isinstance(module, nn.Conv1d | FourierConvolution):
            module.register_forward_pre_hook(zero)


class LiveWave(LiveAudio):
    """A model of the wav2vec2 kind on a device."""

    def __init__(self, encoder: AudioEncoder, device: str) -> None:
        model: Any = load_model(encoder.found, device, encoder.precision, encoder.trust_remote_code)
        config = model.config
        super().__init__(encoder, device, FrameGrid.of_convolutions(config.conv_kernel, config.conv_stride))
        if getattr(config, "add_adapter", False):
            model.adapter = None  # it would thin out the frames; the features are those of the encoder
        self.model = model
        self.first = FrameGrid.of_convolutions(config.conv_kernel[:1], config.conv_stride[:1])
        self.lengths = BatchLengths()
        _mask_group_norm(model, self.lengths)
        fold_weight_norm(model)
        if device == "cpu":
            model.feature_extractor = stretch_convolutions(model.feature_extractor, self.grid, self.lengths)
            by_fourier(model)
        guard_padding(model, self.lengths)
        _attend_by_sdpa(model)
        self.tap = LayerTap(model, self.depth, self.choice, self._reduce, encoder.found.label)

    def _reduce(self, hidden: Tensor) -> Tensor:
        """Hidden state of a block, one row per frame."""
        return hidden

    def prepare(self, wave: Waveform) -> Waveform:
        """Normalise a clip and bring it to the least length the convolutions need."""
        return at_least(normalised(wave, eps=1e-7) if self.encoder.normalises() else wave, self.grid.field)

    def forward(self, pieces: list[Waveform]) -> Tensor:
        """See `LiveAudio.forward`."""
        lengths = np.array([len(piece) for piece in pieces])
        padded = pad_right(pieces)
        mask = None
        self.lengths.valid = None
        if lengths.min() < padded.shape[1]:
            mask = to_device((np.arange(padded.shape[1]) < lengths[:, None]).astype(np.int64), self.device)
            frames = np.array([self.grid.frames(length) for length in lengths])
            valid = np.arange(self.grid.frames(padded.shape[1])) < frames[:, None]
            self.lengths.valid = to_device(valid, self.device)[:, None, :]
        self.lengths.first = [self.first.frames(length) for length in lengths]
        sound = to_device(padded, self.device).to(self.model.dtype)
        return self.tap.collect(self.model(sound, attention_mask=mask).last_hidden_state, lambda hidden: hidden)


class LiveSew(LiveWave):
    """SEW: its transformer runs on pairs of frames, and its output is spread over the frames again.

    A last frame without a partner would see padding in a batch and be dropped alone; it is left out. Inner layers are
    told for both frames of a pair.
    """

    def __init__(self, encoder: AudioEncoder, device: str) -> None:
        super().__init__(encoder, device)
        self.together = int(self.model.config.squeeze_factor)
        self.longest -= self.longest % self.together

    def _reduce(self, hidden: Tensor) -> Tensor:
        return hidden.repeat_interleave(self.together, dim=1)

    def prepare(self, wave: Waveform) -> Waveform:
        """See `LiveWave.prepare`; the clip then has frames for whole pairs."""
        ready = at_least(super().prepare(wave), self.grid.samples(self.together))
        frames = self.grid.frames(len(ready))
        odd = frames % self.together
        return ready[: self.grid.samples(frames - odd + 1) - 1] if odd else ready


def _attend_by_sdpa(model: nn.Module) -> None:
    """Let WavLM attend by the fused kernel: its own code keeps all attention weights and averages them over heads."""
    for module in model.modules():
        if hasattr(module, "torch_multi_head_self_attention"):
            attention: Any = module
            attention.torch_multi_head_self_attention = partial(biased_attention, module)


def biased_attention(attention: Any, hidden: Tensor, mask: Tensor | None, bias: Tensor) -> tuple[Tensor, None]:
    """Self-attention with a position bias.

    Parameters
    ----------
    attention
        Module with q_proj, k_proj, v_proj, out_proj and num_heads.
    hidden
        Shape (B, T, width).
    mask
        Shape (B, T), True at valid steps, or None.
    bias
        Added to the scores, shape (B x heads, T, T).
    """
    size, steps, width = hidden.shape
    heads = attention.num_heads
    query, key, value = (
        project(hidden).view(size, steps, heads, -1).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    scores = bias.view(size, heads, steps, steps).to(query.dtype)
    if mask is not None:
        scores = scores.masked_fill(~mask.bool()[:, None, None, :], float("-inf"))
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=scores)
    return attention.out_proj(mixed.transpose(1, 2).reshape(size, steps, width)), None


def _mask_group_norm(model: Any, lengths: BatchLengths) -> None:
    layer = model.feature_extractor.conv_layers[0]
    norm = getattr(layer, "layer_norm", None)
    if isinstance(norm, nn.GroupNorm):
        layer.layer_norm = ClipGroupNorm(norm, lengths)
