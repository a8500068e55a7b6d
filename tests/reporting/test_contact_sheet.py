"""`mer show-faces` on a small cache whose face notes the face stage itself wrote."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from faces.conftest import Watch
from synthetic import write_clip

from mer.cache import (
    Catalogue,
    Fate,
    FeatureSequence,
    FeatureSpec,
    SetIndex,
    ShardRow,
    UtteranceTable,
    read_shard_index,
    shard_folder,
    write_catalogue,
    write_shard,
)
from mer.pipeline.cli import main
from mer.pipeline.extraction.local_state import remember_root
from mer.pipeline.reporting.contact_sheet import COLOURS, colours_of
from mer.stages.faces.finder import FaceFinder


@pytest.fixture
def cache_file(tmp_path: Path, cascade: FaceFinder, watch: Watch) -> Path:
    """Return a cache of three clips: two people, nobody, and no clip at all."""
    spec = FeatureSpec("face", "tiny", {"checkpoint": "none"}, 2, inputs={"fps": 5.0, **cascade.identity()})
    write_clip(tmp_path / "raw" / "two.mp4", seconds=2.0, faces=2, size=(480, 180))
    write_clip(tmp_path / "raw" / "nobody.mp4", seconds=1.0, faces=0)
    crops = watch(tmp_path / "raw" / "two.mp4", cascade)
    values = np.ones((len(crops.times), 2), np.float32)
    sequence = FeatureSequence(values, crops.times, crops.valid, crops.note)
    rows = [
        ShardRow("two", b"a" * 16, Fate.OK, sequence=sequence, note=crops.note),
        ShardRow("nobody", b"b" * 16, Fate.MISSING, "no face found"),
        ShardRow("absent", b"c" * 16, Fate.MISSING, "no clip"),
    ]
    path = tmp_path / "cache.h5"
    folder = shard_folder(path, spec.set_name)
    info = write_shard(folder, spec, rows)
    stored = read_shard_index(folder / f"{info.name}.h5")
    index = SetIndex(
        spec=spec,
        fates=np.asarray(stored.fates, np.uint8),
        reasons=list(stored.reasons),
        shard=np.zeros(3, np.int32),
        start=np.asarray(stored.offsets[:-1], np.int64),
        length=np.diff(stored.offsets),
        checksums=stored.checksums,
        sources=stored.sources,
        coverage=stored.coverage,
        shards=[info],
    )
    table = UtteranceTable.of(["two", "nobody", "absent"], {}, media=["two.mp4", "nobody.mp4", None])
    write_catalogue(path, Catalogue({"name": "tiny"}, table, {spec.set_name: index}, {}))
    return path


def run(path: Path, key: str, out: Path, *options: str) -> int:
    """Run the command; returns its exit code."""
    with pytest.raises(SystemExit) as left:
        main(["show-faces", str(path), key, "--root", str(path.parent / "raw"), "-o", str(out), *options])
    return int(left.value.code or 0)


def drawn(path: Path, key: str, *options: str) -> np.ndarray | None:
    """Picture that the command draws."""
    out = path.with_name(f"{key}.png")
    assert run(path, key, out, *options) == 0
    return cv2.imread(str(out))


def test_boxes_of_all_and_of_the_chosen_one_are_drawn(cache_file: Path) -> None:
    sheet = drawn(cache_file, "two")
    assert sheet is not None
    # Ten frames in rows of four tiles of 320 pixels, 120 high, each with a line for its time.
    heading = sheet.shape[0] - 3 * (120 + 22)
    assert sheet.shape[1] == 4 * 320
    assert heading == 22 * 4 + 8
    first = sheet[heading : heading + 120, :320].astype(int)
    chosen, other = (np.abs(first - colour).sum(axis=2) < 20 for colour in ([80, 200, 60], [60, 120, 240]))
    assert chosen.sum() > 1.5 * other.sum() > 100  # the thicker frame is the chosen one's
    assert sheet[:heading].min() < 100  # words


def test_only_the_chosen_track_has_the_first_colour() -> None:
    colours = colours_of(range(14), chosen=3)
    assert [track for track, colour in colours.items() if colour == COLOURS[0]] == [3]
    assert sorted(colours) == list(range(14))
    assert COLOURS[0] not in colours_of(range(14), chosen=None).values()


def test_the_corpus_folder_is_found_where_it_was_extracted(cache_file: Path, tmp_path: Path) -> None:
    remember_root(cache_file, cache_file.parent / "raw")
    out = tmp_path / "two.png"
    with pytest.raises(SystemExit) as left:
        main(["show-faces", str(cache_file), "two", "-o", str(out)])
    assert not left.value.code
    assert cv2.imread(str(out)).shape[1] == 4 * 320


@pytest.mark.parametrize(("noted", "reason"), [("", "was not read on this machine"), ("gone", "which is gone")])
def test_a_corpus_that_is_elsewhere_must_be_named(
    cache_file: Path, capsys: pytest.CaptureFixture[str], noted: str, reason: str
) -> None:
    if noted:
        remember_root(cache_file, cache_file.parent / noted)
    with pytest.raises(SystemExit) as left:
        main(["show-faces", str(cache_file), "two", "-o", str(cache_file.with_name("two.png"))])
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert reason in said
    assert "--root" in said


def test_fewer_frames_on_request(cache_file: Path) -> None:
    sheet = drawn(cache_file, "two", "--frames", "3")
    assert sheet is not None
    assert sheet.shape[0] == 22 * 4 + 8 + 120 + 22


def test_a_clip_without_a_face_is_drawn_too(cache_file: Path) -> None:
    sheet = drawn(cache_file, "nobody")
    assert sheet is not None
    assert sheet.shape == (22 * 2 + 8 + 2 * (240 + 22), 4 * 320, 3)


@pytest.mark.parametrize(
    ("key", "out", "reason"),
    [
        ("absent", "x.png", "has no clip"),
        ("nosuch", "x.png", "no utterance 'nosuch'"),
        ("two", "x.txt", "names no picture format"),
    ],
)
def test_what_cannot_be_drawn_is_told(
    cache_file: Path, key: str, out: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cache_file, key, cache_file.parent / out) == 1
    assert reason in capsys.readouterr().err
