"""What audio encoders share: the grid of frames, chunks of long clips, and putting their frames together again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mer.cache import FeatureSequence, MerError

from ..interfaces import SAMPLE_RATE_HZ, EncoderInput, Waveform
from .batching import CPU_BUDGETS, cut_batches, run_halving
from .loading import exact_math, settle, to_device, to_host
from .pretrained import AudioEncoder
from .windows import Window, cut_windows

PIECE_SAMPLES = 1 << 20


@dataclass(frozen=True)
class FrameGrid:
    """Which samples the frames of an audio model see."""

    stride: int
    """Samples between neighbouring frames."""
    field: int
    """Samples one frame sees."""
    centred: bool = False
    """True when frame i is centred on sample `i * stride`, False when it starts there."""
    partly: bool = False
    """True when a last, partly filled frame counts; so it does where frames are centred."""

    @classmethod
    def of_convolutions(cls, kernels: Sequence[int], strides: Sequence[int]) -> FrameGrid:
        """Combine convolutions without padding, from first to last."""
        stride, field = 1, 1
        for kernel, step in zip(kernels, strides, strict=True):
            field += (kernel - 1) * stride
            stride *= step
        return cls(stride, field)

    def frames(self, samples: int) -> int:
        """Number of frames of so many samples."""
        if self.centred or self.partly:
            return -(-samples // self.stride)
        return 0 if samples < self.field else 1 + (samples - self.field) // self.stride

    def samples(self, frames: int) -> int:
        """Least number of samples that has so many frames, all of them filled."""
        return frames * self.stride if self.centred or self.partly else (frames - 1) * self.stride + self.field

    def centres_seconds(self, frames: int) -> npt.NDArray[np.float64]:
        """Centre of what each frame sees, shape (frames,), seconds."""
        first = 0.0 if self.centred else self.field / 2
        return (np.arange(frames) * self.stride + first) / SAMPLE_RATE_HZ


class LiveAudio(ABC):
    """An audio model on a device. A subclass prepares clips, and runs chunks that were cut for it."""

    grid: FrameGrid
    side_by_side = True
    coarse = False
    """True where a step is so long that its centre may lie behind a short clip; it is then told at the clip's end."""

    def __init__(self, encoder: AudioEncoder, device: str, grid: FrameGrid, most_frames: int | None = None) -> None:
        self.encoder = encoder
        self.device = device
        self.grid = grid
        self.budget = CPU_BUDGETS["audio"]
        self.choice, self.depth, self.width = encoder.choice()
        self.longest = grid.frames(int(encoder.max_seconds * SAMPLE_RATE_HZ))
        if most_frames is not None:
            self.longest = min(self.longest, most_frames)
        self.overlap = round(encoder.overlap_seconds * SAMPLE_RATE_HZ / grid.stride)

    @abstractmethod
    def forward(self, pieces: list[Waveform]) -> Tensor:
        """Hidden states of a batch of chunks, shape (B, at least the frames of the longest, width), float32."""

    def prepare(self, wave: Waveform) -> Waveform:
        """Prepare a whole clip before it is cut."""
        return wave

    def cost(self, item: EncoderInput) -> int:
        """Samples; a long clip counts as one chunk, since chunks are batched apart."""
        return max(self.grid.field, min(len(as_waveform(item)), self.grid.samples(self.longest)))

    def encode(self, batch: Sequence[EncoderInput]) -> list[FeatureSequence]:
        """See `mer.stages.interfaces.LoadedEncoder`."""
        waves = [self.prepare(as_waveform(item)) for item in batch]
        cuts = [cut_windows(self.grid.frames(len(wave)), self.longest, self.overlap) for wave in waves]
        chunks = [(index, window) for index, cut in enumerate(cuts) for window in cut]
        pieces = [self._piece(waves[index], window, len(cuts[index])) for index, window in chunks]
        costs = [len(piece) for piece in pieces]
        rows: dict[int, npt.NDArray[np.float32]] = {}
        budget = max(self.budget, len(batch) * max(costs, default=1))

        def run(places: Sequence[int]) -> None:
            found = self._run([pieces[place] for place in places], [chunks[place][1] for place in places])
            rows.update(zip(places, found, strict=True))

        for places in cut_batches(costs, budget):
            run_halving(places, run)
        parts: list[list[npt.NDArray[np.float32]]] = [[] for _ in batch]
        for place, (index, _) in enumerate(chunks):
            parts[index].append(rows[place])
        return [self._sequence(part, len(as_waveform(item))) for part, item in zip(parts, batch, strict=True)]

    def _piece(self, wave: Waveform, window: Window, windows: int) -> Waveform:
        """Samples of one chunk; a clip in one piece keeps its samples beyond the last frame."""
        if windows == 1:
            return wave
        start = window.start * self.grid.stride
        return wave[start : start + self.grid.samples(window.stop - window.start)]

    def _run(self, pieces: list[Waveform], windows: list[Window]) -> list[npt.NDArray[np.float32]]:
        with exact_math(self.device, self.encoder.precision):
            hidden = self.forward(pieces)
            keep = np.zeros(hidden.shape[:2], np.bool_)
            for row, window in enumerate(windows):
                keep[row, window.keep_start - window.start : window.keep_stop - window.start] = True
            values = to_host(hidden[to_device(keep, self.device)])
        counts = [window.keep_stop - window.keep_start for window in windows]
        return np.split(values, np.cumsum(counts)[:-1])

    def _sequence(self, parts: list[npt.NDArray[np.float32]], samples: int) -> FeatureSequence:
        values = np.concatenate(parts) if parts else np.zeros((0, self.width * self.choice.width), np.float32)
        note: dict[str, Any] = {}
        if len(parts) > 1:
            note["audio_chunks"] = len(parts)
        if 0 < samples < self.grid.field:
            note["padded_samples"] = self.grid.field - samples
        times = self.grid.centres_seconds(len(values))
        return FeatureSequence.of(values, np.minimum(times, samples / SAMPLE_RATE_HZ) if self.coarse else times, note)

    def probe(self, count: int) -> int:
        """Encode `count` chunks of the greatest length and return their cost."""
        samples = self.grid.samples(self.longest)
        noise = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
        # One chunk is shorter, so that the masked path is the one that is measured.
        pieces = [noise, *[noise[: -self.grid.stride]] * (count - 1)]
        windows = [Window(0, self.longest, 0, self.longest - 1)] * count
        self._run(pieces, windows)
        settle(self.device)
        return count * samples


