"""Audio encoders without weights: openSMILE's feature sets, and prosody, MFCC and chroma by librosa.

Each clip is measured by itself, so a batch equals its singles. Values have their natural units and some exceed what
float16 can hold; so these features are stored as float32 whatever the run asks for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mer.cache import FeatureSequence, FeatureSpec, MerError
from mer.cache.release import install_line

from ..interfaces import SAMPLE_RATE_HZ, EncoderInput, LoadedEncoder, Waveform

Frames = npt.NDArray[np.float32]
Times = npt.NDArray[np.floating[Any]]

HOP = 320
"""Samples between librosa's frames: 20 ms, as the wav2vec2 family has them."""
FRAME = 1024
"""Samples librosa looks at in one frame: 64 ms, enough for two periods of the lowest voices."""
LOWEST_VOICE_HZ, HIGHEST_VOICE_HZ = 60.0, 500.0
SMILE_WINDOW = 960
"""Samples of openSMILE's longest window, 60 ms; less sound than that has no features."""
SMILE_HOP_SECONDS = 0.01


@dataclass(frozen=True)
class Measure:
    """One weight-free feature set."""

    library: str
    dim: int
    least_samples: int
    detail: Mapping[str, Any]
    """What enters the spec."""


_LIBROSA = {"hop_samples": HOP, "frame_samples": FRAME}

MEASURES: Mapping[str, Measure] = {
    "egemaps": Measure("opensmile", 88, SMILE_WINDOW, {"set": "eGeMAPSv02", "level": "Functionals"}),
    "egemaps-lld": Measure("opensmile", 25, SMILE_WINDOW, {"set": "eGeMAPSv02", "level": "LowLevelDescriptors"}),
    "compare": Measure("opensmile", 6373, SMILE_WINDOW, {"set": "ComParE_2016", "level": "Functionals"}),
    "compare-lld": Measure("opensmile", 65, SMILE_WINDOW, {"set": "ComParE_2016", "level": "LowLevelDescriptors"}),
    "librosa-prosody": Measure("librosa", 14, FRAME, {**_LIBROSA, "voice_hz": [LOWEST_VOICE_HZ, HIGHEST_VOICE_HZ]}),
    "librosa-mfcc": Measure("librosa", 60, FRAME, {**_LIBROSA, "coefficients": 20, "deltas": 2}),
    "librosa-chroma": Measure("librosa", 12, FRAME, {**_LIBROSA, "tuning": 0.0}),
}


@dataclass(frozen=True)
class SignalEncoder:
    """A weight-free feature set by name."""

    measure: str

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise MerError(f"unknown feature set {self.measure!r}; known: {', '.join(MEASURES)}")

    @property
    def modality(self) -> str:
        """`audio`."""
        return "audio"

    def resolve(self) -> Self:
        """Check that the library is installed."""
        library = MEASURES[self.measure].library
        if importlib.util.find_spec(library) is None:
            raise MerError(f"encoder {self.measure} needs {library}: {install_line(library)}")
        return self

    def spec(self, inputs: Mapping[str, Any], dtype: str = "float32") -> FeatureSpec:
        """Spec of the features; `dtype` is float32 whatever is asked for."""
        measure = MEASURES[self.measure]
        identity = {"type": f"signal-{measure.library}", "algorithm": 1, "measure": self.measure, **measure.detail}
        return FeatureSpec("audio", self.measure, identity, measure.dim, dict(inputs), dtype="float32")

    def load(self, device: str) -> LoadedEncoder:
        """Prepare the measurement; it runs on the CPU whatever the device."""
        return LiveSignal(self.measure)


class LiveSignal:
    """A measurement that is ready to run."""

    def __init__(self, name: str) -> None:
        self.measure = MEASURES[name]
        self.run = _smile(self.measure) if self.measure.library == "opensmile" else _LIBROSA_RUNS[name]

    def cost(self, item: EncoderInput) -> int:
        """Samples."""
        return max(1, len(_checked(item)))

    def encode(self, batch: Sequence[EncoderInput]) -> list[FeatureSequence]:
        """See `mer.stages.interfaces.LoadedEncoder`."""
        return [self._one(_checked(item)) for item in batch]

    def _one(self, wave: Waveform) -> FeatureSequence:
        if not len(wave):
            return FeatureSequence.of(np.zeros((0, self.measure.dim), np.float32), np.zeros(0))
        missing = max(0, self.measure.least_samples - len(wave))
        values, times = self.run(np.pad(wave, (0, missing)))
        if not np.isfinite(values).all():
            raise MerError(f"{self.measure.library} gave values that are not numbers; is the clip all silence?")
        shown = np.minimum(times, len(wave) / SAMPLE_RATE_HZ + np.arange(len(times)) * 1e-6)
        return FeatureSequence.of(values.astype(np.float32), shown, {"padded_samples": missing} if missing else {})


