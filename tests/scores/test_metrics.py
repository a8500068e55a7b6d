"""Scores against hand-computed values and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, recall_score

from mer.cache import MerError
from mer.pipeline.scores.metrics import (
    NAMES,
    average_precision,
    better,
    confusion,
    loss_of,
    metric_names,
    per_class,
    scale_of,
    score,
    scores_of_confusion,
    selection_metric,
    show,
)
from mer.pipeline.scores.statistics import holm, interval_over_runs, mcnemar, permute, permute_classes, two_sided
from mer.pipeline.training.aggregate import over_utterances
from mer.pipeline.training.run_folder import Predictions

TRUTH = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
GUESS = np.array([0, 0, 1, 2, 1, 0, 2, 2, 2, 0])


def one_hot(codes: np.ndarray, classes: int = 3) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[codes]


def test_class_scores_by_hand() -> None:
    found = score("class", TRUTH, one_hot(GUESS))
    # recalls 2/4, 1/2, 3/4; precisions 2/4, 1/2, 3/4; F1 the same
    assert found["war"] == pytest.approx(0.6)
    assert found["uar"] == pytest.approx((0.5 + 0.5 + 0.75) / 3)
    assert found["wf1"] == pytest.approx((4 * 0.5 + 2 * 0.5 + 4 * 0.75) / 10)
    assert found["macro_f1"] == pytest.approx((0.5 + 0.5 + 0.75) / 3)


def test_unlabelled_rows_are_left_out_and_absent_classes_do_not_count() -> None:
    found = score("class", np.append(TRUTH, -1), one_hot(np.append(GUESS, 1), classes=5))
    assert found == score("class", TRUTH, one_hot(GUESS))


def test_no_rows_give_nan() -> None:
    assert all(np.isnan(v) for v in score("class", np.array([-1]), one_hot(np.array([0]))).values())
    assert show("wf1", float("nan")) == "–"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_class_scores_agree_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, guess = (np.array(column) for column in zip(*pairs, strict=True))
    found = scores_of_confusion(confusion(truth, guess, 4))
    assert found["wf1"] == pytest.approx(f1_score(truth, guess, average="weighted", zero_division=0))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro", zero_division=0))
    assert found["war"] == pytest.approx(np.mean(truth == guess))
    recalls = recall_score(truth, guess, labels=np.unique(truth), average=None, zero_division=0)
    assert found["uar"] == pytest.approx(recalls.mean())


def test_per_class_table() -> None:
    counts = confusion(np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 2, 2]), 4)
    assert counts.tolist() == [[3, 1, 0, 0], [0, 1, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert [(r.name, r.precision, r.recall, r.f1, r.support) for r in per_class(counts, "abcd")] == [
        ("a", 1.0, 0.75, 6 / 7, 4),
        ("b", 0.5, pytest.approx(1 / 3), 0.4, 3),
        ("c", 0.0, nan, 0.0, 0),
        ("d", nan, nan, nan, 0),
    ]


def test_numbers_by_hand() -> None:
    truth = np.array([-3.0, -1.2, 0.0, 0.4, 2.6, 1.0])
    guess = np.array([[-2.0], [0.2], [-0.1], [0.6], [3.4], [1.0]])
    found = score("real", truth, guess, 3.0)
    assert found["mae"] == pytest.approx((1 + 1.4 + 0.1 + 0.2 + 0.8 + 0) / 6)
    assert found["pearson"] == pytest.approx(np.corrcoef(truth, guess[:, 0])[0, 1])
    assert found["acc2"] == pytest.approx(4 / 6)  # -1.2 and 0 land on the other side
    assert found["acc2_nonzero"] == pytest.approx(4 / 5)
    assert found["acc7"] == pytest.approx(3 / 6)  # -3/-2 no, -1/0 no, 0/0 yes, 0/1 no, 3/3 yes, 1/1 yes
    assert found["acc5"] == pytest.approx(4 / 6)  # clipping to 2 makes -3 and -2 alike


def test_zero_is_not_negative_and_halves_round_to_even() -> None:
    found = score("real", np.array([-1.0, 1.0, 2.0, 0.0, 0.0]), np.array([[0.0], [0.0], [0.0], [0.0], [-0.5]]), 3.0)
    assert found["acc2"] == pytest.approx(3 / 5)  # a guess of 0 is wrong for -1 alone
    assert found["acc2_nonzero"] == pytest.approx(1 / 3)  # there it is not positive: right for -1 alone
    truth, guess = np.array([0.5, 1.5, 2.5, -0.5, -2.5]), np.array([[0.0], [2.0], [2.0], [0.0], [-3.0]])
    found = score("real", truth, guess, 3.0)
    assert found["acc7"] == pytest.approx(4 / 5)  # -2.5 rounds to -2
    assert found["acc5"] == 1.0  # -3 is clipped to it
    assert score("real", guess[:, 0], truth[:, None], 3.0)["acc7"] == pytest.approx(4 / 5)


@pytest.mark.parametrize(("truth", "guess"), [((1.0, 2.0), (0.5, 0.5)), ((0.5, 0.5), (1.0, 2.0))])
def test_what_does_not_vary_has_no_correlation(truth: tuple[float, ...], guess: tuple[float, ...]) -> None:
    assert np.isnan(score("real", np.array(truth), np.array(guess)[:, None])["pearson"])


def test_scores_of_sentiment_are_undefined_on_a_scale_without_negative_numbers() -> None:
    truth, guess = np.array([1.0, 2.5, 5.0]), np.array([[1.5], [2.5], [4.0]])
    found = score("real", truth, guess, scale_of("real", truth))
    assert found["mae"] == pytest.approx(0.5)
    assert found["pearson"] > 0.9
    assert {name for name, value in found.items() if np.isnan(value)} == set(found) - {"mae", "ccc", "pearson"}
    assert set(found) == set(NAMES["real"])


def test_concordance_by_hand() -> None:
    """Means 2 and 8/3, variances 2/3 and 8/9, covariance 2/3: twice that over the variances and the means' square."""
    found = score("real", np.array([1.0, 2.0, 3.0]), np.array([[2.0], [2.0], [4.0]]))
    assert found["ccc"] == pytest.approx((4 / 3) / (2 / 3 + 8 / 9 + 4 / 9))
    truth = np.linspace(1, 7, 9)
    assert score("real", truth, truth[:, None])["ccc"] == pytest.approx(1)
    assert score("real", truth, truth[:, None] + 5)["ccc"] < 0.4  # a shift costs concordance and no correlation
    assert score("real", truth, np.full((9, 1), 4.0))["ccc"] == 0
    assert np.isnan(score("real", np.ones(3), np.ones((3, 1)))["ccc"])


