"""Real talking clips: a fate for every clip and modality, faces where people are, and what `mer` says of it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from folder_clips import HERE, write_manifest

from mer.cache import Fate, FeatureStore, verify
from mer.pipeline.extraction.options import ExtractOptions
from mer.pipeline.extraction.publish import ExtractSummary
from mer.pipeline.extraction.run import extract


@pytest.fixture(scope="module")
def asked(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ExtractOptions, list[dict[str, str]]]:
    """What extracts a copy of the real clips with the demo encoders and YuNet, and what is known of the clips."""
    folder = tmp_path_factory.mktemp("real")
    root = Path(shutil.copytree(shared_data / "clips", folder / "clips"))
    with (root / "clips.csv").open(encoding="utf-8") as file:
        facts = list(csv.DictReader(file))
    write_manifest(
        root, [{"id": Path(fact["path"]).stem, "path": fact["path"], "text": fact["text"]} for fact in facts]
    )
    options = ExtractOptions(
        "folder",
        root=root,
        out=folder / "real.h5",
        encoders={"text": ("demo-text",), "audio": ("demo-audio",), "face": ("demo-face",)},
        face_detector=str(shared_data / "weights" / "face_detection_yunet_2023mar.onnx"),
    )
    return options, facts


@pytest.fixture(scope="module")
def real(asked: tuple[ExtractOptions, list[dict[str, str]]]) -> tuple[ExtractSummary, list[dict[str, str]]]:
    return extract(asked[0], HERE), asked[1]


def test_every_clip_has_a_fate_and_faces_are_found_where_people_are(
    real: tuple[ExtractSummary, list[dict[str, str]]],
) -> None:
    summary, facts = real
    store = FeatureStore.open(summary.catalogue)
    face, audio = store.sets[store.pick("face")], store.sets[store.pick("audio")]
    for row, fact in enumerate(facts):
        fraction = float(fact["face_fraction"])
        assert Fate(int(face.fates[row])) == (Fate.OK if fraction > 0 else Fate.MISSING), fact["path"]
        # One person is followed, so where several are in view the coverage may be lower than the share of any face.
        if fact["max_faces"] == "1":
            assert face.coverage[row] == pytest.approx(fraction, abs=0.15), fact["path"]
        assert Fate(int(audio.fates[row])) == (Fate.OK if fact["audio_codec"] else Fate.MISSING), fact["path"]
        assert store.utterances.duration_seconds[row] == pytest.approx(float(fact["duration_seconds"]), abs=0.7)
    assert not (face.fates == Fate.PENDING).any()
    assert verify(summary.catalogue) == []


def test_a_second_run_over_real_clips_does_no_work(
    asked: tuple[ExtractOptions, list[dict[str, str]]], real: tuple[ExtractSummary, list[dict[str, str]]]
) -> None:
    catalogue = real[0].catalogue
    before = catalogue.read_bytes()
    assert extract(asked[0], HERE).clips == 0
    assert catalogue.read_bytes() == before


def test_an_hdf5_library_alone_reads_an_utterance(real: tuple[ExtractSummary, list[dict[str, str]]]) -> None:
    import h5py
    import numpy as np

    summary, _ = real
    store = FeatureStore.open(summary.catalogue)
    name = store.pick("audio")
    shard = next((summary.catalogue.with_name("real.shards") / name).glob("*.h5"))
    with h5py.File(shard) as file:
        keys = [key.decode() for key in file["keys"][:]]
        i = keys.index("bbaf2n")
        offsets = file["offsets"][:]
        values = file["values"][offsets[i] : offsets[i + 1]]
    np.testing.assert_array_equal(values, store.read(name, "bbaf2n").values)
