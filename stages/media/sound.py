"""Decoded sound frames to one 16 kHz mono waveform: mixing, placing by timestamps, resampling as it comes."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..interfaces import SAMPLE_RATE_HZ, Waveform
from .limits import MediaLimits

if TYPE_CHECKING:
    from .frames import SoundSink

GAP_SECONDS = 0.1
"""Timestamps off by less than this are jitter of the container, not missing sound."""

SILENT_PEAK = 1e-4
"""Sound that stays below this (-80 dB of full scale) is told to be silent."""

# Full scale of FFmpeg's integer sample formats, and the offset of the unsigned one.
SCALES = {"u8": (128.0, 128.0), "s16": (32768.0, 0.0), "s32": (2147483648.0, 0.0), "s64": (2.0**63, 0.0)}


def pick_channel(names: tuple[str, ...], channel: str) -> int | None:
    """Index of the channel that `channel` asks for in a layout, or None for the mean of all.

    `names` are FFmpeg's channel names in order, such as ("FL", "FR", "FC", "LFE", "BL", "BR"); a layout that is not
    named has other names, and its third channel is taken for the centre, as EmoBox does for MELD.
    """
    if channel == "mean":
        return None
    if channel == "center":
        if "FC" in names:
            return names.index("FC")
        if len(names) > 2 and "FL" not in names:
            return 2
    return 0


def to_mono(frame: Any, channel: str) -> npt.NDArray[np.float32]:
    """One decoded PyAV audio frame as mono float32 of shape (n,), full scale 1."""
    names = tuple(part.name for part in frame.layout.channels)
    samples = _samples(frame)
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(names)).T
    pick = pick_channel(names, channel)
    if pick is not None:
        samples = samples[pick : pick + 1]
    scale, offset = SCALES.get(frame.format.name.removesuffix("p"), (1.0, 0.0))
    mono: npt.NDArray[np.float64] = samples.mean(axis=0, dtype=np.float64)
    return ((mono - offset) / scale).astype(np.float32)


def _samples(frame: Any) -> npt.NDArray[Any]:
    """Samples of a frame as they are stored; PyAV itself knows no integers of 64 bits."""
    if frame.format.name not in ("s64", "s64p"):
        samples: npt.NDArray[Any] = frame.to_ndarray()
        return samples
    channels = 1 if frame.format.is_planar else len(frame.layout.channels)
    planes = [np.frombuffer(plane, np.int64)[: frame.samples * channels] for plane in frame.planes]
    return np.stack(planes)


class _Loudness:
    """Energy of the mix and of its channels: channels of opposite phase leave nothing when they are mixed."""

    def __init__(self) -> None:
        self._mix = self._channels = 0.0

    def add(self, frame: Any, mono: npt.NDArray[np.float32]) -> None:
        """Take in one frame and its mix."""
        samples = _samples(frame)
        scale, offset = SCALES.get(frame.format.name.removesuffix("p"), (1.0, 0.0))
        apart = (samples.reshape(-1).astype(np.float32) - np.float32(offset)) / np.float32(scale)
        self._channels += float(np.vdot(apart, apart)) / len(frame.layout.channels)
        self._mix += float(np.vdot(mono, mono))

    @property
    def cancelled(self) -> bool:
        """Whether the mix is 40 dB below its channels."""
        return self._channels > 0 and self._mix < 1e-4 * self._channels


class SoundReader:
    """Collects the sound of a span, sample by sample where its timestamps say it lies."""

    def __init__(
        self,
        channel: str,
        origin_seconds: float,
        start: float,
        stop: float,
        longest_gap: float,
        sink: SoundSink | None = None,
        stated_end: Fraction | None = None,
        limits: MediaLimits | None = None,
    ) -> None:
        self.samples = 0
        """Samples at 16 kHz so far."""
        self.notes: list[str] = []
        self.problem = ""
        """Why the sound cannot be used, once it is known; nothing more is read then."""
        self._limits = limits or MediaLimits()
        self._loudness = _Loudness()
        self._seconds = 0.0
        self.finite = True
        self.done = False
        self._channel = channel
        self._origin, self._start, self._stop = origin_seconds, start, stop
        self._longest_gap = longest_gap
        self._rate = 0
        self._next: int | None = None
        self._blocks: list[Waveform] = []
        self._sink = self._blocks.append if sink is None else sink
        self._resampler: Any = None
        self._stated_end = stated_end
        self._held: Any = None

    def feed(self, frame: Any) -> None:
        """Take one decoded frame; frames come in the order of decoding."""
        if frame.samples == 0 or frame.sample_rate <= 0:
            return
        if self.give_up(self._limits.sound_problem(frame)):
            return
        self._release()
        if self._reaches_over_the_end(frame):
            self._held = frame
        else:
            self._take(frame, frame.samples)

    def _reaches_over_the_end(self, frame: Any) -> bool:
        """Tell whether the end that the container states lies inside a frame."""
        if self._stated_end is None or frame.pts is None:
            return False
        begin = frame.pts * frame.time_base
        return bool(begin < self._stated_end < begin + Fraction(frame.samples, frame.sample_rate))

    def _release(self, last: bool = False) -> None:
        """Take the frame that was held back: whole where another one follows, up to the stated end where none does.

        The last packet of AAC is full, whatever the sound's length. FFmpeg before 9 decodes it whole, later ones as
        far as the container says; so the same clip has the same sound with all of them.
        """
        frame, self._held = self._held, None
        if frame is None:
            return
        kept = frame.samples
        if last and self._stated_end is not None:
            kept = round((self._stated_end - frame.pts * frame.time_base) * frame.sample_rate)
        self._take(frame, kept)

    def _take(self, frame: Any, samples: int) -> None:
        if frame.sample_rate != self._rate:
            self._change_rate(frame.sample_rate)
        mono = to_mono(frame, self._channel)
        if self._channel == "mean" and len(frame.layout.channels) > 1:
            self._loudness.add(frame, mono)
        mono = mono[:samples]
        position = self._place(frame)
        if self.problem:
            return
        self._next = position + len(mono)
        first, last = round(self._start * self._rate), self._limit()
        self._push(mono[max(first - position, 0) : max(last - position, 0)])
        self.done = self._next >= last

    def give_up(self, problem: str) -> bool:
        """Stop reading where there is a problem, and say whether there is one."""
        if problem:
            self.problem, self.done = problem, True
            self._blocks.clear()
        return bool(problem)

    def finish(self) -> Waveform:
        """Waveform of the span, shape (n,); no samples where a sink took them."""
        self._release(last=True)
        if self.problem:
            return np.zeros(0, np.float32)
        self._flush()
        wave = np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.float32)
        self._blocks.clear()
        if self._loudness.cancelled:
            self.notes.append("its channels cancel each other in the mix; --channel first takes one of them")
        elif len(wave) and max(wave.max(), -wave.min()) < SILENT_PEAK:
            self.notes.append("its sound is silent")
        return wave

    def _limit(self) -> int:
        return round(self._stop * self._rate) if self._stop < float("inf") else 2**62

    def _change_rate(self, rate_hz: int) -> None:
        if self._rate:
            self.notes.append(f"sample rate changes from {self._rate} to {rate_hz} Hz")
            self._flush()
        if self._next is not None:
            self._next = round(self._next * rate_hz / self._rate)
        self._rate = rate_hz

    def _place(self, frame: Any) -> int:
        """Index of the frame's first sample, counted from the clip's time zero; fills a hole before it with silence."""
        first = round(self._start * self._rate)
        if frame.pts is None:
            return first if self._next is None else self._next
        stamped = round((float(frame.pts * frame.time_base) - self._origin) * self._rate)
        if self._next is None:
            if not 0 < stamped - first <= self._longest_gap * self._rate:
                return stamped if stamped <= first else first
            gap, at = stamped - first, 0.0
            if self.give_up(self._limits.gap_problem(gap / self._rate, at)):
                return stamped
            if gap >= GAP_SECONDS * self._rate:
                self.notes.append(f"sound starts {gap / self._rate:.2f} s late; silence stands for it")
        else:
            gap, at = stamped - self._next, self._next / self._rate - self._start
            if not GAP_SECONDS * self._rate <= gap <= self._longest_gap * self._rate:
                return self._next
            gap = min(gap, stamped - first)
            if self.give_up(self._limits.gap_problem(gap / self._rate, max(at, 0))):
                return stamped
            if gap > 0:
                self.notes.append(
                    f"sound is missing for {gap / self._rate:.2f} s at {max(at, 0):.2f} s; silence stands for it"
                )
        self._push(np.zeros(max(min(gap, self._limit() - stamped + gap), 0), np.float32))
        return stamped

    def _push(self, mono: Waveform) -> None:
        if not len(mono):
            return
        self._seconds += len(mono) / self._rate
        if self.give_up(self._limits.length_problem(self._seconds)):
            return
        if not np.isfinite(mono).all():
            self.finite = False
            mono = np.nan_to_num(mono, nan=0.0, posinf=0.0, neginf=0.0)
        if self._rate == SAMPLE_RATE_HZ:
            self._keep(mono)
            return
        if self._resampler is None:
            import soxr

            # The quality that librosa calls soxr_hq; fed in pieces it gives the same samples as in one go.
            self._resampler = soxr.ResampleStream(self._rate, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")
        self._keep(self._resampler.resample_chunk(mono))

    def _keep(self, block: Waveform) -> None:
        self.samples += len(block)
        self._sink(block)

    def _flush(self) -> None:
        if self._resampler is not None:
            self._keep(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
            self._resampler = None
