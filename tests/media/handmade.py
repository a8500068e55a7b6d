"""Media files that no ordinary writer makes: own timestamps, rotation, cover pictures, damage."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt


def counted_frames(count: int, size: tuple[int, int] = (64, 48)) -> list[npt.NDArray[np.uint8]]:
    """Frames whose left and right halves tell the tens and ones of their index (modulo 100) by their brightness."""
    frames = []
    for index in range(count):
        frame = np.empty((size[1], size[0], 3), np.uint8)
        frame[:, : size[0] // 2] = 16 + 24 * (index // 10 % 10)
        frame[:, size[0] // 2 :] = 16 + 24 * (index % 10)
        frames.append(frame)
    return frames


def frame_number(frame: npt.NDArray[np.uint8]) -> int:
    """Index (modulo 100) of a frame that `counted_frames` drew, after lossy coding."""
    half = frame.shape[1] // 2
    tens, ones = float(frame[:, : half - 4].mean()), float(frame[:, half + 4 :].mean())
    return 10 * round((tens - 16) / 24) + round((ones - 16) / 24)


def write_timed(path: Path, frames: Sequence[npt.NDArray[np.uint8]], times_seconds: Sequence[float]) -> Path:
    """Write a silent H.264 clip whose frames are shown at the given times."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "10", "tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.thread_count = 1
        for pixels, time in zip(frames, times_seconds, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="bgr24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def write_stamped(path: Path, count: int, stamps_ms: Sequence[int]) -> Path:
    """Write a silent Matroska clip of `counted_frames` whose packets bear any times, equal and falling ones too."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuvj420p"
    encoder.time_base = Fraction(1, 1000)
    with av.open(str(path), "w", format="matroska") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for order, (pixels, stamp) in enumerate(zip(counted_frames(count), stamps_ms, strict=True)):
            frame = av.VideoFrame.from_ndarray(pixels, format="bgr24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = order, Fraction(1, 1000)
            for packet in encoder.encode(frame):
                packet.stream, packet.time_base = stream, Fraction(1, 1000)
                packet.pts, packet.dts = stamp, min(order, stamp)
                out.mux(packet)
    return path


def write_shifted(
    path: Path, rate: Fraction, count: int, sound: npt.NDArray[np.float32], first_frame: int, first_sample: int
) -> Path:
    """Write `counted_frames` and 16 kHz sound from `first_frame` and `first_sample` on, each at its own time."""
    with av.open(str(path), "w") as out:
        video, audio = out.add_stream("mjpeg", rate=rate), out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        video.width, video.height, video.pix_fmt = 64, 48, "yuvj420p"
        for index, pixels in list(enumerate(counted_frames(count)))[first_frame:]:
            picture = av.VideoFrame.from_ndarray(pixels, format="bgr24")
            picture.pts, picture.time_base = index, 1 / rate
            out.mux(video.encode(picture))
        for start in range(first_sample, len(sound), 1_000):
            block = (sound[None, start : start + 1_000] * 32_767).astype(np.int16)
            piece = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = 16_000, start, Fraction(1, 16_000)
            out.mux(audio.encode(piece))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))
    return path


def turn_quarter(path: Path) -> Path:
    """Mark an mp4 as to be shown turned a quarter clockwise, as a phone held upright does, in place."""
    content = bytearray(path.read_bytes())
    box = content.index(b"tkhd")
    version = content[box + 4]
    matrix = box + 4 + (4 + 8 + 8 + 4 + 4 + 8 if version else 4 + 4 + 4 + 4 + 4 + 4) + 8 + 8
    unit = 1 << 16
    content[matrix : matrix + 36] = struct.pack(">9i", 0, unit, 0, -unit, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(content))
    return path


def add_cover(path: Path, picture: npt.NDArray[np.uint8]) -> Path:
    """Put an ID3 tag with a cover picture before an mp3, in place."""
    png = cv2.imencode(".png", picture)[1].tobytes()
    body = b"\0image/png\0\3\0" + png
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = len(frame)
    sync_safe = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\3\0\0" + sync_safe + frame + path.read_bytes())
    return path


def overwrite(path: Path, first: float, last: float) -> Path:
    """Replace the bytes between two shares of a file by noise, in place."""
    content = bytearray(path.read_bytes())
    start, stop = int(len(content) * first), int(len(content) * last)
    content[start:stop] = np.random.default_rng(0).integers(0, 256, stop - start, np.uint8).tobytes()
    path.write_bytes(bytes(content))
    return path
