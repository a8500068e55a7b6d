"""Published counts of a corpus and the comparison with what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mer.cache import MerError

from ..interfaces import Corpus
from ..utterance import Utterance

SPLITS = ("train", "val", "test")
MOST_TOLD = 3
"""Counts that an error names; the check lists them all."""
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
    name: str,
    published: Published,
    utterances: Sequence[Utterance],
    allow_count_mismatch: bool,
    split: str | None = None,
) -> Sequence[Utterance]:
    """Return the utterances if they are as many as were published.

    Parameters
    ----------
    split
        Where given, only counts of this split are compared.

    Raises
    ------
    MerError
        If a count differs and that is not allowed; the message says in one line what is missing.
    """
    counts = [] if allow_count_mismatch else compare_counts(published, utterances)
    differing = [count for count in counts if count.differs and split in (None, count.group)]
    if differing:
        whole = "" if split else _whole_splits(counts)
        raise MerError(
            f"{name}: counts differ from the published ones: {in_short(differing)}; `mer corpora check {name}` lists"
            f" them all. Go on{whole} with --allow-count-mismatch"
        )
    return utterances


def utterances_of(corpus: Corpus, split: str | None) -> list[Utterance]:
    """List a corpus; where one split is asked for, the others need not be there.

    Raises
    ------
    MerError
        As `Corpus.utterances`, or if the counts of that split differ from the published ones.
    """
    if split is None or getattr(corpus, "allow_count_mismatch", True):
        return list(corpus.utterances())
    listed = list(replace(corpus, allow_count_mismatch=True).utterances())  # type: ignore[type-var]
    published = getattr(corpus, "published", Published)()
    return list(assert_counts(corpus.info().name, published, listed, False, split))


def in_short(differing: Sequence[Count]) -> str:
    """Say what differs most: how many utterances are there of how many, else the first of the classes."""
    sizes = [count for count in differing if count.what == "utterances"]
    if sizes:
        named = [f"{c.group} {c.found:,} of {c.published or 0:,}" for c in sizes]
        return f"{', '.join(named[:MOST_TOLD])} utterances" + (" and more" if len(named) > MOST_TOLD else "")
    more = f" and {len(differing) - MOST_TOLD} other counts" if len(differing) > MOST_TOLD else ""
    return differences(differing[:MOST_TOLD]) + more


def _whole_splits(counts: Sequence[Count]) -> str:
    """Name a split that is complete, which can be taken alone."""
    sizes = {count.group: count.found for count in counts if count.what == "utterances" and count.group in SPLITS}
    wrong = {count.group for count in counts if count.differs}
    whole = [group for group, found in sizes.items() if found and group not in wrong]
    return f" with --split {whole[0]} alone, or" if whole else ""
