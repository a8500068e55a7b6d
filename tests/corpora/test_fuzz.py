"""Damaged annotation: told in one line, or read whole. Never a traceback, never a silently shorter corpus."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from corpora.trees import TREES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mer.cache import MerError
from mer.stages.corpora.counted import CountedCorpus
from mer.stages.corpora.counts import ALL, Published
from mer.stages.protocols import Corpus

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
CASES = [(name, file) for name, files in FILES.items() for file in files]
# Nobody published how long a folder of one's own is: rows cut off at a line's end cannot be missed there.
UNCOUNTED = {"folder"}


def strict(corpus: Corpus, number: int) -> Corpus:
    """The adapter with its own count set to the tree's, so that a lost row shows as it would in the real corpus."""
    import dataclasses

    changes = {"allow_count_mismatch": False} if hasattr(corpus, "allow_count_mismatch") else {}
    made: Corpus = dataclasses.replace(corpus, **changes)  # type: ignore[type-var]
    return made


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Corpus, int]]:
    """One small tree per corpus without media, and its number of utterances."""
    found = {}
    for name in FILES:
        corpus = TREES[name](tmp_path_factory.mktemp("fuzz") / name)
        found[name] = (corpus, len(corpus.utterances()))
    return found


def outcome(corpus: Corpus) -> int | str:
    """Number of utterances, or what was told."""
    try:
        return len(corpus.utterances())
    except MerError as error:
        told = str(error)
    assert told
    assert "\n" not in told
    return told


def damage(content: bytes, how: str, random_seed: int, junk: bytes) -> bytes:
    """Return the content truncated, re-encoded, re-ordered, with a changed byte, or replaced."""
    dice = random.Random(random_seed)
    if how == "truncated":
        return content[: dice.randrange(len(content))]
    if how == "changed":
        place = dice.randrange(len(content))
        return content[:place] + bytes([dice.randrange(256)]) + content[place + 1 :]
    if how == "inserted":
        place = dice.randrange(len(content))
        return content[:place] + junk + content[place:]
    if how == "binary":
        return junk
    if how == "reordered":
        first, *rest = content.splitlines(keepends=True)
        dice.shuffle(rest)
        return b"".join([first, *rest])
    text = content.decode("utf-8", "replace")
    return text.encode(how, "replace")


WAYS = ["truncated", "changed", "inserted", "binary", "reordered", "utf-16", "cp1252", "utf-8-sig", "utf-7", "cp037"]


@pytest.mark.parametrize(("name", "file"), CASES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(how=st.sampled_from(WAYS), seed=st.integers(0, 2**32), junk=st.binary(max_size=60))
def test_damaged_annotation_is_told_or_whole(
    trees: dict[str, tuple[Corpus, int]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    file: str,
    how: str,
    seed: int,
    junk: bytes,
) -> None:
    corpus, number = trees[name]
    path = corpus.root / file
    whole = path.read_bytes()
    try:
        path.write_bytes(damage(whole, how, seed, junk))
        with monkeypatch.context() as patch:
            set_published(patch, corpus, number)
            told = outcome(strict(corpus, number))
    finally:
        path.write_bytes(whole)
    if isinstance(told, int) and not (name in UNCOUNTED and how in ("truncated", "changed", "inserted")):
        assert told == number


def set_published(patch: pytest.MonkeyPatch, corpus: Corpus, number: int) -> None:
    """Publish the tree's own number of utterances in place of the corpus', as every adapter checks it."""
    import sys

    module = sys.modules[type(corpus).__module__]
    if hasattr(module, "SERIES"):
        patch.setattr(module, "SERIES", {"train": 2, "val": 1, "test": 1})
    if isinstance(corpus, CountedCorpus):
        patch.setattr(type(corpus), "counts", Published({ALL: number}))
        return
    original = module.__dict__.get("assert_counts")
    if original is None:
        return

    def counted(name: str, published: Published, utterances: object, allow: bool) -> object:
        return original(name, Published({ALL: number}), utterances, allow)

    patch.setattr(module, "assert_counts", counted)


def test_trees_are_read_with_their_own_counts(
    trees: dict[str, tuple[Corpus, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for corpus, number in trees.values():
        with monkeypatch.context() as patch:
            set_published(patch, corpus, number)
            assert outcome(strict(corpus, number)) == number


@pytest.mark.parametrize("name", FILES)
def test_an_annotation_file_that_vanished_is_told(
    tmp_path: Path, trees: dict[str, tuple[Corpus, int]], name: str
) -> None:
    import dataclasses

    corpus, _ = trees[name]
    for file in FILES[name]:
        copy = tmp_path / str(len(list(tmp_path.iterdir())))
        ignore = shutil.ignore_patterns("*.mp4", "*.avi", "*.wav", "*.flv")
        shutil.copytree(corpus.root, copy, ignore=ignore)
        (copy / file).unlink()
        moved: Corpus = dataclasses.replace(strict(corpus, 0), root=copy)  # type: ignore[type-var]
        assert isinstance(outcome(moved), str), file
