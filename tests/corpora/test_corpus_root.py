"""Where `mer extract --corpus meld` looks for the corpus, and a folder named in place of a corpus."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from folder_clips import write_manifest

from mer.cache import MerError
from mer.pipeline.cli import main
from mer.pipeline.extraction.corpus_root import find_root, is_folder, named_corpus, remember
from mer.pipeline.extraction.local_state import remember_root


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "user"))
    monkeypatch.delenv("MER_DATA", raising=False)
    caplog.set_level(logging.INFO, "mer")


def made(*parts: str) -> Path:
    folder = Path(*parts)
    folder.mkdir(parents=True)
    return folder


def test_nothing_there_names_the_places_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MerError) as caught:
        find_root("meld", Path("cache/meld.h5"))
    assert str(caught.value) == (
        "corpus 'meld' needs its folder. Looked at: data/MELD.Raw, data/meld; $MER_DATA is not set."
        " Get it: mer corpora get meld; or name it: --root DIR"
    )
    monkeypatch.setenv("MER_DATA", "/nowhere")
    with pytest.raises(
        MerError, match=r"Looked at: /nowhere/meld, /nowhere/MELD\.Raw, data/MELD\.Raw, data/meld\. Get"
    ):
        find_root("meld")


def test_the_places_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def found(how: str) -> Path:
        caplog.clear()
        place = find_root("meld", Path("cache/meld.h5"))
        assert caplog.messages == [f"corpus meld: {place} ({how})"]
        return place

    made("data/MELD.Raw")
    assert found("./data") == Path("data/MELD.Raw")
    monkeypatch.setenv("MER_DATA", str(made("all").resolve()))
    assert found("./data") == Path("data/MELD.Raw")
    made("all/meld")
    assert found("$MER_DATA") == tmp_path / "all/meld"
    remember("meld", made("last"))
    assert found("remembered from last time") == tmp_path / "last"
    remember_root(Path("cache/meld.h5"), made("beside").resolve())
    assert found("remembered beside cache/meld.h5") == tmp_path / "beside"
    Path("beside").rmdir()
    assert found("remembered from last time") == tmp_path / "last"


def test_what_is_taken_for_a_folder(tmp_path: Path) -> None:
    made("clips")
    made("meld")
    assert is_folder("./clips")
    assert is_folder("clips")
    assert is_folder("no/such")
    assert not is_folder("meld")
    assert not is_folder("my_corpus:Mine")
    assert not is_folder("medl")
    assert named_corpus("clips", None) == ("folder", Path("clips"))
    assert named_corpus("meld", Path("x")) == ("meld", Path("x"))
    with pytest.raises(MerError, match="no such folder"):
        named_corpus("./gone", None)
    with pytest.raises(MerError, match="leave --root out"):
        named_corpus("./clips", Path("x"))


def test_the_command_takes_a_folder_and_writes_a_cache_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(made("clips"), [{"id": "u0", "path": "", "text": "words"}])
    with pytest.raises(SystemExit) as left:
        main(
            ["extract", "--corpus", "./clips", "--preset", "demo", "--audio-encoder", "none", "--face-encoder", "none"]
        )
    assert left.value.code == 0
    assert "cache/clips.h5" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["extract", "--corpus", "folder", "--dry-run"])
    assert left.value.code == 1
    assert "name the folder itself: --corpus ./DIR" in capsys.readouterr().err


def test_init_writes_a_manifest_that_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("joy/a.wav", "sad/b.wav"):
        made("clips", name).rmdir()
        Path("clips", name).write_bytes(b"x")
    Path("clips/joy/a.txt").write_text("Où, là?", encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        main(["corpora", "init", "clips", "--label-from", "folder"])
    assert left.value.code == 0
    assert "clips/manifest.csv: 2 clips" in capsys.readouterr().out
    written = Path("clips/manifest.csv").read_bytes().decode("utf-8-sig")
    assert written == 'path,text,speaker,split,emotion\r\njoy/a.wav,"Où, là?",,,joy\r\nsad/b.wav,,,,sad\r\n'
    with pytest.raises(SystemExit) as left:
        main(["corpora", "init", "clips"])
    assert left.value.code == 1
    assert "is there already; edit it" in capsys.readouterr().err
