"""Where in a waveform somebody may be speaking: by silero-vad where it is installed, by energy otherwise.

Energy tells silence, steady noise and steady tones from speech, since speech rises and falls; it cannot tell music from
speech. silero-vad, an extra whose package holds its weights, can.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from ..interfaces import SAMPLE_RATE_HZ, Waveform

FRAME_SECONDS = 0.03
QUIETEST_DB = -95.0
"""Frames below this level (of full scale) are silence, whatever else there is."""
LEAST_RANGE_DB = 6.0
"""Sound whose loud and quiet tenths lie closer together is steady: noise, hum, a tone."""
BELOW_PEAK_DB = 30.0
ABOVE_FLOOR_DB = 6.0
JOIN_SECONDS = 0.3
"""Pauses up to this are part of what is spoken."""
LEAST_SECONDS = 0.06

Span = tuple[float, float]


def method() -> str:
    """Name of what decides: `silero-vad` or `energy`."""
    return "silero-vad" if importlib.util.find_spec("silero_vad") else "energy"


def find_speech(waveform: Waveform) -> list[Span]:
    """Stretches in which somebody may be speaking, in seconds from the start, in order."""
    if len(waveform) < int(LEAST_SECONDS * SAMPLE_RATE_HZ):
        return []
    loud = by_energy(waveform)
    return by_silero(waveform) if loud and method() == "silero-vad" else loud


def by_energy(waveform: Waveform) -> list[Span]:
    """Stretches that stand out from the rest of a clip by their level."""
    size = int(FRAME_SECONDS * SAMPLE_RATE_HZ)
    frames = np.resize(waveform, (-(-len(waveform) // size), size)).astype(np.float64)
    if rest := len(waveform) % size:
        frames[-1, rest:] = 0.0
    levels = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-12)
    quiet, loud = np.percentile(levels, 10), np.percentile(levels, 90)
    if loud < QUIETEST_DB or loud - quiet < LEAST_RANGE_DB:
        return []
    least = max(QUIETEST_DB, levels.max() - BELOW_PEAK_DB, quiet + ABOVE_FLOOR_DB)
    return _joined(levels > least, len(waveform) / SAMPLE_RATE_HZ)


def _joined(active: npt.NDArray[np.bool_], seconds: float) -> list[Span]:
    """Turn active frames into stretches, short pauses included."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    spans: list[Span] = []
    for start, stop in edges.reshape(-1, 2) * FRAME_SECONDS:
        if spans and start - spans[-1][1] <= JOIN_SECONDS:
            spans[-1] = (spans[-1][0], min(float(stop), seconds))
        else:
            spans.append((float(start), min(float(stop), seconds)))
    return [span for span in spans if span[1] - span[0] >= LEAST_SECONDS]


def by_silero(waveform: Waveform) -> list[Span]:
    """Stretches that silero-vad takes for speech. The clip is brought to full level first: it was trained on that."""
    import torch

    model = _silero()
    from silero_vad import get_speech_timestamps

    scaled = waveform / max(float(np.abs(waveform).max()), 1e-9)
    sound = torch.from_numpy(np.ascontiguousarray(scaled, np.float32))
    found = get_speech_timestamps(sound, model, sampling_rate=SAMPLE_RATE_HZ)
    return [(one["start"] / SAMPLE_RATE_HZ, one["end"] / SAMPLE_RATE_HZ) for one in found]


@functools.lru_cache(maxsize=1)
def _silero() -> Any:
    import torch

    threads = torch.get_num_threads()
    try:
        from silero_vad import load_silero_vad

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it ships TorchScript, which torch calls deprecated
            return load_silero_vad()
    finally:
        torch.set_num_threads(threads)  # its import sets one for the whole process
