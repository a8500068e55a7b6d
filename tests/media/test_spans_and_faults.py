"""Spans of a clip, limits, and everything that can be wrong with a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from media.handmade import counted_frames, frame_number, overwrite, write_stamped
from synthetic import noise, text_as_media, tone, truncate, write_clip, zero_bytes

from mer.stages.corpora.demo.media import Picture, Sound, write_media
from mer.stages.media.reader import read_media
from mer.stages.media.request import MediaError, MediaRequest

RATE_HZ = 48_000
SPAN = (6.3, 7.9)


@pytest.fixture(
    scope="module",
    params=["mp4", "mpeg4.mp4", "mpeg4.mov", "mov", "mkv", "avi", "webm", "mpg", "wav", "flac", "mp3", "ogg"],
)
def long_clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of noise and of numbered frames; MPEG-4 has a key frame every half second, so that seeking lands."""
    path: Path = tmp_path_factory.mktemp("long") / f"clip.{request.param}"
    if request.param in ("wav", "flac", "mp3", "ogg"):
        return write_clip(path, sound=noise(10, RATE_HZ), rate_hz=RATE_HZ)
    codecs = ("mpeg4", "aac") if request.param.startswith("mpeg4") else None
    sound = Sound(noise(10, RATE_HZ), RATE_HZ)
    write_media(path, Picture(counted_frames(250), 25.0, (64, 48)), sound, codecs=codecs)
    return path


def test_a_span_is_the_cut_of_the_whole(long_clip: Path) -> None:
    start, end = SPAN
    pictured = long_clip.suffix not in (".wav", ".flac", ".mp3", ".ogg")
    whole = read_media(long_clip, MediaRequest(frames_fps=25 if pictured else None))
    span = read_media(
        long_clip, MediaRequest(frames_fps=25 if pictured else None, start_seconds=start, end_seconds=end)
    )
    assert whole.waveform is not None
    assert span.waveform is not None
    assert len(span.waveform) == round((end - start) * 16_000)
    expected = whole.waveform[round(start * 16_000) : round(end * 16_000)]
    # The resampler's edges differ; inside, one sample of shift would bring the correlation of noise near zero.
    np.testing.assert_allclose(span.waveform[400:-400], expected[400:-400], atol=1e-4)
    assert span.duration_seconds == pytest.approx(end - start, abs=0.05)
    if pictured:
        there = {round(time - start, 3): picture for time, picture in whole.frames if start <= time < end - 1e-6}
        assert [round(time, 3) for time, _ in span.frames] == sorted(there)
        for time, picture in span.frames:
            np.testing.assert_array_equal(picture, there[round(time, 3)])
        if long_clip.suffix not in (".mpg", ".avi"):  # FFmpeg's writers of these two shift frames by themselves
            assert [frame_number(picture) for _, picture in span.frames] == [n % 100 for n in range(158, 198)]


def test_frames_of_a_span_without_its_sound(long_clip: Path) -> None:
    if long_clip.suffix in (".wav", ".flac", ".mp3", ".ogg"):
        pytest.skip("no picture")
    request = MediaRequest(sound=True, frames_fps=5, start_seconds=SPAN[0], end_seconds=SPAN[1])
    silent = MediaRequest(sound=False, frames_fps=5, start_seconds=SPAN[0], end_seconds=SPAN[1])
    both, alone = read_media(long_clip, request), read_media(long_clip, silent)
    assert [time for time, _ in alone.frames] == [time for time, _ in both.frames]
    assert (alone.waveform, alone.sound_problem) == (None, "")
    for (_, one), (_, other) in zip(both.frames, alone.frames, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_limit_cuts_and_says_so(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=3.0, fps=25)
    media = read_media(path, MediaRequest(frames_fps=5, max_seconds=1.0))
    assert media.waveform is not None
    assert len(media.waveform) == 16_000
    assert len(media.frames) == 5
    assert media.notes == ("cut to the first 1.00 of 3.00 s",)


def test_a_span_behind_the_end_holds_nothing(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=1.0)
    media = read_media(path, MediaRequest(frames_fps=5, start_seconds=20.0, end_seconds=21.0))
    assert media.waveform is None
    assert media.sound_problem == "no sound between 20.00 and 21.00 s"
    assert media.picture_problem == "no picture between 20.00 and 21.00 s"
    assert read_media(path, MediaRequest(start_seconds=20.0)).sound_problem == "no sound after 20.00 s"


@pytest.mark.parametrize(
    "wrong",
    [{"start_seconds": 2.0, "end_seconds": 2.0}, {"start_seconds": -1.0}, {"channel": "left"}, {"frames_fps": 0.0}],
)
def test_impossible_requests(wrong: dict[str, float | str]) -> None:
    with pytest.raises(MediaError):
        MediaRequest(**wrong)  # type: ignore[arg-type]


# --- faults -------------------------------------------------------------------------------------------------------


def test_unreadable_files_are_told_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    playlist = tmp_path / "playlist.mp4"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n")
    concat = tmp_path / "concat.mp4"
    concat.write_text(f"ffconcat version 1.0\nfile {write_clip(tmp_path / 'good.mp4').name}\n")
    cases = {
        tmp_path / "absent.mp4": "does not exist",
        tmp_path: "is not a file",
        zero_bytes(tmp_path / "zero.mp4"): "is empty",
        text_as_media(tmp_path / "text.mp4"): "is not readable as media",
        truncate(write_clip(tmp_path / "half.mp4", seconds=2)): "is not readable as media",
        playlist: "is not readable as media",
        concat: "is not readable as media",
    }
    for path, reason in cases.items():
        with pytest.raises(MediaError) as caught:
            read_media(path, MediaRequest(frames_fps=5))
        assert str(path) in str(caught.value)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["mkv", "avi", "mpg", "mp3", "wav"])
