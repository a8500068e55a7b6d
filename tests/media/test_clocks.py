"""Times of frames and samples: odd rates, streams that start late, spans between frames."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media.handmade import frame_number, write_shifted

from mer.stages.media.reader import read_media
from mer.stages.media.request import Media, MediaRequest

NTSC = Fraction(30_000, 1_001)
STEP = 1_001 / 30_000
"""Seconds from frame to frame, 0.0333667."""


def clicking(seconds: float, at: float) -> np.ndarray:
    """Silence at 16 kHz with one loud sample at a time."""
    sound = np.zeros(round(seconds * 16_000), np.float32)
    sound[round(at * 16_000)] = 0.9
    return sound


def numbers_and_times(media: Media) -> tuple[list[int], list[float]]:
    return [frame_number(picture) for _, picture in media.frames], [time for time, _ in media.frames]


def test_a_time_base_that_is_no_decimal_fraction(tmp_path: Path) -> None:
    path = write_shifted(tmp_path / "clip.avi", NTSC, 90, clicking(3.0, 2.9), 0, 0)
    with av.open(str(path)) as container:
        assert container.streams.video[0].time_base == Fraction(1_001, 30_000)
    media = read_media(path, MediaRequest(frames_fps=10))
    # Frame 3 k is at 0.1001 k: always the first at or after 0.1 k.
    numbers, times = numbers_and_times(media)
    assert numbers == list(range(0, 90, 3))
    np.testing.assert_allclose(times, 0.1001 * np.arange(30), atol=1e-9)
    assert media.waveform is not None
    assert np.argmax(media.waveform) == 46_400
    assert media.duration_seconds == pytest.approx(90 * STEP)


@pytest.mark.parametrize("suffix", ["nut", "mkv", "mov"])
def test_picture_that_starts_after_the_sound(tmp_path: Path, suffix: str) -> None:
    """Sound from 0.5 s, picture from frame 45 at 1.5015 s: time zero is where the sound starts."""
    path = write_shifted(tmp_path / f"clip.{suffix}", NTSC, 90, clicking(3.0, 2.0), 45, 8_000)
    media = read_media(path, MediaRequest(frames_fps=10))
    assert media.waveform is not None
    assert len(media.waveform) == 40_000
    assert np.argmax(media.waveform) == 24_000
    numbers, times = numbers_and_times(media)
    assert numbers == list(range(45, 90, 3))
    np.testing.assert_allclose(times, np.arange(45, 90, 3) * STEP - 0.5, atol=1.1e-3)
    assert media.notes == ()
    assert media.duration_seconds == pytest.approx(90 * STEP - 0.5, abs=2e-3)
    alone = read_media(path, MediaRequest(frames_fps=10, sound=False))
    assert numbers_and_times(alone) == (numbers, times)
    limited = read_media(path, MediaRequest(frames_fps=10, max_seconds=2.7))
    assert (numbers_and_times(limited)[0], limited.notes) == (numbers, ())


@pytest.mark.parametrize("suffix", ["nut", "mkv", "mov"])
def test_sound_that_starts_after_the_picture(tmp_path: Path, suffix: str) -> None:
    """Picture from frame 15 at 0.5005 s, sound from 1.5 s: silence stands for the 0.9995 s between."""
    path = write_shifted(tmp_path / f"clip.{suffix}", NTSC, 60, clicking(3.0, 2.0), 15, 24_000)
    media = read_media(path, MediaRequest(frames_fps=10))
    assert media.waveform is not None
    assert len(media.waveform) == pytest.approx(39_992, abs=9)  # half a millisecond, to which mkv and mov round
    assert np.argmax(media.waveform) == len(media.waveform) - 16_000
    numbers, times = numbers_and_times(media)
    assert numbers == list(range(15, 60, 3))
    np.testing.assert_allclose(times, 0.1001 * np.arange(15), atol=1.1e-3)
    assert media.notes == ("sound starts 1.00 s late; silence stands for it",)
    alone = read_media(path, MediaRequest())
    np.testing.assert_array_equal(alone.waveform, media.waveform)
    span = read_media(path, MediaRequest(start_seconds=0.6, end_seconds=1.8))
    np.testing.assert_array_equal(span.waveform, media.waveform[9_600:28_800])
    assert span.notes == ("sound starts 0.40 s late; silence stands for it",)


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        (0.49, 0.55, 15, 16),  # frames 15 at 0.5005 and 16 at 0.53387, not 14 at 0.46713
        (0.5015, 0.56, 15, 16),  # frame 15 lags by 1 ms, which containers round away: it is the first one
        (0.5035, 0.60060, 16, 17),  # it lags by 3 ms and is left out; frame 18 is at 0.6006, where the span ends
        (0.5035, 0.60061, 16, 18),
        (0.51, 0.52, None, None),
    ],
)
def test_a_span_between_frames(tmp_path: Path, start: float, end: float, first: int | None, last: int | None) -> None:
    sound = np.linspace(-0.5, 0.5, 32_000, dtype=np.float32)
    path = write_shifted(tmp_path / "clip.nut", NTSC, 60, sound, 0, 0)
    whole = read_media(path, MediaRequest()).waveform
    media = read_media(path, MediaRequest(frames_fps=30, start_seconds=start, end_seconds=end))
    assert whole is not None
    samples = slice(round(start * 16_000), round(end * 16_000))
    if first is None or last is None:
        assert (media.frames, media.waveform) == ([], None)
        assert media.picture_problem == "no picture between 0.51 and 0.52 s"
        return
    np.testing.assert_array_equal(media.waveform, whole[samples])
    numbers, times = numbers_and_times(media)
    assert numbers == list(range(first, last + 1))
    expected = np.maximum(np.arange(first, last + 1) * STEP - start, 0)
    np.testing.assert_allclose(times, expected, atol=1e-6)
