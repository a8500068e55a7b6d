"""Every adapter keeps every promise of `CorpusTests`, on a small tree in its corpus' true layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpora.trees import TREES

from mer.stages.corpora.testing import CorpusTests
from mer.stages.protocols import Corpus
from mer.stages.registry import CORPORA


@pytest.mark.parametrize("name", TREES)
class TestAdapter(CorpusTests):
    @pytest.fixture
    def corpus(self, tmp_path: Path, name: str) -> Corpus:
        return TREES[name](tmp_path / "root")


def test_every_registered_corpus_has_a_tree() -> None:
    assert set(CORPORA) - {"demo"} <= set(TREES)
