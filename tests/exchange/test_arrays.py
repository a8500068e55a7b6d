"""Files of arrays by a mapping: pickles, MISA's tuples, .pt, safetensors, MATLAB, Parquet, Arrow, JSON lines."""

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from safetensors.numpy import save_file

from mer.cache import FeatureStore, MerError, verify
from mer.cache.exchange import import_features, understand

RNG = np.random.default_rng(11)
AUDIO = RNG.normal(size=(5, 4, 3)).astype(np.float32)
FACE = RNG.normal(size=(5, 2)).astype(np.float32)
LABELS = np.array([0.5, -1.5, 2, 0, 1.25], np.float32)


def named() -> dict:
    return {"acoustic": AUDIO, "visual": FACE, "labels": LABELS}


def opened(path: Path) -> tuple[FeatureStore, dict[str, str]]:
    assert verify(path) == []
    store = FeatureStore.open(path)
    return store, {index.spec.modality: name for name, index in store.sets.items()}


def check_named(path: Path) -> None:
    """What `named` holds came back: two modalities, five utterances, one target of numbers."""
    store, sets = opened(path)
    assert len(store.utterances) == 5
    for row, key in enumerate(store.utterances.keys):
        np.testing.assert_array_equal(store.read(sets["audio"], key).values, AUDIO[row])
        np.testing.assert_array_equal(store.read(sets["face"], key).values, FACE[row : row + 1])
    (target,) = store.utterances.labels.values()
    np.testing.assert_allclose(target.values, LABELS)


def write_named(path: Path) -> None:
    """Write `named` in the kind that the ending says."""
    kind = path.suffix
    if kind == ".pkl":
        path.write_bytes(pickle.dumps(named()))
    elif kind == ".npz":
        np.savez(path, **named())
    elif kind == ".pt":
        torch.save({name: torch.from_numpy(array) for name, array in named().items()}, path)
    elif kind == ".safetensors":
        save_file(named(), path)
    elif kind == ".mat":
        scipy.io.savemat(path, named(), do_compression=True)
    elif kind == ".jsonl":
        rows = zip(AUDIO.tolist(), FACE.tolist(), LABELS.tolist(), strict=True)
        lines = [json.dumps({"acoustic": a, "visual": v, "labels": y}) for a, v, y in rows]
        path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("ending", ["pkl", "npz", "pt", "safetensors", "mat", "jsonl"])
def test_named_arrays_without_ids(tmp_path, ending):
    path = tmp_path / f"mosei.{ending}"
    write_named(path)
    told = import_features(None, path, tmp_path / "o.h5")
    check_named(tmp_path / "o.h5")
    assert "there are no ids; utterances are numbered (name them with --map id=...)" in told


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_parquet_and_arrow(tmp_path, kind):
    pq = pytest.importorskip("pyarrow.parquet", reason="needs mer-toolkit[parquet]")
    import pyarrow as pa

    table = pa.table({"acoustic": AUDIO.tolist(), "visual": FACE.tolist(), "labels": LABELS.tolist()})
    path = tmp_path / f"m.{'parquet' if kind == 'parquet' else 'arrow'}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        opener = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with opener(str(path), table.schema) as writer:
            writer.write_table(table)
    import_features(None, path, tmp_path / "o.h5")
    check_named(tmp_path / "o.h5")


