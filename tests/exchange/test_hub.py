"""Parquet for the Hub and WebDataset shards, read by the libraries they are for."""

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs mer-toolkit[parquet]")

import importlib.util

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from mer.cache import FeatureStore, MerError, verify
from mer.cache.exchange import export_features, import_features, understand
from mer.cache.exchange.bridge import save
from mer.cache.exchange.pack import Imported, PackSet
from mer.cache.exchange.webdataset import sample_key
from mer.cache.pack import PackOptions, pack
from mer.cache.table import UtteranceTable

_spec = importlib.util.spec_from_file_location("making", Path(__file__).parent / "making.py")
making = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(making)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return making.small(tmp_path_factory.mktemp("source") / "source.h5")


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("exported") / "made"
    export_features("parquet", source.path, target)
    return target


def check_same(source: FeatureStore, back: Path) -> None:
    """Tables, fates, times and validity agree, and the values have equal bytes."""
    assert verify(back) == []
    store = FeatureStore.open(back)
    making.same_tables(source.utterances, store.utterances)
    assert len(store.sets) == len(source.sets)
    for ours, theirs in zip(source.sets, store.sets, strict=True):
        making.same_features(source, ours, store, theirs)
        assert source.load(ours).values.tobytes() == store.load(theirs).values.tobytes()
        assert source.sets[ours].spec.dtype == store.sets[theirs].spec.dtype


def test_there_and_back_bit_for_bit(source, exported, tmp_path):
    assert import_features(None, exported, tmp_path / "back.h5") == []
    check_same(source, tmp_path / "back.h5")
    assert not exported.with_name("made.mer.npz").exists()


def test_float16_and_gaps_stay(tmp_path):
    values = np.array([[1, np.nan, 3], [0.5, 2, -1]])
    table = UtteranceTable.of(["a", "b"], split=["train", "test"])
    sequences = [making.FeatureSequence.of(values[row : row + 1], np.zeros(1)) for row in range(2)]
    made = PackSet("audio", "half", 3, sequences, gaps=True, dtype="float16")
    save(Imported(table, [made], []), tmp_path / "s.h5", "test", "0" * 64, 1 << 20)
    told = export_features("parquet", tmp_path / "s.h5", tmp_path / "out")
    assert "gaps of half are written as NaN" in told
    import_features(None, tmp_path / "out", tmp_path / "back.h5")
    check_same(FeatureStore.open(tmp_path / "s.h5"), tmp_path / "back.h5")
    (name,) = FeatureStore.open(tmp_path / "back.h5").sets
    assert FeatureStore.open(tmp_path / "back.h5").sets[name].spec.has_gaps


def test_equal_packs_give_equal_bytes(source, exported, tmp_path):
    export_features("parquet", source.path, tmp_path / "again")
    for path in sorted(exported.rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(exported)).read_bytes()


def test_pandas_reads_the_columns(source, exported):
    pandas = pytest.importorskip("pandas", reason="needs mer-toolkit[test-exchange]")
    frame = pandas.read_parquet(exported / "data" / "train-00000-of-00001.parquet")
    assert frame["id"].tolist() == source.utterances.keys[:3]
    first = source.read(source.pick("audio"), source.utterances.keys[0])
    np.testing.assert_array_equal(np.stack(frame["audio_enc_audio"][0]), first.values)
    np.testing.assert_allclose(frame["audio_enc_audio_mean"][0], first.values.mean(0), rtol=1e-6)


