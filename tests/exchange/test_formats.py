"""Every format: what is written loads in the peer's reader, comes back unchanged, and what is lost is said."""

import importlib.util
import pickle
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import h5py
import numpy as np
import pytest

from mer.cache import FeatureStore, FormatError, MerError, verify
from mer.cache.exchange import FORMATS, export_features, import_features


def _helper(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


making, peers = _helper("making"), _helper("peers")

SEQUENCES = ("mmsa", "csd", "merbench", "lhotse")
VECTORS = ("dialoguernn", "mmgcn", "cosmic")
SUFFIX = {"mmsa": ".pkl", "dialoguernn": ".pkl", "mmgcn": ".pkl", "cosmic": ".pkl"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return making.small(tmp_path_factory.mktemp("source") / "source.h5")


def there_and_back(tmp_path, store, form, sidecar=True, **options):
    """Export, import, and return the new store with what both said."""
    target = tmp_path / f"out{SUFFIX.get(form, '')}"
    told = export_features(form, store.path, target, **options)
    if not sidecar:
        (tmp_path / f"{target.name}.mer.npz").unlink()
    read = import_features(form, target, tmp_path / "back.h5")
    assert verify(tmp_path / "back.h5") == []
    return FeatureStore.open(tmp_path / "back.h5"), told, read


@pytest.mark.parametrize("form", SEQUENCES)
def test_sequences_survive_with_the_sidecar(tmp_path, source, form):
    back, told, read = there_and_back(tmp_path, source, form)
    assert told
    assert read == [f"ids, labels, lengths and times come from out{SUFFIX.get(form, '')}.mer.npz"]
    making.same_tables(source.utterances, back.utterances)
    for modality in ("text", "audio", "face"):
        making.same_features(source, source.pick(modality), back, back.pick(modality))
        encoder = back.sets[back.pick(modality)].spec.encoder
        assert encoder["type"] == "imported"
        assert encoder["format"] == form
        assert len(encoder["source_sha256"]) == 64


@pytest.mark.parametrize("form", VECTORS)
def test_vectors_survive_with_the_sidecar(tmp_path, source, form):
    back, _, _ = there_and_back(tmp_path, source, form)
    making.same_tables(source.utterances, back.utterances)
    for modality in ("text",) if form == "cosmic" else ("text", "audio", "face"):
        ours, theirs = source.vectors(source.pick(modality)), back.vectors(back.pick(modality))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_blob_survives_with_the_sidecar(tmp_path, source):
    name = source.pick("audio")
    back, _, _ = there_and_back(tmp_path, source, "emotion2vec", sets=[name])
    making.same_tables(source.utterances, back.utterances)
    making.same_features(source, name, back, back.pick("audio"))


def test_a_changed_file_leaves_its_sidecar_aside(tmp_path, source):
    target = tmp_path / "out.pkl"
    export_features("mmsa", source.path, target)
    content = pickle.loads(target.read_bytes())
    content["train"]["regression_labels"][0] = 9
    target.write_bytes(pickle.dumps(content))
    lost = import_features("mmsa", target, tmp_path / "back.h5")
    assert any("changed since" in line for line in lost)
    back = FeatureStore.open(tmp_path / "back.h5")
    assert back.utterances.labels["sentiment"].values[0] == 9


def test_a_mutilated_sidecar_is_left_aside(tmp_path, source):
    target = tmp_path / "out.pkl"
    export_features("mmsa", source.path, target)
    sidecar = tmp_path / "out.pkl.mer.npz"
    sidecar.write_bytes(sidecar.read_bytes()[:-200])
    lost = import_features("mmsa", target, tmp_path / "back.h5")
    assert any("left aside" in line for line in lost)


# MMSA ----------------------------------------------------------------------------------------------------------------


def test_mmsa_reader(tmp_path, source):
    told = export_features("mmsa", source.path, tmp_path / "m.pkl")
    train, valid, test = (peers.mmsa(tmp_path / "m.pkl", mode) for mode in ("train", "valid", "test"))
    assert [len(one["ids"]) for one in (train, valid, test)] == [3, 3, 2]
    assert train["text"].shape == (3, 6, 6)
    assert train["audio"].shape == (3, 9, 5)
    assert train["audio_lengths"] == [9, 7, 8]
    assert valid["vision_lengths"] == [0, 1, 2]
    assert train["raw_text"] == ["Hello, you.", "Nein – so?", ""]
    np.testing.assert_array_equal(train["M"], np.array([0.5, -1.25, 0], np.float32))
    np.testing.assert_array_equal(train["audio"][1, :7], source.read(source.pick("audio"), "dia0_utt1").values)
    assert not train["audio"][1, 7:].any()
    assert any("text_bert" in line for line in told)
    assert any("1 utterances without face" in line for line in told)
    assert any("tags" in line for line in told)


def test_mmsa_without_sidecar_says_what_it_guessed(tmp_path, source):
    back, _, read = there_and_back(tmp_path, source, "mmsa", sidecar=False)
    table = back.utterances
    assert table.keys[1] == "dia0_utt1$_$1"
    assert table.split == source.utterances.split
    np.testing.assert_array_equal(
        table.labels["sentiment"].values, source.utterances.labels["valence"].values.astype(np.float32)
    )
    assert table.labels["annotation"].classes == ("anger", "joy", "neutral")
    audio = back.sets[back.pick("audio")]
    np.testing.assert_array_equal(audio.length, source.sets[source.pick("audio")].length)
    assert not any("inferred" in line for line in read)  # our file says its lengths


def mmsa_as_published(rng) -> dict:
    """As the FET writes it: float64, arrays of text, lengths of audio and vision only, text padded."""
    part = {}
    for mode, count in (("train", 3), ("valid", 1), ("test", 2)):
        text = rng.normal(size=(count, 5, 4))
        text[0, 3:] = 0
        audio = rng.normal(size=(count, 6, 2))
        audio[0, 0, 0] = -np.inf
        part[mode] = {
            "id": np.array([f"{mode}{at}$_${at}" for at in range(count)]),
            "raw_text": np.array(["some words"] * count),
            "text": text,
            "text_bert": np.zeros((count, 3, 5)),
            "audio": audio,
            "vision": rng.normal(size=(count, 7, 3)),
            "audio_lengths": np.full(count, 4),
            "vision_lengths": [7] * count,
            "annotations": np.array((["Negative", "Neutral", "Positive"] * 2)[:count]),
            "regression_labels": np.linspace(-1, 1, count),
            "regression_labels_T": np.zeros(count),
        }
    part["config"] = {"audio": {"tool": "librosa"}}
    return part


def test_mmsa_as_published(tmp_path):
    content = mmsa_as_published(np.random.default_rng(1))
    (tmp_path / "unaligned_50.pkl").write_bytes(pickle.dumps(content, 4))
    lost = import_features("mmsa", tmp_path / "unaligned_50.pkl", tmp_path / "back.h5")
    back = FeatureStore.open(tmp_path / "back.h5")
    assert back.utterances.keys[:2] == ["train0$_$0", "train1$_$1"]
    assert back.utterances.dialogue[1] == "train1"
    assert back.utterances.split == ["train"] * 3 + ["val"] + ["test"] * 2
    assert back.utterances.labels["annotation"].classes == ("Negative", "Neutral", "Positive")
    assert set(back.utterances.labels) == {"sentiment", "sentiment_text", "annotation"}
    np.testing.assert_array_equal(back.sets[back.pick("text")].length, [3, 5, 5, 3, 3, 5])
    np.testing.assert_array_equal(back.sets[back.pick("audio")].length, [4] * 6)
    first = back.read(back.pick("audio"), "train0$_$0").values
    assert first[0, 0] == 0
    np.testing.assert_allclose(first[1:], content["train"]["audio"][0, 1:4], rtol=1e-6)
    told = " ".join(lost)
    for word in ("-inf", "text_bert", "text: true lengths were inferred"):
        assert word in told


def test_mmsa_padded_at_the_start(tmp_path):
    rng = np.random.default_rng(2)
    text = rng.normal(size=(4, 6, 2))
    for row, empty in enumerate((0, 2, 3, 5)):
        text[row, :empty] = 0
    part = {"id": [f"v$_${at}" for at in range(4)], "text": text, "regression_labels": [0.0] * 4}
    (tmp_path / "p.pkl").write_bytes(pickle.dumps({"train": part}))
    lost = import_features("mmsa", tmp_path / "p.pkl", tmp_path / "back.h5")
    back = FeatureStore.open(tmp_path / "back.h5")
    np.testing.assert_array_equal(back.sets[back.pick("text")].length, [6, 4, 3, 1])
    assert any("off the start" in line for line in lost)


# CSD -----------------------------------------------------------------------------------------------------------------


def test_csd_reader(tmp_path, source):
    export_features("csd", source.path, tmp_path / "csd")
    data, metadata = peers.csd(tmp_path / "csd" / "audio-enc-audio.csd")
    assert metadata["dataset name"] == "made"
    sequence = source.read(source.pick("audio"), "dia0_utt0")
    features, intervals = data["dia0_utt0"]
    np.testing.assert_array_equal(features, sequence.values)
    np.testing.assert_allclose(intervals.mean(1), sequence.times, atol=1e-7)
    np.testing.assert_allclose(intervals[1:, 0], intervals[:-1, 1], atol=1e-6)
    labels, _ = peers.csd(tmp_path / "csd" / "labels.csd")
    assert labels["dia0_utt0"][0].shape == (1, 4)


def write_csd(path, root, entries):
    with h5py.File(path, "w") as file:
        for name, (features, intervals) in entries.items():
            file.create_dataset(f"{root}/data/{name}/features", data=features, compression="gzip")
            file.create_dataset(f"{root}/data/{name}/intervals", data=intervals)
        text = file.create_dataset(f"{root}/metadata/root name", (1,), dtype=h5py.string_dtype())
        text[0] = f'"{root}"'


def test_csd_unaligned_is_cut_by_the_labels(tmp_path):
    """Two videos, three labelled segments, words at known times."""
    folder = tmp_path / "mosei"
    folder.mkdir()
    spans = np.array([[0.0, 2.0], [2.0, 5.0]])
    labels = np.arange(14, dtype=np.float32).reshape(2, 7)
    write_csd(
        folder / "labels.csd", "All Labels", {"vidA": (labels, spans), "vidB": (labels[:1], np.array([[1.0, 3.0]]))}
    )
    starts = np.arange(6, dtype=np.float64)
    words = {
        "vidA": (np.arange(12, dtype=np.float32).reshape(6, 2), np.stack([starts, starts + 0.5], 1)),
        "vidB": (np.arange(12, dtype=np.float32).reshape(6, 2), np.stack([starts, starts + 0.5], 1)),
    }
    write_csd(folder / "glove.csd", "glove_vectors", words)
    lost = import_features("csd", folder, tmp_path / "back.h5")
    back = FeatureStore.open(tmp_path / "back.h5")
    assert sorted(back.utterances.keys) == ["vidA[0]", "vidA[1]", "vidB"]
    name = back.pick("text")
    np.testing.assert_array_equal(back.read(name, "vidA[0]").values[:, 0], [0, 2])
    np.testing.assert_array_equal(back.read(name, "vidA[1]").values[:, 0], [4, 6, 8])
    np.testing.assert_allclose(back.read(name, "vidA[1]").times, [0.25, 1.25, 2.25])
    np.testing.assert_array_equal(back.read(name, "vidB").values[:, 0], [2, 4])
    row = back.utterances.rows(["vidA[1]"])[0]
    assert back.utterances.labels["sentiment"].values[row] == 7
    assert back.utterances.labels["fear"].values[row] == 13
    assert (back.utterances.start_seconds[row], back.utterances.end_seconds[row]) == (2.0, 5.0)
    assert back.utterances.dialogue[row] == "vidA"
    assert any("interval" in line for line in lost)


def test_csd_without_sidecar_or_labels(tmp_path, source):
    """Aligned files: every id is an utterance, empty ones too."""
    export_features("csd", source.path, tmp_path / "csd")
    (tmp_path / "csd.mer.npz").unlink()
    for with_labels in (True, False):
        import_features("csd", tmp_path / "csd", tmp_path / f"back{with_labels}.h5")
        back = FeatureStore.open(tmp_path / f"back{with_labels}.h5")
        assert sorted(back.utterances.keys) == sorted(source.utterances.keys)
        for key in ("dia0_utt0", "dia1_utt1", "dia1_utt2"):
            ours, theirs = (one.read(one.pick("audio"), key) for one in (source, back))
            np.testing.assert_array_equal(ours.values, theirs.values)
            if with_labels:
                np.testing.assert_allclose(ours.times, theirs.times, atol=1e-6)
        (tmp_path / "csd/labels.csd").unlink(missing_ok=True)


def _hostile_csd(tmp_path, change):
    folder = tmp_path / "hostile"
    folder.mkdir()
    write_csd(folder / "glove.csd", "glove", {"v": (np.ones((2, 3), "f4"), np.array([[0.0, 1], [1, 2]]))})
    with h5py.File(folder / "glove.csd", "a") as file:
        change(file["glove/data/v"], folder)
    return folder


def _external(group, folder):
    group["more"] = h5py.ExternalLink(str(folder / "other.h5"), "/x")


def _soft(group, folder):
    group["more"] = h5py.SoftLink("/glove")


def _outside(group, folder):
    (folder / "raw.bin").write_bytes(bytes(64))
    del group["features"]
    group.create_dataset("features", (2, 3), "f4", external=[(str(folder / "raw.bin"), 0, 24)])


def _virtual(group, folder):
    del group["features"]
    layout = h5py.VirtualLayout((2, 3), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (2, 3))
    group.create_virtual_dataset("features", layout)


def _huge(group, folder):
    del group["features"]
    group.create_dataset("features", (2**33, 3), "f4", chunks=(1024, 3))


def _twice(group, folder):
    group["again"] = group["features"]


def _bomb(group, folder):
    del group["features"]
    group.create_dataset("features", data=np.zeros((400_000, 3), "f4"), chunks=(400_000, 3), compression="gzip")


@pytest.mark.parametrize("change", [_external, _soft, _outside, _virtual, _huge, _twice, _bomb])
def test_hostile_csd_is_refused(tmp_path, change):
    with pytest.raises(FormatError, match=r"refused|twice") as caught:
        import_features("csd", _hostile_csd(tmp_path, change), tmp_path / "back.h5")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "back.h5").exists()


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="h5dump (Debian's hdf5-tools) is not installed")
def test_csd_in_h5dump(tmp_path, source):
    export_features("csd", source.path, tmp_path / "csd")
    path = tmp_path / "csd" / "audio-enc-audio.csd"
    shown = subprocess.run(["h5dump", "-H", str(path)], capture_output=True, text=True, check=True).stdout
    assert 'GROUP "dia0_utt0"' in shown
    assert "H5T_IEEE_F32LE" in shown