def test_grades_of_sentiment_from_minus_one_to_one() -> None:
    """CH-SIMS' cuts: up to -0.7, -0.1, 0.1, 0.7 and above; a number on a cut belongs below it; 0 is not positive."""
    truth = np.array([-1.0, -0.7, -0.1, 0.0, 0.1, 0.7, 0.8, 1.0], dtype=np.float32)
    guess = np.array([-0.71, -0.6, -0.05, 0.1, 0.2, 0.8, 0.71, 3.0], dtype=np.float32)[:, None]
    found = score("real", truth, guess, scale_of("real", truth))
    assert found["acc5"] == pytest.approx(4 / 8)  # -0.7, -0.1, 0.1 and 0.7 were each taken for one more
    assert found["acc3"] == pytest.approx(6 / 8)
    assert found["acc2_positive"] == pytest.approx(7 / 8)  # 0 alone was taken for positive
    assert found["f1_positive"] == pytest.approx(f1_score(truth > 0, guess[:, 0] > 0, average="weighted"))
    assert found["acc2"] == 1.0
    assert np.isnan(found["acc7"])


def test_a_scale_decides_which_metrics_there_are() -> None:
    rated, signed = np.array([1.0, 5.0, np.nan]), np.array([-0.5, np.nan, 1.0])
    assert [scale_of("real", v) for v in (rated, signed, 3 * signed, 5 * signed)] == [0, 1, 3, 5]
    assert scale_of("class", np.array([-1, 2])) == 0
    both = ("mae", "ccc", "pearson", "acc2", "f1", "acc2_nonzero", "f1_nonzero")
    assert metric_names("real", 0) == both[:3]
    assert metric_names("real", 1) == (*both, "acc2_positive", "f1_positive", "acc3", "acc5")
    assert metric_names("real", 3) == (*both, "acc5", "acc7")
    assert metric_names("real", 5) == both
    for scale in (0.0, 1.0, 3.0, 5.0):
        found = score("real", np.array([-0.5, 0.4, 1.0]), np.array([[0.3], [0.1], [-1.0]]), scale)
        assert {name for name, value in found.items() if not np.isnan(value)} == set(metric_names("real", scale))


