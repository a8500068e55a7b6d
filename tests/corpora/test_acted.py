"""Acted corpora: real names give the published counts, folds do not share speakers, and EmoryNLP, MER, MSP-IMPROV."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from corpora.trees import crema_d, emodb, emorynlp, mer2023, msp_improv, ravdess, write

from mer.cache import MerError
from mer.stages.corpora.crema_d import CremaDCorpus
from mer.stages.corpora.emodb import EmoDbCorpus
from mer.stages.corpora.emorynlp import EmoryNlpCorpus
from mer.stages.corpora.mer2023 import MerChallengeCorpus
from mer.stages.corpora.ravdess import RavdessCorpus


def names_of(shared_data: Path, corpus: str) -> dict[str, str]:
    """File -> emotion of an EmoBox list."""
    text = (shared_data / f"annotations/emobox/{corpus}/{corpus}.jsonl").read_text()
    return {Path(entry["wav"]).name: entry["emo"] for entry in map(json.loads, text.splitlines())}


def touch_all(folder: Path, names: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()


def test_real_ravdess_is_whole_and_its_folds_are_those_of_emobox(shared_data: Path) -> None:
    utterances = RavdessCorpus(shared_data / "speech/ravdess_16k_flac").utterances()
    root = shared_data / "speech/ravdess_16k_flac"
    assert all((root / str(u.media)).is_file() for u in utterances)
    found = {(Path(str(u.media)).stem, u.session) for u in utterances}
    theirs = set()
    for fold in range(1, 7):
        path = shared_data / f"annotations/emobox/ravdess/fold_{fold}/ravdess_test_fold_{fold}.jsonl"
        theirs |= {(Path(json.loads(line)["wav"]).stem, str(fold)) for line in path.read_text().splitlines()}
    assert found == theirs
    sessions = defaultdict(set)
    for utterance in utterances:
        sessions[utterance.speaker].add(utterance.session)
    assert all(len(folds) == 1 for folds in sessions.values())


def test_real_ravdess_emotions(shared_data: Path) -> None:
    utterances = RavdessCorpus(shared_data / "speech/ravdess_16k_flac").utterances()
    theirs = {name.removesuffix(".wav"): emotion.lower() for name, emotion in names_of(shared_data, "ravdess").items()}
    assert {Path(str(u.media)).stem: u.labels["emotion"] for u in utterances} == theirs


def test_ravdess_lists_every_clip_and_prefers_pictures(tmp_path: Path) -> None:
    corpus = ravdess(tmp_path)
    utterances = {u.key: u for u in corpus.utterances()}
    assert len(utterances) == 1440
    assert utterances["01-03-01-01-01-01"].media == "Video_Speech_Actor_01/Actor_01/01-01-03-01-01-01-01.mp4"
    sound_only = {u.key: u for u in RavdessCorpus(tmp_path, modality="audio").utterances()}
    assert sound_only["01-03-01-01-01-01"].media == "Audio_Speech_Actors_01-24/Actor_01/03-01-03-01-01-01-01.wav"
    copy = tmp_path / "again/03-01-08-02-02-02-24.wav"
    copy.parent.mkdir()
    copy.touch()
    with pytest.raises(MerError, match="are the same clip"):
        corpus.utterances()


def test_real_names_of_emodb(shared_data: Path, tmp_path: Path) -> None:
    names = names_of(shared_data, "emodb")
    touch_all(tmp_path / "wav", names)
    utterances = EmoDbCorpus(tmp_path).utterances()
    assert len({u.speaker for u in utterances}) == 10
    words = {"happy": "happiness", "sad": "sadness", "boredem": "boredom", "Neutral": "neutral"}
    assert {u.key: u.labels["emotion"] for u in utterances} == {
        name.removesuffix(".wav"): words.get(emotion, emotion) for name, emotion in names.items()
    }
    (tmp_path / "wav" / "03a01Wa.wav").unlink()
    with pytest.raises(MerError, match="all 534 of 535 utterances"):
        EmoDbCorpus(tmp_path).utterances()


def test_real_names_of_crema_d(shared_data: Path, tmp_path: Path) -> None:
    names = names_of(shared_data, "cremad")
    touch_all(tmp_path / "AudioWAV", names)
    utterances = CremaDCorpus(tmp_path).utterances()
    assert len({u.speaker for u in utterances}) == 91
    words = {"ANG": "angry", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
    assert {f"{u.key}.wav": u.labels["emotion"] for u in utterances} == {name: words[e] for name, e in names.items()}


def test_crema_d_takes_sound_and_picture_from_their_folders(tmp_path: Path) -> None:
    first, _, missing = crema_d(tmp_path).utterances()
    assert (first.media, first.sound_media) == ("VideoFlash/1001_DFA_ANG_XX.flv", "AudioWAV/1001_DFA_ANG_XX.wav")
    assert missing.media == "VideoFlash/1091_WSI_HAP_HI.flv"
    assert not (tmp_path / str(missing.media)).exists()
    write(tmp_path / "SentenceFilenames.csv", "Stimulus_Number,Filename\n1,../x\n")
    with pytest.raises(MerError, match="is not actor_sentence_emotion_level"):
        CremaDCorpus(tmp_path, allow_count_mismatch=True).utterances()


def test_emodb_letters_are_german(tmp_path: Path) -> None:
    found = {u.key: u for u in emodb(tmp_path).utterances()}
    assert {key: u.labels["emotion"] for key, u in found.items()} == {
        "03a01Wa": "anger",
        "08b10Tb": "sadness",
        "16a05Nc": "neutral",
    }
    assert found["03a01Wa"].text == "Der Lappen liegt auf dem Eisschrank."


def test_real_emorynlp_gives_the_published_counts(shared_data: Path) -> None:
    utterances = EmoryNlpCorpus(shared_data / "annotations/emorynlp").utterances()
    assert Counter(u.split for u in utterances) == {"train": 7551, "val": 954, "test": 984}
    together = [u for u in utterances if " + " in u.speaker]
    assert together
    assert "Monica Geller + Phoebe Buffay" in {u.speaker for u in together}


def test_emorynlp_speakers_are_lists(tmp_path: Path) -> None:
    corpus = emorynlp(tmp_path)
    found = {u.key: u for u in corpus.utterances()}
    assert found["sea1_ep2_sc4_utt12"].speaker == "Joey Tribbiani + Ross Geller"
    assert found["sea1_ep15_sc1_utt1"].speaker == "Phoebe's Assistant"
    assert [u.turn for u in corpus.utterances() if u.split == "train"] == [1, 11]
    path = tmp_path / "emorynlp_test_final.csv"
    path.write_text(path.read_text().replace("['Ross Geller']", "__import__('os')"))
    with pytest.raises(MerError, match=r"line 2: Speaker .* is not a list of names"):
        corpus.utterances()


def test_mer2023_chooses_its_test_set(tmp_path: Path) -> None:
    mer2023(tmp_path)
    for name in ("test1", "test2", "test3"):
        corpus = MerChallengeCorpus(tmp_path, test_set=name, allow_count_mismatch=True)
        splits = Counter(u.split for u in corpus.utterances())
        assert splits["train"] == 2
        assert splits["test"] == 1
        assert len(splits) == 4
    utterances = {u.key: u for u in MerChallengeCorpus(tmp_path, allow_count_mismatch=True).utterances()}
    assert utterances["sample_00000000"].media == "train/sample_00000000.avi"
    assert utterances["sample_00000000"].labels == {"emotion": "angry", "valence": -2.5}
    assert (utterances["sample_00000000"].text, utterances["sample_00000000"].machine_text) == ("你好。", True)
    assert (utterances["sample_00000013"].text, utterances["sample_00000013"].labels["valence"]) == (None, None)
    english = MerChallengeCorpus(tmp_path, language="english", allow_count_mismatch=True).utterances()
    assert {u.key: u.text for u in english}["sample_00000000"] == "Hello, you."
    with pytest.raises(MerError, match="train 2 of 3,373"):
        MerChallengeCorpus(tmp_path).utterances()


def test_msp_improv_labels_and_files_meet(tmp_path: Path) -> None:
    corpus = msp_improv(tmp_path)
    first, second, third = corpus.utterances()
    assert first.media == "session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.avi"
    assert first.sound_media == "session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav"
    assert (first.speaker, second.speaker, third.speaker) == ("F01", "M01", "M03")
    assert (first.session, third.session) == ("1", "3")
    assert (first.labels["emotion"], second.labels["emotion"]) == ("neutral", None)
    assert (first.labels["activation"], second.labels["activation"]) == (2.6, None)
    path = tmp_path / "Evalution.txt"
    path.write_text(path.read_text().replace("; N; A:2.6", "; Q; A:2.6"))
    with pytest.raises(MerError, match=r"Evalution\.txt line 1: .* is not a label line"):
        corpus.utterances()
