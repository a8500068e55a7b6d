"""The sound tower of CLAP: ten seconds at 48 kHz, a shorter clip repeated to fill them, as it was trained.

Sound comes at 16 kHz and is resampled, so that the upper two thirds of the spectrum are empty: a limit to know of.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
from torch import Tensor

from ..interfaces import SAMPLE_RATE_HZ, Waveform
from .audio import FrameGrid, LiveAudio, at_least
from .loading import load_model, to_device
from .pretrained import AudioEncoder
from .spectrogram import load_extractor

LEAST_SAMPLES = 400


class LiveClap(LiveAudio):
    """CLAP's sound tower on a device. A step is the mean over frequency of one column of its last feature map."""

    padded = False
    coarse = True

    def __init__(self, encoder: AudioEncoder, device: str) -> None:
        self.extractor = load_extractor(encoder)
        self.rate = int(self.extractor.sampling_rate)
        part = "audio_model" if encoder.family.part else ""
        model: Any = load_model(encoder.found, device, encoder.precision, encoder.trust_remote_code, part=part)
        config = model.config
        seconds = self.extractor.nb_max_samples / self.rate
        stride = config.patch_stride[1] if isinstance(config.patch_stride, list | tuple) else config.patch_stride
        ratio = config.spec_size // config.num_mel_bins
        self.steps = config.spec_size // (2 ** (len(config.depths) - 1)) // stride * ratio
        step = int(seconds * SAMPLE_RATE_HZ) // self.steps
        super().__init__(encoder, device, FrameGrid(step, step, partly=True), most_frames=self.steps)
        self.overlap = min(self.overlap, self.longest // 2)
        self.model = model

    def prepare(self, wave: Waveform) -> Waveform:
        """Bring a clip to the least length of a spectrum."""
        return at_least(wave, LEAST_SAMPLES)

    def forward(self, pieces: list[Waveform]) -> Tensor:
        """See `LiveAudio.forward`."""
        made: list[Any] = []
        for piece in pieces:
            sound = soxr.resample(piece, SAMPLE_RATE_HZ, self.rate, quality="HQ").astype(np.float32)
            sound = sound[: self.extractor.nb_max_samples]
            found = self.extractor(sound, sampling_rate=self.rate, return_tensors="np")
            made.append(found["input_features"][0])
        inputs = to_device(np.stack(made).astype(np.float32), self.device).to(self.model.dtype)
        flags = to_device(np.zeros((len(made), 1), np.bool_), self.device)  # none is longer than the window
        maps = self.model(input_features=inputs, is_longer=flags).last_hidden_state
        return maps.mean(dim=2).transpose(1, 2).float()  # type: ignore[no-any-return]
