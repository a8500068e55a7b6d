"""IEMOCAP: the published label sets, rebuilt from the lists of three projects, and its traps on a small tree."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from corpora.trees import iemocap

from mer.cache import MerError
from mer.stages.corpora.counts import compare_counts
from mer.stages.corpora.iemocap import EXTRA, IemocapCorpus
from mer.stages.utterance import Utterance


def named(utterances: list[Utterance], target: str) -> dict[str, str]:
    return {u.key: str(u.labels[target]) for u in utterances if u.labels[target] is not None}


def test_label_sets_equal_those_of_the_lists(iemocap_tree: Path, iemocap_lists: dict[str, dict[str, str]]) -> None:
    utterances = list(IemocapCorpus(iemocap_tree, allow_count_mismatch=True).utterances())
    four = named(utterances, "emotion4")
    assert len(four) == 5531
    assert four.keys() == iemocap_lists["emobox"].keys() == iemocap_lists["4way"].keys()
    assert four == iemocap_lists["4way"]
    six = named(utterances, "emotion6")
    assert len(six) == 7433
    assert six == iemocap_lists["6way"]
    consensus = named(utterances, "emotion6_consensus")
    assert len(consensus) == 7380
    assert six.keys() - consensus.keys() == EXTRA
    assert len({u.dialogue for u in utterances}) == 151


def test_s3prl_folds_are_the_sessions(iemocap_tree: Path, shared_data: Path) -> None:
    utterances = list(IemocapCorpus(iemocap_tree, turns="labelled", allow_count_mismatch=True).utterances())
    for session in range(1, 6):
        path = shared_data / f"annotations/s3prl_iemocap/Session{session}/test_meta_data.json"
        theirs = {Path(entry["path"]).stem: entry["label"] for entry in json.loads(path.read_text())["meta_data"]}
        ours = {u.key: u.labels["emotion"] for u in utterances if u.session == str(session)}
        assert ours == theirs


def test_published_counts_differ_only_where_the_lists_are_silent(iemocap_tree: Path) -> None:
    corpus = IemocapCorpus(iemocap_tree, allow_count_mismatch=True)
    found = compare_counts(corpus.published(), corpus.utterances())
    silent = {"utterances", "consensus sur", "consensus fea"}
    assert {count.what for count in found if count.differs} == silent
    with pytest.raises(MerError, match="all 7,433 of 10,039 utterances"):
        IemocapCorpus(iemocap_tree).utterances()


@pytest.mark.parametrize(("labels", "number"), [("4", 5531), ("6", 7433), ("6-consensus", 7380)])
def test_the_chosen_set_is_the_target(iemocap_tree: Path, labels: str, number: int) -> None:
    corpus = IemocapCorpus(iemocap_tree, labels=labels, turns="labelled", allow_count_mismatch=True)
    utterances = corpus.utterances()
    assert len(utterances) == number
    assert {u.labels["emotion"] for u in utterances} == set(corpus.info().labels["emotion"].classes)


def test_class_orders_are_those_of_the_feature_files() -> None:
    labels = IemocapCorpus(Path("nowhere"), labels="6").info().labels
    assert labels["emotion"].classes == ("hap", "sad", "neu", "ang", "exc", "fru")
    assert labels["emotion4"].classes == ("hap", "sad", "neu", "ang")


def test_speaker_and_half_of_the_picture_come_from_the_turn(tmp_path: Path) -> None:
    utterances = {u.key: u for u in iemocap(tmp_path).utterances()}
    woman, man = utterances["Ses01F_impro01_F000"], utterances["Ses01F_impro01_M000"]
    assert (woman.speaker, man.speaker) == ("Ses01F", "Ses01M")
    assert woman.face_region == (0.0, 0.0, 0.5, 1.0)
    assert man.face_region == (0.5, 0.0, 1.0, 1.0)
    marked_man = utterances["Ses02M_impro01_M000"]
    assert (marked_man.speaker, marked_man.face_region) == ("Ses02M", (0.0, 0.0, 0.5, 1.0))
    assert len({u.speaker for u in utterances.values()}) == 10


def test_turns_are_in_the_order_of_time_with_sound_apart_from_picture(tmp_path: Path) -> None:
    first = [u for u in iemocap(tmp_path).utterances() if u.session == "1"]
    assert [u.turn for u in first] == [0, 1, 2, 3]
    assert [u.start_seconds for u in first] == [0.2, 0.8, 1.4, 2.0]
    base = "IEMOCAP_full_release/Session1"
    assert first[1].media == f"{base}/dialog/avi/DivX/Ses01F_impro01.avi"
    assert first[1].sound_media == f"{base}/sentences/wav/Ses01F_impro01/Ses01F_impro01_M000.wav"
    assert first[1].text == "Do you have your forms?"
    assert first[1].labels["emotion"] == "hap"
    assert (first[1].labels["valence"], first[1].labels["activation"]) == (2.5, 3.0)
    assert first[2].labels["emotion"] is None


def test_without_video_the_wav_files_are_the_media(tmp_path: Path) -> None:
    corpus = iemocap(tmp_path)
    for path in tmp_path.rglob("*.avi"):
        path.unlink()
    first = corpus.utterances()[0]
    assert first.media is not None
    assert first.media.endswith("sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav")
    assert (first.sound_media, first.start_seconds, first.face_region) == (None, None, None)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("\tneu\t", "\tnope\t", "is not a label line"),
        ("Ses01F_impro01_F000\tneu", "Ses01F_impro02_F000\tneu", "is not a label line of this dialogue"),
        ("[0.2000 - 0.9000]", "[0.2000 - 0.9", "is not a label line"),
        ("[0.2000 - 0.9000]", "[0.9000 - 0.2000]", "ends before it starts"),
        ("Ses01F_impro01_M000\texc", "Ses01F_impro01_F000\texc", "appears twice"),
    ],
)
def test_a_damaged_label_file_is_told(tmp_path: Path, old: str, new: str, what: str) -> None:
    corpus = iemocap(tmp_path)
    path = tmp_path / "IEMOCAP_full_release/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(MerError, match=what) as caught:
        corpus.utterances()
    assert "Ses01F_impro01.txt line" in str(caught.value)


def test_a_rated_turn_without_transcript_is_told(tmp_path: Path) -> None:
    root = iemocap(tmp_path).root
    path = root / "IEMOCAP_full_release/Session1/dialog/transcriptions/Ses01F_impro01.txt"
    path.write_text(path.read_text().replace("Ses01F_impro01_M001 [", "M: ["))
    with pytest.raises(MerError, match="no transcript of 1 rated turns, such as Ses01F_impro01_M001"):
        IemocapCorpus(root).utterances()
    texts = Counter(u.text is None for u in IemocapCorpus(root, allow_count_mismatch=True).utterances())
    assert texts == {False: 19, True: 1}


def test_unknown_options_are_told(tmp_path: Path) -> None:
    with pytest.raises(MerError, match="label set '5' is unknown; use 4, 6, 6-consensus"):
        IemocapCorpus(tmp_path, labels="5")
    with pytest.raises(MerError, match="turns 'some' is unknown"):
        IemocapCorpus(tmp_path, turns="some")
