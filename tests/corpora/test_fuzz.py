"""Damaged annotation: told in one line, or read whole. Never a traceback, never a silently shorter corpus."""

from __future__ import annotations

import dataclasses
import functools
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from corpora.trees import TREES
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from mer.cache import MerError
from mer.stages.corpora.counted import CountedCorpus
from mer.stages.corpora.counts import Published, groups_of
from mer.stages.interfaces import Corpus
from mer.stages.utterance import Utterance

# Per tree the annotation files to damage.
FILES = {
    "folder": ["manifest.csv"],
    "meld": ["train_sent_emo.csv", "test_sent_emo.csv"],
    "meld-dyadic": ["train_sent_emo_dya.csv"],
    "iemocap": [
        "IEMOCAP_full_release/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt",
        "IEMOCAP_full_release/Session2/dialog/transcriptions/Ses02M_impro01.txt",
    ],
    "m3ed": ["annotation.json", "splitInfo/movie_list_train.txt"],
    "cmu-mosi": ["label.csv"],
    "cmu-mosei-sdk": [
        "CMU_MOSEI_Labels.csd",
        "Raw/Transcript/Segmented/Combined/-3g5yACwYnA.txt",
        "cmu_mosei_std_folds.py",
    ],
    "ch-sims": ["label.csv"],
    "ch-sims-first": ["metadata/sentiment/label_M.csv", "metadata/sentiment/label_T.csv", "metadata/train_index.csv"],
    "emorynlp": ["emorynlp_train_final.csv"],
    "mer2023": ["train-label.csv", "transcription-engchi-polish.csv"],
    "msp-improv": ["Evalution.txt"],
    "crema-d": ["SentenceFilenames.csv"],
}
Tree = Callable[[str], tuple[Corpus, list[Utterance]]]
CASES = [(name, file) for name, files in FILES.items() for file in files]
# Nobody published how long a folder of one's own is: rows cut off at a line's end cannot be missed there.
UNCOUNTED = {"folder"}
# A line that lost its first letter is one more remark of a rater here, and a video's name one that nobody uses: only
# the counts tell.
TOLD_BY_COUNTS = {"Ses01F_impro01.txt", "Evalution.txt", "cmu_mosei_std_folds.py"}
# Other files number its rows.
ORDERED = {"label_M.csv"}
# A table that covers more clips than are labelled, and not all of these.
COVERS_OTHERS = {"transcription-engchi-polish.csv"}
# Without them there are no transcripts, or the files themselves are listed.
OPTIONAL = {"transcription-engchi-polish.csv", "SentenceFilenames.csv"}
WITHOUT_MANIFEST = {"manifest.csv"}
"""Without it the clips themselves are listed, under other ids."""


