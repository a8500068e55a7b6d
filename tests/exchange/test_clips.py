"""Folders of one file per clip, in the layouts of the tools that write them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mer.cache import FeatureStore, MerError, verify
from mer.cache.exchange import import_features, understand

OPENFACE = "frame, face_id, timestamp, confidence, success, gaze_0_x, AU01_r, AU12_r"
"""Header of OpenFace 2's FeatureExtraction (Baltrušaitis et al. 2018), shortened; a blank follows each comma."""
PYFEAT = "FaceRectX,FaceRectY,FaceScore,AU01,AU12,happiness,input,frame"
"""Columns of py-feat's Fex tables (Cheong et al. 2023), shortened."""
OPENSMILE = "name;frameTime;Loudness_sma3;F0semitoneFrom27.5Hz_sma3nz"
"""CSV of openSMILE's eGeMAPSv02 low-level descriptors (Eyben et al. 2016), shortened."""
ARFF = """@relation openSMILE_features

@attribute name string
@attribute frameTime numeric
@attribute F0final_sma numeric
@attribute 'jitter Local' numeric
@attribute class numeric

@data

'clip_a',0.00,110.5,0.01,?
'clip_a',0.01,?,0.02,?
"""
PRAAT = "time\tF0\tF1\n0.005\t--undefined--\t512.3\n0.015\t118.2\t--undefined--\n"


