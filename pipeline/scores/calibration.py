"""Whether probabilities can be taken at their word: reliability, expected calibration error, temperature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BINS = 15
"""As many as Guo et al. (2017, arXiv 1706.04599) use."""
LEAST_PROBABILITY = 1e-7
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Reliability:
    """Predictions sorted into bins of equal width by the probability of the class they chose."""

    confidence: Floats
    """Shape (bins,), mean probability of the chosen class; NaN for an empty bin."""
    accuracy: Floats
    """Shape (bins,), share that was right; NaN for an empty bin."""
    count: npt.NDArray[np.int64]
    """Shape (bins,)."""

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap of accuracy and confidence, weighted by count; NaN without rows."""
        if not self.count.sum():
            return float("nan")
        gaps = np.abs(np.nan_to_num(self.accuracy - self.confidence))
        return float((gaps * self.count).sum() / self.count.sum())


def reliability(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.floating], bins: int = BINS
) -> Reliability:
    """Sort predictions by their confidence.

    Parameters
    ----------
    labels
        Shape (n,), class codes, none missing.
    probabilities
        Shape (n, C).
    bins
        Number of bins of equal width over [0, 1]; a probability on a border belongs below it.
    """
    chosen = probabilities.argmax(axis=1)
    confident = probabilities[np.arange(len(labels)), chosen].astype(np.float64)
    place = np.clip(np.ceil(confident * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(place, confident, bins) / count
        accuracy = np.bincount(place, chosen == labels, bins) / count
    return Reliability(confidence, accuracy, count)


def fit_temperature(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.floating]) -> float:
    """Temperature that makes some predictions likeliest: above 1 where they are too sure.

    Parameters
    ----------
    labels
        Shape (n,), class codes of validation rows, none missing.
    probabilities
        Shape (n, C).

    Returns
    -------
    float
        Minimum of the negative log-likelihood within 0.05 and 20; NaN without rows.
    """
    if not len(labels):
        return float("nan")
    from scipy.optimize import minimize_scalar

    logs = np.log(probabilities.astype(np.float64).clip(LEAST_PROBABILITY))
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        top = scaled.max(axis=1, keepdims=True)
        total = np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0]
        return float((total - scaled[rows, labels]).mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def at_temperature(probabilities: npt.NDArray[np.floating], temperature: float) -> Floats:
    """Probabilities whose logarithms are divided by a temperature, shape (n, C)."""
    scaled = np.log(probabilities.astype(np.float64).clip(LEAST_PROBABILITY)) / temperature
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    made: Floats = shares / shares.sum(axis=1, keepdims=True)
    return made
