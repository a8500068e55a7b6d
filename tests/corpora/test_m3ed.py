"""M3ED: the official splits on the real lists, and its traps on a small tree."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from corpora.trees import m3ed, m3ed_annotation, write

from mer.cache import MerError
from mer.stages.corpora.m3ed import M3edCorpus, timecode_seconds


def test_the_official_series_are_disjoint(m3ed_tree: Path) -> None:
    splits = M3edCorpus(m3ed_tree).splits()
    assert Counter(splits.values()) == {"train": 38, "val": 7, "test": 11}
    assert len(splits) == 56


def test_real_utterances_fall_into_the_official_splits(m3ed_tree: Path) -> None:
    with pytest.raises(MerError, match="all 24,437 of 24,449 utterances"):
        M3edCorpus(m3ed_tree).utterances()
    utterances = M3edCorpus(m3ed_tree, allow_count_mismatch=True).utterances()
    assert Counter(u.split for u in utterances) == {"train": 17420, "val": 2819, "test": 4198}
    emotions = Counter((u.split, u.labels["emotion"]) for u in utterances)
    assert emotions["val", "Neutral"] == 1042
    assert emotions["test", "Fear"] == 65
    series = {
        split: {u.dialogue.rpartition("_")[0] for u in utterances if u.split == split} for split in ("train", "test")
    }
    assert not series["train"] & series["test"]


def test_real_speakers_differ_between_splits(m3ed_tree: Path) -> None:
    speakers: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for utterance in M3edCorpus(m3ed_tree, allow_count_mismatch=True).utterances():
        speakers[utterance.split].add(utterance.speaker)
    assert not speakers["train"] & speakers["test"]


def test_times_of_the_real_relation_file_are_all_read(shared_data: Path) -> None:
    relations = json.loads((shared_data / "annotations/m3ed/relation_annotation_release.json").read_text())
    times = [
        entry[name] for series in relations.values() for entry in series.values() for name in ("start_time", "end_time")
    ]
    assert len(times) == 2032
    assert sum(int(time.split(":")[-1]) > 24 for time in times) == 84
    for time in times:
        assert timecode_seconds(time) >= 0


@pytest.mark.parametrize(
    ("cell", "seconds"), [("00:01:02:12", 62.48), ("01:00:00:00", 3600.0), ("00:00:01:69", 1.999), ("0:0:1:142", 1.999)]
)
def test_four_field_times_count_frames(cell: str, seconds: float) -> None:
    assert timecode_seconds(cell) == pytest.approx(seconds)


def test_utterances_of_a_tree(tmp_path: Path) -> None:
    corpus = m3ed(tmp_path)
    first, second, *rest = corpus.utterances()
    assert (first.key, first.turn, first.speaker, first.media) == (
        "anjia_1_1",
        0,
        "anjia_房似锦",
        "modality_speech/A_anjia_1_1.wav",
    )
    assert second.labels == {"emotion": "Sad", "emotions": ("Sad", "Anger")}
    assert [u.split for u in rest] == ["val", "test"]
    info = corpus.info()
    assert info.labels["emotion"].classes == ("Happy", "Neutral", "Sad", "Disgust", "Anger", "Fear", "Surprise")


def broken(change: str, value: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(m3ed_annotation([("anjia_1_1", "A", "x", "Sad", "Sad")]))
    utterance = content["anjia"]["anjia_1"]["Dialog"]["anjia_1_1"]
    if change in utterance["EmoAnnotation"]:
        utterance["EmoAnnotation"][change] = value
    elif change in content["anjia"]["anjia_1"]:
        content["anjia"]["anjia_1"][change] = value
    else:
        utterance[change] = value
    return content


@pytest.mark.parametrize(
    ("change", "value", "what"),
    [
        ("final_main_emo", "Joy", "has the unknown emotion 'Joy'"),
        ("final_mul_emo", "Sad,Glad", "has the unknown emotion 'Glad'"),
        ("final_mul_emo", "", "has no emotion"),
        ("Speaker", "C", "a Speaker 'C' that SpeakerInfo does not name"),
        ("Speaker", None, "has no Speaker"),
        ("Dialog", {}, "has no Dialog"),
        ("Dialog", ["x"], "has no Dialog"),
        ("Dialog", {"anjia_2_1": {}}, "is not named anjia_1_1"),
        ("SpeakerInfo", 3, "has no SpeakerInfo"),
    ],
)
def test_a_damaged_annotation_is_told(tmp_path: Path, change: str, value: Any, what: str) -> None:
    corpus = m3ed(tmp_path)
    write(tmp_path / "annotation.json", json.dumps(broken(change, value)))
    with pytest.raises(MerError, match=what):
        corpus.utterances()


def test_series_and_lists_that_do_not_fit_are_told(tmp_path: Path) -> None:
    m3ed(tmp_path)
    with pytest.raises(MerError, match="2 series instead of 38"):
        M3edCorpus(tmp_path).utterances()
    write(tmp_path / "splitInfo/movie_list_val.txt", "anjia")
    with pytest.raises(MerError, match=r"'anjia' is listed twice \(train and val\)"):
        M3edCorpus(tmp_path, allow_count_mismatch=True).utterances()
    write(tmp_path / "splitInfo/movie_list_val.txt", "other2")
    with pytest.raises(MerError, match="belongs to series 'fendou', which is in none of movie_list_train"):
        M3edCorpus(tmp_path, allow_count_mismatch=True).utterances()


def test_a_repeated_key_in_json_is_told(tmp_path: Path) -> None:
    corpus = m3ed(tmp_path)
    write(tmp_path / "annotation.json", '{"anjia": {}, "anjia": {}}')
    with pytest.raises(MerError, match="'anjia' appears twice"):
        corpus.utterances()