# MERBench ------------------------------------------------------------------------------------------------------------


def test_merbench_reader(tmp_path, source):
    told = export_features("merbench", source.path, tmp_path / "mb")
    names, labels, frames = peers.merbench(tmp_path / "mb", "audio-enc-audio-FRA")
    assert names == ["dia0_utt0", "dia0_utt1", "dia0_utt2"]
    assert labels[1] == {"emo": 0, "val": -1.25}
    np.testing.assert_array_equal(frames[1], source.read(source.pick("audio"), "dia0_utt1").values)
    _, labels, vectors = peers.merbench(tmp_path / "mb", "face-enc-face-UTT", "val_corpus")
    assert labels[1] == {"emo": -1, "val": -10.0}
    assert vectors[0].shape == (4,)
    np.testing.assert_allclose(vectors[2], source.vectors(source.pick("face"))[5], rtol=1e-6)
    names, _, _ = peers.merbench(tmp_path / "mb", "text-enc-text-FRA", "test_corpus")
    assert names == ["sp%C3%A4%C3%9F%2F..%2Fx", "last%20one"]
    inside = {path.resolve().is_relative_to((tmp_path / "mb").resolve()) for path in (tmp_path / "mb").rglob("*")}
    assert inside == {True}
    assert not (tmp_path / "x.npy").exists()
    assert any("percent-encoded" in line for line in told)


