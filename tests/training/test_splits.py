"""Folds: nobody is on both sides, every row is tested once, and leaks are refused."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from mer.cache import LabelColumn, MerError, UtteranceTable
from mer.pipeline.extraction.publish import utterance_table
from mer.pipeline.training.folds import SplitRequest
from mer.pipeline.training.leaks import copies_of
from mer.pipeline.training.splits import make_splits, splits_digest
from mer.stages.utterance import Utterance

from .toy import TARGETS, toy_utterances


def request_for(utterances: list[Utterance] | None = None, **changes: object) -> SplitRequest:
    utterances = toy_utterances() if utterances is None else utterances
    table = utterance_table(utterances, TARGETS, np.full(len(utterances), np.nan))
    request = SplitRequest(table, table.labels["emotion"], np.full(len(utterances), -1))
    return replace(request, **changes)  # type: ignore[arg-type]


def values(table: UtteranceTable, column: str, rows: np.ndarray) -> set[str]:
    return {getattr(table, column)[row] for row in rows}


@pytest.mark.parametrize(
    ("protocol", "count"), [("session-folds", 5), ("emobox-folds", 5), ("kfold", 5), ("speaker-folds", 10)]
)
def test_every_labelled_row_is_tested_once(protocol: str, count: int) -> None:
    request = request_for()
    splits = make_splits(protocol, request)
    assert len(splits.folds) == count
    tested = np.concatenate([fold.test for fold in splits.folds])
    assert sorted(tested) == sorted(request.rows)
    for fold in splits.folds:
        for kind in ("speaker", "dialogue"):
            seen = np.concatenate([fold.train, fold.val])
            assert not values(request.table, kind, seen) & values(request.table, kind, fold.test)
        assert not values(request.table, "dialogue", fold.train) & values(request.table, "dialogue", fold.val)


def test_official_takes_the_corpus_splits() -> None:
    request = request_for()
    fold = make_splits("official", request).folds[0]
    split = np.array(request.table.split)
    for name in ("train", "val", "test"):
        assert set(split[getattr(fold, name)]) == {name}


def test_official_without_validation_takes_it_by_dialogue_from_training() -> None:
    utterances = [replace(u, split="train" if u.split == "val" else u.split) for u in toy_utterances()]
    request = request_for(utterances)
    fold = make_splits("official", request).folds[0]
    assert values(request.table, "split", fold.val) == {"train"}
    assert not values(request.table, "dialogue", fold.train) & values(request.table, "dialogue", fold.val)
    assert 0.05 < len(fold.val) / (len(fold.train) + len(fold.val)) < 0.3


def test_validation_is_by_speaker_where_there_are_no_dialogues() -> None:
    request = request_for([replace(u, dialogue="") for u in toy_utterances()])
    for fold in make_splits("session-folds", request).folds:
        assert not values(request.table, "speaker", fold.train) & values(request.table, "speaker", fold.val)


def test_session5_tests_the_last_session_only() -> None:
    utterances = [replace(u, session=u.session.replace("Ses5", "Ses10")) for u in toy_utterances()]
    request = request_for(utterances)
    folds = make_splits("session5-test", request).folds
    assert [values(request.table, "session", fold.test) for fold in folds] == [{"Ses10"}]


def test_speaker_folds_leave_out_shared_dialogues_and_say_so() -> None:
    request = request_for()
    splits = make_splits("speaker-folds", request)
    fold = splits.folds[0]
    partner = "s1b" if values(request.table, "speaker", fold.test) == {"s1a"} else "s1a"
    assert partner not in values(request.table, "speaker", np.concatenate([fold.train, fold.val]))
    assert any("share a dialogue with the test speaker" in note for note in splits.notes)


def test_validation_keeps_dialogues_whole_when_an_utterance_names_none() -> None:
    utterances = [replace(u, split="train" if u.split == "val" else u.split) for u in toy_utterances()]
    request = request_for([replace(utterances[0], dialogue=""), *utterances[1:]])
    splits = make_splits("official", request)
    fold = splits.folds[0]
    assert not values(request.table, "dialogue", fold.train) & values(request.table, "dialogue", fold.val) - {""}
    assert "1 training utterances name no dialogue" in splits.notes[0]


def test_validation_that_tears_dialogues_apart_says_so() -> None:
    utterances = [replace(u, dialogue=u.split.replace("val", "train"), split=u.split) for u in toy_utterances()]
    request = request_for([replace(u, split=u.split.replace("val", "train")) for u in utterances])
    splits = make_splits("official", request)
    fold = splits.folds[0]
    assert values(request.table, "dialogue", fold.train) == values(request.table, "dialogue", fold.val) == {"train"}
    assert not values(request.table, "speaker", fold.train) & values(request.table, "speaker", fold.val)
    assert "1 dialogues are too few to hold one out for validation" in splits.notes[0]


def test_nothing_to_hold_out_is_told() -> None:
    alike = request_for([replace(u, split="train" if u.split == "val" else u.split) for u in toy_utterances()])
    copies = np.where(np.array(alike.table.split) == "train", 1, -1)  # the training side is one clip all over
    with pytest.raises(MerError, match="too few to hold out a validation part; use fewer --folds or more data"):
        make_splits("official", replace(alike, copies=copies))


@pytest.mark.parametrize("speaker", [True, False])
def test_kfold_does_not_tear_dialogues_apart_by_itself(speaker: bool) -> None:
    utterances = [
        replace(u, dialogue=f"d{i % 3}", speaker=u.speaker if speaker else "") for i, u in enumerate(toy_utterances())
    ]
    with pytest.raises(MerError, match=r"only 3 groups of dialogue; lower --folds, or .* --group-by none"):
        make_splits("kfold", request_for(utterances))
    splits = make_splits("kfold", request_for(utterances, folds=3))
    assert splits.apart == ("dialogue", "copy")
    assert any("a speaker may be in several folds" in note for note in splits.notes) is speaker
    assert make_splits("kfold", request_for(utterances, group_by="none")).apart == ("copy",)


@pytest.mark.parametrize("kind", ["speaker", "dialogue"])
def test_kfold_cannot_keep_together_what_nobody_names(kind: str) -> None:
    with pytest.raises(MerError, match=f"no labelled utterance names a {kind}"):
        make_splits("kfold", request_for([replace(u, **{kind: ""}) for u in toy_utterances()], group_by=kind))


@pytest.mark.parametrize("shift", [0, 10])
def test_numbers_are_stratified_by_their_sign_or_around_their_median(shift: int) -> None:
    """Rows 0 to 119 in groups of their own, a third of them at the lower end: every fold gets its share of those."""
    numbers = np.where(np.arange(120) < 40, -1.0, 1.0) + shift
    request = request_for(label=LabelColumn("real", (), numbers), group_by="none")
    for fold in make_splits("kfold", request).folds:
        assert (numbers[fold.test] < shift).mean() == pytest.approx(1 / 3, abs=0.02)


def test_fewer_folds_merge_groups() -> None:
    folds = make_splits("session-folds", request_for(folds=2)).folds
    assert sorted(len(fold.name.split("+")) for fold in folds) == [2, 3]


def test_merged_folds_are_about_equally_large() -> None:
    """Sessions of 6, 3, 2 and 1 dialogues, the largest shared out first."""
    session = np.repeat([1, 2, 3, 4], [6, 3, 2, 1])
    utterances = [replace(u, session=f"Ses{session[i % 12]}", speaker="") for i, u in enumerate(toy_utterances())]
    utterances = [replace(u, dialogue=f"d{i % 12}") for i, u in enumerate(utterances)]
    folds = make_splits("session-folds", request_for(utterances, folds=2)).folds
    assert [fold.name for fold in folds] == ["session-Ses1", "session-Ses2+Ses3+Ses4"]


LABELS = {
    "class": LabelColumn("class", ("a", "b"), np.arange(60) % 3 % 2),
    "real": LabelColumn("real", (), np.where(np.arange(60) % 3 % 2, -1.0, 1.0 + np.arange(60))),
    # the second label, the rarer one, decides
    "multi": LabelColumn("multi", ("a", "b"), np.stack([np.arange(60) % 2, np.arange(60) % 3 == 1], 1).astype(float)),
}


@pytest.mark.parametrize("kind", list(LABELS))
@pytest.mark.parametrize(("fraction", "parts"), [(0.15, 7), (0.25, 4), (0.4, 2), (0.5, 2)])
def test_every_part_has_its_share_of_each_class(kind: str, fraction: float, parts: int) -> None:
    """Twenty of sixty rows are of the rarer class: four in each fifth, and so many in what is held out."""
    table = UtteranceTable.of([str(i) for i in range(60)], {})
    request = SplitRequest(table, LABELS[kind], np.full(60, -1), val_fraction=fraction, seed=3)
    rare = np.arange(60) % 3 == 1
    for fold in make_splits("kfold", request).folds:
        assert (len(fold.test), rare[fold.test].sum()) == (12, 4)
        assert len(fold.val) in (48 // parts, 48 // parts + 1)
        assert rare[fold.val].sum() in (16 // parts, 16 // parts + 1)


@pytest.mark.parametrize(
    ("protocol", "changes", "told"),
    [
        ("oficial", {}, "did you mean 'official'"),
        ("session-folds", {"folds": 9}, "9 folds were asked for but there are 5 sessions"),
        ("kfold", {"folds": 500}, "500 folds were asked for but there are only"),
        ("kfold", {"folds": 1}, "at least 2 folds"),
        ("official", {"folds": 3}, "protocol 'official' has one fold; leave --folds out"),
        ("session5-test", {"folds": 2}, "protocol 'session5-test' has one fold; leave --folds out"),
        ("session-folds", {"group_by": "dialogue"}, "protocol 'session-folds' knows no --group-by"),
    ],
)
def test_impossible_requests_are_told(protocol: str, changes: dict[str, object], told: str) -> None:
    with pytest.raises(MerError, match=told):
        make_splits(protocol, request_for(**changes))


def test_no_splits_suggests_folds() -> None:
    with pytest.raises(MerError, match="use --protocol kfold"):
        make_splits("official", request_for([replace(u, split="") for u in toy_utterances()]))


def test_one_class_only() -> None:
    request = request_for([replace(u, labels={**u.labels, "emotion": "sad"}) for u in toy_utterances()])
    with pytest.raises(MerError, match="all training utterances are 'sad'; a head needs at least two classes"):
        make_splits("kfold", request)


def test_a_class_tested_but_never_trained() -> None:
    def relabel(u: Utterance) -> Utterance:
        name = u.labels["emotion"]
        return replace(u, labels={**u.labels, "emotion": "happy" if name == "sad" and u.split != "test" else name})

    with pytest.raises(MerError, match="class 'sad' is tested but absent from its training part"):
        make_splits("official", request_for([relabel(u) for u in toy_utterances()]))


def test_no_labels_at_all() -> None:
    request = request_for([replace(u, labels={}) for u in toy_utterances()])
    with pytest.raises(MerError, match="no utterance has a label"):
        make_splits("official", request)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_shared_dialogue_is_refused_and_can_be_allowed(part: str) -> None:
    utterances = toy_utterances()
    inside = next(u for u in utterances if u.split == part)
    leaky = [replace(u, dialogue=inside.dialogue) if u.key == "s5/d0_u4" else u for u in utterances]
    with pytest.raises(MerError, match=r"leak in fold official: 1 x dialogue in both training and test.*--allow-leak"):
        make_splits("official", request_for(leaky))
    assert any("leak" in note for note in make_splits("official", request_for(leaky), allow_leak=True).notes)


def test_speakers_may_cross_officially_but_not_between_sessions() -> None:
    leaky = [replace(u, speaker="same") for u in toy_utterances()]
    make_splits("official", request_for(leaky))
    with pytest.raises(MerError, match="x speaker in both training and test"):
        make_splits("session-folds", request_for(leaky))


def test_copies_are_found_and_kept_together_by_kfold() -> None:
    copies = np.full(120, -1)
    copies[[0, 4]] = 7  # session 1 (train) and session 5 (test)
    with pytest.raises(MerError, match="identical text and media"):
        make_splits("official", request_for(copies=copies))
    for fold in make_splits("kfold", request_for(copies=copies, group_by="none")).folds:
        assert len({0, 4} & set(fold.test)) != 1


@pytest.mark.parametrize("seen", [0, 3])  # rows of training and of validation
def test_a_copy_the_corpus_declares_is_noted_and_let_through(seen: int) -> None:
    copies = np.full(120, -1)
    copies[[seen, 4]] = 7
    keys = request_for().table.keys
    declared = frozenset({(str(keys[seen]), str(keys[4]))})
    splits = make_splits("official", request_for(copies=copies, known_copies=declared))
    assert [note for note in splits.notes if "as the corpus was published" in note] == [
        f"fold official: {keys[4]} is the same clip as {keys[seen]}, as the corpus was published"
    ]
    copies[[1, 9]] = 8  # another one, which nobody declared
    with pytest.raises(MerError, match="1 x identical text and media"):
        make_splits("official", request_for(copies=copies, known_copies=declared))


def test_equal_words_alone_are_no_copies() -> None:
    words = [b"yeah", b"yeah", b"yeah", b"no"]
    assert set(copies_of({"text": words}, 4)) == {-1}
    found = copies_of({"text": words, "audio": [b"a", b"b", b"a", b"a"], "face": [b"", b"", b"", b""]}, 4)
    assert found[0] == found[2]
    assert len(set(found)) == 3


def test_digest_changes_with_the_folds() -> None:
    request = request_for()
    one = splits_digest(request.table, make_splits("kfold", request))
    assert one == splits_digest(request.table, make_splits("kfold", request))
    assert one != splits_digest(request.table, make_splits("kfold", replace(request, seed=1)))


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_kfold_never_leaks(data: st.DataObject) -> None:
    """Whatever ties rows together, no speaker, dialogue or copy that kfold keeps together is on both sides."""
    count = 60
    draw = st.lists(st.integers(0, 15), min_size=count, max_size=count)
    dialogue, place = np.array(data.draw(draw)), np.array(data.draw(draw))
    dialogue[0] = place[0] = 1  # 0 stands for no name
    speaker = np.where(place, dialogue // 3 * 2 + place % 2 + 1, 0)  # two speakers share three dialogues
    copies = np.full(count, -1)
    for number, pair in enumerate(data.draw(st.lists(st.tuples(*[st.integers(0, count - 1)] * 2), max_size=3))):
        copies[list(pair)] = number
    table = UtteranceTable.of(
        [str(i) for i in range(count)],
        {},
        speaker=[f"s{x}" if x else "" for x in speaker],
        dialogue=[f"d{x}" if x else "" for x in dialogue],
    )
    label = LabelColumn("class", ("a", "b"), np.arange(count) % 2)
    group_by = data.draw(st.sampled_from(["auto", "speaker", "dialogue", "none"]))
    try:
        splits = make_splits("kfold", SplitRequest(table, label, copies, folds=3, group_by=group_by))
    except MerError as error:
        if not re.search("there are only . groups|too few to hold out|absent from its training part", str(error)):
            raise
        reject()
    assert sorted(np.concatenate([fold.test for fold in splits.folds])) == list(range(count))
    kept = {"auto": splits.apart[:-1], "none": ()}.get(group_by, (group_by,))
    assert splits.apart == (*kept, "copy")
    assert group_by != "auto" or "dialogue" in kept
    for fold in splits.folds:
        seen = np.concatenate([fold.train, fold.val])
        for kind in kept:
            assert not values(table, kind, seen) & values(table, kind, fold.test) - {""}
        assert not set(copies[seen]) & set(copies[fold.test]) - {-1}
