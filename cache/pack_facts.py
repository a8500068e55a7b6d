"""What a pack says of itself: its catalogue and datasheet, without paths and, if asked, without names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .catalogue import Catalogue
from .contents import summarise
from .pack_options import PackOptions, chosen_sets
from .pack_writing import SetPlan
from .release import program_version
from .shard import Fate
from .store import FeatureStore
from .table import UtteranceTable

FOLDERS = re.compile(r"(?:[A-Za-z]:)?[\\/](?:[^\s\\/'\"]+[\\/])+")
PATH = re.compile(r"(?:[A-Za-z]:)?[\\/]|~|\.{1,2}[\\/]")


def scrubbed(reason: str) -> str:
    """A reason without the folders of the machine it happened on."""
    return FOLDERS.sub("", reason)


def without_folders(value: Any) -> Any:
    """A JSON-able value in which every path that names folders of this machine is cut down to its last part.

    A hub id such as `owner/name` is none; a URL neither.
    """
    if isinstance(value, str):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1] if PATH.match(value) else value
    if isinstance(value, Mapping):
        return {name: without_folders(item) for name, item in value.items()}
    return [without_folders(item) for item in value] if isinstance(value, (list, tuple)) else value


def pack_catalogue(
    store: FeatureStore,
    options: PackOptions,
    rows: npt.NDArray[np.int64],
    plans: Mapping[str, SetPlan],
    stripped: bool,
) -> Catalogue:
    table = store.utterances.select(rows)
    if stripped:
        table = replace(table, text=[None] * len(table))
    if options.salt is not None:
        table = _hashed(table, options.salt)
    catalogue = Catalogue(
        corpus=store.corpus,
        utterances=table,
        sets={name: plan.index for name, plan in plans.items()},
        provenance=without_folders(store.provenance),
        extra=store.catalogue.extra,
        packed=True,
    )
    catalogue.datasheet = _datasheet(store, options, catalogue, stripped)
    return catalogue


def hashed_id(text: str, salt: str) -> str:
    """Salted hash of an id: 32 hex digits; empty stays empty."""
    return hashlib.sha256(f"{salt}\0{text}".encode()).hexdigest()[:32] if text else ""


def _hashed(table: UtteranceTable, salt: str) -> UtteranceTable:
    """Replace everything that names a person, place or file."""
    changed: dict[str, Any] = {"media": [None] * len(table)}
    for column in ("keys", "speaker", "dialogue", "session"):
        changed[column] = [hashed_id(value, salt) for value in getattr(table, column)]
    return replace(table, **changed)


def _datasheet(store: FeatureStore, options: PackOptions, catalogue: Catalogue, stripped: bool) -> dict[str, Any]:
    corpus, before = store.corpus, store.catalogue.datasheet
    said = {
        "license": options.license,
        "terms": options.terms,
        "citation": options.citation or before.get("citation") or corpus.get("citation") or "",
        "contact": options.contact or before.get("contact") or "",
        "title": options.title or before.get("title") or f"Features of {corpus.get('title') or corpus.get('name', '')}",
        "description": options.description or before.get("description") or "",
        "data": {name: corpus[name] for name in ("name", "url", "license", "gated") if name in corpus},
        "changes": [*before.get("changes", []), *_changes(store, options, catalogue, stripped)],
        "gaps": [*_gaps(catalogue), *options.gaps],
        "packed_by": f"mer {program_version()}",
        "contents": summarise(catalogue),
    }
    return {name: value for name, value in said.items() if value}


def _changes(store: FeatureStore, options: PackOptions, catalogue: Catalogue, stripped: bool) -> list[str]:
    """What is different from the cache that was packed, one sentence each."""
    chosen = chosen_sets(store, options.sets)
    dropped = [name for name in store.sets if name not in chosen]
    recast = [name for name in chosen if options.dtype not in (None, store.sets[name].spec.dtype)]
    sentences = {
        f"only the splits {', '.join(options.splits)}": bool(options.splits),
        f"feature sets left out: {', '.join(dropped)}": bool(dropped),
        f"stored as {options.dtype}: {', '.join(recast)}": bool(recast),
        "transcripts left out": stripped and any(text is not None for text in store.utterances.text),
        "ids, speakers, dialogues and sessions replaced by salted hashes; media paths left out": options.salt
        is not None,
    }
    return [sentence for sentence, holds in sentences.items() if holds]


def _gaps(catalogue: Catalogue) -> list[str]:
    """Count what a reader would otherwise find out late."""
    gaps = []
    for name, index in catalogue.sets.items():
        for fate, words in {Fate.MISSING: "are missing", Fate.FAILED: "failed", Fate.PENDING: "are pending"}.items():
            if count := int((index.fates == fate).sum()):
                gaps.append(f"{name}: {count:,} of {len(index.fates):,} utterances {words}")
        if index.spec.has_gaps:
            gaps.append(f"{name}: NaN stands for values that the source does not have")
        if partly := int((index.coverage[index.ok] < 1).sum()):
            gaps.append(f"{name}: {partly:,} utterances have steps without features")
    table = catalogue.utterances
    for name, label in table.labels.items():
        if unlabelled := int((~label.labelled).sum()):
            gaps.append(f"{name}: {unlabelled:,} of {len(table):,} utterances are not labelled")
    return gaps
