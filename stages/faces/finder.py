"""The face stage: from the frames of a clip to aligned crops of one person, with a record of how they were chosen."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mer.cache import MerError

from ..interfaces import FaceCrops, Waveform
from ..known_files import remember_place
from ..media.frames import Picture
from . import speaking, tracks
from .align import crop, look
from .detect import MOST_FACES, SMALLEST_FACE, Cascade, Face, ThreadDetectors, Yunet, cascade_file
from .follow import FollowingYunet, Levels
from .mouths import MouthsAtOnce, MouthsWhenNeeded
from .tracks import Linker, Track, join_returns

log = logging.getLogger("mer.faces")

DETECTORS = ("auto", "yunet", "cascade")
YUNETS = {1: Yunet, 2: FollowingYunet}
"""Ways of finding faces with YuNet: 1 looks at the whole of every frame, 2 follows known faces in half of the time or
less. Their crops differ by a few pixels: the number is in the spec, and features begun with 1 go on with 1."""
POLICIES = ("speaking", "largest", "central")
GREY_FPS = 30.0
"""Rate at which mouths are looked at, enough for speech; pass it as `MediaRequest.grey_fps`."""
CROPS_IN_MEMORY = 32 << 20
"""Bytes of candidate crops kept in memory per clip before they go to a temporary file."""

YUNET_REPOSITORY = "opencv/face_detection_yunet"
YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
YUNET_VARIABLE = "MER_YUNET"
HUB_TIMEOUT_SECONDS = 5.0

Region = tuple[float, float, float, float]


@dataclass(frozen=True)
class FaceFinder:
    """How faces are found, which person is followed, and how the crop is cut. Picklable; `load` makes it work."""

    detector: str
    """`yunet` or `cascade`."""
    model: Path | None = None
    """YuNet's ONNX file; None for the cascade."""
    sha256: str = ""
    """Of the model file or of the cascade file."""
    size: int = 224
    """Side of the square crops in pixels."""
    margin: float = 0.15
    """Room on each side of the face box, as a share of its longer side."""
    policy: str = "speaking"
    """`speaking`: who moves their mouth with the sound, else the largest; `largest`; `central`."""
    region: Region | None = None
    """Part of the frame to look in (left, top, right, bottom as fractions) where the utterance names none."""
    algorithm: int = 2
    """Which of `YUNETS`; the cascade has one way only."""

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise MerError(f"face policy {self.policy!r} is unknown; use one of {', '.join(POLICIES)}")
        if not 16 <= self.size <= 1024 or not 0 <= self.margin <= 2:
            raise MerError(f"face crops of {self.size} pixels with a margin of {self.margin} are out of range")
        if self.algorithm not in YUNETS:
            raise MerError(f"way {self.algorithm} of finding faces is unknown; it was made by a newer mer")

    @property
    def grey_fps(self) -> float | None:
        """Rate of grey pictures `FaceWatcher.add_grey` wants, or None when the policy does not listen."""
        return GREY_FPS if self.policy == "speaking" else None

    def identity(self) -> dict[str, Any]:
        """Everything that can change the crops, JSON-able; part of a feature spec's inputs."""
        kind: type[Yunet] | type[Cascade] = YUNETS[self.algorithm] if self.detector == "yunet" else Cascade
        identity: dict[str, Any] = {
            "detector": self.detector,
            "weights_sha256": self.sha256,
            "algorithm": f"{kind.ALGORITHM}.{tracks.ALGORITHM}",
            "score": kind.SCORE,
            "size": self.size,
            "margin": self.margin,
            "policy": self.policy,
            "most_faces": MOST_FACES,
            "smallest_face": SMALLEST_FACE,
        }
        if self.policy == "speaking":
            identity["speaking"] = {**speaking.describe(), "grey_fps": GREY_FPS}
        if self.region is not None:
            identity["region"] = list(self.region)
        return identity

    def load(self) -> LoadedFinder:
        """Make the finder ready; its watchers may run in several threads, each watcher in one.

        Raises
        ------
        MerError
            If the model file is missing, damaged or not a YuNet.
        """
        import cv2

        # Clips are decoded side by side; OpenCV's own threads on top would fight for the same cores.
        cv2.setNumThreads(1)
        loaded = LoadedFinder(self, ThreadDetectors(self._detector))
        try:
            loaded.detectors.fresh().find(np.zeros((64, 64, 3), np.uint8))
        except cv2.error as error:
            raise MerError(f"{self.model} cannot be used as YuNet: {str(error).strip().splitlines()[0]}") from error
        return loaded

    def _detector(self) -> Yunet | Cascade:
        return Cascade() if self.model is None else YUNETS[self.algorithm](self.model)


