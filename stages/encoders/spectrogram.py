"""Audio encoders that take a spectrogram of their own: w2v-BERT 2.0 and the audio spectrogram transformer (AST).

The spectrogram of each clip is made by the checkpoint's own feature extractor, one clip at a time, so that nothing of
another clip or of padding takes part in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from mer.cache import MerError

from ..interfaces import SAMPLE_RATE_HZ, Waveform
from .audio import FrameGrid, LiveAudio, at_least
from .loading import LayerTap, load_model, to_device
from .pretrained import AudioEncoder

HOP, FFT = 160, 400
"""Samples between mel frames and samples of one, at 16 kHz, for both families."""


def load_extractor(encoder: AudioEncoder) -> Any:
    """Load the feature extractor of a checkpoint.

    Raises
    ------
    MerError
        If its files cannot be read.
    """
    from transformers import AutoFeatureExtractor

    found = encoder.found
    try:
        return AutoFeatureExtractor.from_pretrained(
            found.folder, local_files_only=True, trust_remote_code=encoder.trust_remote_code
        )
    except Exception as error:  # errors of many libraries
        reason = " ".join(str(error).split())[:300]
        raise MerError(
            f"the feature extractor of {found.label} cannot be loaded from {found.folder}: {reason}"
        ) from error


class LiveWav2Vec2Bert(LiveAudio):
    """A w2v-BERT 2.0 on a device. Two mel frames make one step; a last one without a partner counts for the scaling."""

    def __init__(self, encoder: AudioEncoder, device: str) -> None:
        self.extractor = load_extractor(encoder)
        self.together = int(self.extractor.stride)
        super().__init__(encoder, device, FrameGrid(self.together * HOP, FFT + (self.together - 1) * HOP))
        model: Any = load_model(encoder.found, device, encoder.precision, encoder.trust_remote_code)
        model.adapter = None  # it would thin out the frames; the features are those of the encoder
        self.model = model
        self.tap = LayerTap(model, self.depth, self.choice, lambda hidden: hidden, encoder.found.label)

    def prepare(self, wave: Waveform) -> Waveform:
        """Bring a clip to the least length of one step."""
        return at_least(wave, self.grid.field)

    def forward(self, pieces: list[Waveform]) -> Tensor:
        """See `LiveAudio.forward`."""
        counts = np.array([self.grid.frames(len(piece)) for piece in pieces])
        made = [
            self.extractor(piece, sampling_rate=SAMPLE_RATE_HZ, return_tensors="np")["input_features"][0][:count]
            for piece, count in zip(pieces, counts, strict=True)
        ]
        inputs = np.zeros((len(made), counts.max(), made[0].shape[1]), np.float32)
        for row, features in enumerate(made):
            inputs[row, : len(features)] = features
        mask = None
        if counts.min() < counts.max():
            mask = to_device((np.arange(counts.max()) < counts[:, None]).astype(np.int64), self.device)
        sound = to_device(inputs, self.device).to(self.model.dtype)
        return self.tap.collect(self.model(sound, attention_mask=mask).last_hidden_state)


class LiveSpectrogram(LiveAudio):
    """An AST on a device: pictures of one size, in which a step is the mean of the patches above each other.

    The sound is followed by silence up to the model's length, as it was trained; steps beyond the clip are left out.
    """

    padded = False
    coarse = True

    def __init__(self, encoder: AudioEncoder, device: str) -> None:
        self.extractor = load_extractor(encoder)
        model: Any = load_model(encoder.found, device, encoder.precision, encoder.trust_remote_code)
        config = model.config
        self.steps = (config.max_length - config.patch_size) // config.time_stride + 1
        grid = FrameGrid(config.time_stride * HOP, FFT + (config.patch_size - 1) * HOP)
        super().__init__(encoder, device, grid, most_frames=self.steps)
        self.overlap = min(self.overlap, self.longest // 2)
        self.model = model
        self.tap = LayerTap(model, self.depth, self.choice, self._reduce, encoder.found.label)

    def prepare(self, wave: Waveform) -> Waveform:
        """Bring a clip to the least length of one step."""
        return at_least(wave, self.grid.field)

    def _reduce(self, hidden: Tensor) -> Tensor:
        """Mean over frequency of the patches of each step; class and distillation token come first."""
        patches = hidden[:, 2:]
        return patches.reshape(len(hidden), -1, self.steps, hidden.shape[-1]).mean(dim=1)

    def forward(self, pieces: list[Waveform]) -> Tensor:
        """See `LiveAudio.forward`."""
        made = [
            self.extractor(piece, sampling_rate=SAMPLE_RATE_HZ, return_tensors="np")["input_values"][0]
            for piece in pieces
        ]
        sound = to_device(np.stack(made).astype(np.float32), self.device).to(self.model.dtype)
        return self.tap.collect(self.model(sound).last_hidden_state)