def strict(corpus: Corpus) -> Corpus:
    """The adapter that refuses other counts, so that a lost row shows as it would in the real corpus."""
    changes = {"allow_count_mismatch": False} if hasattr(corpus, "allow_count_mismatch") else {}
    made: Corpus = dataclasses.replace(corpus, **changes)  # type: ignore[type-var]
    return made


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Give a small tree of a corpus, made once, and its utterances."""

    @functools.cache
    def make(name: str) -> tuple[Corpus, list[Utterance]]:
        corpus = TREES[name](tmp_path_factory.mktemp("fuzz") / name)
        return corpus, list(corpus.utterances())

    return make


def outcome(corpus: Corpus) -> list[Utterance] | str:
    """The utterances, or what was told."""
    try:
        return list(corpus.utterances())
    except MerError as error:
        told = str(error)
    assert told
    assert "\n" not in told
    return told


def damage(content: bytes, how: str, random_seed: int, junk: bytes) -> tuple[bytes, int]:
    """Return the content truncated, re-encoded, re-ordered, with a changed byte, or replaced; and where that begins."""
    dice = random.Random(random_seed)
    place = dice.randrange(len(content))
    if how == "truncated":
        return content[:place], place
    if how == "changed":
        return content[:place] + bytes([dice.randrange(256)]) + content[place + 1 :], place
    if how == "inserted":
        return content[:place] + junk + content[place:], place
    if how == "binary":
        return junk, 0
    if how == "reordered":
        first, *rest = content.splitlines(keepends=True)
        dice.shuffle(rest)
        return b"".join([first, *rest]), len(first)
    try:
        return content.decode("utf-8").encode(how), 0
    except UnicodeError:
        reject()  # bytes that are no text, or letters that this encoding does not have


WAYS = ["truncated", "changed", "inserted", "binary", "reordered", "utf-16", "utf-8-sig", "cp1252", "gb18030", "cp037"]
LOCAL = {"truncated", "changed", "inserted"}


def check_reading(whole: list[Utterance], found: list[Utterance], file: str, how: str, in_header: bool) -> None:
    """A reading of a damaged file is right: all of it, but for the one place that is damaged."""
    by_key = {utterance.key: replace(utterance, turn=0) for utterance in found}  # a turn follows from its neighbours
    other = [one for one in whole if by_key.get(one.key) != replace(one, turn=0)]
    if how not in LOCAL:
        assert other == []
    elif (in_header and file.endswith(".csv")) or (how == "truncated" and file in COVERS_OTHERS):
        for one in other:  # an optional column, or the rest of the transcripts, is not there
            assert without_some(by_key[one.key], one)
    elif file == "manifest.csv" and how == "truncated":  # the kind of its last column follows from what is left
        kept = [(replace(one, labels={}, turn=0), by_key[one.key]) for one in other if one.key in by_key]
        assert len([one for one, found in kept if one != replace(found, labels={})]) <= 1
    elif file.endswith(".csd"):  # HDF5 keeps the labels of a video together, without a checksum
        assert len({one.dialogue for one in other}) <= 1
    else:
        assert len(other) <= 1


def without_some(found: Utterance, whole: Utterance) -> bool:
    """Whether an utterance says nothing that the whole one does not say, beside labels of new names."""
    pairs = [(getattr(found, f.name), getattr(whole, f.name)) for f in dataclasses.fields(found) if f.name != "labels"]
    pairs += [(found.labels.get(name), value) for name, value in whole.labels.items()]
    return all(one == other or not one or one == -1 for one, other in pairs)


@pytest.mark.parametrize(("name", "file"), CASES)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(how=st.sampled_from(WAYS), seed=st.integers(0, 2**32), junk=st.binary(max_size=60))
def test_damaged_annotation_is_told_or_whole(
    tree: Tree,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    file: str,
    how: str,
    seed: int,
    junk: bytes,
) -> None:
    corpus, whole = tree(name)
    path = corpus.root / file
    if (how == "reordered" and path.name in ORDERED) or (how == "gb18030" and "zh" not in corpus.info().languages):
        reject()
    content = path.read_bytes()
    damaged, place = damage(content, how, seed, junk)
    try:
        path.write_bytes(damaged)
        with monkeypatch.context() as patch:
            set_published(patch, corpus, whole)
            found = outcome(strict(corpus))
    finally:
        path.write_bytes(content)
    if isinstance(found, str):
        counted = "counts differ" in found and (how == "truncated" or path.name in TOLD_BY_COUNTS)
        assert counted or path.name in found
        return
    assert len(found) == len(whole) or (name in UNCOUNTED and how in LOCAL)
    check_reading(whole, found, path.name, how, in_header=place < content.find(b"\n"))


def set_published(patch: pytest.MonkeyPatch, corpus: Corpus, whole: list[Utterance]) -> None:
    """Publish the tree's own numbers in place of the corpus', as every adapter checks them."""
    module = sys.modules[type(corpus).__module__]
    if hasattr(module, "SERIES"):
        patch.setattr(module, "SERIES", {"train": 2, "val": 1, "test": 1})
    numbers = Published(Counter(group for utterance in whole for group in groups_of(utterance)))
    if isinstance(corpus, CountedCorpus):
        patch.setattr(type(corpus), "counts", numbers)
        return
    original = module.__dict__.get("assert_counts")
    if original is None:
        return

    def counted(name: str, published: Published, utterances: object, allow: bool) -> object:
        return original(name, numbers, utterances, allow)

    patch.setattr(module, "assert_counts", counted)


@pytest.mark.parametrize("name", FILES)
def test_trees_are_read_with_their_own_counts(tree: Tree, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    corpus, whole = tree(name)
    set_published(monkeypatch, corpus, whole)
    assert outcome(strict(corpus)) == whole


@pytest.mark.parametrize(("name", "file"), CASES)
def test_an_annotation_file_that_vanished_is_told(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    corpus, whole = tree(name)
    path = corpus.root / file
    path.rename(path.with_name("gone"))
    set_published(monkeypatch, corpus, whole)
    try:
        found = outcome(strict(corpus))
    finally:
        path.with_name("gone").rename(path)
    if path.name in WITHOUT_MANIFEST:
        assert not isinstance(found, str)
        assert {one.media for one in found} <= {one.media for one in whole}
    elif path.name in OPTIONAL:
        assert not isinstance(found, str)
        assert all(without_some(one, other) for one, other in zip(found, whole, strict=True))
    else:
        assert isinstance(found, str)
        assert path.name in found or f"{path.parent}: no label files (Ses*.txt) found" in found