def test_merbench_without_sidecar(tmp_path, source):
    back, _, read = there_and_back(tmp_path, source, "merbench", sidecar=False)
    assert back.utterances.keys == source.utterances.keys
    assert back.utterances.split == source.utterances.split
    assert back.utterances.text[0] == "Hello, you."
    np.testing.assert_array_equal(
        back.utterances.labels["sentiment"].values, source.utterances.labels["valence"].values
    )
    frames = back.pick("audio", "enc-audio-FRA")
    np.testing.assert_array_equal(
        back.read(frames, "dia0_utt2").values, source.read(source.pick("audio"), "dia0_utt2").values
    )
    assert back.sets[back.pick("audio", "enc-audio-UTT")].length.tolist() == [1] * 8
    assert any("codes" in line for line in read)


@pytest.mark.parametrize(
    ("path", "count", "splits", "classes"),
    [
        ("meld/label.npz", 13708, {"train", "val", "test"}, 7),
        ("iemocap/label_4way.npz", 5531, {""}, 4),
        ("iemocap/label_6way.npz", 7433, {""}, 6),
        ("cmumosi/label.npz", 2199, {"train", "val", "test"}, 0),
        ("cmumosei/label.npz", 22856, {"train", "val", "test"}, 0),
        ("sims/label.npz", 2281, {"train", "val", "test"}, 0),
        ("simsv2/label.npz", 4403, {"train", "val", "test"}, 0),
    ],
)
def test_published_label_files(shared_data, path, count, splits, classes):
    from mer.cache.exchange.merbench import read

    imported = read(shared_data / "annotations/merbench" / path)
    assert len(imported.utterances) == count
    assert set(imported.utterances.split) == splits
    labels = imported.utterances.labels
    if classes:
        assert len(labels["emotion"].classes) == classes
        assert (labels["emotion"].values >= 0).all()
    else:
        assert np.isfinite(labels["sentiment"].values).all()


