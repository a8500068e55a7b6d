"""Manifests as spreadsheets and scripts write them: each form gives the same utterances."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from mer.cache import MerError
from mer.stages.corpora.folder import FolderCorpus
from mer.stages.interfaces import LabelSpec

PLAIN = "id,path,text,speaker,split,emotion,valence\na,a.mp4,Où?,Ann,train,joy,0.5\nb,b.mp4,Non,Ben,test,sad,\n"
EUROPEAN = (
    "id;path;text;speaker;split;emotion;valence\r\na;a.mp4;Où?;Ann;Train;joy;0,5\r\nb;b.mp4;Non;Ben;testing;sad;n/a\r\n"
)
USUAL = (
    "clip_id,filename,transcript,speaker_id,set,label,valence\n"
    "a,a.mp4,Où?,Ann,training,joy,0.5\nb,b.mp4,Non,Ben,TEST,sad,-\n"
)
ROWS = (
    {"id": "a", "path": "a.mp4", "text": "Où?", "speaker": "Ann", "split": "train", "emotion": "joy", "valence": 0.5},
    {"id": "b", "path": "b.mp4", "text": "Non", "speaker": "Ben", "split": "test", "emotion": "sad", "valence": None},
)
LINES = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
FORMS = {
    "commas": ("csv", PLAIN, "utf-8", ""),
    "semicolons, decimal commas and a mark": (
        "csv",
        EUROPEAN,
        "utf-8-sig",
        "cells are separated by ';'; decimal commas",
    ),
    "semicolons in the encoding of Windows": ("csv", EUROPEAN, "cp1252", "cells are separated by ';'"),
    "tabs in UTF-16": ("csv", PLAIN.replace(",", "\t"), "utf-16", "cells are separated by tabs"),
    "a tab file": ("tsv", PLAIN.replace(",", "\t"), "utf-8", "cells are separated by tabs"),
    "Excel's own first line": ("csv", "sep=;\r\n" + EUROPEAN, "utf-8", "cells are separated by ';'"),
    "empty columns at the end": ("csv", EUROPEAN.replace("\r\n", ";;\r\n"), "utf-8", ""),
    "usual names": ("csv", USUAL, "utf-8", "'filename' is read as path"),
    "JSON lines": ("jsonl", LINES, "utf-8", ""),
}


@pytest.fixture(autouse=True)
def _every_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mer")


def written(root: Path, text: str, suffix: str = "csv", saved_as: str = "utf-8", **options: Any) -> FolderCorpus:
    (root / f"manifest.{suffix}").write_bytes(text.encode(saved_as))
    return FolderCorpus(root, **options)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_utterances(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    suffix, text, encoding, told = FORMS[form]
    named = "" if encoding.startswith("utf-8") else encoding
    a, b = written(tmp_path, text, suffix, encoding, encoding=named).utterances()
    assert (a.key, a.media, a.text, a.speaker, a.split) == ("a", "a.mp4", "Où?", "Ann", "train")
    assert (b.key, b.media, b.text, b.speaker, b.split) == ("b", "b.mp4", "Non", "Ben", "test")
    assert a.labels == {"emotion": "joy", "valence": 0.5}
    assert b.labels == {"emotion": "sad", "valence": None}
    assert told in caplog.text


@pytest.mark.parametrize(("encoding", "fix"), [("cp1252", "--encoding cp1252"), ("utf-16", "--encoding utf-16")])
def test_another_encoding_names_the_option(tmp_path: Path, encoding: str, fix: str) -> None:
    with pytest.raises(MerError, match=fix):
        written(tmp_path, PLAIN, saved_as=encoding).utterances()


@pytest.mark.parametrize(("encoding", "what"), [("klingon", "not known to Python"), ("ascii", "line 2: is not ASCII")])
def test_a_wrong_encoding_is_told(tmp_path: Path, encoding: str, what: str) -> None:
    corpus = written(tmp_path, PLAIN, encoding=encoding)
    with pytest.raises(MerError, match=what):
        corpus.utterances()


def test_column_settles_the_rest(tmp_path: Path) -> None:
    text = "clip_name,who,Gefühl,transcript,utterance\na.mp4,Ann,2,one,two\nb.mp4,Ben,1,three,four\n"
    corpus = written(tmp_path, text, column=("path=clip_name", "speaker=who", "emotion:class=Gefühl", "text=utterance"))
    a, _ = corpus.utterances()
    assert (a.key, a.media, a.speaker, a.text) == ("a.mp4", "a.mp4", "Ann", "two")
    assert a.labels == {"emotion": "2", "transcript": "one"}
    with pytest.raises(MerError, match="--column path=clipname: did you mean 'clip_name'"):
        written(tmp_path, text, column="path=clipname").utterances()
    with pytest.raises(MerError, match="is not of the form KNOWN=NAME"):
        written(tmp_path, text, column="clip_name").utterances()


def test_without_ids_the_path_is_the_id_and_spans_tell_utterances_apart(tmp_path: Path) -> None:
    text = "file,start,end\ntalk.wav,0,1.5\ntalk.wav,1.5,4\nclips\\other.wav,,\n"
    keys = [(u.key, u.media, u.end_seconds) for u in written(tmp_path, text).utterances()]
    assert keys == [
        ("talk.wav@0-1.5", "talk.wav", 1.5),
        ("talk.wav@1.5-4", "talk.wav", 4.0),
        ("clips\\other.wav", "clips/other.wav", None),
    ]


def test_a_number_within_its_dialogue_is_no_id(tmp_path: Path) -> None:
    text = "Dialogue_ID,Utterance_ID,path\n0,0,a.mp4\n0,1,b.mp4\n1,0,c.mp4\n"
    found = [(u.key, u.dialogue, u.turn) for u in written(tmp_path, text).utterances()]
    assert found == [("a.mp4", "0", 0), ("b.mp4", "0", 1), ("c.mp4", "1", 0)]


def test_gaps_among_numbers(tmp_path: Path) -> None:
    cells = ["1", "n/a", "NA", "-", "?", "nan", "-2.5"]
    text = "path,valence\n" + "".join(f"{n}.wav,{cell}\n" for n, cell in enumerate(cells))
    corpus = written(tmp_path, text)
    assert corpus.info().labels == {"valence": LabelSpec("real")}
    assert [u.labels["valence"] for u in corpus.utterances()] == [1.0, None, None, None, None, None, -2.5]


def test_classes_that_differ_in_case_or_blanks_are_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells = ["joy", "Joy", "joy", "very  sad", "Very Sad", "Very Sad", "n/a"]
    text = "path,emotion\n" + "".join(f"{n}.wav,{cell}\n" for n, cell in enumerate(cells))
    corpus = written(tmp_path, text)
    assert corpus.info().labels == {"emotion": LabelSpec("class", ("Very Sad", "joy", "n/a"))}
    assert [u.labels["emotion"] for u in corpus.utterances()] == ["joy"] * 3 + ["Very Sad"] * 3 + ["n/a"]
    assert "emotion: 'Joy' and 'joy' are one class, 'joy'" in caplog.text
    assert "'n/a' is taken for a class" in caplog.text


def test_numbers_called_label_are_asked_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = written(tmp_path, "path,label\na.wav,0\nb.wav,3\n")
    assert corpus.info().labels == {"emotion": LabelSpec("real")}
    assert "emotion holds whole numbers" in caplog.text
    assert FolderCorpus(tmp_path, column="emotion:class=label").info().labels == {
        "emotion": LabelSpec("class", ("0", "3"))
    }


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"path": "a.mp4"}\n{"path": \n', "line 2: is not valid JSON"),
        ('["a.mp4"]\n', "line 1: is no JSON object"),
        ('{"path": {"name": "a.mp4"}}\n', "line 1: 'path' holds another object"),
        ("\n \n", "file is empty"),
    ],
)
def test_bad_json_lines_are_told(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(MerError, match=what):
        written(tmp_path, text, "jsonl").utterances()


def test_lists_of_json_are_sets_of_classes(tmp_path: Path) -> None:
    corpus = written(tmp_path, '{"path": "a.wav", "tags": ["x", "y"]}\n{"path": "b.wav", "tags": []}\n', "jsonl")
    assert corpus.info().labels == {"tags": LabelSpec("multi", ("x", "y"))}
    assert [u.labels["tags"] for u in corpus.utterances()] == [("x", "y"), ()]


def test_two_manifests_are_refused(tmp_path: Path) -> None:
    written(tmp_path, PLAIN)
    with pytest.raises(MerError, match=r"has manifest\.csv and manifest\.jsonl; keep one"):
        written(tmp_path, LINES, "jsonl").utterances()