def test_datasets_loads_it_and_what_it_writes_comes_back(source, exported, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs mer-toolkit[test-exchange]")
    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(str(exported), cache_dir=str(tmp_path / "cache"))
    assert {split: len(part) for split, part in loaded.items()} == {"train": 3, "validation": 3, "test": 2}
    emotion = loaded["train"].features["label_emotion"]
    assert emotion.names == list(making.EMOTIONS)
    assert emotion.int2str(loaded["train"][0]["label_emotion"]) == "joy"
    row = loaded["validation"].with_format("numpy")[1]
    key = source.utterances.keys[4]
    np.testing.assert_array_equal(row["face_enc_face"], source.read(source.pick("face"), key).values)
    for split, part in loaded.items():
        path = tmp_path / "theirs" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        part.to_parquet(str(path))
    told = import_features(None, tmp_path / "theirs", tmp_path / "back.h5")
    assert told == ["the files say nothing of the corpus' licence; keep to the terms of the dataset's page"]
    check_same(source, tmp_path / "back.h5")


def test_a_pack_comes_back_from_datasets_as_a_pack(source, tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs mer-toolkit[test-exchange]")
    datasets.disable_progress_bars()
    terms = PackOptions("CC0-1.0")
    before = FeatureStore.open(pack(source, tmp_path / "before.h5", terms)[0])
    export_features("parquet", before.path, tmp_path / "made")
    for split, part in datasets.load_dataset(str(tmp_path / "made"), cache_dir=str(tmp_path / "cache")).items():
        path = tmp_path / "theirs" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        part.to_parquet(str(path))
    import_features(None, tmp_path / "theirs", tmp_path / "cache.h5")
    check_same(before, pack(tmp_path / "cache.h5", tmp_path / "after.h5", terms)[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # rdflib's own
def test_croissant_is_valid_and_gives_the_rows(source, exported, monkeypatch):
    croissant = pytest.importorskip("mlcroissant", reason="needs mer-toolkit[test-exchange]")
    monkeypatch.chdir(exported)
    dataset = croissant.Dataset(jsonld=str(exported / "croissant.json"))
    assert not dataset.metadata.issues.errors
    rows = list(dataset.records("train"))
    assert [row["train/id"].decode() for row in rows] == source.utterances.keys[:3]
    objects = json.loads((exported / "croissant.json").read_text())["distribution"]
    assert [one["@id"] for one in objects] == [
        f"data/{s}-00000-of-00001.parquet" for s in ("train", "validation", "test")
    ]


def test_the_card_configures_the_viewer(exported):
    import yaml

    header = yaml.safe_load((exported / "README.md").read_text().split("---\n")[1])
    assert header["license"] == "cc0-1.0"
    files = header["configs"][0]["data_files"]
    assert files[1] == {"split": "validation", "path": "data/validation-*.parquet"}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_streams_the_shards(source, tmp_path):
    export_features("webdataset", source.path, tmp_path / "shards")
    webdataset = pytest.importorskip("webdataset", reason="needs mer-toolkit[test-exchange]")
    shards = [str(path) for path in sorted((tmp_path / "shards").glob("*.tar"))]
    samples = {s["json"]["id"]: s for s in webdataset.WebDataset(shards, shardshuffle=False).decode()}
    assert sorted(samples) == sorted(source.utterances.keys)
    for key, sample in samples.items():
        assert sample["__key__"] == sample_key(key)
        for name in source.sets:
            column = f"{source.sets[name].spec.modality}_enc_{source.sets[name].spec.modality}"
            row = source.utterances.keys.index(key)
            if source.sets[name].ok[row]:
                found = source.read(name, key)
                np.testing.assert_array_equal(sample[f"{column}.npy"], found.values)
                np.testing.assert_array_equal(sample[f"{column}.valid.npy"], found.valid)
            else:
                assert f"{column}.npy" not in sample


def test_transcripts_of_gated_corpora_are_left_out(tmp_path):
    table = UtteranceTable.of(["a"], text=["secret words"])
    made = PackSet("audio", "x", 2, [making.FeatureSequence.of(np.ones((1, 2)), np.zeros(1))])
    save(Imported(table, [made], [], {"name": "c", "gated": True}), tmp_path / "s.h5", "test", "0" * 64, 1 << 20)
    for form in ("parquet", "webdataset"):
        told = export_features(form, tmp_path / "s.h5", tmp_path / form)
        assert any("transcripts are left out" in line for line in told)
        assert not any(b"secret words" in path.read_bytes() for path in (tmp_path / form).rglob("*.*"))
    import_features(None, tmp_path / "parquet", tmp_path / "back.h5")
    assert FeatureStore.open(tmp_path / "back.h5").corpus["gated"] is True


# hostile files -------------------------------------------------------------------------------------------------------

PLAIN = {"id": ["a", "b"], "audio_x": [[[1.0, 2.0]], [[3.0, 4.0]]], "audio_x_times": [[0.0], [0.0]]}
PLAIN["audio_x_valid"] = [[True], [True]]


def table(**changes) -> "pa.Table":
    return pa.table({name: value for name, value in {**PLAIN, **changes}.items() if value is not None})


def constant_bomb() -> "pa.Table":
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(200_000, np.int8)), pa.array(["x" * 4000]))
    return pa.table({"id": column.dictionary_decode()[:1].take(pa.array(np.zeros(60_000, np.int64)))})


def damaged(where: int) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table(), sink)
    blob = bytearray(sink.getvalue().to_pybytes())
    blob[where : where + 24] = b"\xff" * 24
    return bytes(blob)


HOSTILE = {
    "no id": table(id=None),
    "an id twice": table(id=["a", "a"]),
    "vectors of two widths": table(audio_x=[[[1.0, 2.0]], [[3.0]]]),
    "flat list": table(audio_x=[[1.0], [2.0]]),
    "texts": table(audio_x=[[["a"]], [["b"]]]),
    "times do not fit": table(audio_x_times=[[0.0], [0.0, 1.0]]),
    "flags are null": table(audio_x_valid=[None, [True]]),
    "unknown class": table(label_emotion=["joy", "anger"]),
    "bomb": constant_bomb(),
    "damaged page": damaged(8),
    "damaged footer": damaged(-60),
    "cut": damaged(8)[:-100],
    "only a sign": b"PAR1",
    "huge footer": b"PAR1" + b"\x00" * 64 + (2**31 - 1).to_bytes(4, "little") + b"PAR1",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_parquet_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / "x.parquet"
    content = HOSTILE[name]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(content, path)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        with pytest.raises(MerError) as caught:
            import_features("parquet" if name == "no id" else None, path, tmp_path / "o.h5")
        assert tracemalloc.get_traced_memory()[1] < 80 << 20  # 64 MiB are always allowed
    finally:
        tracemalloc.stop()
    assert pa.total_allocated_bytes() - before < 32 << 20
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.h5").exists()


def test_broken_arrow_is_refused(tmp_path):
    path = tmp_path / "x.arrow"
    with ipc.new_file(str(path), table().schema) as writer:
        writer.write_table(table())
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        blob = bytearray(good)
        at = int(rng.integers(len(blob)))
        blob[at : at + 4] = rng.bytes(4)
        path.write_bytes(blob)
        said = refusal(path)
        assert "\n" not in said
        refused += bool(said)
    assert 5 < refused < 60


def refusal(path: Path) -> str:
    """What the reader refuses with, or the empty string when it reads."""
    try:
        understand(None, path, mapping={"audio": "audio_x"})
    except MerError as error:
        return str(error)
    return ""


def test_no_parquet_files(tmp_path, exported):
    shutil.copytree(exported, tmp_path / "e")
    shutil.rmtree(tmp_path / "e" / "data")
    with pytest.raises(MerError, match=r"holds no \.parquet files"):
        import_features("parquet", tmp_path / "e", tmp_path / "o.h5")
