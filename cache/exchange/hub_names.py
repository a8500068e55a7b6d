"""Names of columns and splits in datasets for the Hub, and what of a table is published."""

from __future__ import annotations

import re
from dataclasses import replace

from ..table import UtteranceTable
from .pack import Outgoing, PackSet

PARTS = ("times", "valid", "mean")
WITHOUT_SPLIT = "all"


def without_texts(outgoing: Outgoing, lost: list[str]) -> UtteranceTable:
    """Table without transcripts where the corpus is given out under an agreement, unless a pack kept them."""
    table = outgoing.utterances
    if not outgoing.corpus.get("gated") or outgoing.packed or not any(table.text):
        return table
    lost.append("transcripts are left out, since the corpus is gated; export a pack made with --keep-text to keep them")
    return replace(table, text=[None] * len(table))


def column_name(made: PackSet) -> str:
    """Name of a set's column: its modality and name, in letters, digits and underscores."""
    name = re.sub(r"\W+", "_", made.name, flags=re.ASCII).strip("_")
    return name if name.startswith(f"{made.modality}_") else f"{made.modality}_{name}"


def split_name(split: str) -> str:
    """Name of a split on the Hub."""
    name = re.sub(r"\W+", "_", split, flags=re.ASCII).strip("_")
    return {"": WITHOUT_SPLIT, "val": "validation"}.get(name, name)