def test_published_meld_labels_with_features(shared_data, tmp_path):
    """The real label file beside features of made-up numbers: names and order of classes are MERBench's."""
    folder = tmp_path / "meld"
    (folder / "features" / "wav2vec-large-UTT").mkdir(parents=True)
    (folder / "label.npz").write_bytes((shared_data / "annotations/merbench/meld/label.npz").read_bytes())
    rng = np.random.default_rng(0)
    for name in ("train_dia0_utt0", "val_dia0_utt1", "test_dia0_utt0"):
        np.save(folder / "features" / "wav2vec-large-UTT" / f"{name}.npy", rng.normal(size=8).astype(np.float32))
    import_features("merbench", folder, tmp_path / "back.h5")
    back = FeatureStore.open(tmp_path / "back.h5")
    emotion = back.utterances.labels["emotion"]
    row = back.utterances.rows(["train_dia0_utt0"])[0]
    assert emotion.classes[emotion.values[row]] == "neutral"
    assert int(back.sets[back.pick("audio")].ok.sum()) == 3
    assert back.utterances.split.count("test") == 2610


# DialogueRNN, MMGCN, COSMIC ------------------------------------------------------------------------------------------


def test_dialoguernn_reader(tmp_path, source):
    told = export_features("dialoguernn", source.path, tmp_path / "d.pkl")
    train = peers.dialoguernn(tmp_path / "d.pkl", "iemocap", True)
    assert [entry[0] for entry in train] == ["d0", "d1"]
    key, ids, text, _visual, _audio, speakers, labels = train[0]
    assert ids == ["dia0_utt0", "dia0_utt1", "dia0_utt2"]
    np.testing.assert_allclose(text, source.vectors(source.pick("text"))[:3], rtol=1e-6)
    np.testing.assert_array_equal(speakers, [[1, 0], [0, 1], [1, 0]])
    np.testing.assert_array_equal(labels, [1, 0, 2])
    assert key == "d0"
    assert [entry[0] for entry in peers.dialoguernn(tmp_path / "d.pkl", "iemocap", False)] == ["d2"]
    assert any("mean over its valid steps" in line for line in told)
    assert any("'M' for the first" in line for line in told)


