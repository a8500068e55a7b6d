"""What a clip may ask for, and clips that ask for more."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media.handmade import counted_frames
from synthetic import noise, tone, write_clip

from mer.cache import MerError
from mer.stages.corpora.demo.media import Picture, Sound, write_media
from mer.stages.media.limits import MediaLimits, parse_limits
from mer.stages.media.reader import media_digest, read_media
from mer.stages.media.request import Media, MediaError, MediaRequest

SOUND = MediaRequest()
BOTH = MediaRequest(frames_fps=5.0)


def write_wav(path: Path, samples: np.ndarray, rate_hz: int, channels: int = 1) -> Path:
    """A WAV file of integers, of any width, with any rate in its header."""
    width = samples.dtype.itemsize
    data = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    head = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * channels * width, channels * width, 8 * width)
    chunks = b"fmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def write_with_hole(path: Path, hole_seconds: float) -> Path:
    """Half a second of a tone, nothing, and half a second of it again."""
    wave = tone(1.0)[:, 0]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for start, half in ((0.0, wave[:8000]), (0.5 + hole_seconds, wave[8000:])):
            frame = av.AudioFrame.from_ndarray((half * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, round(start * 16_000), Fraction(1, 16_000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def test_sound_of_64_bit_integers_is_read(tmp_path: Path) -> None:
    wave = tone(1.0)[:, 0]
    path = write_wav(tmp_path / "wide.wav", (wave * 2.0**62).astype(np.int64), 16_000)
    read = read_media(path, SOUND)
    assert read.sound_problem == ""
    np.testing.assert_allclose(read.waveform, wave / 2, atol=1e-6)


def test_a_hole_up_to_the_bound_is_silence_and_a_longer_one_is_told(tmp_path: Path) -> None:
    read = read_media(write_with_hole(tmp_path / "short.mkv", 2.0), SOUND)
    assert read.waveform is not None
    assert len(read.waveform) == 48_000
    assert any("missing for 2.00 s" in note for note in read.notes)
    read = read_media(write_with_hole(tmp_path / "long.mkv", 7200.0), SOUND)
    assert read.waveform is None
    assert read.sound_problem == (
        "its sound is missing for 7200 s at 0.50 s; the bound is 600: "
        "if that is right, give --media-limit gap_seconds=NUMBER"
    )


@pytest.mark.parametrize(("rate_hz", "told"), [(1, "1 samples a second"), (900_000, "900000 samples a second")])
def test_impossible_rates_are_told(tmp_path: Path, rate_hz: int, told: str) -> None:
    path = write_wav(tmp_path / "odd.wav", (noise(1.0, 20_000)[:, 0] * 3000).astype(np.int16), rate_hz)
    read = read_media(path, SOUND)
    assert read.waveform is None
    assert told in read.sound_problem


@pytest.mark.parametrize(
    ("limits", "sound", "picture"),
    [
        (MediaLimits(), "", ""),
        (MediaLimits(megapixels=0.003), "", "its picture has 64 x 48 pixels; the bound is 0.003"),
        (MediaLimits(channels=1), "its sound has 2 channels; the bound is 1", ""),
        (MediaLimits(hours=1.5 / 3600), "it lasts 0.00 hours or more", "it lasts 0.00 hours or more"),
    ],
    ids=["none", "megapixels", "channels", "hours"],
)
def test_what_breaks_a_bound_is_left_out_and_the_other_half_is_read(
    tmp_path: Path, limits: MediaLimits, sound: str, picture: str
) -> None:
    path = tmp_path / "clip.mkv"
    write_media(path, Picture(counted_frames(50), 25.0, (64, 48)), Sound(noise(2.0, 48_000, 2), 48_000, "stereo"))
    lengths: list[float] = []
    read = read_media(path, BOTH, limits=limits, on_length=lengths.append)
    assert lengths == pytest.approx([2.0], abs=0.1)
    assert read.sound_problem.startswith(sound)
    assert read.picture_problem.startswith(picture)
    assert (read.waveform is None) == bool(sound)
    assert (len(read.frames) == 0) == bool(picture)


def test_a_picture_that_grows_on_the_way_is_not_decoded(tmp_path: Path) -> None:
    """The header says 64 x 48; the bound holds for what the packets say."""
    path = tmp_path / "grows.mjpeg.mkv"
    large = av.CodecContext.create("mjpeg", "w")
    large.width, large.height, large.pix_fmt, large.time_base = 640, 480, "yuvj420p", Fraction(1, 25)
    with av.open(str(path), "w", format="matroska") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for pixels in counted_frames(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24").reformat(format="yuvj420p")))
        frame = av.VideoFrame.from_ndarray(np.zeros((480, 640, 3), np.uint8), format="bgr24").reformat(
            format="yuvj420p"
        )
        frame.pts, frame.time_base = 3, Fraction(1, 25)
        for packet in large.encode(frame):
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 25), 3, 3
            out.mux(packet)
    read = read_media(path, MediaRequest(frames_fps=25.0), limits=MediaLimits(megapixels=0.1))
    assert {picture.shape for _, picture in read.frames} <= {(48, 64, 3)}
    assert read.picture_problem or any("damaged picture packets" in note for note in read.notes)


@pytest.mark.parametrize(("exception", "told"), [(MemoryError(), "not enough memory"), (ValueError("odd"), "odd")])
def test_trouble_with_a_frame_is_the_trouble_of_its_stream(tmp_path: Path, exception: Exception, told: str) -> None:
    """As when PyAV cannot convert a frame, or the watcher that it is handed to fails."""
    path = write_clip(tmp_path / "clip.mp4")

    def refuse(*_: object) -> None:
        raise exception

    read: Media = read_media(path, BOTH, on_frame=refuse)
    assert read.waveform is not None
    assert read.picture_problem.startswith("its picture cannot be used: ")
    assert told in read.picture_problem


def test_channels_that_cancel_and_silence_are_noted(tmp_path: Path) -> None:
    wave = (tone(1.0)[:, 0] * 20_000).astype(np.int16)
    cancelling = write_wav(tmp_path / "anti.wav", np.stack([wave, -wave], 1).reshape(-1), 16_000, channels=2)
    read = read_media(cancelling, SOUND)
    assert read.notes == ("its channels cancel each other in the mix; --channel first takes one of them",)
    assert read_media(cancelling, MediaRequest(channel="first")).notes == ()
    silent = read_media(write_wav(tmp_path / "silent.wav", np.zeros(16_000, np.int16), 16_000), SOUND)
    assert silent.notes == ("its sound is silent",)
    assert silent.waveform is not None


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes on this platform")
    os.mkfifo(tmp_path / "clip.wav")
    for read in (media_digest, lambda path: read_media(path, SOUND)):
        with pytest.raises(MediaError, match="not a"):
            read(tmp_path / "clip.wav")


def test_limits_are_parsed_and_wrong_ones_told() -> None:
    assert parse_limits([]) == MediaLimits()
    assert parse_limits(["hours=1", "channels=2"]) == MediaLimits(hours=1, channels=2)
    for wrong, told in (
        ("size=1", "is not known"),
        ("hours=-1", "positive"),
        ("hours", "positive"),
        ("hours=x", "positive"),
    ):
        with pytest.raises(MerError, match=told):
            parse_limits([wrong])


def test_the_help_tells_the_bounds_as_they_are() -> None:
    source = inspect.getsource(importlib.import_module("mer.pipeline.commands.extract"))
    for field in dataclasses.fields(MediaLimits):
        assert f"{field.name} ({getattr(MediaLimits(), field.name):.0f})" in source
