"""Classes that papers derive from a sentiment value, by MMSA's rules."""

from __future__ import annotations

from ..interfaces import LabelSpec

SEVEN = tuple(str(value) for value in range(-3, 4))
FIVE = tuple(str(value) for value in range(-2, 3))

CMU_LABELS = {
    "sentiment": LabelSpec("real"),
    "sentiment2_has0": LabelSpec("class", ("negative", "non-negative")),
    "sentiment2_non0": LabelSpec("class", ("negative", "positive")),
    "sentiment5": LabelSpec("class", FIVE),
    "sentiment7": LabelSpec("class", SEVEN),
}
SIMS_EDGES = {2: (0.0,), 3: (-0.1, 0.1), 5: (-0.7, -0.1, 0.1, 0.7)}
SIMS_CLASSES = {
    2: ("negative", "positive"),
    3: ("negative", "neutral", "positive"),
    5: ("negative", "weakly negative", "neutral", "weakly positive", "positive"),
}
SIMS_LABELS = {
    "sentiment": LabelSpec("real"),
    **{f"sentiment{number}": LabelSpec("class", classes) for number, classes in SIMS_CLASSES.items()},
}


def cmu_labels(value: float) -> dict[str, str | float | None]:
    """Return the targets of CMU-MOSI and CMU-MOSEI for a value in [-3, 3].

    Two classes come in two readings: `has0` takes zero as not negative, `non0` leaves it out. Five and seven classes
    are the value clipped to [-2, 2] and [-3, 3] and rounded, halves to the even neighbour as numpy rounds.
    """
    sign = None if value == 0 else "positive" if value > 0 else "negative"
    return {
        "sentiment": value,
        "sentiment2_has0": "non-negative" if value >= 0 else "negative",
        "sentiment2_non0": sign,
        "sentiment5": str(round(min(max(value, -2.0), 2.0))),
        "sentiment7": str(round(min(max(value, -3.0), 3.0))),
    }


def sims_labels(value: float) -> dict[str, str | float | None]:
    """Return the targets of CH-SIMS for a value in [-1, 1]; a class holds its upper edge and not its lower one."""
    found: dict[str, str | float | None] = {"sentiment": value}
    for number, edges in SIMS_EDGES.items():
        found[f"sentiment{number}"] = SIMS_CLASSES[number][sum(value > edge for edge in edges)]
    return found