def openface(path: Path, frames: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [", ".join(map(str, frame)) for frame in frames]
    path.write_text("\n".join([OPENFACE, *rows]) + "\n")


def one_set(path: Path) -> tuple[FeatureStore, str]:
    store = FeatureStore.open(path)
    assert verify(path) == []
    (name,) = store.sets
    return store, name


def test_openface_tables_with_labels_beside_them(tmp_path):
    clips = tmp_path / "openface"
    good = [(1, 0, 0.0, 0.98, 1, 0.1, 1.5, 0.0), (2, 0, 0.04, 0.2, 0, 0, 0, 0), (3, 0, 0.08, 0.9, 1, 0.3, 0.5, 2.0)]
    openface(clips / "dia0_utt0.csv", good)
    two = [(1, 0, 0.0, 0.9, 1, 9, 9, 9), (1, 1, 0.0, 0.9, 1, 1, 2, 3), (2, 1, 0.04, 0.9, 1, 4, 5, 6)]
    openface(clips / "dia0_utt1.csv", two)
    (clips / "labels.csv").write_text(
        "file,split,speaker,emotion,note\ndia0_utt0.mp4,train,Ann,joy,x\ndia0_utt1.mp4,test,Bob,anger,y\n"
        "dia0_utt2.mp4,test,Bob,joy,z\n"
    )
    told = import_features(None, clips, tmp_path / "o.h5")
    store, name = one_set(tmp_path / "o.h5")
    assert store.utterances.keys == ["dia0_utt0", "dia0_utt1", "dia0_utt2"]
    assert store.utterances.split == ["train", "test", "test"]
    assert store.utterances.labels["emotion"].classes == ("anger", "joy")
    assert store.sets[name].spec.modality == "face"
    assert store.sets[name].spec.name == "OpenFace"
    assert store.sets[name].ok.tolist() == [True, True, False]
    first = store.read(name, "dia0_utt0")
    assert first.valid.tolist() == [True, False, True]
    np.testing.assert_allclose(first.times, [0, 0.04, 0.08])
    np.testing.assert_allclose(first.values, [[0.1, 1.5, 0], [0, 0, 0], [0.3, 0.5, 2]], rtol=1e-6)
    np.testing.assert_array_equal(store.read(name, "dia0_utt1").values, [[1, 2, 3], [4, 5, 6]])
    assert "OpenFace tables: 3 columns are features" in told
    assert "1 rows of labels.csv have no file; they are kept, without features" in told
    assert "columns of labels.csv not read: note" in told


def test_py_feat_tables(tmp_path):
    clips = tmp_path / "pyfeat"
    clips.mkdir()
    (clips / "a.csv").write_text(f"{PYFEAT}\n10,20,0.99,0.5,0.1,0.9,/videos/a.mp4,0\n,,,,,,/videos/a.mp4,1\n")
    told = import_features(None, clips, tmp_path / "p.h5")
    store, name = one_set(tmp_path / "p.h5")
    found = store.read(name, "a")
    assert store.sets[name].spec.dim == 5
    assert found.valid.tolist() == [True, False]
    assert "frames are valid where FaceScore is above 0" in told


def test_opensmile_csv_arff_and_praat(tmp_path):
    clips = tmp_path / "voices"
    (clips / "egemaps").mkdir(parents=True)
    (clips / "egemaps" / "clip_a.csv").write_text(f"{OPENSMILE}\n'clip_a';0.0;0.5;0\n'clip_a';0.01;0.75;23.5\n")
    (clips / "is13").mkdir()
    (clips / "is13" / "clip_a.arff").write_text(ARFF)
    (clips / "praat").mkdir()
    (clips / "praat" / "clip_a.tsv").write_text(PRAAT)
    told = import_features(None, clips, tmp_path / "v.h5")
    store = FeatureStore.open(tmp_path / "v.h5")
    by_name = {index.spec.name: name for name, index in store.sets.items()}
    np.testing.assert_array_equal(store.read(by_name["egemaps"], "clip_a").values, [[0.5, 0], [0.75, 23.5]])
    arff = store.read(by_name["is13"], "clip_a")
    np.testing.assert_array_equal(arff.values, np.array([[110.5, 0.01], [np.nan, 0.02]], np.float32))
    np.testing.assert_allclose(arff.times, [0, 0.01])
    praat = store.read(by_name["praat"], "clip_a")
    np.testing.assert_array_equal(np.isnan(praat.values), [[True, False], [False, True]])
    assert any("Per column: F0final_sma 1 (50%)" in line for line in told)
    assert any("Per column: F0 1 (50%), F1 1 (50%)" in line for line in told)


@pytest.mark.parametrize("kind", ["npy", "npz", "pt"])
def test_arrays_per_clip(tmp_path, kind):
    rng = np.random.default_rng(0)
    values = {f"d{at}/u{at}": rng.normal(size=(at + 1, 4)).astype(np.float32) for at in range(3)}
    for key, array in values.items():
        path = tmp_path / "src" / "wav2vec2" / f"{key}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "npy":
            np.save(path, array)
        elif kind == "npz":
            np.savez(path, features=array, times=np.arange(len(array)) * 0.02, mask=np.ones(len(array)))
        else:
            torch.save({"hidden_states": torch.from_numpy(array)[None]}, path)
    import_features(None, tmp_path / "src", tmp_path / "o.h5")
    store, name = one_set(tmp_path / "o.h5")
    assert store.utterances.keys == list(values)
    for key, array in values.items():
        np.testing.assert_array_equal(store.read(name, key).values, array)
    if kind == "npz":
        np.testing.assert_allclose(store.read(name, "d2/u2").times, [0, 0.02, 0.04])


def test_dry_run_names_what_was_told_by_names(tmp_path):
    for folder in ("clips/OpenFace", "clips/hubert"):
        (tmp_path / folder).mkdir(parents=True)
        np.save(tmp_path / folder / "a.npy", np.ones((2, 3)))
    found = understand(None, tmp_path / "clips")
    assert (found.form, dict(found.mapping)) == ("clips", {"OpenFace": "face", "hubert": "audio"})


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda p: p.joinpath("a.txt").write_text("x"), "holds no"),
        (lambda p: np.save(p / "a.npy", np.ones((2, 3))), "say it with --modality"),
        (lambda p: np.savez(p / "audio.npz", a=np.ones(2), b=np.ones(3)), "which array holds the features"),
        (lambda p: (p / "audio.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff"), "header claims"),
        (lambda p: p.joinpath("audio.csv").write_text("a,a\n1,2\n"), "the column 'a' twice"),
        (lambda p: p.joinpath("audio.csv").write_text("F0,F1\n1\n"), "line 2 has 1 fields where the header has 2"),
        (lambda p: p.joinpath("audio.csv").write_text(",".join(f"c{n}" for n in range(100_001)) + "\n1\n"), "columns"),
        (lambda p: p.joinpath("audio.csv").write_text("F0," + "1" * (9 << 20)), "a line is longer than"),
        (lambda p: p.joinpath("audio.csv").write_bytes(b"F0\n\xff\xfe\n"), "not readable as a table"),
        (lambda p: (p / "audio.pt").write_bytes(b"PK\x03\x04broken"), "not a file of tensors"),
    ],
)
def test_hostile_folders_are_refused_in_one_line(tmp_path, make, told):
    folder = tmp_path / "src"
    folder.mkdir()
    make(folder)
    with pytest.raises(MerError, match=told) as caught:
        import_features(None, folder, tmp_path / "o.h5", modality=None if "modality" in told else "audio")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.h5").exists()


def test_links_do_not_lead_out_of_the_folder(tmp_path):
    (tmp_path / "secret.npy").write_bytes(b"")
    np.save(tmp_path / "outside.npy", np.ones((1, 2)))
    folder = tmp_path / "audio"
    folder.mkdir()
    np.save(folder / "a.npy", np.ones((1, 2)))
    (folder / "b.npy").symlink_to(tmp_path / "outside.npy")
    told = import_features(None, folder, tmp_path / "o.h5")
    assert FeatureStore.open(tmp_path / "o.h5").utterances.keys == ["a"]
    assert "1 links are not followed" in told


def test_clips_of_other_widths_are_named(tmp_path):
    folder = tmp_path / "audio"
    folder.mkdir()
    np.save(folder / "a.npy", np.ones((1, 2)))
    np.save(folder / "b.npy", np.ones((1, 3)))
    with pytest.raises(MerError, match=r"b\.npy: has 3 dimensions where other clips have 2"):
        import_features(None, folder, tmp_path / "o.h5")
