"""Whisper's encoder, on the clip itself or on the clip and silence up to 30 seconds.

Whisper pads every clip to 30 s and attends to the padding; with `window = "30s"` so does this one, and gives what the
stock encoder gives for the frames that the clip reaches. With `window = "clip"` the log-mel picture and the two
convolutions are computed as Whisper does, silence following the clip, and only the frames that the clip reaches enter
the transformer. So the convolutions' output equals Whisper's own, the attention differs from it by the silence that is
not there, and a short clip costs what it is long. Clips in a batch are masked from each other's padding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..interfaces import EncoderInput, Waveform
from .audio import FrameGrid, LiveAudio, pad_right
from .loading import LayerTap, load_model, to_device
from .pretrained import AudioEncoder

HOP, FFT = 160, 400
"""Samples between mel frames and samples of one, at 16 kHz; two mel frames make one step of the encoder."""
WINDOW_FRAMES = 3000
"""Mel frames of the window that it was trained on: 30 s."""
SILENT_FRAMES = 8
"""Mel frames of silence kept behind the longest clip: more than the convolutions look ahead."""


class LiveWhisper(LiveAudio):
    """Whisper's encoder on a device."""

    def __init__(self, encoder: AudioEncoder, device: str) -> None:
        from transformers import WhisperFeatureExtractor

        found = encoder.found
        model: Any = load_model(found, device, encoder.precision, encoder.trust_remote_code, part="encoder")
        config = model.config
        grid = FrameGrid(stride=2 * HOP, field=FFT, centred=True)
        super().__init__(encoder, device, grid, most_frames=config.max_source_positions)
        self.model = model
        self.whole = encoder.window == "30s"
        self.padded = not self.whole
        filters = WhisperFeatureExtractor(feature_size=config.num_mel_bins).mel_filters
        self.filters = torch.from_numpy(np.ascontiguousarray(filters.T)).float().to(device)
        self.window = torch.hann_window(FFT, device=device)
        self.tap = LayerTap(model, self.depth, self.choice, lambda hidden: hidden, found.label)

    def cost(self, item: EncoderInput) -> int:
        """See `LiveAudio.cost`."""
        return WINDOW_FRAMES * HOP if self.whole else super().cost(item)

    def log_mel(self, pieces: list[Waveform]) -> Tensor:
        """Log-mel pictures, each scaled by its own maximum, shape (B, bins, T), float32."""
        frames = 2 * max(self.grid.frames(len(piece)) for piece in pieces) + SILENT_FRAMES
        frames = WINDOW_FRAMES if self.whole else frames
        sound = to_device(pad_right(pieces, frames * HOP), self.device)
        spectrum = torch.stft(sound, FFT, HOP, window=self.window, return_complex=True)[..., :-1]
        mel = (self.filters @ spectrum.abs().square()).clamp(min=1e-10).log10()
        mel = torch.maximum(mel, mel.amax(dim=(1, 2), keepdim=True) - 8.0)
        return (mel + 4.0) / 4.0

    def forward(self, pieces: list[Waveform]) -> Tensor:
        """See `LiveAudio.forward`."""
        counts = np.array([self.grid.frames(len(piece)) for piece in pieces])
        steps = WINDOW_FRAMES // 2 if self.whole else int(counts.max())
        mel = self.log_mel(pieces).to(self.model.conv1.weight.dtype)
        x = functional.gelu(self.model.conv2(functional.gelu(self.model.conv1(mel))))
        x = x[..., :steps].transpose(1, 2) + self.model.embed_positions.weight[:steps]
        mask = None
        if counts.min() < steps and not self.whole:
            valid = np.arange(steps) < counts[:, None]
            mask = to_device(valid, self.device)[:, None, None, :].expand(-1, 1, steps, -1)
        for block in self.model.layers:
            x = block(x, mask)
            x = x[0] if isinstance(x, tuple) else x
        return self.tap.collect(self.model.layer_norm(x))
