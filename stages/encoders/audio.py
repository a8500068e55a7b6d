"""Audio encoders of the wav2vec2 kind: wav2vec2 (both families), HuBERT, WavLM, data2vec-audio.

Padding must not change the features of a clip. Three things see to it: the clip is normalised before it is padded;
the group normalisation of the first convolution (`feat_extract_norm = "group"`) averages over the frames of the clip
alone; and the positional convolutions see zeros beyond the end of the clip, as they do when it is encoded alone. The
transformer itself is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from mer.cache import FeatureSequence, MerError

from ..protocols import SAMPLE_RATE_HZ, EncoderInput, Waveform
from .batching import CPU_BUDGETS, cut_batches
from .loading import LayerTap, exact_math, load_model, to_device, to_host
from .pretrained import AudioEncoder
from .windows import Window, cut_windows


@dataclass(frozen=True)
class FrameGrid:
    """Which samples the frames of a stack of convolutions see."""

    stride: int
    """Samples between the starts of neighbouring frames."""
    field: int
    """Samples one frame sees."""

    @classmethod
    def of(cls, kernels: Sequence[int], strides: Sequence[int]) -> FrameGrid:
        """Combine the convolutions from first to last."""
        stride, field = 1, 1
        for kernel, step in zip(kernels, strides, strict=True):
            field += (kernel - 1) * stride
            stride *= step
        return cls(stride, field)

    def frames(self, samples: int) -> int:
        """Number of frames of so many samples."""
        return 0 if samples < self.field else 1 + (samples - self.field) // self.stride

    def centres_seconds(self, frames: int) -> npt.NDArray[np.float64]:
        """Centre of each frame's receptive field, shape (frames,), seconds."""
        return (np.arange(frames) * self.stride + self.field / 2) / SAMPLE_RATE_HZ


class ClipGroupNorm(nn.Module):
    """Group normalisation with one group per channel, over the frames of each clip and not over its padding."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.frames: list[int] = []
        """Frames of each clip of the batch at this layer; set before every forward pass."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise hidden, shape (B, C, T), row by row with the very operation that a single clip would see."""
        if all(count == hidden.shape[2] for count in self.frames):
            return self.norm(hidden)  # type: ignore[no-any-return]
        out = torch.zeros_like(hidden)
        for row, count in enumerate(self.frames):
            out[row : row + 1, :, :count] = functional.group_norm(
                hidden[row : row + 1, :, :count], self.norm.num_groups, self.norm.weight, self.norm.bias, self.norm.eps
            )
        return out