@pytest.mark.parametrize("layout", ["meld", "mmgcn-meld"])
def test_meld_layouts(tmp_path, source, layout):
    sets = [source.pick("text"), source.pick("audio")] + ([] if layout == "meld" else [source.pick("face")])
    export_features("mmgcn", source.path, tmp_path / "d.pkl", layout=layout, sets=sets)
    entry = peers.dialoguernn(tmp_path / "d.pkl", layout, True)[1]
    np.testing.assert_array_equal(entry[5].argmax(1), [0, 0, 1])
    lost = import_features("mmgcn", tmp_path / "d.pkl", tmp_path / "back.h5")
    assert lost == ["ids, labels, lengths and times come from d.pkl.mer.npz"]


def test_cosmic_reader(tmp_path, source):
    export_features("cosmic", source.path, tmp_path / "c.pkl", sets=[source.pick("text")])
    assert [key for key, _, _ in peers.cosmic_meld(tmp_path / "c.pkl", "valid")] == ["d1"]
    _, layer, labels = peers.cosmic_meld(tmp_path / "c.pkl", "train")[0]
    np.testing.assert_allclose(layer, source.vectors(source.pick("text"))[:3], rtol=1e-6)
    np.testing.assert_array_equal(labels, [1, 0, 2])


def iemocap_as_published(protocol=2):
    """The nine parts of IEMOCAP_features.pkl, in small."""
    rng = np.random.default_rng(4)
    ids = {"Ses01F_impro01": ["Ses01F_impro01_F000", "Ses01F_impro01_M000"], "Ses05M_impro02": ["Ses05M_impro02_F000"]}
    counts = {key: len(one) for key, one in ids.items()}
    part = {
        dim: {key: [rng.normal(size=dim) for _ in range(n)] for key, n in counts.items()} for dim in (100, 1582, 342)
    }
    return pickle.dumps(
        (
            ids,
            {"Ses01F_impro01": ["F", "M"], "Ses05M_impro02": ["F"]},
            {"Ses01F_impro01": [2, 5], "Ses05M_impro02": [0]},
            part[100],
            part[1582],
            part[342],
            {"Ses01F_impro01": ["Excuse me.", "Yes."], "Ses05M_impro02": ["Oh."]},
            ["Ses01F_impro01"],
            {"Ses05M_impro02"},
        ),
        protocol,
    ), part