def _checked(item: EncoderInput) -> Waveform:
    if not isinstance(item, np.ndarray) or item.ndim != 1:
        raise MerError(f"an audio encoder takes a mono waveform of shape (n,), not {type(item).__name__}")
    return item


Run = Callable[[Waveform], tuple[Frames, Times]]


def _smile(measure: Measure) -> Run:
    import opensmile

    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet[measure.detail["set"]],
        feature_level=opensmile.FeatureLevel[measure.detail["level"]],
    )
    whole = measure.detail["level"] == "Functionals"

    def run(wave: Waveform) -> tuple[Frames, Times]:
        values: Frames = smile.process_signal(wave, SAMPLE_RATE_HZ).to_numpy()
        if whole:
            return values, np.array([len(wave) / SAMPLE_RATE_HZ / 2], dtype=np.float64)
        return values, np.arange(len(values)) * SMILE_HOP_SECONDS + SMILE_WINDOW / SAMPLE_RATE_HZ / 2

    return run


def _spectrum(wave: Waveform) -> Frames:
    import librosa

    magnitudes: Frames = np.abs(librosa.stft(wave, n_fft=FRAME, hop_length=HOP))
    return magnitudes


def _timed(rows: Sequence[npt.NDArray[Any]]) -> tuple[Frames, Times]:
    """Lay measurements of shape (n, T) side by side as (T, dim), frame i being centred on sample `i * HOP`."""
    values = np.concatenate(rows).T.astype(np.float32)
    return values, np.arange(len(values)) * HOP / SAMPLE_RATE_HZ


def _slopes(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Change per frame by central differences, shape kept."""
    return np.gradient(values, axis=1) if values.shape[1] > 1 else np.zeros_like(values)


def _prosody(wave: Waveform) -> tuple[Frames, Times]:
    """Pitch (octaves above 55 Hz), level (dB), zero crossings, spectral shape, and the change of each."""
    import librosa

    spectrum = _spectrum(wave)
    frames = spectrum.shape[1]
    pitch = librosa.yin(
        wave, fmin=LOWEST_VOICE_HZ, fmax=HIGHEST_VOICE_HZ, sr=SAMPLE_RATE_HZ, frame_length=FRAME, hop_length=HOP
    )
    shape: dict[str, Any] = {"S": spectrum, "sr": SAMPLE_RATE_HZ}
    measured = np.stack(
        [
            np.log2(pitch[:frames] / 55.0),
            20 * np.log10(librosa.feature.rms(S=spectrum, frame_length=FRAME)[0] + 1e-6),
            librosa.feature.zero_crossing_rate(wave, frame_length=FRAME, hop_length=HOP)[0, :frames],
            librosa.feature.spectral_centroid(**shape)[0] / 1000,
            librosa.feature.spectral_bandwidth(**shape)[0] / 1000,
            librosa.feature.spectral_rolloff(**shape)[0] / 1000,
            10 * np.log10(librosa.feature.spectral_flatness(S=spectrum)[0] + 1e-10),
        ]
    )
    return _timed([measured, _slopes(measured)])


def _mfcc(wave: Waveform) -> tuple[Frames, Times]:
    """Twenty coefficients of the log-mel spectrum with their first and second change."""
    import librosa

    mel = librosa.feature.melspectrogram(S=_spectrum(wave) ** 2, sr=SAMPLE_RATE_HZ)
    coefficients = librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=20)
    change = _slopes(coefficients)
    return _timed([coefficients, change, _slopes(change)])


def _chroma(wave: Waveform) -> tuple[Frames, Times]:
    """Energy of the twelve pitch classes, the strongest being 1; not tuned to the clip."""
    import librosa

    chroma = librosa.feature.chroma_stft(S=_spectrum(wave) ** 2, sr=SAMPLE_RATE_HZ, n_fft=FRAME, tuning=0.0)
    return _timed([chroma])


_LIBROSA_RUNS: Mapping[str, Run] = {
    "librosa-prosody": _prosody,
    "librosa-mfcc": _mfcc,
    "librosa-chroma": _chroma,
}
