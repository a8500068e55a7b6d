"""docs/corpora.md: its example is a working adapter of twenty lines, and its table names every corpus."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from synthetic import write_clip

from mer.pipeline.cli import main
from mer.stages.corpora.testing import CorpusTests
from mer.stages.registry import CORPORA

PAGE = Path(__file__).resolve().parents[2] / "docs" / "corpora.md"


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example as `my_corpus.py`, importable."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "my_corpus.py").write_text(block("imports") + "\n\n" + block("example"))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "my_corpus", raising=False)
    return folder


def test_the_example_has_twenty_lines() -> None:
    assert sum(bool(line.strip()) for line in block("example").splitlines()) <= 20


@pytest.mark.parametrize("test", [name for name in vars(CorpusTests) if name.startswith("test_")])
def test_the_example_keeps_every_promise(module: Path, tmp_path: Path, test: str) -> None:
    names = {**vars(importlib.import_module("my_corpus")), "CorpusTests": CorpusTests}
    exec(block("tests"), names)
    suite = names["TestStage"]()
    root = tmp_path / "corpus"
    root.mkdir()
    corpus = suite.make(root)
    offered = {"corpus": corpus, "utterances": list(corpus.utterances()), "tmp_path": tmp_path}
    method = getattr(suite, test)
    wanted = method.__func__.__code__.co_varnames[1 : method.__func__.__code__.co_argcount]
    method(**{name: offered[name] for name in wanted})


def test_the_example_is_checked_by_its_path(module: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "takes.csv").write_text("take,actor,line,mood\n1,ann,Not now.,angry\n2,ben,Later.,calm\n")
    write_clip(tmp_path / "clips/take001.mp4", 0.4)
    with pytest.raises(SystemExit) as left:
        main(["corpora", "check", "my_corpus:StageCorpus", "--root", str(tmp_path)])
    assert left.value.code == 1
    assert "clips/take002.mp4" in capsys.readouterr().out


def test_the_table_names_every_corpus_and_its_protocols() -> None:
    from mer.stages.registry import find

    rows = dict(re.findall(r"^\| `([\w-]+)` \|(.*)\|$", PAGE.read_text(), re.MULTILINE))
    assert set(rows) == set(CORPORA) - {"demo"}
    for name, row in rows.items():
        info = find("corpus", name)(root=Path("nowhere")).info()
        assert all(f"`{protocol}`" in row for protocol in info.protocols), name