class LoadedFinder:
    """A finder whose detector is in memory."""

    def __init__(self, finder: FaceFinder, detectors: ThreadDetectors) -> None:
        self.finder = finder
        self.detectors = detectors

    def watch(self, region: Region | None = None) -> FaceWatcher:
        """Begin a clip. `region` is the part of the frame that shows the speaker, in fractions."""
        return FaceWatcher(self.finder, self.detectors.fresh(), region or self.finder.region)


class FaceWatcher:
    """Watches one clip: takes its sampled frames in order, then gives the crops of the chosen person.

    Memory is flat in the length of the clip but for the mouth patches of its tracks (23 kB per second and face);
    crops of candidates beyond 32 MiB wait in a temporary file.
    """

    def __init__(self, finder: FaceFinder, detector: Yunet | Cascade, region: Region | None, crops: Any = None) -> None:
        self._finder = finder
        self._detector = detector
        self._region = region
        self._linker = Linker()
        self._crops = _CropPile(finder.size) if crops is None else crops
        self._times: list[float] = []
        self._mouths: MouthsAtOnce | MouthsWhenNeeded = (
            MouthsWhenNeeded() if isinstance(detector, FollowingYunet) else MouthsAtOnce()
        )
        self._frame_size = (0, 0)

    def add_grey(self, time_seconds: float, grey: Picture) -> None:
        """Take a grey picture (H, W) of a moment between the sampled frames; optional, sharpens `speaking`."""
        self._mouths.add_grey(time_seconds, grey, self._linker.tracks)

    def add(self, time_seconds: float, frame: Picture) -> None:
        """Take the next sampled frame, BGR of shape (H, W, 3)."""
        step = len(self._times)
        self._times.append(time_seconds)
        self._frame_size = (frame.shape[1], frame.shape[0])
        cut = self._linker.is_cut(time_seconds, _thumbnail(frame))
        faces, crops, looks = self._see(frame, cut)
        owners = self._linker.link(step, time_seconds, faces, looks)
        for owner, picture in zip(owners, crops, strict=True):
            owner.crops.append(self._crops.put(picture))
        if self._finder.policy == "speaking":
            self._mouths.add(self._times, frame, self._linker.tracks, bool(faces))

    def _see(self, frame: Picture, cut: bool) -> tuple[list[Face], list[Picture], list[npt.NDArray[np.float32]]]:
        """Faces of a frame, the crop of each, and the small picture of each that tells people apart."""
        size, margin = self._finder.size, self._finder.margin
        if isinstance(self._detector, FollowingYunet):
            levels = Levels(frame)
            faces = self._detector.find_in(levels, cut, self._wanted)
            looks = [levels.look(face, margin) for face in faces]
            return faces, [levels.crop(face, size, margin) for face in faces], looks
        faces = [face for face in self._detector.find(frame) if self._wanted(face)]
        crops = [crop(frame, face, size, margin) for face in faces]
        return faces, crops, [look(picture) for picture in crops]

    def _wanted(self, face: Face) -> bool:
        return _inside(face, self._region, *self._frame_size)

    def close(self) -> None:
        """Give back what a clip that is not finished has piled up; harmless after `finish`."""
        self._mouths.close()
        self._crops.close()

    def finish(self, waveform: Waveform | None) -> FaceCrops:
        """Choose the person and give their crops; `waveform` is the sound of the same span, or None.

        A clip without any face gives crops of shape (0, S, S, 3) and no valid step.
        """
        frames = len(self._times)
        sure, fewest = self._detector.SURE_SCORE, min(self._detector.FEWEST, frames)
        self._mouths.finish(self._times, self._linker.tracks)
        joined = join_returns(self._linker.tracks)
        people = [track for track in joined if track.best_score >= sure and len(track.steps) >= fewest]
        chosen, note = choose(people, self._finder.policy, waveform, self._times, self._frame_size, self._region)
        valid = np.zeros(frames, np.bool_)
        if chosen is not None:
            valid[chosen.steps] = True
        crops = self._crops.take(chosen.crops if chosen is not None else [])
        self.close()
        return FaceCrops(crops, np.asarray(self._times, np.float32), valid, note)


