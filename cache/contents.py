"""What is in a cache, counted: for `mer info`, datasheets and pages about a pack."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from .catalogue import Catalogue, SetIndex
from .shard import Fate
from .table import LabelColumn, UtteranceTable

MOST_REASONS = 5


def summarise(catalogue: Catalogue) -> dict[str, Any]:
    """Count utterances, labels and features of a catalogue; JSON-able.

    Returns
    -------
    `utterances` (count, hours, splits, speakers, dialogues, text), `targets` by name (kind, classes, counts per split)
    and `sets` by name (encoder, layers, dims, steps, bytes, fates, coverage, reasons).
    """
    return {
        "utterances": _utterances(catalogue.utterances),
        "targets": {
            name: _target(label, catalogue.utterances.split) for name, label in catalogue.utterances.labels.items()
        },
        "sets": {name: _set(index) for name, index in catalogue.sets.items()},
    }


def _utterances(table: UtteranceTable) -> dict[str, Any]:
    known = table.duration_seconds[np.isfinite(table.duration_seconds)]
    return {
        "count": len(table),
        "splits": dict(Counter(table.split)),
        "hours": round(float(known.sum()) / 3600, 4),
        "without_duration": len(table) - len(known),
        "speakers": len({name for name in table.speaker if name}),
        "dialogues": len({name for name in table.dialogue if name}),
        "with_text": sum(text is not None for text in table.text),
        "machine_text": int(table.machine_text.sum()),
    }


def _target(label: LabelColumn, split: list[str]) -> dict[str, Any]:
    rows_of = {name: np.array([s == name for s in split], np.bool_) for name in dict.fromkeys(split)}
    counts = {name: _counts(label, rows) for name, rows in rows_of.items()}
    return {"kind": label.kind, "classes": list(label.classes), "splits": counts}


def _counts(label: LabelColumn, rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
    labelled = rows & label.labelled
    values = label.values[labelled]
    facts: dict[str, Any] = {"labelled": int(labelled.sum()), "unlabelled": int((rows & ~labelled).sum())}
    if label.kind == "class":
        facts["counts"] = np.bincount(values, minlength=len(label.classes)).tolist()
    elif label.kind == "multi":
        facts["counts"] = (values > 0).sum(0).tolist()
    elif len(values):
        facts |= {"mean": float(values.mean()), "std": float(values.std())}
        facts |= {"min": float(values.min()), "max": float(values.max())}
    return facts


def _set(index: SetIndex) -> dict[str, Any]:
    spec, ok = index.spec, index.ok
    reasons = Counter(reason for reason in index.reasons if reason)
    return {
        "modality": spec.modality,
        "name": spec.name,
        "fingerprint": spec.fingerprint,
        "encoder": dict(spec.encoder),
        "inputs": dict(spec.inputs),
        "dim": spec.dim,
        "stack": spec.stack,
        "dtype": spec.dtype,
        "steps": int(index.length.sum()),
        "bytes": index.value_bytes(),
        "fates": {fate.name.lower(): int((index.fates == fate).sum()) for fate in Fate},
        "coverage": float(index.coverage[ok].mean()) if ok.any() else 0.0,
        "partly_covered": int((index.coverage[ok] < 1).sum()),
        "shards": len(index.shards),
        "reasons": dict(reasons.most_common(MOST_REASONS)),
    }
