"""Faces followed in windows: where they are found, when the whole picture is looked at, and mouths cut when needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from faces.conftest import Watch, talker
from faces.test_parts import face_at, scene

from mer.cache import FeatureSpec, SpecMismatchError
from mer.pipeline.extraction.restore import finder_as_begun, restore_finder
from mer.stages.faces.align import crop, look
from mer.stages.faces.detect import Face, Yunet
from mer.stages.faces.finder import FaceFinder
from mer.stages.faces.follow import FollowingYunet, Levels, _overlap
from mer.stages.faces.mouths import MouthsAtOnce, MouthsWhenNeeded
from mer.stages.faces.tracks import Track

TALKERS = ["talking/retalking_3.mp4", "grid/sbwe5n.mpg", "negative/face_noface.mov"]


class Counting(FollowingYunet):
    """Notes how many pixels each look at a picture had."""

    def __init__(self, model: Path) -> None:
        super().__init__(model)
        self.looks: list[int] = []

    def _rows(self, picture: np.ndarray) -> list[tuple[np.ndarray, float, np.ndarray]]:
        self.looks.append(picture.shape[0] * picture.shape[1])
        return super()._rows(picture)


@pytest.fixture
def following(yunet: FaceFinder) -> Counting:
    assert yunet.model is not None
    return Counting(yunet.model).reset()


@pytest.fixture(scope="module")
def person(shared_data: Path) -> list[np.ndarray]:
    return talker(shared_data / "clips" / TALKERS[0]).frames


def seen(detector: FollowingYunet, frames: list[np.ndarray], shots: Iterator[bool] | None = None) -> list[list[Face]]:
    return [detector.find_in(Levels(frame), next(shots) if shots else False, lambda face: True) for frame in frames]


def test_levels_are_means_of_whole_pairs_and_cuts_are_those_of_the_old_way() -> None:
    frame = scene(1, (202, 301))[:, :, :]
    half, divisor = Levels(frame).at(3.9)
    assert (half.shape, divisor) == ((101, 150, 3), 2)
    mean = frame[:202, :300].reshape(101, 2, 150, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(half, mean, atol=0.51)
    face = face_at(80, 60, 60, 0.2)
    np.testing.assert_array_equal(Levels(frame).crop(face, 64, 0.15), crop(frame, face, 64, 0.15))
    # Shrunk 2.6 times: by half and then 1.3, where the old way takes means of 2 x 2 at another offset.
    near, old = Levels(frame).crop(face, 30, 0.15), crop(frame, face, 30, 0.15)
    assert np.abs(near.astype(int) - old).mean() < 4
    assert float(Levels(frame).look(face, 0.15) @ look(crop(frame, face, 64, 0.15))) > 0.98


@pytest.mark.parametrize("name", TALKERS)
def test_the_same_person_is_found_in_the_same_place(
    shared_data: Path, yunet: FaceFinder, watch: Watch, name: str
) -> None:
    new, old = (watch(shared_data / "clips" / name, replace(yunet, algorithm=way)) for way in (2, 1))
    np.testing.assert_array_equal(new.valid, old.valid)
    (track,), (before,) = new.note["tracks"], old.note["tracks"]
    assert (track["first"], len(track["boxes"])) == (before["first"], len(before["boxes"]))
    boxes, old_boxes = ([box for box in each["boxes"] if box] for each in (track, before))
    # The detector's own scatter between sizes of the picture.
    shared = [_overlap(*(Face(np.float32(one), 1.0) for one in both)) for both in zip(boxes, old_boxes, strict=True)]
    assert min(shared) > 0.7
    assert np.mean(shared) > 0.85
    assert track["speaking"] is None, "nobody else to choose"


def test_a_still_picture_is_looked_at_seldom(following: Counting, person: list[np.ndarray]) -> None:
    faces = seen(following, [person[0]] * 11)
    window = following.WINDOW_PIXELS**2
    assert [len(found) for found in faces] == [1] * 11
    assert all(np.array_equal(found[0].box, faces[0][0].box) for found in faces)
    # A quick look and a window in the first frame, and a small look for others in frames 5 and 10.
    assert following.looks[1] == window
    assert following.looks[0] > window
    assert len(following.looks) == 4
    assert all(abs(pixels - following.SMALL_PIXELS) < 300 for pixels in following.looks[2:])


def test_a_second_person_is_seen_within_five_frames_and_after_a_cut_at_once(
    following: Counting, person: list[np.ndarray]
) -> None:
    alone = [np.hstack([frame, np.zeros_like(frame)]) for frame in person[:60:6]]
    both = [np.hstack([frame, person[-1]]) for frame in person[:60:6]]
    late = [len(found) for found in seen(following, [*alone[:2], *both])]
    assert late[:2] == [1, 1]
    assert set(late[2:6]) <= {1, 2}
    assert late[6:] == [2] * 6
    following.reset()
    assert [len(found) for found in seen(following, [alone[0], both[1]], iter([False, True]))] == [1, 2]


def test_a_face_that_goes_is_not_followed_on(following: Counting, person: list[np.ndarray]) -> None:
    empty = np.full_like(person[0], 90)
    found = seen(following, [person[0], person[6], empty, empty, person[12]])
    assert [len(faces) for faces in found] == [1, 1, 0, 0, 1]


def test_where_nobody_is_every_third_frame_is_looked_at(following: Counting) -> None:
    assert seen(following, [scene(0, (270, 480))] * 30) == [[]] * 30
    quick = [pixels for pixels in following.looks if abs(pixels - following.QUICK_PIXELS) < 600]
    # Six frames until five looks found nobody, then every third; of those every tenth look is also a close one.
    assert len(quick) == 5 + len(range(7, 30, 3))
    assert len(following.looks) - len(quick) == 2


def test_mouths_cut_when_needed_are_those_cut_at_once() -> None:
    def run(mouths: MouthsAtOnce | MouthsWhenNeeded, people: int) -> list[Track]:
        tracks = [Track(number) for number in range(people)]
        times: list[float] = []
        for step in range(8):
            for moment in range(5 if step else 0):
                grey = cv2.cvtColor(scene(step * 5 + moment, (300, 500)), cv2.COLOR_BGR2GRAY)
                mouths.add_grey((5 * (step - 1) + moment + 1) / 25, grey, tracks)
            times.append(5 * step / 25)
            for number, track in enumerate(tracks):
                track.add(step, times[-1], face_at(60 + 200 * number + 4 * step, 80, 90), np.ones(4, np.float32))
            mouths.add(times, scene(step, (300, 500)), tracks, True)
        mouths.finish(times, tracks)
        return tracks

    for eager, patient in zip(run(MouthsAtOnce(), 2), run(MouthsWhenNeeded(), 2), strict=True):
        assert patient.mouth_times == pytest.approx(eager.mouth_times)
        assert len(patient.mouths) == 35
        np.testing.assert_array_equal(np.stack(patient.mouths), np.stack(eager.mouths))
    assert run(MouthsWhenNeeded(), 1)[0].mouths == []


def test_the_old_way_keeps_its_number_and_its_faces(
    shared_data: Path, yunet: FaceFinder, person: list[np.ndarray]
) -> None:
    old = replace(yunet, algorithm=1)
    assert (old.identity()["algorithm"], yunet.identity()["algorithm"]) == ("1.1", "2.1")
    assert {**old.identity(), "algorithm": "2.1"} == yunet.identity()
    assert yunet.model is not None
    watcher, plain = old.load().watch(), Yunet(yunet.model).reset()
    expected = []
    for step, frame in enumerate(person[:30:6]):
        watcher.add(step / 5, frame)
        expected.append(crop(frame, plain.find(frame)[0], 224, 0.15)[..., ::-1])
    np.testing.assert_array_equal(watcher.finish(None).crops, np.stack(expected))


def test_a_cache_goes_on_the_way_it_was_begun(tmp_path: Path, yunet: FaceFinder, cascade: FaceFinder) -> None:
    folders = {1: tmp_path / "face-old", 2: tmp_path / "face-new"}

    def chosen(finder: FaceFinder) -> int:
        return int(finder_as_begun(finder, lambda way: [tmp_path / "face-other", folders[way.algorithm]]).algorithm)

    assert chosen(yunet) == 2
    folders[1].mkdir()
    assert chosen(yunet) == 1
    assert chosen(cascade) == 2, "the cascade has one way only"
    folders[2].mkdir()
    assert chosen(yunet) == 2


def test_old_specs_get_their_own_way_back(yunet: FaceFinder) -> None:
    for way in (1, 2):
        made = replace(yunet, algorithm=way)
        spec = FeatureSpec("face", "vit", {"checkpoint": "x"}, 8, {"fps": 5.0, "channel": "mean", **made.identity()})
        assert restore_finder(spec, yunet.model) == made
    unknown = replace(spec, inputs={**spec.inputs, "algorithm": "9.1"})
    with pytest.raises(SpecMismatchError, match=r"algorithm \(9.1 then, 2.1 now\)"):
        restore_finder(unknown, yunet.model)
