"""What the peers' own code returned for our exports, recorded, against what the small readers find in them today.

`recorded/*.json` name the repository, the commit and the versions, and hold shapes, keys, numbers and SHA-256 digests
of the arrays' bytes (little endian) that the peers' loaders gave for the exports of `making.small`.
"""

import hashlib
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

from mer.cache.exchange import export_features

FOLDER = Path(__file__).parent


def _helper(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


making, peers = _helper("making"), _helper("peers")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return making.small(tmp_path_factory.mktemp("source") / "source.h5")


def recorded(name: str) -> dict:
    """What one peer returned."""
    return json.loads((FOLDER / "recorded" / f"{name}.json").read_text(encoding="utf-8"))


def fact(array) -> dict:
    """Shape, dtype and digest of an array, as recorded."""
    array = np.ascontiguousarray(array)
    little = array.astype(array.dtype.newbyteorder("<"))
    digest = hashlib.sha256(little.tobytes()).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": digest}


@pytest.mark.parametrize("name", ["mmsa", "mmsdk", "merbench"])
def test_a_record_says_where_it_is_from(name):
    record = recorded(name)
    assert re.fullmatch(r"[\w-]+/[\w-]+", record["repository"])
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"])
    assert {"python", "numpy"} <= set(record["versions"])


def test_mmsa_loads_these_arrays(tmp_path, source):
    export_features("mmsa", source.path, tmp_path / "m.pkl")
    record = recorded("mmsa")
    loaded = {mode: peers.mmsa(tmp_path / "m.pkl", mode) for mode in record["splits"]}
    for mode, theirs in record["splits"].items():
        ours = loaded[mode]
        assert (ours["ids"], ours["raw_text"]) == (theirs["id"], theirs["raw_text"])
        labels = [np.nan if one is None else one for one in theirs["labels_M"]]
        np.testing.assert_array_equal(ours["M"], np.array(labels, np.float32))
        for name in ("audio_lengths", "vision_lengths"):
            assert ours[name] == theirs[name]
        for name in ("text", "audio", "vision"):
            assert fact(ours[name]) == theirs[name]
    train = loaded["train"]
    assert [train[name].shape[2] for name in ("text", "audio", "vision")] == record["feature_dims"]
    assert [train[name].shape[1] for name in ("text", "audio", "vision")] == record["seq_lens"]


def test_the_sdk_reads_these_sequences_without_a_warning(tmp_path, source):
    export_features("csd", source.path, tmp_path / "csd")
    record = recorded("mmsdk")
    files = {}
    for path in (tmp_path / "csd").glob("*.csd"):
        data, metadata = peers.csd(path)
        files[metadata["root name"]] = (data, metadata)
    assert sorted(files) == sorted(record["sequences"])
    assert (record["valid"], record["warnings"]) == (len(files), 0)
    for name, theirs in record["sequences"].items():
        data, metadata = files[name]
        assert set(theirs["metadata"]) == set(peers.SDK_TEMPLATE)
        assert {key: metadata[key] for key in peers.SDK_TEMPLATE} == theirs["metadata"]
        assert sorted(data) == theirs["keys"]
        for key, (features, intervals) in data.items():
            assert {"features": fact(features), "intervals": fact(intervals)} == theirs["entries"][key]


def test_the_sdk_aligns_every_step_to_its_label(tmp_path, source):
    """Its `align` keeps the ids that all files have, and of a file those with a step inside the label's interval."""
    export_features("csd", source.path, tmp_path / "csd")
    files = [peers.csd(path) for path in (tmp_path / "csd").glob("*.csd")]
    shared = set.intersection(*(set(data) for data, _ in files))
    for data, metadata in files:
        kept = {f"{key}[0]": list(data[key][0].shape) for key in shared if len(data[key][0])}
        assert kept == recorded("mmsdk")["aligned"][metadata["root name"]]


def merbench_parts(folder, level):
    """Every split of an exported folder: its record's name, names, labels and arrays by the batch's names."""
    for split in ("train", "val", "test"):
        arrays = {}
        for name, made in (("audios", "audio"), ("texts", "text"), ("videos", "face")):
            names, labels, arrays[name] = peers.merbench(folder, f"{made}-enc-{made}-{level}", f"{split}_corpus")
        yield split, names, labels, arrays


def check_labels(theirs, names, labels, arrays):
    assert names == theirs["names"]
    assert [label["emo"] for label in labels] == theirs["emo"]
    assert [label["val"] for label in labels] == theirs["val"]
    assert [arrays[name][0].shape[-1] for name in ("audios", "texts", "videos")] == theirs["dims"]


def test_merbench_loads_these_vectors(tmp_path, source):
    export_features("merbench", source.path, tmp_path / "mb")
    loaded = recorded("merbench")["loaded"]
    for split, *found in merbench_parts(tmp_path / "mb", "UTT"):
        check_labels(loaded["UTT utt"][split], *found)
        for name, vectors in found[-1].items():
            np.testing.assert_allclose(np.stack(vectors), loaded["UTT utt"][split][name]["values"], atol=1e-6)
    for split, *found in merbench_parts(tmp_path / "mb", "FRA"):  # MERBench's own mean takes masked steps in, as zeros
        for name, frames in found[-1].items():
            means = np.stack([one.mean(0) for one in frames])
            np.testing.assert_allclose(means, loaded["FRA utt"][split][name]["values"], atol=1e-6)


def test_merbench_loads_these_frames(tmp_path, source):
    export_features("merbench", source.path, tmp_path / "mb")
    loaded = recorded("merbench")["loaded"]
    for split, *found in merbench_parts(tmp_path / "mb", "FRA"):
        theirs = loaded["FRA frm_unalign"][split]
        check_labels(theirs, *found)
        for name, frames in found[-1].items():
            longest = max(map(len, frames))
            padded = [np.pad(one, ((longest - len(one), 0), (0, 0))) for one in frames]  # MERBench pads in front
            assert fact(np.stack(padded)) == theirs[name]
        assert theirs["texts"]["shape"][1] == loaded["FRA frm_align"][split]["audios"]["shape"][1]
