"""Some modalities hidden: the recorded answers with all of them, the prior with none, known scores between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mer.cache import MerError
from mer.pipeline.reporting.explain import contribution_rows, disagreement_rows
from mer.pipeline.results.subsets import SubsetAnswers, ask_subsets
from mer.pipeline.training.run_folder import Run


@pytest.mark.parametrize("settings", [{}, {"head": "drkf", "head.dim": 16}, {"context": "bigru"}], ids=str)
def test_all_modalities_give_the_recorded_answers(make_run: Callable[..., Path], settings: dict[str, object]) -> None:
    run = Run.open(make_run("-".join(map(str, settings.values())) or "plain", **settings))
    answers = ask_subsets(run, "cpu")
    recorded = run.predictions(run.members[0]["name"]).part("test")
    order = np.argsort(recorded.keys)
    mine = np.argsort(answers.keys)
    assert answers.keys[mine].tolist() == recorded.keys[order].tolist()
    whole = answers.outputs[frozenset({"text", "audio"})]
    assert np.abs(whole[mine] - recorded.outputs[order]).max() < 1e-4
    text = answers.outputs[frozenset({"text"})]
    assert np.abs(text - whole).max() > 1e-3
    assert np.isfinite(text).all()
    assert text.sum(1) == pytest.approx(1, abs=1e-4)


def made_answers(run: Run) -> SubsetAnswers:
    """Six utterances of two classes; text is right in five, audio in three; fused follows text."""
    labels = np.array([0, 0, 0, 1, 1, 1])
    text, audio = np.array([0, 0, 0, 1, 1, 0]), np.array([0, 1, 1, 1, 0, 1])

    def sure(codes: np.ndarray) -> np.ndarray:
        return np.eye(2, dtype=np.float32)[codes] * 0.8 + 0.1

    single = {frozenset({"text"}): sure(text), frozenset({"audio"}): sure(audio)}
    outputs = {**single, frozenset({"text", "audio"}): sure(text)}
    there = np.ones(6, np.bool_)
    return SubsetAnswers(
        run, 0, ("text", "audio"), np.array(list("abcdef")), labels, outputs,
        {"text": there, "audio": there}, sure(np.zeros(6, np.int64)),
    )  # fmt: skip


def test_contributions_and_disagreement_by_hand(make_run: Callable[..., Path]) -> None:
    answers = made_answers(Run.open(make_run()))
    rows = contribution_rows(answers, "war")
    assert [name for name, _, _ in rows] == ["text + audio", "text alone", "audio alone", "nothing: the training prior"]
    assert [value for _, value, _ in rows] == pytest.approx([5 / 6, 5 / 6, 3 / 6, 3 / 6])
    assert [change for _, _, change in rows] == pytest.approx([0, 0, -2 / 6, -2 / 6])
    # a and d agree and are right; in the others text is right three times of four.
    assert disagreement_rows(answers) == [("all agree", 2, 1.0, 1.0), ("none agree", 4, 0.75, 0.75)]
    assert answers.scores_without("text", 0.0, "war") == pytest.approx(5 / 6)
    assert answers.scores_without("text", 1.0, "war") == pytest.approx(3 / 6)
    assert 3 / 6 < answers.scores_without("text", 0.5, "war") < 5 / 6
    lacking = replace(answers, present={**answers.present, "audio": np.zeros(6, np.bool_)})
    assert disagreement_rows(lacking) == []


def test_without_the_features_there_is_a_reason(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = Run.open(make_run())
    run.facts["features"]["path"] = str(tmp_path / "gone.h5")
    with pytest.raises(MerError, match="is not where the run found it"):
        ask_subsets(run)
