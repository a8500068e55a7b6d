"""Opinion corpora: published counts on the real label lists, the derived classes, both forms of CMU-MOSEI."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from corpora.trees import ch_sims, ch_sims_first, cmu_mosei_sdk, cmu_mosi, write, write_csd

from mer.cache import MerError
from mer.cache.exchange.safe_npy import read_npz
from mer.stages.corpora.ch_sims import ChSimsCorpus, ChSimsV2Corpus
from mer.stages.corpora.cmu_mosei import CmuMoseiCorpus, read_folds, read_segments
from mer.stages.corpora.cmu_mosi import CmuMosiCorpus
from mer.stages.corpora.sentiment import cmu_labels, sims_labels

REAL = {
    "cmumosi": (CmuMosiCorpus, "label.csv", (1284, 229, 686)),
    "cmumosei": (CmuMoseiCorpus, "label.csv", (16326, 1871, 4659)),
    "sims": (ChSimsCorpus, "label.csv", (1368, 456, 457)),
    "simsv2": (ChSimsV2Corpus, "meta.csv", (2722, 647, 1034)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_lists_in_the_common_layout_give_the_published_counts(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    adapter, table, numbers = REAL[name]
    arrays = read_npz(shared_data / f"annotations/merbench/{name}/label.npz")
    with (tmp_path / table).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "clip_id", "text", "label", "mode"])
        for split, mode in (("train", "train"), ("val", "valid"), ("test", "test")):
            for key, entry in arrays[f"{split}_corpus"].item().items():
                video, _, clip = key.rpartition("_")
                writer.writerow([video, clip, "said", float(entry["val"]), mode])
    utterances = adapter(tmp_path).utterances()
    assert Counter(u.split for u in utterances) == dict(zip(("train", "val", "test"), numbers, strict=True))
    assert not any(u.labels["sentiment"] is None for u in utterances)


@pytest.mark.parametrize(
    ("value", "has0", "non0", "five", "seven"),
    [
        (-3.0, "negative", "negative", "-2", "-3"),
        (-0.4, "negative", "negative", "0", "0"),
        (0.0, "non-negative", None, "0", "0"),
        (0.5, "non-negative", "positive", "0", "0"),
        (1.5, "non-negative", "positive", "2", "2"),
        (2.6, "non-negative", "positive", "2", "3"),
    ],
)
def test_classes_of_cmu(value: float, has0: str, non0: str | None, five: str, seven: str) -> None:
    assert cmu_labels(value) == {
        "sentiment": value,
        "sentiment2_has0": has0,
        "sentiment2_non0": non0,
        "sentiment5": five,
        "sentiment7": seven,
    }
    assert int(seven) == int(np.round(np.clip(value, -3, 3)))


@pytest.mark.parametrize(
    ("value", "two", "three", "five"),
    [
        (-1.0, "negative", "negative", "negative"),
        (-0.7, "negative", "negative", "negative"),
        (-0.6, "negative", "negative", "weakly negative"),
        (-0.1, "negative", "negative", "weakly negative"),
        (0.0, "negative", "neutral", "neutral"),
        (0.1, "positive", "neutral", "neutral"),
        (0.2, "positive", "positive", "weakly positive"),
        (0.7, "positive", "positive", "weakly positive"),
        (1.0, "positive", "positive", "positive"),
    ],
)
def test_classes_of_sims(value: float, two: str, three: str, five: str) -> None:
    assert sims_labels(value) == {"sentiment": value, "sentiment2": two, "sentiment3": three, "sentiment5": five}


def test_seven_classes_agree_with_the_sdk_list(shared_data: Path) -> None:
    with (shared_data / "annotations/mosei/CMU_MOSEI_Labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 23259
    for row in rows:
        value = float(row["label7"])
        assert cmu_labels(value)["sentiment7"] == row["label7"]
        assert (cmu_labels(value)["sentiment2_has0"] == "non-negative") == (row["label2a"] == "1")


def test_clips_are_sorted_by_number_and_found_flat_too(tmp_path: Path) -> None:
    corpus = cmu_mosi(tmp_path)
    found = {u.key: u for u in corpus.utterances()}
    assert list(found)[:2] == ["03bSnISJMiM_2", "03bSnISJMiM_11"]
    assert found["03bSnISJMiM_11"].turn == 1
    assert found["_dI--eQ6qVU_1"].media == "Raw/_dI--eQ6qVU/1.mp4"
    (tmp_path / "Video/Segmented").mkdir(parents=True)
    assert corpus.utterances()[0].media == "Video/Segmented/03bSnISJMiM_2.mp4"


def test_unimodal_labels_and_padded_numbers_of_sims(tmp_path: Path) -> None:
    first, second, _ = ch_sims(tmp_path).utterances()
    assert (second.key, second.media) == ("video_0001_0002", "Raw/video_0001/0002.mp4")
    assert (first.labels["sentiment_T"], first.labels["sentiment_A"], first.labels["sentiment_V"]) == (-0.6, -0.4, -0.8)


def test_the_first_release_of_sims_reads_the_same_clips(tmp_path: Path) -> None:
    old = ch_sims_first(tmp_path / "old").utterances()
    new = ch_sims(tmp_path / "new").utterances()
    assert [(u.key, u.media, u.split, u.labels["sentiment"]) for u in old] == [
        (u.key, u.media, u.split, u.labels["sentiment"]) for u in new
    ]
    (tmp_path / "old/metadata/val_index.csv").write_text("index\n0\n")
    with pytest.raises(MerError, match="index 0 is in two splits"):
        ChSimsCorpus(tmp_path / "old", allow_count_mismatch=True).utterances()


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("-2.5", "-3.5", r"label -3.5 is outside \[-3, 3\]"),
        ("-2.5", "sad", "label 'sad' is not a number"),
        ("03bSnISJMiM,11", "../x,11", "video_id '../x' is not a plain name"),
        ("03bSnISJMiM,11", "03bSnISJMiM,2", "was used before"),
        ("Negative,test", "Negative,tset", "mode 'tset' is unknown"),
    ],
)
def test_a_damaged_table_is_told(tmp_path: Path, old: str, new: str, what: str) -> None:
    corpus = cmu_mosi(tmp_path)
    path = tmp_path / "label.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(MerError, match=what):
        corpus.utterances()


def test_segments_with_underscores_and_without_text(tmp_path: Path) -> None:
    corpus = cmu_mosei_sdk(tmp_path)
    found = {u.key: u for u in corpus.utterances()}
    assert found["-3g5yACwYnA_0"].text == "Key is ___ part"
    assert found["_a__b__7"].text == "Underscores everywhere_"
    assert found["zz_1"].text == ""
    assert "-3g5yACwYnA_4" not in found
    assert (found["-3g5yACwYnA_3"].start_seconds, found["-3g5yACwYnA_3"].end_seconds) == (1.5, 2.25)
    assert found["-3g5yACwYnA_0"].media == "Raw/Videos/Full/Combined/-3g5yACwYnA.mp4"


def test_emotions_of_the_sdk_and_its_splits(tmp_path: Path) -> None:
    corpus = cmu_mosei_sdk(tmp_path)
    found = {u.key: u for u in corpus.utterances()}
    labels = found["-3g5yACwYnA_0"].labels
    assert labels["emotions"] == ("sad", "disgust", "fear")
    assert labels["fear"] == 3.0  # published as 3.7, beyond its scale
    assert labels["sentiment7"] == "-1"
    assert found["zz_1"].labels["emotions"] == ()
    assert [found[key].split for key in ("-3g5yACwYnA_3", "_a__b__7", "zz_1")] == ["train", "test", ""]
    assert corpus.info().labels["emotions"].classes == ("happy", "sad", "anger", "surprise", "disgust", "fear")


def test_cut_clips_are_read_whole(tmp_path: Path) -> None:
    corpus = cmu_mosei_sdk(tmp_path)
    (tmp_path / "Raw/Videos/Full").rename(tmp_path / "Raw/Videos/Segmented")
    first = corpus.utterances()[0]
    assert (first.media, first.start_seconds) == ("Raw/Videos/Segmented/Combined/-3g5yACwYnA_0.mp4", None)


def test_a_label_without_a_segment_is_told(tmp_path: Path) -> None:
    corpus = cmu_mosei_sdk(tmp_path)
    write_csd(tmp_path / "CMU_MOSEI_Labels.csd", {"zz": ([[0.5, 0.9]], [[0] * 7])})
    with pytest.raises(MerError, match=r"no segment from 0\.500 to 0\.900 seconds"):
        corpus.utterances()


@pytest.mark.parametrize(
    "line", ["yy___1___0___1___x", "zz___a___0___1___x", "zz___1___0___x", "zz___1___0___1___a\nzz___1___2___3___b"]
)
def test_a_damaged_segment_file_is_told(tmp_path: Path, line: str) -> None:
    with pytest.raises(MerError, match=r"zz\.txt line \d"):
        read_segments(write(tmp_path / "zz.txt", line))


def test_folds_are_read_and_not_run(tmp_path: Path) -> None:
    path = write(
        tmp_path / "folds.py",
        "import os\nos.abort()\nstandard_train_fold=['a']\nstandard_valid_fold=['b']\nstandard_test_fold=['c']\n",
    )
    assert read_folds(path) == {"a": "train", "b": "val", "c": "test"}
    for text, what in (
        ("standard_train_fold=['a']\n", "has no list standard_valid_fold"),
        ("standard_train_fold=[\n", "is not the SDK's file"),
        ("standard_train_fold=['a']\nstandard_valid_fold=['a']\nstandard_test_fold=[]\n", "is in two folds"),
    ):
        with pytest.raises(MerError, match=what):
            read_folds(write(path, text))


def test_a_hostile_label_file_is_refused(tmp_path: Path) -> None:
    corpus = cmu_mosei_sdk(tmp_path)
    path = tmp_path / "CMU_MOSEI_Labels.csd"
    secret = tmp_path / "secret.bin"
    np.zeros((1, 7)).tofile(secret)
    with h5py.File(path, "w") as file:
        group = file.create_group("All Labels/data/zz")
        group.create_dataset("features", (1, 7), "f8", external=[(str(secret), 0, 56)])
        group.create_dataset("intervals", data=[[0.2, 0.9]])
    with pytest.raises(MerError, match="is not a label file of the CMU SDK"):
        corpus.utterances()
    with h5py.File(path, "w") as file:
        file["All Labels"] = h5py.ExternalLink(str(secret), "/")
    with pytest.raises(MerError, match="is not a group of its own"):
        corpus.utterances()
