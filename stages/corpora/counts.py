"""Published counts of a corpus and the comparison with what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mer.cache import MerError

from ..utterance import Utterance

ALL = "all"
"""Name of the group that holds every utterance."""


@dataclass(frozen=True)
class Published:
    """Counts that a complete release gives."""

    utterances: Mapping[str, int] = field(default_factory=dict)
    """Number of utterances per split, or under `all`."""
    labels: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    """Per target, per group (a split, a session, or `all`): class -> number of utterances."""
    labelled: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Per target, per group: number of utterances with a label."""
    source: str = ""
    """Where the counts come from."""


@dataclass(frozen=True)
class Count:
    """One published number beside the one found; `published` is None when none is known."""

    what: str
    group: str
    published: int | None
    found: int

    @property
    def differs(self) -> bool:
        """True when a published number exists and is another."""
        return self.published is not None and self.published != self.found


def groups_of(utterance: Utterance) -> set[str]:
    """Groups an utterance is counted in: `all`, its split, and its session as `session X`."""
    groups = {ALL}
    if utterance.split:
        groups.add(utterance.split)
    if utterance.session:
        groups.add(f"session {utterance.session}")
    return groups


def compare_counts(published: Published, utterances: Sequence[Utterance]) -> list[Count]:
    """List every published number with the one found, in the order they were published."""
    rows: Counter[str] = Counter()
    classes: Counter[tuple[str, str, str]] = Counter()
    labelled: Counter[tuple[str, str]] = Counter()
    for utterance in utterances:
        groups = groups_of(utterance)
        rows.update(groups)
        for target, label in utterance.labels.items():
            if label is None:
                continue
            labelled.update((target, group) for group in groups)
            names = label if isinstance(label, tuple) else (label,)
            classes.update((target, group, name) for name in names if isinstance(name, str) for group in groups)
    counts = [Count("utterances", group, number, rows[group]) for group, number in published.utterances.items()]
    for target, by_group in published.labelled.items():
        counts += [Count(f"{target} labelled", group, n, labelled[target, group]) for group, n in by_group.items()]
    for target, per_group in published.labels.items():
        for group, by_class in per_group.items():
            counts += [
                Count(f"{target} {name}", group, number, classes[target, group, name])
                for name, number in by_class.items()
            ]
    return counts


def differences(counts: Iterable[Count]) -> str:
    """Write the counts that differ as one line."""
    return ", ".join(f"{c.group} {c.what} {c.found} instead of {c.published}" for c in counts if c.differs)


def assert_counts(
    name: str, published: Published, utterances: Sequence[Utterance], allow_count_mismatch: bool
) -> Sequence[Utterance]:
    """Return the utterances if they are as many as were published.

    Raises
    ------
    MerError
        If a count differs and that is not allowed; the message lists the differences.
    """
    told = "" if allow_count_mismatch else differences(compare_counts(published, utterances))
    if told:
        raise MerError(
            f"{name}: counts differ from the published ones: {told}; see `mer corpora check {name}`,"
            " or go on with --allow-count-mismatch"
        )
    return utterances
