"""What is worth a look in the features of a cache: outliers, near-duplicates, dimensions that say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mer.cache import FeatureStore

Floats = npt.NDArray[np.float32]

OUTLYING = 6.0
"""Deviations (scaled median absolute ones) from the usual distance beyond which an utterance is an outlier."""
SAME = 0.999
"""Cosine of two centred mean vectors from which two utterances count as near-duplicates."""
MOST_COMPARED = 20_000
BLOCK = 1024


@dataclass(frozen=True)
class SetHealth:
    """One feature set, its utterances each reduced to the mean of their steps."""

    name: str
    utterances: int
    """Utterances with features."""
    steps: tuple[int, int, int]
    """Fewest, median and most steps of an utterance."""
    mean_norm: float
    """Mean length of the vectors."""
    still_dims: int
    """Dimensions that are the same in all utterances."""
    outliers: Sequence[tuple[str, float]]
    """Keys with how far they lie out, in deviations; the furthest first."""
    outlier_count: int
    duplicates: Sequence[tuple[str, str, float]]
    """Pairs of keys with their cosine; those of two splits first, then the most alike."""
    duplicate_count: int
    compared: int
    """Utterances that were compared with each other."""


def health_of(store: FeatureStore, set_name: str, most: int = 8) -> SetHealth:
    """Look at one feature set.

    Parameters
    ----------
    store
        Cache or pack.
    set_name
        Feature set.
    most
        Outliers and duplicates to name.
    """
    index = store.index(set_name)
    vectors = store.vectors(set_name)
    rows = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    some = vectors[rows]
    keys, split = store.utterances.keys, store.utterances.split
    if not len(rows):
        return SetHealth(set_name, 0, (0, 0, 0), float("nan"), 0, [], 0, [], 0, 0)
    lengths = index.length[rows]
    apart = distances(some)
    far = [int(place) for place in np.argsort(-apart) if apart[place] > OUTLYING]
    stride = -(-len(rows) // MOST_COMPARED)
    pairs = near_duplicates(some[::stride])
    named = [(str(keys[rows[a * stride]]), str(keys[rows[b * stride]]), cosine) for a, b, cosine in pairs]
    crossing = {key: split[row] for key, row in zip((str(keys[row]) for row in rows), rows, strict=True)}
    named.sort(key=lambda pair: (crossing[pair[0]] == crossing[pair[1]], -pair[2]))
    return SetHealth(
        set_name,
        len(rows),
        (int(lengths.min()), int(np.median(lengths)), int(lengths.max())),
        float(np.linalg.norm(some, axis=1).mean()),
        int((some.std(axis=0) < 1e-6).sum()),
        [(str(keys[rows[place]]), float(apart[place])) for place in far[:most]],
        len(far),
        named[:most],
        len(named),
        len(some[::stride]),
    )


def distances(vectors: Floats) -> npt.NDArray[np.float64]:
    """How far each vector lies from the middle, in deviations from the usual distance; shape (n,).

    Dimensions are scaled to a deviation of 1; the distance is their root mean square, its logarithm compared with the
    median of all by the median absolute deviation (times 1.4826, the factor for a normal distribution).
    """
    spread = vectors.std(axis=0)
    scaled = (vectors - vectors.mean(axis=0))[:, spread > 1e-6] / spread[spread > 1e-6]
    if not scaled.shape[1]:
        return np.zeros(len(vectors))
    logs = np.log(np.sqrt((scaled.astype(np.float64) ** 2).mean(axis=1)) + 1e-12)
    middle = np.median(logs)
    usual = 1.4826 * float(np.median(np.abs(logs - middle)))
    found: npt.NDArray[np.float64] = (logs - middle) / max(usual, 1e-9)
    return found


def near_duplicates(vectors: Floats, threshold: float = SAME) -> list[tuple[int, int, float]]:
    """Pairs of vectors whose cosine, after taking off the mean of all, is at least a threshold."""
    centred = vectors - vectors.mean(axis=0)
    norms = np.linalg.norm(centred, axis=1)
    usable = np.flatnonzero(norms > 1e-6)
    unit = centred[usable] / norms[usable, None]
    found = []
    for start in range(0, len(unit), BLOCK):
        alike = unit[start : start + BLOCK] @ unit[start:].T
        for row, column in np.argwhere(alike >= threshold).tolist():
            if column > row:
                found.append((int(usable[start + row]), int(usable[start + column]), float(alike[row, column])))
    return found