def test_sets_by_hand() -> None:
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=float)
    guess = np.array([[0.9, 0.6, 0.1], [0.8, 0.7, 0.2], [0.6, 0.2, 0.4]])
    found = score("multi", truth, guess)
    # class 0: tp 2 fp 1 fn 0 -> 0.8; class 1: tp 1 fp 1 fn 1 -> 0.5; class 2 never occurs
    assert found["macro_f1"] == pytest.approx(0.65)
    assert found["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert found["map"] == pytest.approx((1.0 + (1 + 2 / 3) / 2) / 2)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_average_precision_agrees_with_scikit_learn(pairs: list[tuple[bool, int]]) -> None:
    truth, outputs = (np.array(column) for column in zip(*pairs, strict=True))
    if truth.any():
        assert average_precision(truth, outputs) == pytest.approx(average_precision_score(truth, outputs))


def test_two_way_f1_of_numbers_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(-3, 4, 80).astype(float), rng.normal(size=(80, 1))
    found, nonzero = score("real", truth, guess, 3.0), truth != 0
    assert found["f1"] == pytest.approx(f1_score(truth >= 0, guess[:, 0] >= 0, average="weighted"))
    expected = f1_score(truth[nonzero] > 0, guess[nonzero, 0] > 0, average="weighted")
    assert found["f1_nonzero"] == pytest.approx(expected)


def test_losses_by_hand() -> None:
    found = loss_of("class", np.array([0, 1, -1]), np.array([[0.5, 0.5], [0.75, 0.25], [0.0, 1.0]]))
    assert found == pytest.approx((np.log(2) + np.log(4)) / 2)
    assert loss_of("real", np.array([1.0, np.nan]), np.array([[3.0], [0.0]])) == 2.0
    assert loss_of("multi", np.array([[1.0, 0.0]]), np.array([[0.5, 0.75]])) == pytest.approx(1.5 * np.log(2))
    assert np.isfinite(loss_of("class", np.array([0]), np.array([[0.0, 1.0]])))
    assert loss_of("class", np.array([0]), np.array([[1e-6, 1.0]])) == pytest.approx(6 * np.log(10))


def test_selection() -> None:
    assert selection_metric("class", "auto") == "wf1"
    assert better("mae", 0.5, 0.6)
    assert better("uar", 0.6, 0.5)
    assert not better("uar", float("nan"), 0.1)
    with pytest.raises(MerError, match=r"'mae' is not defined for a target of kind 'class'"):
        selection_metric("class", "mae")


def test_the_interval_of_equal_scores_is_a_point() -> None:
    found = interval_over_runs(np.full((5, 3), 0.7))
    assert (found.mean, found.low, found.high) == pytest.approx((0.7, 0.7, 0.7))
    assert found.std == pytest.approx(0, abs=1e-12)


def test_the_interval_over_seeds_alone_is_students() -> None:
    """Mean 1/2, variance 3/10 over six runs; Student's t of 5 degrees of freedom is 2.570582 at 97.5 %."""
    for values in (np.array([[0, 0, 0, 1, 1, 1]]), np.array([[0], [0], [0], [1], [1], [1]])):
        found = interval_over_runs(values)
        reach = 2.570582 * (0.3 / 6) ** 0.5
        assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5 - reach, 0.5 + reach))
    gap = interval_over_runs(np.array([[0, 0, 0, 1, 1, 1, np.nan]]))
    assert (gap.low, gap.high) == pytest.approx((0.5 - reach, 0.5 + reach))


def test_the_interval_covers_folds_and_seeds() -> None:
    """Folds' means .51, .71, .61 and seeds' .60, .62, without noise: .01 / 3 and .0002 / 2 add up."""
    values = np.array([[0.5, 0.52], [0.7, 0.72], [0.6, 0.62]])
    found = interval_over_runs(values)
    assert found.mean == pytest.approx(0.61)
    assert found.std == pytest.approx(values.std(ddof=1))
    folds, seeds = 0.01 / 3, 0.0002 / 2
    freedom = (folds + seeds) ** 2 / (folds**2 / 2 + seeds**2 / 1)
    reach = stats.t.ppf(0.975, freedom) * (folds + seeds) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.61 - reach, 0.61 + reach))


def test_noise_counts_once() -> None:
    """Scores that neither fold nor seed explains: both means hold the noise, which is taken off once."""
    values = np.array([[1.0, -1.0, 0.0], [-1.0, 0.0, 1.0], [0.0, 1.0, -1.0]])
    assert interval_over_runs(values).high == pytest.approx(0)  # all means are 0
    values = np.array([[2.0, 0.0], [0.0, 0.0]])
    # Means 1, 0 either way: variance 1/2, over 2; residuals are 1/2: 4 / 4 in square, over 1 x 1, over 4.
    found = interval_over_runs(values)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 0.25**2 / (2 * 0.25**2)) * 0.25**0.5)