def test_matlab_7_3(tmp_path):
    path = tmp_path / "m.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in named().items():
            file.create_dataset(name, data=array.T, compression="gzip")
        cells = file.create_group("#refs#")
        names = file.create_dataset("id", (1, 5), dtype=h5py.ref_dtype)
        for row in range(5):
            text = np.array([[ord(c)] for c in f"clip{row}"], np.uint16)
            cells.create_dataset(f"r{row}", data=text).attrs["MATLAB_class"] = np.bytes_("char")
            names[0, row] = cells[f"r{row}"].ref
    with path.open("r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    import_features(None, path, tmp_path / "o.h5")
    check_named(tmp_path / "o.h5")
    assert FeatureStore.open(tmp_path / "o.h5").utterances.keys == [f"clip{row}" for row in range(5)]


def tuples(prefix: str, count: int, lengths: bool) -> list:
    """The layout of MISA's and MMIM's create_dataset.py: ((words, visual, acoustic, actual_words, …), label, id)."""
    made = []
    for at in range(count):
        steps = at + 2
        visual, acoustic = RNG.normal(size=(steps, 4)), RNG.normal(size=(steps, 3))
        parts = (np.arange(steps), visual, acoustic, [f"w{n}" for n in range(steps)])
        parts += (np.int64(steps), np.int64(steps)) if lengths else ()
        made.append((parts, np.array([[at / 2]], np.float32), f"{prefix}[{at}]"))
    return made


@pytest.mark.parametrize("lengths", [False, True], ids=["MISA", "MMIM"])
def test_tuples_of_misa_and_mmim(tmp_path, lengths):
    folder = tmp_path / "MOSI"
    folder.mkdir()
    content = {split: tuples(split, count, lengths) for split, count in (("train", 3), ("dev", 2), ("test", 1))}
    for split, rows in content.items():
        (folder / f"{split}.pkl").write_bytes(pickle.dumps(rows))
    told = import_features(None, folder, tmp_path / "o.h5")
    store, sets = opened(tmp_path / "o.h5")
    assert sorted(store.utterances.split) == ["test", "train", "train", "train", "val", "val"]
    assert store.utterances.text[store.utterances.keys.index("train[1]")] == "w0 w1 w2"
    for rows in content.values():
        for parts, label, key in rows:
            np.testing.assert_allclose(store.read(sets["face"], key).values, parts[1], rtol=1e-6)
            np.testing.assert_allclose(store.read(sets["audio"], key).values, parts[2], rtol=1e-6)
            row = store.utterances.keys.index(key)
            assert store.utterances.labels["sentiment"].values[row] == label[0, 0]
    assert any(line.startswith("arrays not read: 0.0") for line in told)


def test_a_mapping_by_path(tmp_path):
    content = {"features": {"language": AUDIO, "covarep": FACE}, "meta": {"who": ["a", "b", "c", "d", "e"]}}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    mapping = {"text": "features.language", "audio": "features.covarep", "id": "meta.who"}
    import_features(None, tmp_path / "x.pkl", tmp_path / "o.h5", mapping=mapping)
    store, sets = opened(tmp_path / "o.h5")
    assert store.utterances.keys == ["a", "b", "c", "d", "e"]
    np.testing.assert_array_equal(store.read(sets["text"], "c").values, AUDIO[2])
    with pytest.raises(MerError, match=r"no array 'speech' for audio; it has: features\.language \(5 × 4 × 3 float"):
        import_features(None, tmp_path / "x.pkl", tmp_path / "p.h5", mapping={"audio": "speech"})


def test_dicts_by_split_and_by_utterance(tmp_path):
    split = {name: {"audio": AUDIO[:n], "labels": LABELS[:n, None, None]} for name, n in (("train", 3), ("valid", 2))}
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(split))
    import_features(None, tmp_path / "s.pkl", tmp_path / "s.h5")
    assert FeatureStore.open(tmp_path / "s.h5").utterances.split == ["train"] * 3 + ["val"] * 2
    by_id = {f"Ses01_{n}": RNG.normal(size=(n + 1, 6)).astype(np.float32) for n in range(4)}
    (tmp_path / "wav2vec.pkl").write_bytes(pickle.dumps(by_id))
    import_features(None, tmp_path / "wav2vec.pkl", tmp_path / "u.h5", mapping={"audio": "values", "id": "id"})
    store, sets = opened(tmp_path / "u.h5")
    assert store.utterances.keys == list(by_id)
    np.testing.assert_array_equal(store.read(sets["audio"], "Ses01_3").values, by_id["Ses01_3"])


def test_seven_labels_are_those_of_mosei(tmp_path):
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"audio": AUDIO, "labels": RNG.normal(size=(5, 1, 7))}))
    told = import_features(None, tmp_path / "m.pkl", tmp_path / "o.h5")
    labels = FeatureStore.open(tmp_path / "o.h5").utterances.labels
    assert list(labels) == ["sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear"]
    assert any("taken as sentiment, happy" in line for line in told)


def test_nothing_is_told_of_arrays_without_names(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([AUDIO[0], AUDIO[1]]))
    with pytest.raises(
        MerError, match=r"no name says which array holds features.*values \(2 arrays of T × 3 float32\)"
    ):
        understand(None, tmp_path / "x.pkl")