def test_iemocap_as_published(tmp_path):
    blob, part = iemocap_as_published()
    (tmp_path / "IEMOCAP_features.pkl").write_bytes(blob)
    lost = import_features("dialoguernn", tmp_path / "IEMOCAP_features.pkl", tmp_path / "back.h5")
    back = FeatureStore.open(tmp_path / "back.h5")
    table = back.utterances
    assert table.keys == ["Ses01F_impro01_F000", "Ses01F_impro01_M000", "Ses05M_impro02_F000"]
    assert table.speaker == ["F", "M", "F"]
    assert table.split == ["train", "train", "test"]
    emotion = table.labels["emotion"]
    assert [emotion.classes[code] for code in emotion.values] == ["neutral", "frustrated", "happy"]
    assert {m: back.sets[back.pick(m)].spec.dim for m in ("text", "audio", "face")} == {
        "text": 100,
        "audio": 1582,
        "face": 342,
    }
    got = back.read(back.pick("audio"), "Ses01F_impro01_M000").values[0]
    np.testing.assert_allclose(got, part[1582]["Ses01F_impro01"][1], rtol=1e-6)
    assert any("validation" in line for line in lost)


def test_an_unknown_tuple_is_refused(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(({}, {}, {})))
    with pytest.raises(MerError, match="3 parts that fit none of the known layouts"):
        import_features("dialoguernn", tmp_path / "x.pkl", tmp_path / "back.h5")


# emotion2vec, lhotse -------------------------------------------------------------------------------------------------


def test_emotion2vec_reader(tmp_path, source):
    export_features("emotion2vec", source.path, tmp_path / "blob", sets=[source.pick("audio")])
    train = peers.emotion2vec(tmp_path / "blob" / "train")
    assert [(key, emo) for key, emo, _ in train] == [
        ("dia0_utt0", "joy"),
        ("dia0_utt1", "neutral"),
        ("dia0_utt2", "anger"),
    ]
    np.testing.assert_array_equal(train[1][2], source.read(source.pick("audio"), "dia0_utt1").values)
    assert [len(values) for _, _, values in peers.emotion2vec(tmp_path / "blob" / "val")] == [1, 0, 4]
    with pytest.raises(MerError, match="one feature set"):
        export_features("emotion2vec", source.path, tmp_path / "more")


def test_emotion2vec_without_sidecar(tmp_path, source):
    back, _, read = there_and_back(tmp_path, source, "emotion2vec", sidecar=False, sets=[source.pick("audio")])
    order = back.utterances.rows(source.utterances.keys)
    np.testing.assert_array_equal(back.sets[back.pick("audio")].length[order], [9, 7, 8, 1, 0, 4, 5, 3])
    np.testing.assert_allclose(back.read(back.pick("audio"), "last one").times, [0.01, 0.03, 0.05])
    assert back.utterances.labels["emotion"].labelled.sum() == 7
    assert any("50 frames" in line for line in read)


