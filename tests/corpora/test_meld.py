"""MELD: its published counts on the real tables, and each of its traps on a small tree."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mer.cache import MerError
from mer.stages.corpora.meld import CLIP_FOLDERS, MeldCorpus

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\r\n"
ROWS = {
    "train": (
        '2,"Oh,\u2014he\u2019s \u201clost\u201d it.",Phoebe,sadness,negative,0,3,4,7,"00:20:57,256","00:21:00,049"\r\n'
        '1,Hi!,Joey,joy,positive,0,0,4,7,"0:20:50,5","0:20:51,049"\r\n'
        '4,Gone.,Ross,anger,negative,125,3,4,8,"00:00:50,500","00:00:51,049"\r\n'
    ),
    "dev": '1,What?,Monica,surprise,negative,110,7,4,7,"00:21:01,927","00:21:03,261"\r\n',
    "test": '1,Eh.,Mark,fear,negative,0,0,3,19,"00:14:38,127","00:14:40,378"\r\n',
}


def write_tables(root: Path, rows: dict[str, str] = ROWS, encoding: str = "utf-8") -> MeldCorpus:
    root.mkdir(parents=True, exist_ok=True)
    for split, text in rows.items():
        (root / f"{split}_sent_emo.csv").write_bytes((HEADER + text).encode(encoding))
    return MeldCorpus(root, allow_count_mismatch=True)


def test_real_tables_give_the_published_counts(shared_data: Path) -> None:
    corpus = MeldCorpus(shared_data / "annotations" / "meld")
    utterances = corpus.utterances()
    assert Counter(u.split for u in utterances) == {"train": 9989, "val": 1109, "test": 2610}
    dialogues = {(u.split, u.dialogue) for u in utterances}
    assert Counter(split for split, _ in dialogues) == {"train": 1038, "val": 114, "test": 280}
    emotions = Counter((u.split, u.labels["emotion"]) for u in utterances)
    assert emotions["train", "joy"] == 1743
    assert emotions["val", "fear"] == 40
    assert emotions["test", "anger"] == 345
    curly = Counter(u.split for u in utterances if not (u.text or "").isascii())
    assert curly == {
        "train": 2740,
        "val": 308,
        "test": 757,
    }
    assert [u.key for u in utterances if u.known_bad] == ["train/dia125_utt3", "dev/dia110_utt7"]
    origins = corpus.origins()
    assert origins["train/dia12_utt7"] == origins["test/dia85_utt0"]
    assert len(origins) - len(set(origins.values())) == 11


def test_real_dyadic_tables(shared_data: Path) -> None:
    utterances = MeldCorpus(shared_data / "annotations" / "meld_dyadic", variant="dyadic").utterances()
    assert Counter(u.split for u in utterances) == {"train": 12840, "val": 1462, "test": 3400}
    assert len({u.media for u in utterances}) < len(utterances)


def test_rows_become_sorted_utterances(tmp_path: Path) -> None:
    utterances = write_tables(tmp_path).utterances()
    assert [u.key for u in utterances] == [
        "train/dia0_utt0",
        "train/dia0_utt3",
        "train/dia125_utt3",
        "dev/dia110_utt7",
        "test/dia0_utt0",
    ]
    first, second = utterances[:2]
    assert second.text == "Oh,\u2014he\u2019s \u201clost\u201d it."
    assert (first.dialogue, first.turn, second.turn) == ("train/dia0", 0, 3)
    assert (first.start_seconds, first.end_seconds) == (None, None)
    assert first.labels == {"emotion": "joy", "sentiment": "positive"}
    assert [bool(u.known_bad) for u in utterances] == [False, False, True, True, False]
    assert utterances[3].split == "val"


def test_classes_are_in_the_readme_order(tmp_path: Path) -> None:
    info = MeldCorpus(tmp_path).info()
    assert info.labels["emotion"].classes == ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
    assert info.labels["sentiment"].classes == ("neutral", "positive", "negative")
    assert info.channel == "center"


@pytest.mark.parametrize(("split", "folder"), [(s, f) for s, folders in CLIP_FOLDERS.items() for f in folders])
@pytest.mark.parametrize("base", ["", "MELD.Raw/"])
def test_clips_are_found_in_every_spelling(tmp_path: Path, split: str, folder: str, base: str) -> None:
    (tmp_path / base / folder).mkdir(parents=True)
    media = [u.media for u in write_tables(tmp_path).utterances() if u.key.startswith(split)]
    assert all(path is not None and path.startswith(f"{base}{folder}/dia") for path in media)


@pytest.mark.parametrize("place", ["MELD.Raw", "MELD.Raw/train", "data/MELD", "train"])
def test_tables_are_found_where_archives_leave_them(tmp_path: Path, place: str) -> None:
    write_tables(tmp_path)
    target = tmp_path / place / "train_sent_emo.csv"
    target.parent.mkdir(parents=True)
    (tmp_path / "train_sent_emo.csv").rename(target)
    assert len(MeldCorpus(tmp_path, allow_count_mismatch=True).utterances()) == 5


def test_cp1252_copy_reads_the_same(tmp_path: Path) -> None:
    assert write_tables(tmp_path / "a", encoding="cp1252").utterances() == write_tables(tmp_path / "b").utterances()


def test_stubs_and_final_videos_do_not_count(tmp_path: Path) -> None:
    clips = tmp_path / "output_repeated_splits_test"
    clips.mkdir()
    for name in ("final_videos_testdia0_utt0.mp4", "._dia0_utt0.mp4", "dia0_utt0.mp4", "dia108_utt2.mp4"):
        (clips / name).write_bytes(b"")
    test = [u for u in write_tables(tmp_path).utterances() if u.split == "test"]
    assert [u.media for u in test] == ["output_repeated_splits_test/dia0_utt0.mp4"]


def test_a_count_that_differs_is_told(tmp_path: Path) -> None:
    write_tables(tmp_path)
    with pytest.raises(MerError, match=r"train 3 of 9,989.*--allow-count-mismatch"):
        MeldCorpus(tmp_path).utterances()


@pytest.mark.parametrize("byte", [b"\xe9", b"\x9d"])
def test_mixed_encodings_are_refused(tmp_path: Path, byte: bytes) -> None:
    write_tables(tmp_path, {**ROWS, "train": ROWS["train"].replace("\u201d", "")})
    path = tmp_path / "train_sent_emo.csv"
    path.write_bytes(path.read_bytes().replace(b"Gone", b"Gon" + byte))
    with pytest.raises(MerError, match="line 4: is not UTF-8"):
        MeldCorpus(tmp_path, allow_count_mismatch=True).utterances()


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ('1,Hi,Joey,glad,positive,0,0,4,7,"0:0:1,5","0:0:2,0"\r\n', "line 2: Emotion 'glad' is unknown"),
        ('1,Hi,Joey,joy,positive,0,x,4,7,"0:0:1,5","0:0:2,0"\r\n', "line 2: Utterance_ID 'x' is not a whole number"),
        ('1,Hi,Joey,joy,positive,0,0,4,7,"0:0:1,5",soon\r\n', "line 2: EndTime 'soon' is not a time"),
        ("1,Hi,Joey,joy,positive,0\r\n", "line 2: has 6 cells"),
        (ROWS["train"] + ROWS["train"], "line 6: id 'train/dia0_utt0' was used before in line 3"),
    ],
)
def test_a_damaged_table_is_told(tmp_path: Path, rows: str, what: str) -> None:
    with pytest.raises(MerError, match=what) as caught:
        write_tables(tmp_path, {**ROWS, "train": rows}).utterances()
    assert "train_sent_emo.csv" in str(caught.value)


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    write_tables(tmp_path)
    (tmp_path / "dev_sent_emo.csv").unlink()
    with pytest.raises(MerError, match=r"dev_sent_emo\.csv: file not found"):
        MeldCorpus(tmp_path).utterances()
    assert len(MeldCorpus(tmp_path, allow_count_mismatch=True).utterances()) == 4


def test_an_unknown_variant_is_told(tmp_path: Path) -> None:
    with pytest.raises(MerError, match="variant 'triadic' is unknown"):
        MeldCorpus(tmp_path, variant="triadic")
