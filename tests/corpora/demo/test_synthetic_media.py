"""The makers of test media make what they say, checked with FFmpeg's own reading."""

from pathlib import Path

import av
import numpy as np
import pytest
import synthetic


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi", "webm", "mpg"])
def test_containers_hold_the_picture_and_sound_they_were_given(tmp_path: Path, suffix: str) -> None:
    path = synthetic.write_clip(
        tmp_path / f"clip.{suffix}", seconds=1.2, fps=25, size=(160, 120), rate_hz=44_100, channels=2
    )
    with av.open(str(path)) as media:
        pictures = list(media.decode(video=0))
        assert (pictures[0].width, pictures[0].height) == (160, 120)
        assert len(pictures) == pytest.approx(30, abs=1)
    with av.open(str(path)) as media:
        stream = media.streams.audio[0]
        samples = sum(frame.samples for frame in media.decode(audio=0))
        assert stream.channels == 2
        assert samples / stream.rate == pytest.approx(1.2, abs=0.12)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_sound_files_hold_the_tone(tmp_path: Path, suffix: str) -> None:
    path = synthetic.write_clip(tmp_path / f"clip.{suffix}", seconds=1.0, rate_hz=16_000)
    with av.open(str(path)) as media:
        wave = np.concatenate([frame.to_ndarray().astype(float).ravel() for frame in media.decode(audio=0)])
    peak_hz = np.abs(np.fft.rfft(wave)).argmax() * 16_000 / len(wave)
    assert peak_hz == pytest.approx(220, abs=3)


def test_surround_sound_keeps_its_six_channels(tmp_path: Path) -> None:
    path = synthetic.write_clip(tmp_path / "clip.mp4", channels=6, rate_hz=48_000)
    with av.open(str(path)) as media:
        assert media.streams.audio[0].layout.name == "5.1"


def test_streams_can_be_left_out(tmp_path: Path) -> None:
    with av.open(str(synthetic.write_clip(tmp_path / "mute.mp4", sound=None))) as media:
        assert not media.streams.audio
        assert media.streams.video
    with av.open(str(synthetic.write_clip(tmp_path / "blind.mp4", faces=None))) as media:
        assert media.streams.audio
        assert not media.streams.video


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    first, second = (synthetic.write_clip(tmp_path / name / "clip.mp4").read_bytes() for name in ("a", "b"))
    assert first == second
