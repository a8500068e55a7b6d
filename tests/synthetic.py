"""Small real media files for tests: made with the same encoders people's cameras and converters use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from mer.stages.corpora.demo.face import FacePainter, Look, Pose
from mer.stages.corpora.demo.media import CONTAINERS, Frame, Picture, Sound, write_media

LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 8: "7.1"}


def tone(seconds: float, rate_hz: int = 16_000, channels: int = 1, pitch_hz: float = 220.0) -> npt.NDArray[np.float32]:
    """Make a sine of amplitude 0.3, one octave higher in each further channel, shape (n, channels)."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    pitches = pitch_hz * 2.0 ** np.arange(channels)
    return (0.3 * np.sin(2 * np.pi * time[:, None] * pitches)).astype(np.float32)


def noise(seconds: float, rate_hz: int = 16_000, channels: int = 1, seed: int = 0) -> npt.NDArray[np.float32]:
    """Make white noise of standard deviation 0.1, shape (n, channels)."""
    samples = np.random.default_rng(seed).normal(0, 0.1, (round(seconds * rate_hz), channels))
    return np.clip(samples, -1, 1).astype(np.float32)


def silence(seconds: float, rate_hz: int = 16_000, channels: int = 1) -> npt.NDArray[np.float32]:
    """Make zeros, shape (n, channels)."""
    return np.zeros((round(seconds * rate_hz), channels), np.float32)


def frames(
    seconds: float, fps: float = 12.5, size: tuple[int, int] = (240, 180), faces: int = 1, from_second: float = 0.0
) -> Iterator[Frame]:
    """Draw a scene of `faces` talking heads side by side; detectors find them.

    Parameters
    ----------
    seconds, fps
        Length and rate; `round(seconds * fps)` frames come out.
    size
        Width and height of the whole picture in pixels, each even and divisible by `faces`.
    faces
        0 to 4 heads.
    from_second
        The heads appear at this time; before it the scene is empty.
    """
    looks = [Look(), Look(skin=(75, 105, 155), hair=(15, 15, 18)), Look(long_hair=True), Look(wide=0.95, fringe=0.1)]
    width, height = size
    painters = [FacePainter(look, (width // max(faces, 1), height)) for look in looks[: max(faces, 1)]]
    for index in range(round(seconds * fps)):
        if faces == 0 or index / fps < from_second:
            yield np.concatenate([painter.empty() for painter in painters], 1)
            continue
        mouth = 0.5 + 0.5 * float(np.sin(index / fps * 12))
        yield np.concatenate([painter.draw(Pose(mouth_open=mouth)) for painter in painters], 1)


def write_clip(
    path: Path,
    seconds: float = 1.0,
    fps: float = 12.5,
    size: tuple[int, int] = (240, 180),
    sound: str | npt.NDArray[np.float32] | None = "tone",
    faces: int | None = 1,
    rate_hz: int = 16_000,
    channels: int = 1,
    codec: tuple[str, str] | None = None,
    sound_seconds: float | None = None,
    faces_from_second: float = 0.0,
) -> Path:
    """Write a media file whose kind its suffix decides, and return its path.

    Parameters
    ----------
    path
        mp4, mov, mkv, avi, mpg (needs a broadcast rate such as 25) or webm hold picture and sound;
        wav, flac, mp3 and ogg hold sound only and ignore everything about the picture.
    sound
        `tone`, `noise`, `silence`, samples of shape (n, channels), or None for a file without a sound stream.
    faces
        Number of heads, or None for a file without a picture stream.
    codec
        Picture and sound codec by FFmpeg's names, such as `("mpeg4", "mp3")`; None takes the container's usual ones.
    sound_seconds
        Length of the sound where it differs from the picture's.
    """
    samples = _samples(sound, seconds if sound_seconds is None else sound_seconds, rate_hz, channels)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() not in CONTAINERS:
        if samples is None:
            raise ValueError(f"{path.name} can only hold sound")
        soundfile.write(path, samples, rate_hz)
        return path
    picture = None
    if faces is not None:
        picture = Picture(frames(seconds, fps, size, faces, faces_from_second), fps, size)
    track = None if samples is None else Sound(samples, rate_hz, LAYOUTS[samples.shape[1]])
    write_media(path, picture, track, codecs=codec)
    return path


def _samples(
    sound: str | npt.NDArray[np.float32] | None, seconds: float, rate_hz: int, channels: int
) -> npt.NDArray[np.float32] | None:
    if sound is None or isinstance(sound, np.ndarray):
        return sound
    return {"tone": tone, "noise": noise, "silence": silence}[sound](seconds, rate_hz, channels)


def truncate(path: Path, share: float = 0.5) -> Path:
    """Cut a file down to the first `share` of its bytes, in place."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def zero_bytes(path: Path) -> Path:
    """Write an empty file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def text_as_media(path: Path) -> Path:
    """Write prose under the name of a media file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("This is a sentence, not a video.\n" * 50)
    return path
