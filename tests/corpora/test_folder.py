"""A folder of one's own: what a manifest may say, and what is told about one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from mer.cache import MerError
from mer.stages.corpora.folder import FolderCorpus
from mer.stages.interfaces import LabelSpec


def manifest(root: Path, text: str | bytes) -> FolderCorpus:
    content = text.encode() if isinstance(text, str) else text
    (root / "manifest.csv").write_bytes(content)
    return FolderCorpus(root)


def test_every_column_is_read(tmp_path: Path) -> None:
    corpus = manifest(
        tmp_path,
        "\ufeffid,path,text,speaker,dialogue,turn,split,session,start_seconds,end_seconds,emotion,valence,tags\r\n"
        'a,clips/a.mp4,"Well, hello",Ann,d1,0,train,s1,0.5,2,joy,0.25,loud|near\r\n'
        "b,clips/a.mp4,,Ben,d1,1,dev,s1,,,,,|\r\n",
    )
    a, b = corpus.utterances()
    assert (a.key, a.media, a.text, a.speaker, a.dialogue, a.turn) == (
        "a",
        "clips/a.mp4",
        "Well, hello",
        "Ann",
        "d1",
        0,
    )
    assert (a.split, a.session, a.start_seconds, a.end_seconds) == ("train", "s1", 0.5, 2.0)
    assert a.labels == {"emotion": "joy", "valence": 0.25, "tags": ("loud", "near")}
    assert (b.text, b.split, b.start_seconds, b.end_seconds) == (None, "val", None, None)
    assert b.labels == {"emotion": None, "valence": None, "tags": ()}
    info = corpus.info()
    assert info.labels == {
        "emotion": LabelSpec("class", ("joy",)),
        "valence": LabelSpec("real"),
        "tags": LabelSpec("multi", ("loud", "near")),
    }
    assert info.protocols == ("official", "session-folds", "speaker-folds", "kfold")


def test_without_optional_columns(tmp_path: Path) -> None:
    corpus = manifest(tmp_path, "id,path\nx,x.wav\n")
    (only,) = corpus.utterances()
    assert (only.text, only.turn, only.split, only.labels) == (None, -1, "", {})
    assert corpus.info().protocols == ("kfold",)


def test_a_header_decides_the_kind_of_numbers(tmp_path: Path) -> None:
    corpus = manifest(tmp_path, "id,path,emotion:class,level\nx,x.wav,10,10\ny,y.wav,2,2\n")
    assert corpus.info().labels == {"emotion": LabelSpec("class", ("2", "10")), "level": LabelSpec("real")}
    assert [u.labels for u in corpus.utterances()] == [{"emotion": "10", "level": 10.0}, {"emotion": "2", "level": 2.0}]


def test_row_order_does_not_change_the_classes(tmp_path: Path) -> None:
    one = manifest(tmp_path, "id,path,emotion\nx,x.wav,sad\ny,y.wav,joy\n").info().labels
    assert one == manifest(tmp_path, "id,path,emotion\ny,y.wav,joy\nx,x.wav,sad\n").info().labels


def test_a_file_that_is_absent_is_listed(tmp_path: Path) -> None:
    (utterance,) = manifest(tmp_path, "id,path\nx,nowhere.mp4\n").utterances()
    assert utterance.media == "nowhere.mp4"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 0, "file is empty"),
        ("id,path\n", 0, "no rows"),
        ("id,text\na,hello\n", 1, "column 'path' missing; add --column path=NAME (columns found: id, text)"),
        ("id,path,path\na,a.mp4,b.mp4\n", 1, "'path' appears twice"),
        ("id,path,\na,a.mp4,b\n", 1, "column 3 has no name"),
        ("id,path,joy:real,joy\na,a.mp4,1,1\n", 1, "'joy' appears twice"),
        ("id,path\na,a.mp4\nb,b.mp4\na,c.mp4\n", 4, "id 'a' was used before in line 2"),
        ("id,path\na,a.mp4\n,b.mp4\n", 3, "id is empty"),
        ("id,path\na\x07,a.mp4\n", 2, "control character"),
        ("id,path,text\na,,\n", 2, "path and text are both empty"),
        ("id,path\na,../a.mp4\n", 2, "leaves the corpus root"),
        ("id,path\na,/etc/passwd\n", 2, "leaves the corpus root"),
        ("id,path\na,x/../../a.mp4\n", 2, "leaves the corpus root"),
        ("id,path\na,a.mp4,extra\n", 2, "has 3 cells where the header has 2"),
        ('id,path,text\na,a.mp4,"never closed\nb,b.mp4,hello\n', 2, "not valid CSV"),
        ("id,path,turn\na,a.mp4,first\n", 2, "turn 'first' is not a whole number"),
        ("id,path,turn\na,a.mp4,-2\n", 2, "turn '-2' is not a whole number"),
        ("id,path,start_seconds\na,a.mp4,soon\n", 2, "start_seconds 'soon' is not a number"),
        ("id,path,start_seconds\na,a.mp4,inf\n", 2, "is not a finite number"),
        ("id,path,start_seconds\na,a.mp4,-1\n", 2, "is negative"),
        ("id,path,start_seconds,end_seconds\na,a.mp4,2,2\n", 2, "is not after"),
        ("id,path,split\na,a.mp4,trian\n", 2, "split 'trian' is unknown"),
        ("id,path,valence\na,a.mp4,0.5\nb,b.mp4,0.2\nc,c.mp4,0.4o\n", 4, "valence '0.4o' is a word"),
        ("id,file,filename\na,a.mp4,b.mp4\n", 1, "'file' and 'filename' may both be the path; choose: --column path="),
        ("id;clip_name\na;a.mp4\n", 1, "column 'path' missing; found 'clip_name': add --column path=clip_name"),
        ("path,text\n,hello\n", 2, "path is empty, and there is no column id"),
        ("id,path,text:class\na,a.mp4,ann\n", 1, "write it 'text'"),
        ("id,path,emotion:clas\na,a.mp4,1\n", 1, "'emotion:clas' ends in no kind of label; did you mean 'class'?"),
        ("id,path,valence\na,a.mp4,0.5\nb,b.mp4,inf\n", 3, "valence 'inf' is not a finite number"),
    ],
)
def test_a_bad_manifest_is_told_in_one_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    with pytest.raises(MerError) as caught:
        manifest(tmp_path, text).utterances()
    message = str(caught.value)
    assert what in message
    assert "manifest.csv" in message
    assert "\n" not in message
    assert not line or f"line {line}:" in message


@pytest.mark.parametrize(("column", "meant"), [("speakers", "speaker"), ("pathh", "path")])
def test_a_label_that_may_be_a_known_column_is_warned_about_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str, meant: str
) -> None:
    corpus = manifest(tmp_path, f"id,path,emotion,{column}\na,a.mp4,joy,b\n")
    corpus.utterances()
    corpus.utterances()
    (told,) = (record.getMessage() for record in caplog.records)
    assert f"column {column!r} becomes a label target; rename it `{meant}` if it is the" in told


def test_columns_are_told(tmp_path: Path) -> None:
    corpus = manifest(tmp_path, "id,path,emotion,level\na,a.mp4,joy,1\nb,b.mp4,sad,2\n")
    roles = {"emotion": "label, kind class, 2 classes", "level": "label, kind real"}
    assert corpus.columns() == {"id": "known column", "path": "known column", **roles}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("id,path\na,a.mp4\n".encode("utf-16"), "UTF-16"),
        (b"id,path\na,a.mp4\n\0\0", "binary"),
        ("id,path,text\na,a.mp4,x\nb,b.mp4,caf\u00e9\n".encode("latin-1"), "line 3: is not UTF-8"),
    ],
)
def test_another_encoding_is_told(tmp_path: Path, content: bytes, what: str) -> None:
    with pytest.raises(MerError, match=what):
        manifest(tmp_path, content).utterances()


def test_a_symbolic_link_may_not_lead_out(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"")
    (root / "inner.mp4").write_bytes(b"")
    (root / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "alias.mp4").symlink_to(root / "inner.mp4")
    assert manifest(root, "id,path\na,alias.mp4\n").utterances()[0].media == "alias.mp4"
    with pytest.raises(MerError, match="leaves the corpus root"):
        manifest(root, "id,path\na,out.mp4\n").utterances()


def test_missing_root_and_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(MerError, match="does not exist"):
        FolderCorpus(tmp_path / "nowhere").utterances()
    with pytest.raises(MerError, match=r"has no manifest\.csv, and below it is no media file"):
        FolderCorpus(tmp_path).utterances()
    (tmp_path / "file").write_text("x")
    with pytest.raises(MerError, match="is not a folder"):
        FolderCorpus(tmp_path / "file").utterances()