class PaddingGuard:
    """Zeroes the padding in the input of every positional convolution."""

    def __init__(self, model: nn.Module) -> None:
        self.valid: Tensor | None = None
        """Shape (B, 1, T), or None when the batch has no padding."""
        for name, module in model.named_modules():
            if "pos_conv_embed" in name and isinstance(module, nn.Conv1d):
                module.register_forward_pre_hook(self._zero)

    def _zero(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return None if self.valid is None else (args[0] * self.valid.to(args[0].dtype), *args[1:])


class LiveAudio:
    """A model of the wav2vec2 kind on a device."""

    def __init__(self, encoder: AudioEncoder, device: str) -> None:
        self.encoder = encoder
        self.device = device
        self.budget = CPU_BUDGETS["audio"]
        self.choice, depth, self.width = encoder.choice()
        model: Any = load_model(encoder.found, device, encoder.precision, encoder.trust_remote_code)
        config = model.config
        if getattr(config, "add_adapter", False):
            model.adapter = None  # it would thin out the frames; the features are those of the encoder
        self.model = model
        self.grid = FrameGrid.of(config.conv_kernel, config.conv_stride)
        self.first = FrameGrid.of(config.conv_kernel[:1], config.conv_stride[:1])
        self.norm = _masked_group_norm(self.model)
        self.guard = PaddingGuard(self.model)
        self.tap = LayerTap(self.model, depth, self.choice, lambda hidden: hidden, encoder.found.label)
        self.longest = self.grid.frames(int(encoder.max_seconds * SAMPLE_RATE_HZ))
        self.overlap = round(encoder.overlap_seconds * SAMPLE_RATE_HZ / self.grid.stride)

    def cost(self, item: EncoderInput) -> int:
        """Samples; a long clip counts as one chunk, since chunks are batched apart."""
        return max(self.grid.field, min(len(_checked(item)), self._samples(Window(0, self.longest, 0, 0))))

    def encode(self, batch: Sequence[EncoderInput]) -> list[FeatureSequence]:
        """See `mer.stages.protocols.LoadedEncoder`."""
        waves = [self._prepare(_checked(item)) for item in batch]
        cuts = [cut_windows(self.grid.frames(len(wave)), self.longest, self.overlap) for wave in waves]
        chunks = [(index, window) for index, cut in enumerate(cuts) for window in cut]
        pieces = [self._piece(waves[index], window, len(cuts[index])) for index, window in chunks]
        values: list[npt.NDArray[np.float32] | None] = [None] * len(chunks)
        costs = [len(piece) for piece in pieces]
        budget = max(self.budget, len(batch) * max(costs, default=1))
        for places in cut_batches(costs, budget):
            found = self._run([pieces[place] for place in places], [chunks[place][1] for place in places])
            for place, rows in zip(places, found, strict=True):
                values[place] = rows
        parts: list[list[npt.NDArray[np.float32]]] = [[] for _ in batch]
        for (index, _), rows_or_none in zip(chunks, values, strict=True):
            if rows_or_none is not None:
                parts[index].append(rows_or_none)
        return [
            self._sequence(part, len(_checked(item)), len(cut))
            for part, item, cut in zip(parts, batch, cuts, strict=True)
        ]

    def _prepare(self, wave: Waveform) -> Waveform:
        """Normalise a clip and bring it to the least length the convolutions need."""
        if self.encoder.normalises() and len(wave):
            centred = wave.astype(np.float64) - wave.mean(dtype=np.float64)
            wave = (centred / np.sqrt(np.mean(centred**2) + 1e-7)).astype(np.float32)
        if 0 < len(wave) < self.grid.field:
            wave = np.pad(wave, (0, self.grid.field - len(wave)))
        return wave

    def _samples(self, window: Window) -> int:
        return (window.stop - window.start - 1) * self.grid.stride + self.grid.field

    def _piece(self, wave: Waveform, window: Window, windows: int) -> Waveform:
        """Samples of one chunk; a clip in one piece keeps its samples beyond the last frame."""
        if windows == 1:
            return wave
        start = window.start * self.grid.stride
        return wave[start : start + self._samples(window)]

    def _run(self, pieces: list[Waveform], windows: list[Window]) -> list[npt.NDArray[np.float32]]:
        lengths = [len(piece) for piece in pieces]
        padded = np.zeros((len(pieces), max(lengths)), np.float32)
        for row, piece in enumerate(pieces):
            padded[row, : len(piece)] = piece
        frames = self.grid.frames(padded.shape[1])
        keep = np.zeros((len(pieces), frames), np.bool_)
        valid = np.zeros((len(pieces), frames), np.bool_)
        for row, (length, window) in enumerate(zip(lengths, windows, strict=True)):
            keep[row, window.keep_start - window.start : window.keep_stop - window.start] = True
            valid[row, : self.grid.frames(length)] = True
        with exact_math(self.device, self.encoder.precision):
            hidden = self._forward(padded, lengths, valid)
            rows = to_host(hidden[to_device(keep, self.device)])
        counts = [window.keep_stop - window.keep_start for window in windows]
        return np.split(rows, np.cumsum(counts)[:-1])

    def _forward(self, padded: Waveform, lengths: list[int], valid: npt.NDArray[np.bool_]) -> Tensor:
        ragged = min(lengths) < padded.shape[1]
        sound = to_device(padded, self.device).to(getattr(torch, self.encoder.precision))
        mask = None
        self.guard.valid = None
        if ragged:
            mask = to_device((np.arange(padded.shape[1]) < np.array(lengths)[:, None]).astype(np.int64), self.device)
            self.guard.valid = to_device(valid, self.device)[:, None, :]
        if self.norm is not None:
            self.norm.frames = [self.first.frames(length) for length in lengths]
        return self.tap.collect(self.model(sound, attention_mask=mask).last_hidden_state)

    def _sequence(self, parts: list[npt.NDArray[np.float32]], samples: int, chunks: int) -> FeatureSequence:
        values = np.concatenate(parts) if parts else np.zeros((0, self.width * self.choice.width), np.float32)
        note: dict[str, Any] = {}
        if chunks > 1:
            note["audio_chunks"] = chunks
        if 0 < samples < self.grid.field:
            note["padded_samples"] = self.grid.field - samples
        return FeatureSequence.of(values, self.grid.centres_seconds(len(values)), note)

    def probe(self, count: int) -> int:
        """Encode `count` chunks of the greatest length and return their cost."""
        window = Window(0, self.longest, 0, self.longest)
        samples = self._samples(window)
        noise = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
        # One chunk is a sample shorter, so that the masked path is the one that is measured.
        self._run([noise, *[noise[:-1]] * (count - 1)], [window, *[Window(0, self.longest - 1, 0, 1)] * (count - 1)])
        torch.cuda.synchronize(self.device)
        return count * samples


def _checked(item: EncoderInput) -> Waveform:
    if not isinstance(item, np.ndarray) or item.ndim != 1:
        raise MerError(f"an audio encoder takes a mono waveform of shape (n,), not {type(item).__name__}")
    return item


def _masked_group_norm(model: Any) -> ClipGroupNorm | None:
    layer = model.feature_extractor.conv_layers[0]
    norm = getattr(layer, "layer_norm", None)
    if not isinstance(norm, nn.GroupNorm):
        return None
    masked = ClipGroupNorm(norm)
    layer.layer_norm = masked
    return masked
