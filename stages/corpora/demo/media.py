"""Writing small media files: frames and samples in, one file out, through PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import MerError

CODECS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mp4": (("libx264", "mpeg4"), ("aac",)),
    "mov": (("libx264", "mpeg4"), ("aac",)),
    "matroska": (("libx264", "mpeg4"), ("aac",)),
    "avi": (("mpeg4",), ("libmp3lame", "ac3")),
    "mpeg": (("mpeg1video",), ("mp2",)),
    "webm": (("libvpx",), ("libopus",)),
}
"""Per container the picture and sound codecs to try, best first: not every build of FFmpeg has x264."""

CONTAINERS = {
    ".mp4": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".avi": "avi",
    ".mpg": "mpeg",
    ".mpeg": "mpeg",
    ".webm": "webm",
}

Frame = npt.NDArray[np.uint8]
"""Shape (height, width, 3), BGR."""


@dataclass(frozen=True)
class Sound:
    """Samples to write."""

    samples: npt.NDArray[np.float32]
    """Shape (n, channels), in [-1, 1]."""
    rate_hz: int
    layout: str = "mono"
    """FFmpeg's name of the channel layout, such as `mono`, `stereo` or `5.1`."""


@dataclass(frozen=True)
class Picture:
    """Frames to write."""

    frames: Iterable[Frame]
    fps: float
    size: tuple[int, int]
    """Width and height in pixels, both even."""


def write_media(
    path: Path,
    picture: Picture | None,
    sound: Sound | None,
    container: str | None = None,
    codecs: tuple[str, str] | None = None,
) -> None:
    """Write one file; equal input gives equal bytes on equal library versions.

    Parameters
    ----------
    path
        Where to write; an existing file is replaced, and not atomically.
    picture, sound
        At least one of them. Frames are drawn from their iterable one at a time.
    container
        FFmpeg's name of the format; None takes it from the suffix of `path`.
    codecs
        Picture and sound codec; None takes the first of `CODECS` that this build of FFmpeg has.

    Raises
    ------
    MerError
        If the container is unknown or FFmpeg has none of its codecs.
    """
    import av

    container = container or CONTAINERS.get(path.suffix.lower(), "")
    if container not in CODECS:
        raise MerError(f"{path.name}: no known container has this suffix; use one of {', '.join(CONTAINERS)}")
    videos, audios = CODECS[container] if codecs is None else ((codecs[0],), (codecs[1],))
    # bitexact keeps FFmpeg's version and clock out of the header
    with av.open(str(path), "w", format=container, options={"fflags": "+bitexact"}) as out:
        streams = []
        if picture is not None:
            streams.append((_video_stream(out, _available(videos), picture), _video_frames(picture)))
        if sound is not None:
            streams.append((_audio_stream(out, _available(audios), sound), _audio_frames(sound)))
        for stream, frames in streams:
            for frame in frames:
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))


def _available(codecs: tuple[str, ...]) -> str:
    import av.codec
    from av.codec.codec import UnknownCodecError

    for name in codecs:
        try:
            av.codec.Codec(name, "w")
        except UnknownCodecError:
            continue
        return name
    raise MerError(f"this build of PyAV can encode none of {', '.join(codecs)}; install the PyAV wheel from PyPI")


def _video_stream(out: Any, codec: str, picture: Picture) -> Any:
    stream = out.add_stream(codec, rate=Fraction(picture.fps).limit_denominator(1001))
    stream.width, stream.height = picture.size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = 1
    if codec == "libx264":
        stream.options = {"preset": "ultrafast", "crf": "21", "tune": "zerolatency"}
    elif codec == "libvpx":
        stream.options = {"deadline": "realtime", "cpu-used": "8"}
        stream.bit_rate = 500_000
    else:
        stream.bit_rate = 800_000
    return stream


def _video_frames(picture: Picture) -> Iterator[Any]:
    import av

    rate = Fraction(picture.fps).limit_denominator(1001)
    for index, pixels in enumerate(picture.frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="bgr24")
        frame.pts, frame.time_base = index, 1 / rate
        yield frame


def _audio_stream(out: Any, codec: str, sound: Sound) -> Any:
    rate = 48_000 if codec == "libopus" else sound.rate_hz
    stream = out.add_stream(codec, rate=rate, layout=sound.layout)
    if codec == "aac":
        stream.options = {"aac_coder": "fast"}
    return stream


def _audio_frames(sound: Sound) -> Iterator[Any]:
    import av

    block = sound.rate_hz // 10
    for start in range(0, len(sound.samples), block):
        planes = np.ascontiguousarray(sound.samples[start : start + block].T, dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=sound.layout)
        frame.sample_rate = sound.rate_hz
        frame.pts, frame.time_base = start, Fraction(1, sound.rate_hz)
        yield frame
