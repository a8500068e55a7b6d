"""`CorpusTests`: what a corpus adapter promises, as a test class to inherit from. Needs pytest.

class TestMine(CorpusTests):
def make(self, folder: Path) -> Corpus:
...  # write a small tree in the true layout of the corpus into the empty folder
return MyCorpus(folder)
"""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest

from mer.cache import MerError

from ..interfaces import Corpus, CorpusInfo, LabelSpec
from ..utterance import Utterance

KNOWN_PROTOCOLS = {"official", "session-folds", "speaker-folds", "session5-test", "emobox-folds", "kfold"}


class CorpusTests:
    """Every promise that extraction, packing and training rely on."""

    needs_files = True
    """False for a corpus that makes its own files."""

    def make(self, folder: Path) -> Corpus:
        """Write a small tree of the corpus into an empty folder and return its adapter."""
        raise NotImplementedError

    @pytest.fixture
    def corpus(self, tmp_path: Path) -> Corpus:
        return self.make(tmp_path)

    @pytest.fixture
    def utterances(self, corpus: Corpus) -> list[Utterance]:
        found = list(corpus.utterances())
        assert found
        return found

    def test_is_a_frozen_dataclass_with_its_root_first(self, corpus: Corpus) -> None:
        assert dataclasses.is_dataclass(corpus)
        assert dataclasses.fields(corpus)[0].name == "root"
        with pytest.raises(dataclasses.FrozenInstanceError):
            corpus.root = Path()
        assert pickle.loads(pickle.dumps(corpus)) == corpus

    def test_facts_need_no_files(self, corpus: Corpus, tmp_path: Path) -> None:
        info = dataclasses.replace(corpus, root=tmp_path / "nowhere").info()  # type: ignore[type-var]
        check_info(info)
        assert not (tmp_path / "nowhere").exists()

    def test_facts_are_complete(self, corpus: Corpus) -> None:
        check_info(corpus.info())

    def test_a_missing_or_empty_folder_is_told_in_one_line(self, corpus: Corpus, tmp_path: Path) -> None:
        if not self.needs_files:
            pytest.skip("makes its own files")
        (tmp_path / "empty").mkdir()
        for name in ("nowhere", "empty"):
            with pytest.raises(MerError) as caught:
                dataclasses.replace(corpus, root=tmp_path / name).utterances()  # type: ignore[type-var]
            assert "\n" not in str(caught.value)
            assert name in str(caught.value)

    def test_listing_is_repeatable_and_writes_nothing(self, corpus: Corpus) -> None:
        first = list(corpus.utterances())
        before = sorted(corpus.root.rglob("*"))
        assert list(corpus.utterances()) == first
        assert sorted(corpus.root.rglob("*")) == before
        assert pickle.loads(pickle.dumps(first)) == first

    def test_keys_are_unique_and_printable(self, utterances: list[Utterance]) -> None:
        counts = Counter(utterance.key for utterance in utterances)
        assert counts.most_common(1)[0][1] == 1
        assert all(key.strip() == key and key.isprintable() and key for key in counts)

    def test_media_stay_inside_the_root(self, corpus: Corpus, utterances: list[Utterance]) -> None:
        paths = {path for u in utterances for path in (u.media, u.sound_media) if path is not None}
        for path in paths:
            assert not PurePosixPath(path).is_absolute(), path
            assert ".." not in PurePosixPath(path).parts, path
        assert any((corpus.root / path).is_file() for path in paths) or not paths

    def test_spans_regions_and_turns_make_sense(self, utterances: list[Utterance]) -> None:
        for u in utterances:
            assert 0.0 <= (u.start_seconds or 0.0) < (math.inf if u.end_seconds is None else u.end_seconds), u.key
            if u.face_region is not None:
                left, top, right, bottom = u.face_region
                assert 0 <= left < right <= 1, u.key
                assert 0 <= top < bottom <= 1, u.key
        places = Counter((u.dialogue, u.turn) for u in utterances if u.dialogue and u.turn >= 0)
        assert not places or places.most_common(1)[0][1] == 1, "two utterances are one turn of a dialogue"

    def test_labels_are_those_of_the_facts(self, corpus: Corpus, utterances: list[Utterance]) -> None:
        specs = corpus.info().labels
        for utterance in utterances:
            assert set(utterance.labels) <= set(specs), utterance.key
            for target, label in utterance.labels.items():
                assert label is None or fits(label, specs[target]), (utterance.key, target, label)
        for target in specs:
            assert any(u.labels.get(target) is not None for u in utterances), f"nothing is labelled with {target}"

    def test_protocols_have_what_they_divide_by(self, corpus: Corpus, utterances: list[Utterance]) -> None:
        protocols = corpus.info().protocols
        if "official" in protocols:
            assert {"train", "test"} <= {utterance.split for utterance in utterances}
        if {"session-folds", "session5-test", "emobox-folds"} & set(protocols):
            assert all(utterance.session for utterance in utterances)
        if "speaker-folds" in protocols:
            assert all(utterance.speaker for utterance in utterances)


def check_info(info: CorpusInfo) -> None:
    """Assert that the facts about a corpus are complete and can be written as JSON."""
    assert info.name
    assert info.title
    assert info.license
    assert info.channel in ("center", "mean", "first")
    assert info.protocols
    assert set(info.protocols) <= KNOWN_PROTOCOLS
    for target, spec in info.labels.items():
        assert target
        assert spec.kind in ("class", "multi", "real"), target
        assert len(set(spec.classes)) == len(spec.classes), target
        assert bool(spec.classes) == (spec.kind != "real"), target
    json.dumps(dataclasses.asdict(info), allow_nan=False)


def fits(label: object, spec: LabelSpec) -> bool:
    """Tell whether a label is a value of its target."""
    if spec.kind == "class":
        return label in spec.classes
    if spec.kind == "multi":
        return isinstance(label, tuple) and set(label) <= set(spec.classes) and len(set(label)) == len(label)
    return isinstance(label, float | int) and math.isfinite(label)