def test_lhotse_reader(tmp_path, source):
    told = export_features("lhotse", source.path, tmp_path / "lh")
    arrays = peers.lhotse(tmp_path / "lh", "audio-enc-audio")
    assert len(arrays) == 7  # one utterance has no steps, which lhotse cannot say
    np.testing.assert_array_equal(arrays["dia0_utt1"], source.read(source.pick("audio"), "dia0_utt1").values)
    supervision = peers.lhotse_supervisions(tmp_path / "lh")["dia0_utt1"]
    assert supervision["text"] == "Nein – so?"
    assert supervision["custom"]["labels"] == {"emotion": "neutral", "valence": -1.25, "tags": "a"}
    assert any("1 utterances without steps" in line for line in told)


def test_lhotse_itself_reads_it(tmp_path, source):
    lhotse = pytest.importorskip("lhotse", reason="needs mer-toolkit[test-exchange]")
    from lhotse.qa import validate_features

    export_features("lhotse", source.path, tmp_path / "lh")
    features = lhotse.FeatureSet.from_file(tmp_path / "lh" / "features-audio-enc-audio.jsonl.gz")
    supervisions = lhotse.SupervisionSet.from_file(tmp_path / "lh" / "supervisions.jsonl.gz")
    assert len(supervisions) == 8
    by_id = {supervision.recording_id: supervision for supervision in supervisions}
    assert by_id["dia0_utt0"].text == "Hello, you."
    loaded = 0
    for one in features.with_path_prefix(tmp_path / "lh"):
        validate_features(one, read_data=True)
        found = source.read(source.pick("audio"), unquote(one.recording_id))
        np.testing.assert_array_equal(one.load(), found.values)
        loaded += 1
    assert loaded == 7


def test_lhotse_without_sidecar(tmp_path, source):
    back, _, _ = there_and_back(tmp_path, source, "lhotse", sidecar=False)
    assert sorted(back.utterances.keys) == sorted(source.utterances.keys)
    got = back.read(back.pick("audio"), "dia0_utt2")
    expected = source.read(source.pick("audio"), "dia0_utt2")
    np.testing.assert_array_equal(got.values, expected.values)
    np.testing.assert_allclose(got.times, expected.times, atol=1e-4)


def test_lhotse_paths_may_not_leave_the_folder(tmp_path, source):
    export_features("lhotse", source.path, tmp_path / "lh", sets=[source.pick("audio")])
    (tmp_path / "lh.mer.npz").unlink()
    manifest = tmp_path / "lh" / "features-audio-enc-audio.jsonl.gz"
    import gzip

    text = gzip.decompress(manifest.read_bytes()).decode().replace("audio-enc-audio.h5", "../elsewhere.h5")
    manifest.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(MerError, match="outside the folder"):
        import_features("lhotse", tmp_path / "lh", tmp_path / "back.h5")


# npz, csv ------------------------------------------------------------------------------------------------------------

MOSI = {
    "transcript": "transcript",
    "dialogue": "video",
    "label:polarity": "label",
    "index:train": "train_index",
    "index:test": "test_index",
    "text": "text_{split}",
    "audio": "audio_{split}",
    "face": "video_{split}",
}


def test_the_published_mosi_features(shared_data, tmp_path):
    path = shared_data / "features/mosi_poria2017_trimodal.npz"
    lost = import_features("npz", path, tmp_path / "mosi.h5", mapping=MOSI)
    assert lost == []
    back = FeatureStore.open(tmp_path / "mosi.h5")
    assert len(back.utterances) == 2199
    assert {m: back.sets[back.pick(m)].spec.dim for m in ("text", "audio", "face")} == {
        "text": 100,
        "audio": 73,
        "face": 100,
    }
    assert (back.utterances.split.count("train"), back.utterances.split.count("test")) == (1447, 752)
    with np.load(path) as raw:
        row = int(raw["test_index"][17])
        key = str(raw["id"][row])
        np.testing.assert_array_equal(back.read(back.pick("audio"), key).values[0], raw["audio_test"][17])
        assert back.utterances.text[row] == raw["transcript"][row]
        np.testing.assert_array_equal(back.utterances.labels["polarity"].values, raw["label"])
    assert verify(tmp_path / "mosi.h5") == []