def choose(
    people: list[Track],
    policy: str,
    waveform: Waveform | None,
    times: Sequence[float],
    frame_size: tuple[int, int],
    region: Region | None = None,
) -> tuple[Track | None, dict[str, Any]]:
    """Choose the person to follow; returns the track and the note that lets the choice be audited and drawn.

    `largest` is the largest summed box area, `central` the smallest mean distance from the middle of the frame (or
    region) with time out of view counted as far away, `speaking` the clear winner of `speaking_evidence`.
    """
    note: dict[str, Any] = {"frame": list(frame_size), "policy": policy, "used": "", "chosen": None, "tracks": []}
    if not people:
        return None, note | {"coverage": 0.0, "why": "no face"}
    evidence: list[float | None] = [None] * len(people)
    largest = max(range(len(people)), key=lambda index: people[index].area)
    pick, used, why = largest, "largest", ""
    if len(people) == 1:
        used, why = "only", "one person in view"
    elif policy == "central":
        pick, used = _most_central(people, len(times), frame_size, region), "central"
    elif policy == "speaking" and waveform is None:
        why = "no sound"
    if policy == "speaking" and waveform is not None:
        evidence = [_evidence_of(track, waveform, times) for track in people]
        winner = speaking.clear_winner(evidence)
        if winner is not None and len(people) > 1:
            pick, used = winner, "speaking"
        elif len(people) > 1:
            why = "no mouth clearly moves with the sound"
    note["tracks"] = [_describe(track, value) for track, value in zip(people, evidence, strict=True)]
    chosen = people[pick]
    note |= {"used": used, "chosen": chosen.number, "coverage": round(len(chosen.steps) / max(len(times), 1), 4)}
    return chosen, note | ({"why": why} if why else {})


def _evidence_of(track: Track, waveform: Waveform, times: Sequence[float]) -> float | None:
    if not track.mouths:
        return None
    seen = speaking.MouthTrack(np.asarray(track.mouth_times), np.stack(track.mouths))
    return speaking.speaking_evidence(seen, waveform, times[-1] - times[0])


def _most_central(people: list[Track], frames: int, frame_size: tuple[int, int], region: Region | None) -> int:
    left, top, right, bottom = region or (0.0, 0.0, 1.0, 1.0)
    width, height = frame_size
    middle = ((left + right) / 2 * width, (top + bottom) / 2 * height)
    far = float(np.hypot(width, height)) / 2

    def distance(track: Track) -> float:
        near = [
            float(np.hypot(f.box[0] + f.box[2] / 2 - middle[0], f.box[1] + f.box[3] / 2 - middle[1]))
            for f in track.faces
        ]
        return sum(near) + (frames - len(near)) * far

    return min(range(len(people)), key=lambda index: distance(people[index]))


def _describe(track: Track, evidence: float | None) -> dict[str, Any]:
    """One track for the note: boxes [left, top, width, height] from its first step on, None where it was not seen."""
    boxes: list[list[int] | None] = [None] * (track.steps[-1] - track.steps[0] + 1)
    for step, face in zip(track.steps, track.faces, strict=True):
        boxes[step - track.steps[0]] = [round(float(value)) for value in face.box]
    return {
        "id": track.number,
        "first": track.steps[0],
        "seconds": [round(track.times[0], 3), round(track.times[-1], 3)],
        "score": round(track.mean_score, 3),
        "speaking": None if evidence is None else round(evidence, 3),
        "boxes": boxes,
    }


