"""Calibration: hand-computed bins, and a temperature that undoes one that was put in."""

import numpy as np
import pytest

from mer.pipeline.scores.calibration import at_temperature, fit_temperature, reliability


def test_bins_and_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.45, 0.55], [0.4, 0.6], [0.0, 1.0]])
    labels = np.array([0, 1, 1, 0, 1])
    found = reliability(labels, probabilities, bins=5)
    # (0.4, 0.6] holds 0.55 (right) and 0.6 (wrong), (0.6, 0.8] holds 0.8 (wrong), (0.8, 1] holds 0.9 and 1 (right).
    assert found.count.tolist() == [0, 0, 2, 1, 2]
    assert found.confidence[2:] == pytest.approx([0.575, 0.8, 0.95])
    assert found.accuracy[2:].tolist() == [0.5, 0.0, 1.0]
    assert found.error == pytest.approx((2 * 0.075 + 0.8 + 2 * 0.05) / 5)
    assert np.isnan(reliability(labels[:0], probabilities[:0]).error)


def test_a_temperature_is_found_again() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 5))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(5, p=row) for row in true])
    sharp = at_temperature(true, 1 / 3)  # too sure by a factor of three
    fitted = fit_temperature(labels, sharp)
    assert fitted == pytest.approx(3.0, rel=0.06)
    assert reliability(labels, at_temperature(sharp, fitted)).error < 0.03 < reliability(labels, sharp).error
    assert (at_temperature(sharp, fitted).argmax(1) == sharp.argmax(1)).all()
    assert np.isnan(fit_temperature(labels[:0], sharp[:0]))


def test_temperature_one_changes_nothing() -> None:
    probabilities = np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    assert at_temperature(probabilities, 1.0) == pytest.approx(probabilities, abs=1e-6)
