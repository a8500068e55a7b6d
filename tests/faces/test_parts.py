"""Alignment, linking, the speaking evidence, the finder's identity and the kept crops, each by itself."""

from __future__ import annotations

import logging
import math
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import write_clip

from mer.cache import MerError
from mer.stages.faces.align import between, crop, look, mouth, tilt
from mer.stages.faces.crop_cache import crops_path, load_crops, save_crops
from mer.stages.faces.detect import Face
from mer.stages.faces.finder import FaceFinder, LoadedFinder, Region, resolve_finder
from mer.stages.faces.speaking import MouthTrack, clear_winner, speaking_evidence
from mer.stages.faces.tracks import Linker, Track, join_returns
from mer.stages.interfaces import FaceCrops


def face_at(left: float, top: float, side: float, angle: float = 0.0) -> Face:
    """Return a face with a box of equal sides and an eye line tilted by `angle` radians."""
    centre = np.array([left + side / 2, top + side / 2])
    places = np.array([[-0.2, -0.15], [0.2, -0.15], [0, 0], [-0.15, 0.25], [0.15, 0.25]]) * side
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    box = np.array([left, top, side, side], np.float32)
    return Face(box, 0.9, (places @ turn.T + centre).astype(np.float32))


def scene(seed: int = 0, size: tuple[int, int] = (200, 300)) -> np.ndarray:
    rough = np.random.default_rng(seed).integers(0, 256, (size[0] // 10, size[1] // 10, 3), np.uint8)
    return cv2.resize(rough, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


# --- alignment ----------------------------------------------------------------------------------------------------


def test_a_crop_at_scale_one_copies_the_pixels() -> None:
    frame = scene()
    np.testing.assert_array_equal(crop(frame, face_at(30, 50, 64), 64, 0.0), frame[50:114, 30:94])


def test_a_crop_is_a_square_around_the_middle_of_the_box() -> None:
    """A box of 40 x 60 at (120, 60): its middle is (140, 90), and the side is 60 and a quarter of it on each side."""
    frame = scene()
    tall = Face(np.array([120, 60, 40, 60], np.float32), 0.9)
    np.testing.assert_array_equal(crop(frame, tall, 90, 0.25), frame[45:135, 95:185])
    wide = Face(np.array([110, 70, 60, 40], np.float32), 0.9)
    np.testing.assert_array_equal(crop(frame, wide, 90, 0.25), frame[45:135, 95:185])


@pytest.mark.parametrize("fold", [2, 3])
def test_a_shrunken_crop_averages_whole_pixels(fold: int) -> None:
    frame = scene()
    made = crop(frame, face_at(40, 20, 48 * fold), 48, 0.0)
    part = frame[20 : 20 + 48 * fold, 40 : 40 + 48 * fold].astype(float)
    mean = part.reshape(48, fold, 48, fold, 3).mean(axis=(1, 3))
    # The averaged blocks need not start at the crop's edge; then two neighbours are mixed.
    assert np.corrcoef(made.ravel(), mean.ravel())[0, 1] > 0.98


def test_margin_and_black_outside_the_frame() -> None:
    frame = np.full((100, 100, 3), 200, np.uint8)
    made = crop(frame, face_at(0, 0, 50), 100, 0.25)
    # The side is 75, centred on (25, 25): from -12.5 to 62.5, so a sixth of it lies outside.
    assert made[20:, 20:].min() == 200
    assert made[:15].max() == 0
    assert made[:, :15].max() == 0


@pytest.mark.parametrize("degrees", [-30, 15, 45])
def test_a_tilted_face_is_made_level(degrees: float) -> None:
    frame, upright = scene(size=(300, 300)), face_at(110, 110, 80)
    turn = cv2.getRotationMatrix2D((149.5, 149.5), -degrees, 1.0)
    turned = np.asarray(cv2.warpAffine(frame, turn, (300, 300), flags=cv2.INTER_CUBIC), np.uint8)
    tilted = face_at(110, 110, 80, math.radians(degrees))
    assert math.degrees(tilt(tilted)) == pytest.approx(degrees, abs=1e-3)
    expected, made = crop(frame, upright, 80, 0.1), crop(turned, tilted, 80, 0.1)
    assert np.corrcoef(expected.ravel(), made.ravel())[0, 1] > 0.97


def test_mouth_patch_and_moments_between_detections() -> None:
    grey = scene(size=(300, 300))[..., 0]
    before, after = face_at(100, 100, 100), face_at(120, 90, 110)
    half = between(before, after, 0.5)
    np.testing.assert_allclose(half.box, [110, 95, 105, 105])
    assert mouth(grey, half).shape == (24, 32)
    np.testing.assert_array_equal(mouth(grey, between(before, after, 0.0)), mouth(grey, before))
    sideways = Face(before.box, 0.9, before.points * np.float32([0.1, 1]))
    assert tilt(sideways) == 0.0


# --- linking ------------------------------------------------------------------------------------------------------


def link_all(steps: list[list[tuple[Face, int]]], fps: float = 5.0, pictures: list[int] | None = None) -> Linker:
    """Link faces whose look is that of a numbered person; `pictures` numbers the background of each step."""
    frame = np.stack([look(scene(seed, (60, 60))) for seed in range(6)])
    linker = Linker()
    for step, faces in enumerate(steps):
        background = np.full((9, 16), 40 * (pictures[step] if pictures else 1), np.uint8)
        linker.is_cut(step / fps, background)
        linker.link(step, step / fps, [face for face, _ in faces], [frame[person] for _, person in faces])
    return linker


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-12, 12), st.floats(-12, 12), st.booleans())
def test_two_people_keep_their_tracks_however_they_move(seed: int, speed: float, other: float, swap: bool) -> None:
    jitter = np.random.default_rng(seed).normal(0, 2, (20, 2))
    steps = []
    for step in range(20):
        pair = [
            (face_at(100 + speed * step + jitter[step, 0], 80, 60), 0),
            (face_at(400 + other * step + jitter[step, 1], 90, 55), 1),
        ]
        steps.append(pair[::-1] if swap and step % 2 else pair)
    tracks = link_all(steps).tracks
    assert len(tracks) == 2
    for track in tracks:
        assert track.steps == list(range(20))
        heights = {round(float(face.box[1])) for face in track.faces}
        assert len(heights) == 1


def test_a_short_gap_is_bridged_and_a_long_one_is_not() -> None:
    def steps(gap: int) -> list[list[tuple[Face, int]]]:
        there = [(face_at(100, 80, 60), 0)]
        return [there] * 5 + [[]] * gap + [there] * 5

    assert len(link_all(steps(3)).tracks) == 1
    parted = link_all(steps(20)).tracks
    assert [len(track.steps) for track in parted] == [5, 5]
    joined = join_returns(parted)
    assert [track.steps for track in joined] == [[0, 1, 2, 3, 4, 25, 26, 27, 28, 29]]


def test_a_cut_separates_people_in_one_place_and_joins_who_returns() -> None:
    here = face_at(100, 80, 60)
    steps = [[(here, 0)]] * 5 + [[(here, 1)]] * 5 + [[(here, 0)]] * 5
    tracks = link_all(steps, pictures=[1] * 5 + [4] * 5 + [1] * 5).tracks
    assert [track.steps[0] for track in tracks] == [0, 5, 10]
    assert [track.steps for track in join_returns(tracks)] == [[0, 1, 2, 3, 4, 10, 11, 12, 13, 14], [5, 6, 7, 8, 9]]


def test_places_are_smoothed_over_the_steps_beside() -> None:
    track = Track(0)
    for step, left in ((0, 100), (1, 112), (2, 104), (5, 300)):
        track.add(step, step / 5, face_at(left, 80, 60), look(scene(0, (60, 60))))
    lefts = {step: float(face.box[0]) for step in range(7) if (face := track.steady(step)) is not None}
    # Weights 1, 2, 1; at an end or beside a gap only what is there.
    assert lefts == pytest.approx({0: 104, 1: 107, 2: 320 / 3, 5: 300})


# --- one clip -----------------------------------------------------------------------------------------------------


class Scripted:
    """A detector that finds what it is told to, step by step."""

    FEWEST = 2
    SURE_SCORE = 0.8

    def __init__(self, steps: list[list[Face]]) -> None:
        self.steps = iter(steps)

    def fresh(self) -> Scripted:
        return self

    def find(self, frame: np.ndarray) -> list[Face]:
        return next(self.steps)


def watched(steps: list[list[Face]], region: Region | None = None) -> FaceCrops:
    """Crops of a clip of five frames a second in which these faces are found."""
    finder = FaceFinder("cascade", size=32, policy="largest")
    watcher = LoadedFinder(finder, Scripted(steps)).watch(region)  # type: ignore[arg-type]
    for step in range(len(steps)):
        watcher.add(step / 5, scene())
    return watcher.finish(None)


def test_a_face_that_is_away_in_the_middle_leaves_steps_that_are_not_valid() -> None:
    here = [face_at(100, 60, 60)]
    found = watched([here, here, [], [], here, here])
    assert found.valid.tolist() == [True, True, False, False, True, True]
    np.testing.assert_allclose(found.times, [0, 0.2, 0.4, 0.6, 0.8, 1.0], atol=1e-6)
    expected = crop(scene(), here[0], 32, 0.15)[..., ::-1]  # frames are BGR, crops are RGB
    np.testing.assert_array_equal(found.crops, np.stack([expected] * 4))
    box = [100, 60, 60, 60]
    (track,) = found.note["tracks"]
    assert (track["boxes"], track["seconds"]) == ([box, box, None, None, box, box], [0.0, 1.0])
    assert found.note["coverage"] == pytest.approx(4 / 6, abs=1e-4)


@pytest.mark.parametrize(
    ("seen", "frames", "believed"), [(1, 5, False), (2, 5, True), (1, 1, True)], ids=["once", "twice", "one frame"]
)
def test_a_face_must_be_seen_twice_where_there_are_two_frames(seen: int, frames: int, believed: bool) -> None:
    found = watched([[face_at(100, 60, 60)]] * seen + [[]] * (frames - seen))
    assert found.valid.tolist() == [believed] * seen + [False] * (frames - seen)
    assert found.crops.shape == (seen * believed, 32, 32, 3)
    assert found.note.get("why") == ("one person in view" if believed else "no face")


@pytest.mark.parametrize(("best", "believed"), [(0.79, False), (0.8, True)])
def test_a_face_must_be_sure_once(best: float, believed: bool) -> None:
    scores = (0.6, best, 0.6)
    found = watched([[replace(face_at(100, 60, 60), score=score)] for score in scores])
    assert found.valid.tolist() == [believed] * 3


def test_a_region_holds_the_faces_whose_middle_lies_in_it() -> None:
    """Middles at 0.3, 0.5 and 0.8 of a width of 300 pixels, and one below the region that begins in it."""
    left, middle, right, low = (face_at(x - 30, y - 30, 60) for x, y in ((90, 90), (150, 90), (240, 90), (90, 120)))
    found = watched([[right, low, middle, left]] * 3, region=(0.0, 0.0, 0.5, 0.5))
    assert sorted(track["boxes"][0][0] for track in found.note["tracks"]) == [60, 120]


# --- speaking -----------------------------------------------------------------------------------------------------


def talking(seed: int, seconds: float = 4.0) -> tuple[MouthTrack, np.ndarray]:
    """Make a mouth that opens with syllables at random moments, and the noise bursts that go with it."""
    rng = np.random.default_rng(seed)
    times = np.arange(0, seconds, 1 / 30)
    opening = np.zeros_like(times)
    fine = np.arange(int(seconds * 16_000)) / 16_000
    loudness = np.full_like(fine, 0.01)
    moment = 0.3
    while moment < seconds - 0.3:
        opening += np.exp(-(((times - moment) / 0.05) ** 2))
        loudness += 0.3 * np.exp(-(((fine - moment) / 0.05) ** 2))
        moment += rng.uniform(0.15, 0.6)
    rows, columns = np.mgrid[0:24, 0:32]
    patches = []
    for value in opening:
        lips = 160 - 100 * (np.hypot((rows - 12) / (1.5 + 5 * value), (columns - 16) / 9) < 1)
        patches.append(np.clip(lips + rng.normal(0, 2, lips.shape), 0, 255).astype(np.uint8))
    return MouthTrack(times, np.stack(patches)), (rng.normal(0, 1, len(fine)) * loudness).astype(np.float32)


def test_evidence_tells_the_speaker_from_a_stranger() -> None:
    talkers = [talking(seed) for seed in range(5)]
    for mine, (mouths, sound) in enumerate(talkers):
        own = speaking_evidence(mouths, sound, 4.0)
        assert own is not None
        assert own > 0.5
        for strange, (_, other) in enumerate(talkers):
            if strange != mine:
                stranger = speaking_evidence(mouths, other, 4.0)
                assert stranger is not None
                assert stranger < own - 0.2


def test_sound_may_come_behind_the_mouth_and_not_before_it() -> None:
    for seed in range(3):
        mouths, sound = talking(seed)
        at_once, behind, before = (
            speaking_evidence(mouths, np.roll(sound, shift), 4.0) for shift in (0, 80 * 16, -80 * 16)
        )
        assert at_once is not None
        assert behind is not None
        assert before is not None
        assert before + 0.3 < behind < at_once


def test_evidence_is_none_where_there_is_too_little() -> None:
    mouths, sound = talking(0)
    assert speaking_evidence(mouths, np.zeros_like(sound), 4.0) is None
    assert speaking_evidence(mouths, sound[:100], 4.0) is None
    assert speaking_evidence(MouthTrack(mouths.times[:10], mouths.patches[:10]), sound, 4.0) is None
    half = speaking_evidence(MouthTrack(mouths.times[:45], mouths.patches[:45]), sound, 60.0)
    assert half is not None
    assert half < 0.1  # seen for a fortieth of the clip


def test_clear_winner() -> None:
    assert clear_winner([0.2, None, 0.9]) == 2
    assert clear_winner([0.8, 0.75]) is None
    assert clear_winner([0.1, -0.5]) is None
    assert clear_winner([None, None]) is None
    assert clear_winner([]) is None


# --- the finder ---------------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty hub cache and a hub that does not answer."""
    from huggingface_hub import HfApi, constants

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.delenv("MER_YUNET", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(HfApi, "model_info", refuse)


@pytest.mark.usefixtures("no_network")
def test_auto_falls_back_to_the_cascade_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mer.faces"):
        finder = resolve_finder("auto")
    assert finder.detector == "cascade"
    assert "falling back to OpenCV's cascade" in caplog.text
    assert "hf download opencv/face_detection_yunet" in caplog.text
    with pytest.raises(MerError, match=r"cannot be had .*MER_YUNET"):
        resolve_finder("yunet")


def test_offline_mode_asks_no_hub(monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MerError, match="HF_HUB_OFFLINE is set"):
        resolve_finder("yunet")


def test_named_weights(tmp_path: Path, yunet: FaceFinder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert yunet.model is not None
    assert resolve_finder(str(yunet.model)) == yunet
    monkeypatch.setenv("MER_YUNET", str(yunet.model))
    assert resolve_finder("auto") == yunet
    with pytest.raises(MerError, match="does not exist"):
        resolve_finder(str(tmp_path / "none.onnx"))
    with pytest.raises(MerError, match="is unknown"):
        resolve_finder("retinaface")
    (tmp_path / "cut.onnx").write_bytes(yunet.model.read_bytes()[:50_000])
    with pytest.raises(MerError, match=r"cut\.onnx cannot be used as YuNet"):
        resolve_finder(str(tmp_path / "cut.onnx")).load()


def test_a_download_that_is_not_the_pinned_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    (tmp_path / "weights.onnx").write_bytes(b"something else")
    monkeypatch.delenv("MER_YUNET", raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(tmp_path / "weights.onnx"))
    with pytest.raises(MerError, match="damaged or was replaced"):
        resolve_finder("auto")


def test_identity_holds_what_can_change_the_crops(cascade: FaceFinder) -> None:
    base = cascade.identity()
    for changed in (
        FaceFinder("cascade", None, cascade.sha256, size=112),
        FaceFinder("cascade", None, cascade.sha256, margin=0.3),
        FaceFinder("cascade", None, cascade.sha256, policy="largest"),
        FaceFinder("cascade", None, cascade.sha256, region=(0.0, 0.0, 0.5, 1.0)),
        FaceFinder("yunet", Path("a.onnx"), "00"),
    ):
        assert changed.identity() != base
    elsewhere = FaceFinder("yunet", Path("b.onnx"), "00")
    assert elsewhere.identity() == FaceFinder("yunet", Path("a.onnx"), "00").identity()
    assert pickle.loads(pickle.dumps(cascade)) == cascade
    with pytest.raises(MerError, match="policy"):
        FaceFinder("cascade", policy="loudest")


# --- kept crops ---------------------------------------------------------------------------------------------------


def test_kept_crops_come_back_exactly(tmp_path: Path, cascade: FaceFinder, watch: object) -> None:
    made = watch(write_clip(tmp_path / "clip.mp4", seconds=2.0, faces_from_second=1.0), cascade)  # type: ignore[operator]
    path = crops_path(tmp_path, b"s" * 16, {"fps": 5.0, **cascade.identity()})
    assert load_crops(path) is None
    save_crops(path, made)
    kept = load_crops(path)
    assert kept is not None
    for name in ("crops", "times", "valid"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(made, name))
    assert kept.note == made.note
    first = path.read_bytes()
    save_crops(path, kept)
    assert path.read_bytes() == first
    assert len(first) < made.crops.nbytes


def test_kept_crops_of_nobody(tmp_path: Path) -> None:
    nobody = FaceCrops(
        np.zeros((0, 64, 64, 3), np.uint8), np.arange(3, dtype=np.float32), np.zeros(3, np.bool_), {"a": 1}
    )
    save_crops(tmp_path / "none.npz", nobody)
    kept = load_crops(tmp_path / "none.npz")
    assert kept is not None
    assert kept.crops.shape == (0, 64, 64, 3)
    assert kept.note == {"a": 1}


def test_damaged_kept_crops_count_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    path = tmp_path / "kept.npz"
    save_crops(path, FaceCrops(crops, np.arange(4, dtype=np.float32), np.ones(4, np.bool_), {}))
    content = path.read_bytes()
    for damaged in (b"", b"text", content[: len(content) // 2], content[:2000] + b"\xff" * 50 + content[2050:]):
        path.write_bytes(damaged)
        caplog.clear()
        assert load_crops(path) is None
        assert "are damaged" in caplog.text


def test_names_of_kept_crops_follow_their_inputs(tmp_path: Path, cascade: FaceFinder) -> None:
    inputs = {"fps": 5.0, **cascade.identity()}
    base = crops_path(tmp_path, b"s" * 16, inputs)
    assert base == crops_path(tmp_path, b"s" * 16, dict(reversed(inputs.items())))
    assert base != crops_path(tmp_path, b"t" * 16, inputs)
    assert base != crops_path(tmp_path, b"s" * 16, {**inputs, "fps": 6.0})
