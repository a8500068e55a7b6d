"""Transcripts beside what was heard."""

from __future__ import annotations

import pytest

from mer.stages.speech.wording import compare_wording, plain_words

pytest.importorskip("jiwer", reason="word error rates are an extra: pip install 'mer-toolkit[listen]'")


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert plain_words("It’s OK -- “Oh my GOD!”…") == "it's ok oh my god"
    assert plain_words("Straße, ÜBER: naïve") == "strasse über naïve"
    assert plain_words("...") == ""


def test_rates_by_hand_and_words_that_belong_to_another_clip() -> None:
    given = {
        "a": "I really do not know what to say.",
        "b": "The kids are talking by the door!",
        "c": "Oh, that is wonderful news.",
        "d": "Nobody is heard here.",
        "e": "Hello you there.",
        "f": "...",
    }
    heard = {
        "a": "I really do not know what you say",  # 1 of 8 words
        "b": "oh that is a wonderful news",  # the words of c
        "c": "the kids are talking by the door",  # the words of b
        "d": "",
        "e": "no",
        "f": "anything",
    }
    found = compare_wording(given, heard)
    assert found.of_clips["a"] == pytest.approx(1 / 8)
    assert found.of_clips["b"] == pytest.approx(7 / 7)
    assert found.of_clips["c"] == pytest.approx(7 / 5)
    assert found.word_error_rate == pytest.approx((1 + 7 + 7 + 3) / (8 + 7 + 5 + 3))
    assert found.unheard == ("d",)
    assert [(one.key, one.other) for one in found.elsewhere] == [("b", "c"), ("c", "b")]


def test_nothing_heard_at_all() -> None:
    found = compare_wording({"a": "Some words."}, {})
    assert (found.word_error_rate, found.unheard, found.elsewhere) == (None, ("a",), ())