def test_the_published_mosi_features_are_told_by_their_names(shared_data, tmp_path):
    found = understand(None, shared_data / "features" / "mosi_poria2017_trimodal.npz")
    assert found.form == "npz"
    wanted = {"index:train": "train_index", "index:test": "test_index", "id": "id", "transcript": "transcript"}
    wanted |= {"text": "text_{split}", "audio": "audio_{split}", "face": "video_{split}", "dialogue": "video"}
    assert dict(found.mapping) == {**wanted, "label:label": "label"}
    assert len(found.imported.utterances) == 2199


# hostile files -------------------------------------------------------------------------------------------------------


class Boom:
    def __reduce__(self):
        return os.system, ("touch /nonexistent/boom",)


def saved(value, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def repacked(change) -> bytes:
    """A good .pt whose members were changed."""
    source = zipfile.ZipFile(io.BytesIO(saved({"audio": torch.ones(4, 3)})))
    members = {name: source.read(name) for name in source.namelist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def changed(old: bytes, new: bytes):
    def change(members):
        name = next(one for one in members if one.endswith("data.pkl"))
        assert old in members[name]
        members[name] = members[name].replace(old, new)

    return change


def without_data(members):
    del members[next(one for one in members if one.endswith("data/0"))]


def bomb(members):
    members[next(one for one in members if one.endswith("data/0"))] = bytes(200 << 20)


TORCH = {
    "code": lambda: saved({"audio": Boom()}),
    "module": lambda: saved(torch.nn.Linear(2, 2)),
    "before torch 1.6": lambda: saved({"audio": torch.ones(2, 2)}, _use_new_zipfile_serialization=False),
    "expanded": lambda: saved({"audio": torch.ones(1).expand(10_000, 10_000)}),
    "wide shape": lambda: repacked(changed(b"K\x04K\x03\x86", b"K\xffK\xff\x86")),
    "other storage": lambda: repacked(changed(b"FloatStorage", b"EvilsStorage")),
    "other call": lambda: repacked(changed(b"_rebuild_tensor_v2", b"_rebuild_device_v2")),
    "missing storage": lambda: repacked(without_data),
    "bomb": lambda: repacked(bomb),
    "truncated": lambda: saved({"audio": torch.ones(100, 3)})[:-200],
}


def tensors_header(facts: dict, data: bytes = b"") -> bytes:
    head = json.dumps(facts).encode()
    return struct.pack("<Q", len(head)) + head + data


SAFETENSORS = {
    "beyond the file": lambda: tensors_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
    "wrong size": lambda: tensors_header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}, bytes(8)),
    "backwards": lambda: tensors_header({"a": {"dtype": "F32", "shape": [0], "data_offsets": [8, 0]}}, bytes(8)),
    "overlap": lambda: tensors_header(
        {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}, bytes(8)
    ),
    "hole": lambda: tensors_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
    "unknown type": lambda: tensors_header({"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "huge": lambda: tensors_header({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}}, bytes(8)),
    "no json": lambda: struct.pack("<Q", 20) + b"{" * 20,
    "no tensors": lambda: tensors_header({}),
    "many names": lambda: tensors_header(
        {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(3000)}
    ),
}


def matlab(**variables) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=True)
    return buffer.getvalue()


def matlab_bomb() -> bytes:
    packed = zlib.compress(bytes(100 << 20), 9)
    return matlab(a=1)[:128] + struct.pack("<II", 15, len(packed)) + packed


def matlab_cells(depth: int) -> bytes:
    cell = np.empty((1, 1), object)
    cell[0, 0] = np.ones(3)
    for _ in range(depth):
        outer = np.empty((1, 1), object)
        outer[0, 0] = cell
        cell = outer
    return matlab(a=cell)


MATLAB = {
    "bomb": matlab_bomb,
    "truncated": lambda: matlab(a=RNG.normal(size=(50, 50)))[:-300],
    "no variables": lambda: matlab(),
    "claims too much": lambda: matlab(a=1)[:128] + struct.pack("<II", 14, 2**31),
    "half a tag": lambda: matlab(a=1)[:128] + b"\x0f\x00\x00",
    "not zlib": lambda: matlab(a=1)[:128] + struct.pack("<II", 15, 16) + b"garbagegarbage!!",
    "deep cells": lambda: matlab_cells(30),
    "only text": lambda: matlab(a="words"),
    "one number": lambda: matlab(a=3.0),
    "7.3 that is none": lambda: b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(100),
}

LINES = {
    "list": lambda: b'{"audio": [1, 2]}\n[1, 2]\n',
    "no json": lambda: b'{"audio": [1, 2]\n',
    "deep": lambda: b'{"audio": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "other widths": lambda: b'{"audio": [1, 2]}\n{"audio": [1, 2, 3]}\n',
    "text for numbers": lambda: b'{"audio": "loud"}\n{"audio": "quiet"}\n',
    "latin-1": lambda: b'{"audio": [1, 2], "text": "\xe4"}\n',
    "many fields": lambda: json.dumps({f"f{n}": 1 for n in range(3000)}).encode(),
    "ragged": lambda: b'{"audio": [[1, 2], [3]]}\n',
    "empty object": lambda: b"{}\n",
    "long number": lambda: b'{"audio": [' + b"9" * 5000 + b", 1]}\n",
}

PICKLES = {
    "code": lambda: pickle.dumps({"audio": Boom()}),
    "code in a list": lambda: pickle.dumps([(Boom(), 1, 2)]),
    "several counts": lambda: pickle.dumps({"audio": AUDIO, "visual": FACE[:3]}),
    "several widths": lambda: pickle.dumps({"audio": [np.ones((2, 3)), np.ones((2, 4))]}),
    "four axes": lambda: pickle.dumps({"audio": np.ones((2, 2, 2, 2))}),
    "no numbers": lambda: pickle.dumps({"audio": ["a", "b"]}),
    "an id twice": lambda: pickle.dumps({"audio": FACE, "id": ["a"] * 5}),
    "long id": lambda: pickle.dumps({"audio": FACE, "id": ["a" * 2000] * 5}),
    "many names": lambda: pickle.dumps({f"audio{n}": np.ones(n % 7) for n in range(3000)}),
    "nothing": lambda: pickle.dumps({}),
}
HOSTILE = {"pt": TORCH, "safetensors": SAFETENSORS, "mat": MATLAB, "jsonl": LINES, "pkl": PICKLES}


@pytest.mark.parametrize(("ending", "name"), [(ending, name) for ending, cases in HOSTILE.items() for name in cases])
def test_hostile_files_are_refused_in_one_line_within_bounds(tmp_path, ending, name):
    path = tmp_path / f"x.{ending}"
    path.write_bytes(HOSTILE[ending][name]())
    tracemalloc.start()
    try:
        with pytest.raises(MerError) as caught:
            import_features(None, path, tmp_path / "o.h5")
        assert tracemalloc.get_traced_memory()[1] < 16 * path.stat().st_size + (24 << 20)
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.h5").exists()


def mutated(blob: bytes, rng: np.random.Generator) -> bytes:
    """Flip, cut or overwrite a few bytes."""
    data = bytearray(blob)
    at = int(rng.integers(len(data)))
    kind = rng.integers(3)
    if kind == 0:
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del data[at:]
    else:
        data[at : at + 4] = rng.bytes(4)
    return bytes(data)


@pytest.mark.parametrize("ending", ["pt", "mat", "plain.mat", "safetensors", "jsonl"])
def test_mutated_files_are_read_or_refused(tmp_path, ending):
    """Damaged files end in one line; scipy's reader ends the process on some of the uncompressed .mat ones."""
    path = tmp_path / f"x.{ending}"
    if ending == "plain.mat":
        scipy.io.savemat(path, {"acoustic": AUDIO, "id": np.array(list("abcde"), object), "s": {"x": FACE}})
    else:
        write_named(path)
    good, rng = path.read_bytes(), np.random.default_rng(4)
    outcomes = []
    for _ in range(120):
        path.write_bytes(mutated(good, rng))
        outcomes.append(refusal(path))
    assert not any("\n" in one for one in outcomes)
    assert 20 < sum(map(bool, outcomes)) < 120


def refusal(path: Path) -> str:
    """What the reader refuses with, or the empty string when everything is read."""
    try:
        found = understand(None, path).imported
        for made in found.sets:
            list(made.sequences)
    except MerError as error:
        return str(error)
    return ""


def test_ids_of_words_are_not_taken_for_features(tmp_path):
    content = {"text_bert": np.ones((5, 3, 4), np.int64), "text": AUDIO, "labels": LABELS}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    assert understand(None, tmp_path / "x.pkl").mapping["text"] == "text"
