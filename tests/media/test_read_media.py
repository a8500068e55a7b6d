"""Reading whole clips: formats, mixing to mono, resampling, sampling of frames, oddities of containers."""

from __future__ import annotations

import csv
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import soundfile
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from media.handmade import add_cover, counted_frames, frame_number, turn_quarter, write_timed
from synthetic import noise, tone, write_clip

from mer.stages.media.picture import Grid
from mer.stages.media.reader import media_digest, read_media
from mer.stages.media.request import MediaError, MediaRequest
from mer.stages.media.sound import pick_channel

SOUND_ONLY = MediaRequest()


def pitch_hz(waveform: np.ndarray) -> float:
    """Loudest frequency of a 16 kHz waveform."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(np.argmax(spectrum) * 16_000 / len(waveform))


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi", "mpg", "webm", "wav", "flac", "mp3", "ogg"])
def test_every_format_gives_sound_and_frames(tmp_path: Path, suffix: str) -> None:
    path = write_clip(tmp_path / f"clip.{suffix}", seconds=2.0, fps=25, rate_hz=44_100 if suffix == "mpg" else 48_000)
    pictured = suffix not in ("wav", "flac", "mp3", "ogg")
    media = read_media(path, MediaRequest(frames_fps=5))
    assert media.waveform is not None
    assert media.waveform.dtype == np.float32
    # Lossy codecs work in whole frames, so the length is theirs to a few hundredths of a second.
    assert len(media.waveform) == pytest.approx(32_000, abs=1_000)
    assert pitch_hz(media.waveform) == pytest.approx(220, abs=1)
    assert np.abs(media.waveform[4_000:-4_000]).max() == pytest.approx(0.3, abs=0.03)
    assert media.sound_problem == ""
    assert media.duration_seconds == pytest.approx(2.0, abs=0.1)
    if not pictured:
        assert (media.frames, media.picture_problem) == ([], "no picture stream")
        return
    times = [time for time, _ in media.frames]
    np.testing.assert_allclose(times[:10], np.arange(10) / 5, atol=0.045)
    assert len(times) == (11 if suffix == "avi" else 10)  # FFmpeg's avi writer leaves a hole of one frame at the start
    assert {picture.shape for _, picture in media.frames} == {(180, 240, 3)}


@pytest.mark.parametrize(
    ("rate_hz", "subtype"), [(8_000, "PCM_U8"), (22_050, "PCM_16"), (44_100, "PCM_24"), (96_000, "FLOAT")]
)
def test_resampling_equals_librosa_on_the_whole_clip(tmp_path: Path, rate_hz: int, subtype: str) -> None:
    samples = noise(1.5, rate_hz)[:, 0]
    path = tmp_path / "clip.wav"
    soundfile.write(path, samples, rate_hz, subtype)
    stored = soundfile.read(path, dtype="float32")[0]
    expected = librosa.resample(stored, orig_sr=rate_hz, target_sr=16_000, res_type="soxr_hq")
    waveform = read_media(path, SOUND_ONLY).waveform
    assert waveform is not None
    assert abs(len(waveform) - len(expected)) <= 1
    length = min(len(waveform), len(expected))
    np.testing.assert_allclose(waveform[:length], expected[:length], atol=2e-7)


@pytest.mark.parametrize("name", ["clip.wav", "clip.mkv", "clip.mp4"])
@pytest.mark.parametrize(("channel", "pitch"), [("center", 880.0), ("first", 220.0)])
def test_one_channel_of_surround_sound(tmp_path: Path, name: str, channel: str, pitch: float) -> None:
    path = write_clip(tmp_path / name, sound="tone", channels=6, rate_hz=48_000)
    waveform = read_media(path, MediaRequest(channel=channel)).waveform
    assert waveform is not None
    assert pitch_hz(waveform) == pytest.approx(pitch, abs=1)
    assert np.sqrt(np.mean(waveform[2000:-2000] ** 2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


def test_mean_of_surround_sound_is_the_mean_of_all_six(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.wav", sound="tone", channels=6, rate_hz=48_000)
    waveform = read_media(path, MediaRequest(channel="mean")).waveform
    assert waveform is not None
    # Octaves from 220 to 7,040 Hz are orthogonal: the power of the mean is the mean power over six.
    assert np.mean(waveform**2) == pytest.approx(0.3**2 / 2 / 6, rel=0.05)


def test_channel_rules() -> None:
    surround = ("FL", "FR", "FC", "LFE", "BL", "BR")
    assert pick_channel(surround, "center") == 2
    assert pick_channel(("FL", "FR"), "center") == 0
    assert pick_channel(("FL", "FR", "BL", "BR"), "center") == 0
    assert pick_channel(("FC",), "center") == 0
    assert pick_channel(("NONE0", "NONE1", "NONE2", "NONE3"), "center") == 2
    assert pick_channel(surround, "first") == 0
    assert pick_channel(surround, "mean") is None


def test_frames_of_a_variable_rate_are_sampled_by_time(tmp_path: Path) -> None:
    times = [0.0, 0.05, 0.31, 0.34, 0.41, 0.9, 1.0, 1.02, 1.04, 2.3, 2.31]
    path = write_timed(tmp_path / "clip.mp4", counted_frames(len(times)), times)
    media = read_media(path, MediaRequest(frames_fps=5))
    # For 0, .2, .4, .6, .8, 1.0, 1.2 .. 2.2: the first frame at or after, each once.
    assert [round(time, 3) for time, _ in media.frames] == [0.0, 0.31, 0.41, 0.9, 1.0, 2.3]
    assert [frame_number(picture) for _, picture in media.frames] == [0, 2, 4, 5, 6, 9]
    assert (media.waveform, media.sound_problem) == (None, "no sound stream")


@given(
    st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=80).map(sorted),
    st.floats(0.5, 40, allow_nan=False),
)
def test_grid_takes_the_first_frame_at_or_after_every_point(times: list[float], fps: float) -> None:
    grid = Grid(fps)
    taken = [time for time in times if grid.wants(time)]
    for point in range(int(times[-1] * fps) + 1):
        after = [time for time in times if time >= point / fps - 0.002]
        assert after[0] in taken
    assert len(taken) <= times[-1] * fps + 2


def test_a_picture_is_turned_as_its_metadata_say(tmp_path: Path) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = 255
    path = turn_quarter(write_timed(tmp_path / "clip.mp4", [picture] * 5, [0.0, 0.1, 0.2, 0.3, 0.4]))
    grey: list[np.ndarray] = []
    media = read_media(
        path, MediaRequest(frames_fps=5, grey_fps=10), None, lambda _, picture: grey.append(picture.copy())
    )
    upright = media.frames[0][1]
    assert upright.shape == (64, 48, 3)
    assert upright[:28].mean() > 240  # the left half has become the top
    assert upright[36:].mean() < 15
    assert len(grey) == 5
    assert np.abs(grey[0].astype(float) - upright.mean(axis=2)).mean() < 25  # luma is 16 to 235


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = add_cover(write_clip(tmp_path / "clip.mp3", seconds=1.0), np.full((64, 64, 3), 200, np.uint8))
    media = read_media(path, MediaRequest(frames_fps=5))
    assert (media.frames, media.picture_problem) == ([], "no picture stream")
    assert media.waveform is not None
    assert pitch_hz(media.waveform) == pytest.approx(220, abs=1)


def test_sinks_get_each_frame_once_and_nothing_is_collected(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=1.0, fps=25)
    colour: list[float] = []
    grey: list[float] = []
    media = read_media(
        path,
        MediaRequest(frames_fps=5, grey_fps=30),
        lambda time, _: colour.append(time),
        lambda time, picture: grey.append(time) if picture.ndim == 2 else None,
    )
    assert media.frames == []
    np.testing.assert_allclose(colour, np.arange(5) / 5, atol=1e-6)
    np.testing.assert_allclose(grey, np.arange(25) / 25, atol=1e-6)


def test_threads_change_no_sample_and_no_pixel(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=1.0, fps=25, rate_hz=44_100, channels=2)
    one, two = (read_media(path, MediaRequest(frames_fps=5), threads=threads) for threads in (1, 2))
    assert one.waveform is not None
    np.testing.assert_array_equal(one.waveform, two.waveform)
    for (time, picture), (other_time, other) in zip(one.frames, two.frames, strict=True):
        assert time == other_time
        np.testing.assert_array_equal(picture, other)


def test_sound_that_starts_late_stays_in_step(shared_data: Path) -> None:
    media = read_media(shared_data / "clips" / "negative" / "face_noface.mov", MediaRequest(frames_fps=5))
    assert media.waveform is not None
    first = np.flatnonzero(np.abs(media.waveform) > 1e-3)[0] / 16_000
    assert first == pytest.approx(2.43, abs=0.05)
    assert media.duration_seconds == pytest.approx(6.4, abs=0.05)
    assert any("sound starts 2.43 s late" in note for note in media.notes)


def test_real_clips_have_the_length_measured(shared_data: Path) -> None:
    rows = list(csv.DictReader((shared_data / "clips" / "clips.csv").read_text().splitlines()))
    assert len(rows) == 17
    for row in rows:
        media = read_media(shared_data / "clips" / row["path"], MediaRequest(frames_fps=1))
        assert media.duration_seconds == pytest.approx(float(row["duration_seconds"]), abs=0.15), row["path"]
        assert media.picture_problem == ""
        assert (media.waveform is None) == (row["audio_codec"] == "")


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3_000_000)
    (tmp_path / "a").write_bytes(content)
    assert media_digest(tmp_path / "a") == xxhash.xxh3_128(content).digest()
    with pytest.raises(MediaError, match="cannot be read"):
        media_digest(tmp_path / "b")


def test_mono_tone_keeps_its_samples_at_16_khz(tmp_path: Path) -> None:
    samples = tone(1.0)[:, 0]
    soundfile.write(tmp_path / "clip.wav", samples, 16_000, "FLOAT")
    waveform = read_media(tmp_path / "clip.wav", SOUND_ONLY).waveform
    np.testing.assert_array_equal(waveform, samples)


def test_a_tag_in_another_encoding_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as out:
        out.metadata["title"] = "M\u00fcller"
        stream = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, 1600), 1000, np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    utf8, latin1 = "M\u00fcller".encode(), "M\u00fcxller".encode("latin-1")
    assert utf8 in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(utf8, latin1))
    media = read_media(path, MediaRequest(frames_fps=5))
    assert media.waveform is not None
    assert len(media.waveform) == 1600


# Path, samples at 16 kHz, sum of their magnitudes: what PyAV 14.2, 15.1, 16.1, 17.1, 18.1 and 19.0 all gave, sample by
# sample. Before 19 the last frame of AAC comes whole (52,907 samples of the third one).
SAME_SOUND = (
    ("negative/face_noface.mov", 102_330, 2063.41), ("negative/no_face.mp4", 63_120, 2038.00),
    ("talking/ravdess_01-01-01-01-01-01-01.mp4", 52_853, 87.65), ("negative/many_faces.mp4", 67_243, 423.37),
    ("talking/retalking_2.mp4", 80_240, 1670.11), ("talking/hdtf_000.mp4", 128_000, 9010.48),
    ("negative/single_face.mp4", 38_696, 25.64), ("grid/bbaf2n.mpg", 47_647, 1707.67),
)  # fmt: skip


@pytest.mark.parametrize(("name", "samples", "magnitude"), SAME_SOUND, ids=[name for name, *_ in SAME_SOUND])
def test_a_clip_has_the_same_sound_with_every_pyav(
    shared_data: Path, name: str, samples: int, magnitude: float
) -> None:
    waveform = read_media(shared_data / "clips" / name, SOUND_ONLY).waveform
    assert waveform is not None
    assert len(waveform) == samples
    assert float(np.abs(waveform, dtype=np.float64).sum()) == pytest.approx(magnitude, abs=0.02)


def test_mp4_sound_ends_where_the_file_says_and_a_span_inside_is_whole(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", seconds=0.5, fps=25, rate_hz=48_000, channels=1)
    with av.open(str(path)) as container:
        stream = container.streams.best("audio")
        stated = float(stream.duration * stream.time_base)
    whole = read_media(path, SOUND_ONLY).waveform
    assert whole is not None
    assert len(whole) == pytest.approx(stated * 16_000, abs=1)
    part = read_media(path, MediaRequest(start_seconds=0.1, end_seconds=0.4)).waveform
    assert part is not None
    assert len(part) == 4_800
