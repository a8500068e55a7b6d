"""A folder of clips without a manifest: what is taken for an utterance, its words and its labels."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mer.cache import MerError
from mer.stages.corpora.folder import FolderCorpus
from mer.stages.corpora.media_files import spoken
from mer.stages.interfaces import LabelSpec

SRT = (
    "1\r\n00:00:00,000 --> 00:00:01,000\r\nWell, <i>hello</i>\r\n\r\n"
    "2\r\n00:00:01,000 --> 00:00:02,000\r\n{\\an8}there &amp; here\r\n"
)
VTT = (
    "WEBVTT - a title\n\nNOTE a note\nof two lines\n\nintro\n00:00.000 --> 00:01.000 align:start\n"
    "<v Ann>Well, hello\n\n00:01.000 --> 00:02.000\nWell, hello\nthere\n"
)


@pytest.fixture(autouse=True)
def _every_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mer")


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"media")
    return root


def test_every_media_file_is_an_utterance_with_its_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = files(tmp_path, "b.MP4", "sub/a.wav", "sub/c.mkv", "d.flac", ".hidden/x.wav", "._b.mp4", "notes.pdf")
    (root / "b.txt").write_text("\ufeffWell,\n hello ", encoding="utf-8")
    (root / "sub/a.srt").write_text(SRT)
    (root / "sub/c.vtt").write_text(VTT)
    found = FolderCorpus(root).utterances()
    assert [(u.key, u.media, u.text) for u in found] == [
        ("b.MP4", "b.MP4", "Well, hello"),
        ("d.flac", "d.flac", None),
        ("sub/a.wav", "sub/a.wav", "Well, hello there & here"),
        ("sub/c.mkv", "sub/c.mkv", "Well, hello there"),
    ]
    assert "no manifest; 4 clips, 3 with a transcript, no labels (--label-from" in caplog.text
    assert FolderCorpus(root).info().protocols == ("kfold",)


def test_subtitles_without_words() -> None:
    assert spoken("WEBVTT\n\n00:00.000 --> 00:01.000\n\n") == ""


def test_labels_from_the_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = files(tmp_path, "clips/joy/1.wav", "clips/sad/1.wav", "loose.wav")
    corpus = FolderCorpus(root, label_from="folder")
    assert corpus.info().labels == {"emotion": LabelSpec("class", ("joy", "sad"))}
    assert [u.labels["emotion"] for u in corpus.utterances()] == ["joy", "sad", None]
    assert "1 names do not fit --label-from 'folder', first loose.wav" in caplog.text


def test_labels_from_names_such_as_those_of_ravdess(tmp_path: Path) -> None:
    root = files(tmp_path, "Actor_12/03-01-05-01-02-01-12.wav", "Actor_07/03-01-03-02-02-02-07.wav")
    corpus = FolderCorpus(root, label_from="*-*-{emotion}-{level:real}-*-*-{speaker}")
    happy, angry = corpus.utterances()
    assert (happy.speaker, happy.labels) == ("07", {"emotion": "03", "level": 2.0})
    assert (angry.speaker, angry.labels) == ("12", {"emotion": "05", "level": 1.0})
    assert corpus.info().protocols == ("speaker-folds", "kfold")


def test_a_pattern_with_a_slash_reads_the_path(tmp_path: Path) -> None:
    root = files(tmp_path, "Train/Joy/1.wav", "testing/joy/2.wav")
    found = FolderCorpus(root, label_from="{split}/{emotion}/*").utterances()
    assert [(u.split, u.labels["emotion"]) for u in found] == [("train", "Joy"), ("test", "Joy")]


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("emotion_*", "has to name columns in braces"),
        ("{emotion}_{emotion}", "each once"),
        ("{path}", "not path"),
        ("{emotion}__{speaker}", "none of 1 clips fits --label-from"),
        ("folder", "none of 1 clips lies in a folder of its class"),
    ],
)
def test_a_pattern_that_says_nothing_is_told(tmp_path: Path, pattern: str, what: str) -> None:
    with pytest.raises(MerError, match=what):
        FolderCorpus(files(tmp_path, "joy_1.wav"), label_from=pattern).utterances()


def test_what_does_not_go_together_is_told(tmp_path: Path) -> None:
    root = files(tmp_path, "joy_1.wav")
    with pytest.raises(MerError, match="has no manifest, so --column"):
        FolderCorpus(root, column="path=file").utterances()
    (root / "manifest.csv").write_text("path\njoy_1.wav\n")
    with pytest.raises(MerError, match="says the labels; leave --label-from out"):
        FolderCorpus(root, label_from="folder").utterances()


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(b"x")
    root = tmp_path / "clips"
    root.mkdir()
    (root / "a.wav").symlink_to(tmp_path / "secret.wav")
    with pytest.raises(MerError, match=r"a\.wav: path 'a\.wav' leaves the corpus root"):
        FolderCorpus(root).utterances()


def test_files_of_one_name_and_unread_lists_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = files(tmp_path, "a.mp4", "a.wav", "labels.csv")
    assert [u.key for u in FolderCorpus(root).utterances()] == ["a.mp4", "a.wav"]
    assert "1 names have several files (a.*)" in caplog.text
    assert "labels.csv is not read: it would have to be called manifest.csv" in caplog.text
