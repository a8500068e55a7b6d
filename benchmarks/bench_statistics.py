"""Do the intervals cover and do the tests reject as often as they say? Checked where the truth is known.

    python benchmarks/bench_statistics.py --worlds 1000 --pairs 500

Intervals: scores of folds x seeds are drawn as mean + fold + seed + noise, `interval_over_runs` makes an interval,
and it is counted how often the true mean lies inside; 95 % is what it says. Tests: pairs of runs with the same chance
of being right on every utterance, alike in which utterances are hard, are compared as `mer compare` does; 5 % is what
may be below p = .05. In half of the rows the utterances of a dialogue go right or wrong together, otherwise each for
itself. The last rows have pairs of which one is better, for the tests' power.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

from mer.pipeline.scores.statistics import interval_over_runs, mcnemar, permute_classes

SHAPES = ((1, 5), (5, 1), (5, 5), (10, 5), (1, 20))
SPREADS = {"folds": (3.0, 0.5, 0.5), "seeds": (0.5, 2.0, 0.5), "noise": (0.5, 0.5, 2.0)}
"""Standard deviation of fold, seed and noise, by what is largest."""


def coverage(shape: tuple[int, int], spread: tuple[float, float, float], worlds: int) -> float:
    """Share of worlds whose interval holds the true mean, per cent."""
    rng = np.random.default_rng(0)
    folds, seeds = shape
    fold, seed, noise = spread
    inside = 0
    for _ in range(worlds):
        # With one fold or one seed its effect is common to all scores: no interval over the others can know it.
        scores = 70.0 + noise * rng.standard_normal(shape)
        scores += fold * rng.standard_normal((folds, 1)) * (folds > 1)
        scores += seed * rng.standard_normal((1, seeds)) * (seeds > 1)
        found = interval_over_runs(scores)
        inside += found.low <= 70.0 <= found.high
    return 100 * inside / worlds


def pair(
    rng: np.random.Generator, dialogues: int, turns: int, seeds: int, better: float, together: float
) -> tuple[npt.NDArray[np.int64], ...]:
    """Labels, predictions of two runs (seeds, n) and dialogues; the second is right `better` more often.

    `together` is how far what a run is good at differs dialogue by dialogue.
    """
    size, classes = dialogues * turns, 4
    group = np.repeat(np.arange(dialogues), turns)
    labels = rng.integers(0, classes, size)
    hard = rng.standard_normal(size)
    made = []
    for gain in (0.0, better):
        own = together * rng.standard_normal(dialogues)[group]
        right = rng.standard_normal((seeds, size)) + hard + own > -0.6 - gain
        wrong = (labels + rng.integers(1, classes, (seeds, size))) % classes
        made.append(np.where(right, labels, wrong))
    return labels, made[0], made[1], group


def rejections(pairs: int, seeds: int, better: float, together: float, grouped: bool) -> tuple[float, float]:
    """Share of pairs below p = .05 by permutation of whole dialogues (or of utterances) and by McNemar, per cent."""
    rng = np.random.default_rng(1)
    found = np.zeros(2)
    for number in range(pairs):
        labels, left, right, group = pair(rng, 60, 8, seeds, better, together)
        unit = group if grouped else np.arange(len(labels))
        _, p = permute_classes("war", labels, left, right, unit, 999, number)
        found += p < 0.05, mcnemar(labels, left[0], right[0])[2] < 0.05
    return tuple(100 * found / pairs)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=500)
    args = parser.parse_args()
    print("| folds x seeds | " + " | ".join(f"largest: {name}" for name in SPREADS) + " |\n|---|---|---|---|")
    for shape in SHAPES:
        cells = [f"{coverage(shape, spread, args.worlds):.1f}" for spread in SPREADS.values()]
        print(f"| {shape[0]} x {shape[1]} | " + " | ".join(cells) + " |", flush=True)
    print("\n| pairs | utterances of a dialogue | swapped | seeds | permutation | McNemar, first seed |")
    print("|---|---|---|---|---|---|")
    for better, together, grouped in ((0, 0.7, True), (0, 0.7, False), (0, 0, True), (0, 0, False), (0.25, 0.7, True)):
        for seeds in (1, 5):
            cells = [f"{value:.1f}" for value in rejections(args.pairs, seeds, better, together, grouped)]
            what, unit = "one better" if better else "equal", "dialogues" if grouped else "utterances"
            row = (what, "together" if together else "each for itself", unit, str(seeds), *cells)
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