@pytest.mark.parametrize("kind", ["flat", "offsets", "padded", "padded with lengths", "objects"])
def test_npz_layouts(tmp_path, kind):
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(n, 3)).astype(np.float32) for n in (2, 4, 1)]
    lengths = np.array([2, 4, 1])
    padded = np.zeros((3, 4, 3), np.float32)
    boxed = np.empty(3, object)
    for row, one in enumerate(parts):
        padded[row, : len(one)] = one
        boxed[row] = one
    arrays = {
        "flat": {"audio": np.concatenate(parts), "audio_lengths": lengths},
        "offsets": {"audio": np.concatenate(parts), "audio_offsets": np.array([0, 2, 6, 7])},
        "padded": {"audio": padded},
        "padded with lengths": {"audio": padded, "audio_lengths": lengths},
        "objects": {"audio": boxed},
    }[kind]
    np.savez(tmp_path / "f.npz", id=np.array(["a", "b", "c"]), label=np.array([0.5, 1.5, 2]), **arrays)
    lost = import_features("npz", tmp_path / "f.npz", tmp_path / "back.h5", dtype="float16")
    back = FeatureStore.open(tmp_path / "back.h5")
    name = back.pick("audio")
    assert back.sets[name].spec.dtype == "float16"
    for key, one in zip("abc", parts, strict=True):
        np.testing.assert_array_equal(back.read(name, key).values, one.astype(np.float16))
    np.testing.assert_array_equal(back.utterances.labels["label"].values, [0.5, 1.5, 2])
    assert any("inferred" in line for line in lost) == (kind == "padded")


def test_csv(tmp_path):
    (tmp_path / "f.csv").write_text(
        'id,split,label,F0_mean,F0_std,note\na,train,joy,1,2,x\nb,dev,,3,4.5,y\n"c,d",test,anger,,,z\n',
        encoding="utf-8",
    )
    lost = import_features("csv", tmp_path / "f.csv", tmp_path / "back.h5", mapping={"audio": "F0*"})
    back = FeatureStore.open(tmp_path / "back.h5")
    assert back.utterances.keys == ["a", "b", "c,d"]
    assert back.utterances.split == ["train", "val", "test"]
    assert back.utterances.labels["label"].values.tolist() == [1, -1, 0]
    np.testing.assert_array_equal(back.read(back.pick("audio"), "b").values, [[3, 4.5]])
    assert back.sets[back.pick("audio")].ok.tolist() == [True, True, False]
    assert lost == ["columns not read: note"]


# all -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [name for name, form in FORMATS.items() if form.reads_with is not None])
def test_missing_and_foolish_sources_are_told_in_one_line(tmp_path, form):
    (tmp_path / "foolish.bin").write_bytes(b"not a file of any kind\n\x00\x01")
    (tmp_path / "empty").mkdir()
    for source in ("gone", "foolish.bin", "empty"):
        with pytest.raises(MerError, match=source.split(".")[0]) as caught:
            import_features(form, tmp_path / source, tmp_path / "back.h5")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "back.h5").exists()


def test_nothing_is_overwritten(tmp_path, source):
    (tmp_path / "out.pkl").write_text("mine")
    with pytest.raises(MerError, match="there already"):
        export_features("mmsa", source.path, tmp_path / "out.pkl")
    export_features("mmsa", source.path, tmp_path / "new.pkl")
    with pytest.raises(MerError, match="there already"):
        import_features("mmsa", tmp_path / "new.pkl", source.path)


def test_a_small_pickle_cannot_become_large_features(tmp_path, monkeypatch):
    """One array named ten thousand times in a tiny pickle."""
    import mer.cache.exchange.bridge as bridge

    monkeypatch.setattr(bridge, "SMALLEST_LIMIT", 1 << 20)
    monkeypatch.setattr(bridge, "SHARD_ROWS", 256)
    one = np.ones(1000, np.float32)
    rows = [one] * 10_000
    text = {"d": ["x"] * 10_000}
    content = (
        {"d": [str(at) for at in range(10_000)]},
        {"d": ["M"] * 10_000},
        {"d": [0] * 10_000},
        *({"d": rows} for _ in range(3)),
        text,
        ["d"],
        [],
    )
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(content, 4))
    with pytest.raises(MerError, match="bomb"):
        import_features("dialoguernn", tmp_path / "bomb.pkl", tmp_path / "back.h5")
    assert not (tmp_path / "back.h5").exists()