def _thumbnail(frame: Picture) -> Picture:
    """Very small grey picture of a frame, for telling a new shot."""
    import cv2

    coarse = max(1, max(frame.shape[:2]) // 160)
    green = np.ascontiguousarray(frame[::coarse, ::coarse, 1])
    return np.asarray(cv2.resize(green, (16, 9), interpolation=cv2.INTER_AREA), np.uint8)


def _inside(face: Face, region: Region | None, width: int, height: int) -> bool:
    if region is None:
        return True
    x = float(face.box[0] + face.box[2] / 2) / width
    y = float(face.box[1] + face.box[3] / 2) / height
    return region[0] <= x <= region[2] and region[1] <= y <= region[3]


class _CropPile:
    """Crops of all candidates, in memory while they are few and in a temporary file when they are many."""

    def __init__(self, size: int) -> None:
        self._shape = (size, size, 3)
        self._bytes = size * size * 3
        self._kept: list[Picture] = []
        self._count = 0
        self._file: IO[bytes] | None = None

    def put(self, picture: Picture) -> int:
        """Keep a BGR crop, which nobody changes afterwards; returns its place."""
        self._count += 1
        self._kept.append(picture)
        if self._file is not None or self._count * self._bytes > CROPS_IN_MEMORY:
            self._write()
        return self._count - 1

    def _write(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
            for picture in self._kept:
                self._file.write(picture.tobytes())
        except OSError as error:
            raise MerError(
                f"face crops cannot be kept in {tempfile.gettempdir()}: {error.strerror}; set TMPDIR"
            ) from error
        self._kept = []

    def take(self, places: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Crops at the given places as RGB, shape (n, size, size, 3)."""
        import cv2

        crops = np.empty((len(places), *self._shape), np.uint8)
        for row, place in enumerate(places):
            cv2.cvtColor(self._at(place), cv2.COLOR_BGR2RGB, dst=crops[row])
        return crops

    def _at(self, place: int) -> Picture:
        if self._file is None:
            return self._kept[place]
        self._file.seek(place * self._bytes)
        return np.frombuffer(self._file.read(self._bytes), np.uint8).reshape(self._shape)

    def close(self) -> None:
        """Give the memory and the file back."""
        self._kept = []
        if self._file is not None:
            self._file.close()


# --- getting the detector -----------------------------------------------------------------------------------------


def resolve_finder(
    detector: str = "auto",
    path: Path | None = None,
    *,
    size: int = 224,
    margin: float = 0.15,
    policy: str = "speaking",
    region: Region | None = None,
    algorithm: int = 2,
) -> FaceFinder:
    """Find the detector and pin it by the hash of its weights.

    `detector` is `yunet`, `cascade`, `auto` (YuNet where it can be had, else the cascade with a warning) or the path of
    a YuNet ONNX file. YuNet is looked for at `path`, at the environment variable MER_YUNET, in the Hugging Face cache,
    and on the hub, in this order.

    Raises
    ------
    MerError
        If a named file is missing, a download is not the pinned file, or `yunet` was asked for and cannot be had.
    """
    if detector not in DETECTORS:
        path, detector = Path(detector), "yunet"
        if path.suffix != ".onnx":
            raise MerError(
                f"face detector {str(path)!r} is unknown; use {', '.join(DETECTORS)} or the path of an .onnx file"
            )
    if detector != "cascade":
        model, trouble = _find_yunet(path)
        if model is not None:
            digest = _sha256(model)
            if path is not None:
                remember_place(digest, model.resolve())
            return FaceFinder("yunet", model, digest, size, margin, policy, region, algorithm)
        advice = (
            f"to have it, run `hf download {YUNET_REPOSITORY} {YUNET_FILE}` where there is a network, "
            f"or set {YUNET_VARIABLE} to the file"
        )
        if detector == "yunet":
            raise MerError(f"the face detector YuNet cannot be had ({trouble}); {advice}")
        log.warning(
            "YuNet cannot be had (%s): falling back to OpenCV's cascade, which misses more faces; %s", trouble, advice
        )
    return FaceFinder("cascade", None, _sha256(cascade_file()), size, margin, policy, region, algorithm)


def detector_at_hand() -> str:
    """`yunet` where its weights lie on this machine, else `cascade`; the network is left alone."""
    from huggingface_hub import try_to_load_from_cache

    if os.environ.get(YUNET_VARIABLE) or isinstance(try_to_load_from_cache(YUNET_REPOSITORY, YUNET_FILE), str):
        return "yunet"
    return "cascade"


def _find_yunet(path: Path | None) -> tuple[Path | None, str]:
    """Path of YuNet's weights, or None and why not."""
    named = path or (Path(os.environ[YUNET_VARIABLE]) if os.environ.get(YUNET_VARIABLE) else None)
    if named is not None:
        if not named.is_file():
            raise MerError(f"face detector {named} does not exist; give the path of {YUNET_FILE}")
        if _sha256(named) != YUNET_SHA256:
            log.warning("%s is not the YuNet this version was tested with (sha256 %s)", named, YUNET_SHA256[:12])
        return named.resolve(), ""
    found, trouble = _from_hub()
    if found is not None and _sha256(found) != YUNET_SHA256:
        raise MerError(f"{found} is damaged or was replaced: sha256 is not {YUNET_SHA256}; delete it and try again")
    return found, trouble


def _from_hub() -> tuple[Path | None, str]:
    from huggingface_hub import HfApi, constants, hf_hub_download

    try:
        return Path(hf_hub_download(YUNET_REPOSITORY, YUNET_FILE, local_files_only=True)), ""
    except Exception:  # not there, or a damaged hub cache: ask the hub
        if constants.HF_HUB_OFFLINE:
            return None, "not in the local hub cache, and HF_HUB_OFFLINE is set"
    try:
        # One short question first: the download itself retries for half a minute where there is no network.
        HfApi().model_info(YUNET_REPOSITORY, timeout=HUB_TIMEOUT_SECONDS)
        return Path(hf_hub_download(YUNET_REPOSITORY, YUNET_FILE, etag_timeout=HUB_TIMEOUT_SECONDS)), ""
    except Exception as error:  # the hub's client raises errors of several libraries
        return None, f"the hub cannot be reached: {type(error).__name__}"


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise MerError(f"face detector {path} cannot be read: {error.strerror or error}") from error