def as_waveform(item: EncoderInput) -> Waveform:
    """Check that an item is a mono waveform."""
    if not isinstance(item, np.ndarray) or item.ndim != 1:
        raise MerError(f"an audio encoder takes a mono waveform of shape (n,), not {type(item).__name__}")
    return item


def normalised(wave: Waveform, eps: float) -> Waveform:
    """Shift and scale a clip to zero mean and unit variance.

    In pieces: of an hour of sound in float64 at once, the temporary arrays take 1.3 GB.
    """
    if not len(wave):
        return wave
    mean = wave.mean(dtype=np.float64)
    deviation = np.sqrt(_sum_of_squares(wave, mean) / len(wave) + eps)
    scaled = np.empty(len(wave), np.float32)
    for start in range(0, len(wave), PIECE_SAMPLES):
        piece = slice(start, start + PIECE_SAMPLES)
        scaled[piece] = (wave[piece].astype(np.float64) - mean) / deviation
    return scaled


def _sum_of_squares(wave: Waveform, mean: np.float64) -> np.float64:
    """Sum of squared differences from the mean, to the last bit the one that numpy makes of the whole array.

    numpy halves an array again and again and adds up the sums of the halves, the first one a multiple of 8 long.
    """
    if len(wave) <= PIECE_SAMPLES:
        total: np.float64 = np.sum((wave.astype(np.float64) - mean) ** 2)
        return total
    half = len(wave) // 2 - len(wave) // 2 % 8
    return _sum_of_squares(wave[:half], mean) + _sum_of_squares(wave[half:], mean)


def at_least(wave: Waveform, samples: int) -> Waveform:
    """Append zeros to a clip that is shorter than one frame; an empty one stays empty."""
    return np.pad(wave, (0, samples - len(wave))) if 0 < len(wave) < samples else wave


def pad_right(pieces: list[Waveform], samples: int = 0) -> Waveform:
    """Lay waveforms in rows of at least `samples` samples, zeros behind them."""
    padded = np.zeros((len(pieces), max(samples, *(len(piece) for piece in pieces))), np.float32)
    for row, piece in enumerate(pieces):
        padded[row, : len(piece)] = piece
    return padded