def test_a_single_runs_interval_resamples_dialogues() -> None:
    """The rows of dialogues called r are right, those of w are wrong."""

    def interval(*dialogues: str) -> tuple[float, float, float]:
        empty, right = np.zeros(len(dialogues)), np.array([int(name[0] == "r") for name in dialogues])
        fields = dict.fromkeys(("keys", "split", "vectors", "by_prior"), empty)
        answers = Predictions(**fields, labels=right, outputs=one_hot(np.ones_like(right)), group=np.array(dialogues))
        found = over_utterances("class", 0.0, answers)["war"]
        return found.mean, found.low, found.high

    assert interval("r", "w", "r", "r") == (0.75, 0.0, 1.0)  # the dialogue w alone comes in a quarter of the draws
    assert interval("r1", "r2", "w") == pytest.approx((2 / 3, 0.0, 1.0))  # w three times in 3.7 per cent
    assert interval("r1", "r2", "r3", "w") == pytest.approx((3 / 4, 1 / 4, 1.0))  # four times in 0.4 per cent
    assert np.isnan(interval("r", "r")[1:]).all()


def test_the_interval_of_one_run_says_nothing() -> None:
    found = interval_over_runs(np.array([[0.5]]))
    assert found.mean == 0.5
    assert np.isnan([found.std, found.low, found.high]).all()


def test_mcnemar_by_hand() -> None:
    labels = np.zeros(10, dtype=int)
    left = np.array([0] * 9 + [1])
    right = np.array([0] * 3 + [1] * 6 + [0])
    only_left, only_right, p = mcnemar(labels, left, right)
    assert (only_left, only_right) == (6, 1)
    assert p == pytest.approx(2 * (1 + 7) / 2**7)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.7, 0.9]) == [1.0, 1.0]


def test_an_undefined_difference_has_no_p() -> None:
    nan = float("nan")
    assert np.isnan(two_sided(np.array([nan, 0.1, nan])))
    assert two_sided(np.array([0.5, 0.1, nan, 0.2])) == 0.5
    np.testing.assert_allclose(holm([0.02, nan, 0.04]), [0.04, nan, 0.04])


def test_permutation_of_equal_runs_is_one() -> None:
    guess = GUESS[None]
    difference, p = permute_classes("war", TRUTH, guess, guess, np.arange(10), 200, 0)
    assert (difference, p) == (0.0, 1.0)


def test_permutation_agrees_with_every_sign_flip() -> None:
    """With ten groups all 1024 swaps can be listed; for accuracy the statistic is a sum over groups."""
    labels = np.zeros(10, dtype=int)
    left, right = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 0]), np.array([0, 0, 0, 0, 0, 1, 1, 0, 0, 0])
    gain = (right == 0).astype(int) - (left == 0)
    signs = np.array(np.meshgrid(*[[1, -1]] * 10)).reshape(10, -1)
    exact = np.mean(np.abs(gain @ signs) >= abs(gain.sum()))
    difference, p = permute_classes("war", labels, left[None], right[None], np.arange(10), 20000, 0)
    assert difference == pytest.approx(0.4)
    assert p == pytest.approx(exact, abs=0.02)


def test_the_general_permutation_agrees_with_the_fast_one() -> None:
    rng = np.random.default_rng(3)
    labels, group = rng.integers(0, 3, 60), np.repeat(np.arange(20), 3)
    left, right = rng.integers(0, 3, (2, 60)), np.where(rng.random((2, 60)) < 0.4, labels, rng.integers(0, 3, (2, 60)))
    fast = permute_classes("uar", labels, left, right, group, 4000, 0)
    slow = permute(lambda o: score("class", labels, o)["uar"], one_hot(left), one_hot(right), group, 600, 1)
    assert slow[0] == pytest.approx(fast[0])
    assert slow[1] == pytest.approx(fast[1], abs=0.06)


def test_groups_swap_together() -> None:
    """Ten right answers that come from one dialogue are one piece of evidence, not ten."""
    labels = np.zeros(10, dtype=int)
    left, right = np.ones((1, 10), dtype=int), np.zeros((1, 10), dtype=int)
    assert permute_classes("war", labels, left, right, np.zeros(10, dtype=int), 500, 0)[1] == 1.0
    assert permute_classes("war", labels, left, right, np.arange(10), 4000, 0)[1] < 0.01
