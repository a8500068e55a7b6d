"""The protocols a corpus names work on its real lists: published sizes, and no speaker on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mer.pipeline.extraction.publish import utterance_table
from mer.pipeline.training.folds import SplitRequest, Splits
from mer.pipeline.training.splits import make_splits
from mer.stages.corpora.emodb import EmoDbCorpus
from mer.stages.corpora.iemocap import IemocapCorpus
from mer.stages.corpora.m3ed import M3edCorpus
from mer.stages.corpora.meld import MeldCorpus
from mer.stages.corpora.ravdess import RavdessCorpus
from mer.stages.interfaces import Corpus


def splits_of(corpus: Corpus, protocol: str, target: str = "emotion") -> tuple[Splits, Sequence[str]]:
    """Folds of a protocol, and the speaker of every row."""
    utterances = corpus.utterances()
    unknown = np.full(len(utterances), np.nan)
    table = utterance_table(utterances, corpus.info().labels, unknown)
    copies = np.full(len(utterances), -1, np.int64)
    return make_splits(protocol, SplitRequest(table, table.labels[target], copies)), table.speaker


def test_every_named_protocol_of_iemocap(iemocap_tree: Path) -> None:
    corpus = IemocapCorpus(iemocap_tree, allow_count_mismatch=True)
    folds = splits_of(corpus, "session-folds")[0].folds
    assert [len(fold.test) for fold in folds] == [1085, 1023, 1151, 1031, 1241]
    (last,) = splits_of(corpus, "session5-test", "emotion6")[0].folds
    assert len(last.test) == 1623
    splits, speakers = splits_of(corpus, "speaker-folds")
    assert len(splits.folds) == 10
    assert sum(len(fold.test) for fold in splits.folds) == 5531
    for fold in splits.folds:
        tested = {speakers[row] for row in fold.test}
        assert len(tested) == 1
        assert not tested & {speakers[row] for row in (*fold.train, *fold.val)}


def test_official_splits_of_m3ed_and_meld(m3ed_tree: Path, shared_data: Path) -> None:
    (fold,) = splits_of(M3edCorpus(m3ed_tree, allow_count_mismatch=True), "official")[0].folds
    assert (len(fold.train), len(fold.val), len(fold.test)) == (17420, 2819, 4198)
    (fold,) = splits_of(MeldCorpus(shared_data / "annotations/meld"), "official", "sentiment")[0].folds
    assert (len(fold.train), len(fold.val), len(fold.test)) == (9989, 1109, 2610)


@pytest.mark.parametrize(("protocol", "number"), [("emobox-folds", 6), ("speaker-folds", 24)])
def test_folds_of_ravdess_share_no_speaker(shared_data: Path, protocol: str, number: int) -> None:
    splits, speakers = splits_of(RavdessCorpus(shared_data / "speech/ravdess_16k_flac"), protocol)
    assert len(splits.folds) == number
    assert sum(len(fold.test) for fold in splits.folds) == 1440
    for fold in splits.folds:
        assert not {speakers[row] for row in fold.test} & {speakers[row] for row in (*fold.train, *fold.val)}


def test_emobox_folds_of_emodb_would_share_speakers(shared_data: Path, tmp_path: Path) -> None:
    """Why they are not offered: every actor is tested in every fold."""
    import json

    folder = shared_data / "annotations/emobox/emodb"
    for fold in range(1, 6):
        text = (folder / f"fold_{fold}/emodb_test_fold_{fold}.jsonl").read_text()
        assert len({json.loads(line)["key"].partition("-")[2][:2] for line in text.splitlines()}) == 10
    assert "emobox-folds" not in EmoDbCorpus(tmp_path).info().protocols
