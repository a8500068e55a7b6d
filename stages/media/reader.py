"""Reading a clip: its sound as a 16 kHz mono waveform and its picture as frames, in one pass over the file.

Decoding is FFmpeg's, through PyAV. Sound is placed by its timestamps, so that it stays in step with the picture:
where a stream starts late or loses packets there is silence of that length, and a note says so.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mer.cache import MerError

from ..interfaces import SAMPLE_RATE_HZ, Waveform
from .frames import FrameSink, Picture, SoundSink
from .limits import TROUBLE, MediaLimits
from .picture import FrameClock, PictureReader
from .request import Media, MediaError, MediaRequest
from .sound import SoundReader

SHORTEST_SOUND_SECONDS = 0.025
"""One step of the wav2vec2 family sees 400 samples; less sound than that has no features."""

# Demuxers of media files. Playlists (HLS, concat, DASH) are left out: they open other files on the reader's behalf.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,wav,w64,flac,mp3,ogg,aac,ac3,aiff,au,caf,amr,"
    "asf,flv,m4v,h264,hevc,dv,mxf,nut,ivf,gif,rm,wv,ape,sph"
)
# Containers in which seeking lands on the right sample or frame; the others are read from the start. Matroska's
# timestamps are whole milliseconds, which is exact enough for a frame and not for a sample.
SEEKABLE = {"audio": {"mov", "wav", "w64", "flac"}, "video": {"mov", "matroska", "avi"}}
# Containers in which FFmpeg writes the time of the end for the length, the time before the first stream included.
COUNTED_FROM_ZERO = {"matroska", "nut"}
SEEK_PREROLL_SECONDS = 1.0
SEEK_WORTH_SECONDS = 4.0
PROBE_PACKETS = 3000
SMALLEST_BYTES_A_SECOND = 100
"""The sparest speech codecs need more than this; a header that promises more seconds is not believed."""


@dataclass(frozen=True)
class MediaFacts:
    """What the header of a file says."""

    seconds: float | None
    """Length; None where the header has none."""
    sound: bool
    picture: bool


def media_facts(path: Path) -> MediaFacts:
    """Read what the header of a file says of it; nothing is decoded.

    Raises
    ------
    MediaError
        If the file is missing, empty or not media.
    """
    with _open(path) as container:
        streams, _ = _pick_streams(container, MediaRequest(frames_fps=1.0), 1, MediaLimits())
        seconds = _header_seconds(container, _origin(container)) if container.duration else None
    return MediaFacts(seconds, "audio" in streams, "video" in streams)


def media_digest(path: Path) -> bytes:
    """xxh3-128 of a file's content, 16 bytes.

    Raises
    ------
    MediaError
        If the file cannot be read.
    """
    import xxhash

    digest = xxhash.xxh3_128()
    try:
        # Without waiting: a pipe without a writer, in the place of a clip, would keep who opens it waiting for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise MediaError(f"clip {path} is not a regular file")
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise MediaError(f"clip {path} cannot be read: {error.strerror or error}") from error
    return digest.digest()


def read_media(
    path: Path,
    request: MediaRequest,
    on_frame: FrameSink | None = None,
    on_grey: FrameSink | None = None,
    threads: int = 1,
    on_sound: SoundSink | None = None,
    limits: MediaLimits | None = None,
    on_length: Callable[[float], None] | None = None,
) -> Media:
    """Read the sound and the sampled frames of one clip, or of a span of it, in one pass.

    For every k the first frame at or after k / frames_fps is sampled, once, and handed to `on_frame` with its own
    time; memory stays flat however long the clip is, if `on_sound` takes the sound as well, piece by piece. `threads`
    is FFmpeg's thread count per stream; it changes no number, and 1 is best when many clips are read at once. A clip
    that breaks one of `limits` has a problem in place of that half; `on_length` is told once how many seconds are going
    to be read at most.

    Raises
    ------
    MediaError
        If the file is missing, empty or not media.
    """
    frames: list[tuple[float, Picture]] = []
    if request.frames_fps and on_frame is None:
        on_frame = _collect(frames)
    with _open(path) as container:
        limits = limits or MediaLimits()
        origin = _origin(container)
        header_seconds = _header_seconds(container, origin)
        promised = max(min(header_seconds, request.stop) - request.start, 0.0)
        if on_length is not None:
            on_length(promised)
        streams, refused = _pick_streams(container, request, threads, limits)
        # A length that the file is too small to hold is a damaged header; then what comes is counted.
        if promised * SMALLEST_BYTES_A_SECOND < path.stat().st_size and (problem := limits.length_problem(promised)):
            streams, refused = {}, dict.fromkeys(("audio", "video"), problem)
        clip = _Clip(container, streams, origin, header_seconds, limits, refused)
        reading = _Reading.of(clip, request, on_frame, on_grey, on_sound)
        if request.start > SEEK_WORTH_SECONDS:
            _seek(clip, request.start)
        _pump(clip, reading, request)
        return reading.finish(clip, request, frames)


def _collect(frames: list[tuple[float, Picture]]) -> FrameSink:
    def keep(time_seconds: float, picture: Picture) -> None:
        frames.append((time_seconds, picture))

    return keep


# --- opening ------------------------------------------------------------------------------------------------------


def open_container(path: Path) -> Any:
    """Open a file by PyAV, in the formats that corpora come in; it may name no other file or address.

    Raises
    ------
    av.FFmpegError, OSError, ValueError
        Whatever PyAV makes of a file that is no media.
    """
    import av

    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    # PyAV before 19 refuses a file for a tag that is no UTF-8 unless told not to; later ones know no such setting.
    lenient: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}
    return av.open(f"file:{path}", container_options=options, **lenient)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    import av

    try:
        if not path.is_file():
            raise MediaError(f"clip {path} {'is not a file' if path.exists() else 'does not exist'}")
        if path.stat().st_size == 0:
            raise MediaError(f"clip {path} is empty (0 bytes); copy or download it again")
        container = open_container(path)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"clip {path} is not readable as media ({_why(error)}); is it truncated, or no media file?"
        ) from error
    with container:
        yield container


def _why(error: BaseException) -> str:
    return (str(getattr(error, "strerror", None) or error) or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class _Clip:
    """An open file: its chosen streams (sound, picture), where its time zero lies, and how long it says it is."""

    container: Any
    streams: dict[str, Any]
    origin_seconds: float
    header_seconds: float
    limits: MediaLimits
    refused: Mapping[str, str]
    """Kinds of streams that are there and break a bound, with the reason."""

    @property
    def longest_gap(self) -> float:
        """No true gap is longer than the clip; a larger jump is a damaged timestamp."""
        return self.header_seconds + 1.0


def _pick_streams(
    container: Any, request: MediaRequest, threads: int, limits: MediaLimits
) -> tuple[dict[str, Any], dict[str, str]]:
    """Choose the best stream of each wanted kind, or say which bound it breaks.

    It is the default one, never a cover picture, and one with a decoder.
    """
    wanted = (["audio"] if request.sound else []) + (["video"] if request.frames_fps or request.grey_fps else [])
    picked: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for kind in wanted:
        stream = container.streams.best(kind)
        if stream is None or stream.codec_context is None or _is_cover(stream):
            continue
        stream.codec_context.thread_count = threads
        if threads > 1:
            stream.thread_type = "AUTO"
        context = stream.codec_context
        if kind == "audio":
            problem = limits.sound_problem(context)
        else:
            problem = limits.picture_problem(context.width, context.height)
            context.options = {"max_pixels": str(int(limits.megapixels * 1e6))}  # for sizes that change on the way
        if problem:
            refused[kind] = problem
        else:
            picked[kind] = stream
    return picked, refused


def _is_cover(stream: Any) -> bool:
    import av

    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return bool(stream.disposition & still)


def _aspect(stream: Any) -> float:
    """Width of a pixel over its height; 1 when the file does not say, or says something absurd."""
    ratio = float(stream.sample_aspect_ratio or 1)
    return ratio if 0.25 <= ratio <= 4 else 1.0


def _origin(container: Any) -> float:
    """Time zero of a clip: where the earlier of its best sound and picture starts, whichever of them is wanted.

    Times before zero hold what a sound decoder needs to warm up (Opus in Matroska) and are never played.
    """
    starts = []
    for kind in ("audio", "video"):
        stream = container.streams.best(kind)
        if stream is not None and stream.start_time is not None and not _is_cover(stream):
            starts.append(float(stream.start_time * stream.time_base))
    return max(min(starts, default=0.0), 0.0)


def _header_seconds(container: Any, origin_seconds: float) -> float:
    """Length from time zero on that the header promises; a day when it says nothing."""
    if not container.duration or container.duration < 0:
        return 86_400.0
    before = origin_seconds if COUNTED_FROM_ZERO & set(container.format.name.split(",")) else 0.0
    return float(container.duration / 1e6 - before)


def _stated_end(container: Any, stream: Any) -> Any:
    """Where MP4 and its kin say that the sound ends, in seconds of its own clock; None of other containers."""
    if "mov" not in container.format.name.split(",") or not stream.duration or stream.time_base is None:
        return None
    return stream.duration * stream.time_base


# --- seeking ------------------------------------------------------------------------------------------------------


def _seek(clip: _Clip, start_seconds: float) -> None:
    """Jump to before the span where the container's index is exact; otherwise stay at the beginning.

    The jump leaves room for decoders that need earlier packets (mp3's reservoir, AAC's overlap); it is taken back when
    any wanted stream would begin after the start of the span.
    """
    import av

    names = set(clip.container.format.name.split(","))
    if not all(names & SEEKABLE[kind] for kind in clip.streams):
        return
    target = round((start_seconds - SEEK_PREROLL_SECONDS + clip.origin_seconds) * 1_000_000)
    try:
        clip.container.seek(target)
        landed = _first_times(clip)
        good = len(landed) == len(clip.streams) and max(landed.values(), default=0.0) * 1e6 <= target + 500_000
        clip.container.seek(target if good else 0)
    except av.FFmpegError:
        clip.container.seek(0)


def _first_times(clip: _Clip) -> dict[str, float]:
    """Seconds of the first packet of each wanted stream from here on."""
    found: dict[str, float] = {}
    for count, packet in enumerate(clip.container.demux(*clip.streams.values())):
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None:
            found.setdefault(packet.stream.type, float(stamp * packet.time_base))
        if len(found) == len(clip.streams) or count > PROBE_PACKETS:
            break
    return found


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass
class _Reading:
    """State of one pass: the readers, and what went wrong."""

    sound: SoundReader | None
    picture: PictureReader | None
    damaged: dict[str, int] = field(default_factory=dict)
    """Packets that could not be decoded, by kind of stream."""
    good: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        clip: _Clip,
        request: MediaRequest,
        on_frame: FrameSink | None,
        on_grey: FrameSink | None,
        on_sound: SoundSink | None,
    ) -> _Reading:
        sound = picture = None
        if "audio" in clip.streams:
            span = (request.start, request.stop)
            stated = _stated_end(clip.container, clip.streams["audio"])
            sound = SoundReader(
                request.channel, clip.origin_seconds, *span, clip.longest_gap, on_sound, stated, clip.limits
            )
        if "video" in clip.streams:
            rate = float(clip.streams["video"].average_rate or 25)
            picture = PictureReader(
                FrameClock(clip.origin_seconds, rate, clip.longest_gap),
                (request.start, request.stop),
                (request.frames_fps, on_frame) if request.frames_fps and on_frame else None,
                (request.grey_fps, on_grey) if request.grey_fps and on_grey else None,
                1 / rate,
                _aspect(clip.streams["video"]),
                clip.limits,
            )
        return cls(sound, picture)

    def readers(self) -> dict[str, SoundReader | PictureReader]:
        """Live readers by kind of stream."""
        pairs: dict[str, SoundReader | PictureReader | None] = {"audio": self.sound, "video": self.picture}
        return {kind: reader for kind, reader in pairs.items() if reader is not None}

    def finish(self, clip: _Clip, request: MediaRequest, frames: list[tuple[float, Picture]]) -> Media:
        """Waveform, problems and notes of what was read."""
        waveform, sound_problem = self._waveform(clip, request)
        picture_seconds = self.picture.seconds if self.picture else 0.0
        heard = self.sound.samples / SAMPLE_RATE_HZ if self.sound and not sound_problem else 0.0
        seconds = max(heard, picture_seconds)
        if not self.readers():
            seconds = max(min(clip.header_seconds, request.stop) - request.start, 0.0)
        self._note_oddities(clip, request, seconds)
        picture_problem = self._picture_problem(clip, request)
        return Media(waveform, sound_problem, seconds, picture_seconds, frames, picture_problem, tuple(self.notes))

    def _waveform(self, clip: _Clip, request: MediaRequest) -> tuple[Waveform | None, str]:
        if not request.sound:
            return None, ""
        if self.sound is None:
            return None, clip.refused.get("audio", "no sound stream")
        waveform = self.sound.finish()
        self.notes.extend(self.sound.notes)
        if self.sound.problem:
            return None, self.sound.problem
        seconds = self.sound.samples / SAMPLE_RATE_HZ
        if not self.sound.samples:
            return None, self._nothing("audio", "sound", request)
        if not self.sound.finite:
            return None, "its sound has samples that are not finite numbers (NaN or infinity)"
        if seconds < SHORTEST_SOUND_SECONDS:
            return (
                None,
                f"its sound lasts {seconds:.3f} s, less than the {SHORTEST_SOUND_SECONDS} s that one feature needs",
            )
        return (waveform if len(waveform) else None), ""

    def _picture_problem(self, clip: _Clip, request: MediaRequest) -> str:
        if not request.frames_fps:
            return ""
        if self.picture is None:
            return clip.refused.get("video", "no picture stream")
        if self.picture.problem:
            return self.picture.problem
        return "" if self.picture.sampled else self._nothing("video", "picture", request)

    def _nothing(self, kind: str, what: str, request: MediaRequest) -> str:
        if self.damaged.get(kind) and not self.good.get(kind):
            return f"none of its {self.damaged[kind]} {what} packets can be decoded"
        if request.start or request.end < float("inf"):
            until = f"between {request.start:.2f} and {request.end:.2f}"
            return f"no {what} {until if request.end < float('inf') else f'after {request.start:.2f}'} s"
        return f"its {what} stream is empty"

    def _note_oddities(self, clip: _Clip, request: MediaRequest, seconds: float) -> None:
        for kind, count in self.damaged.items():
            self.notes.append(f"{count} damaged {'sound' if kind == 'audio' else 'picture'} packets were left out")
        if self.picture is not None and self.picture.clock.impossible:
            self.notes.append(f"{self.picture.clock.impossible} of {self.picture.decoded} picture times are impossible")
        promised = min(clip.header_seconds, request.end) - request.start
        if request.stop < min(clip.header_seconds, request.end):
            self.notes.append(f"cut to the first {seconds:.2f} of {promised:.2f} s")
        elif clip.container.duration and self.readers() and seconds < promised - 0.5:
            self.notes.append(f"ends after {seconds:.2f} of the {promised:.2f} s its header promises")


def _pump(clip: _Clip, reading: _Reading, request: MediaRequest) -> None:
    """Demux and decode until every reader has its span or the file ends, stepping over damaged packets."""
    import av

    readers = reading.readers()
    if not readers:
        return
    packets = clip.container.demux(*clip.streams.values())
    while not all(reader.done for reader in readers.values()):
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            reading.notes.append(f"the file breaks off: {_why(error)}")
            _drain(clip, reading)
            return
        if packet is None:
            return
        _decode(packet.stream.type, packet, packet.stream.codec_context, reading, request.start + clip.origin_seconds)


def _drain(clip: _Clip, reading: _Reading) -> None:
    for kind, stream in clip.streams.items():
        _decode(kind, None, stream.codec_context, reading, 0.0)


def _decode(kind: str, packet: Any, decoder: Any, reading: _Reading, start_seconds: float) -> None:
    import av

    reader = reading.readers()[kind]
    if reader.done:
        return
    try:
        frames = decoder.decode(packet)
    except av.FFmpegError:
        # Packets before the span only warm the decoder up; after a seek their failing is normal.
        stamp = packet.pts if packet is not None else None
        if stamp is None or float(stamp * packet.time_base) >= start_seconds:
            reading.damaged[kind] = reading.damaged.get(kind, 0) + 1
        return
    except TROUBLE as error:
        reader.give_up(_unusable(kind, error))
        return
    for frame in frames:
        reading.good[kind] = reading.good.get(kind, 0) + 1
        try:
            reader.feed(frame)
        except (av.FFmpegError, MerError, *TROUBLE) as error:
            reader.give_up(_unusable(kind, error))


def _unusable(kind: str, error: BaseException) -> str:
    """Say that a stream can be decoded, and what comes of it is of no use."""
    why = "there is not enough memory for it" if isinstance(error, MemoryError) else _why(error)
    return f"its {'sound' if kind == 'audio' else 'picture'} cannot be used: {why}"
