"""The usual kind of adapter: facts that no option changes, and published counts to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..interfaces import CorpusInfo
from ..utterance import Utterance
from .counts import Published, assert_counts


@dataclass(frozen=True)
class CountedCorpus:
    """Base of an adapter; a subclass sets `facts` and `counts` and lists its utterances."""

    root: Path
    allow_count_mismatch: bool = False

    facts: ClassVar[CorpusInfo]
    counts: ClassVar[Published]

    def info(self) -> CorpusInfo:
        """Return the facts about this corpus."""
        return self.facts

    def published(self) -> Published:
        """Return the published counts."""
        return self.counts

    def counted(self, found: Sequence[Utterance]) -> Sequence[Utterance]:
        """Return what was found if its counts are the published ones, or a mismatch is allowed.

        Raises
        ------
        MerError
            If they differ.
        """
        return assert_counts(self.facts.name, self.counts, found, self.allow_count_mismatch)