def test_a_truncated_stream_gives_what_is_there(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = truncate(write_clip(tmp_path / f"clip.{suffix}", seconds=4.0, fps=25, rate_hz=44_100), 0.5)
    media = read_media(path, MediaRequest(frames_fps=None if suffix in ("mp3", "wav") else 5))
    assert media.waveform is not None
    assert 1.0 < len(media.waveform) / 16_000 < 3.2
    assert capfd.readouterr() == ("", "")


def test_a_wav_that_ends_early_says_so(tmp_path: Path) -> None:
    path = truncate(write_clip(tmp_path / "clip.mkv", seconds=4.0, fps=25), 0.5)
    notes = " ".join(read_media(path, MediaRequest(frames_fps=5)).notes)
    assert "of the 4." in notes
    assert "s its header promises" in notes


def test_damage_in_the_middle_is_stepped_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=6.0, fps=25, sound="noise", rate_hz=44_100)
    media = read_media(overwrite(path, 0.45, 0.6), MediaRequest(frames_fps=5))
    assert media.waveform is not None
    assert media.duration_seconds == pytest.approx(6.0, abs=0.3)
    assert len(media.waveform) == pytest.approx(96_000, abs=5_000)
    assert any("damaged sound packets were left out" in note for note in media.notes)
    assert capfd.readouterr() == ("", "")


def test_damage_before_a_span_is_not_told_of_it(tmp_path: Path) -> None:
    path = overwrite(write_clip(tmp_path / "clip.mp4", seconds=6.0, fps=25, sound="noise", rate_hz=44_100), 0.2, 0.3)
    whole = read_media(path, MediaRequest(frames_fps=5))
    assert any("damaged sound packets were left out" in note for note in whole.notes)
    span = read_media(path, MediaRequest(frames_fps=5, start_seconds=3.5, end_seconds=4.5))
    assert span.notes == ()
    assert span.waveform is not None
    assert len(span.waveform) == 16_000


def test_sound_after_damage_stays_in_its_place(tmp_path: Path) -> None:
    click = np.zeros((5 * RATE_HZ, 1), np.float32)
    click[4 * RATE_HZ : 4 * RATE_HZ + 480] = 0.9
    write_media(
        tmp_path / "clip.mp4",
        Picture(counted_frames(125), 25.0, (64, 48)),
        Sound(click + noise(5, RATE_HZ) * 0.2, RATE_HZ),
    )
    media = read_media(overwrite(tmp_path / "clip.mp4", 0.4, 0.5), MediaRequest(frames_fps=5))
    assert media.waveform is not None
    loudest = np.argmax(np.convolve(media.waveform**2, np.ones(160), "same")) / 16_000
    assert loudest == pytest.approx(4.005, abs=0.03)


def test_halves_that_are_missing(tmp_path: Path) -> None:
    silent = read_media(write_clip(tmp_path / "a.mp4", sound=None), MediaRequest(frames_fps=5))
    assert (silent.waveform, silent.sound_problem, silent.picture_problem) == (None, "no sound stream", "")
    assert len(silent.frames) == 5
    blind = read_media(write_clip(tmp_path / "b.mp4", faces=None), MediaRequest(frames_fps=5))
    assert (blind.frames, blind.sound_problem, blind.picture_problem) == ([], "", "no picture stream")


def test_sound_too_short_or_not_finite(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", tone(0.01), 16_000)
    short = read_media(tmp_path / "short.wav", MediaRequest())
    assert short.waveform is None
    assert "lasts 0.010 s" in short.sound_problem
    samples = tone(1.0)[:, 0]
    samples[5_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16_000, "FLOAT")
    broken = read_media(tmp_path / "nan.wav", MediaRequest())
    assert broken.waveform is None
    assert "not finite" in broken.sound_problem
    empty = tmp_path / "empty.wav"
    soundfile.write(empty, np.zeros(0, np.float32), 16_000)
    nothing = read_media(empty, MediaRequest())
    assert nothing.waveform is None
    assert nothing.sound_problem == "its sound stream is empty"


def test_a_repeated_time_leaves_the_later_ones_alone(tmp_path: Path) -> None:
    """Bursts at 30 a second and pauses: one step of the mean rate is three frames of a burst."""
    burst = [33 * index for index in range(31)]
    stamps = [*burst[:3], burst[2], *burst[3:], *range(3500, 8500, 500)]
    path = write_stamped(tmp_path / "clip.mkv", len(stamps), stamps)
    media = read_media(path, MediaRequest(frames_fps=100))
    assert [time for time, _ in media.frames] == pytest.approx([stamp / 1000 for stamp in sorted({*stamps})], abs=2e-3)
    assert f"1 of {len(stamps)} picture times are impossible" in media.notes


def test_times_that_begin_again_are_counted_on(tmp_path: Path) -> None:
    stamps = [*range(0, 2000, 40), *range(100, 2100, 40)]
    media = read_media(write_stamped(tmp_path / "clip.mkv", 100, stamps), MediaRequest(frames_fps=10))
    times = [time for time, _ in media.frames]
    assert len(times) > 30
    assert times[-1] > 3.0
    assert "50 of 100 picture times are impossible" in media.notes
