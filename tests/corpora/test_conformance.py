"""Every adapter keeps every promise of `CorpusTests`, on a small tree in its corpus' true layout."""

from __future__ import annotations

import pytest
from corpora.trees import TREES

from mer.stages.corpora.testing import CorpusTests
from mer.stages.interfaces import Corpus
from mer.stages.registry import CORPORA

MADE: dict[str, Corpus] = {}


@pytest.mark.parametrize("name", TREES)
class TestAdapter(CorpusTests):
    @pytest.fixture
    def corpus(self, tmp_path_factory: pytest.TempPathFactory, name: str) -> Corpus:
        """One tree for all tests of an adapter: they change nothing."""
        if name not in MADE:
            MADE[name] = TREES[name](tmp_path_factory.mktemp("tree") / "root")
        return MADE[name]


def test_every_registered_corpus_has_a_tree() -> None:
    assert set(CORPORA) - {"demo"} <= set(TREES)
