"""How two caches or packs differ: specs, utterances, labels, and the features they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from .catalogue import SetIndex
from .shard import Fate
from .store import FeatureStore
from .table import NUMBER_COLUMNS, TEXT_COLUMNS, LabelColumn

MOST_NAMED = 5


def diff(first: FeatureStore, second: FeatureStore) -> dict[str, Any]:
    """Compare two caches; JSON-able, and empty where they say the same.

    Returns
    -------
    Any of `corpus`, `provenance`, `datasheet` (changed entries as [first, second]), `utterances` (only in one, changed
    columns), `targets`, and `sets`: those only in one, and for each pair the changed spec entries, changed fates, and
    how far the features of shared utterances lie apart.
    """
    shared = [key for key in first.utterances.keys if key in second.utterances]
    parts: dict[str, Any] = {
        name: changed(getattr(first.catalogue, name), getattr(second.catalogue, name))
        for name in ("corpus", "provenance", "datasheet")
    }
    parts["datasheet"].pop("contents", None)
    parts["utterances"] = _utterances(first, second, shared)
    parts["targets"] = _targets(first, second, shared)
    parts["sets"] = _sets(first, second, shared)
    return {name: part for name, part in parts.items() if part}


def changed(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Entries that differ, as `[first, second]` by dotted path; None stands for an absent one."""
    found: dict[str, Any] = {}
    for name in [*first, *(name for name in second if name not in first)]:
        one, two = first.get(name), second.get(name)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            found |= changed(one, two, f"{prefix}{name}.")
        elif one != two and not (name == "contents" and not prefix):
            found[f"{prefix}{name}"] = [one, two]
    return found


def _utterances(first: FeatureStore, second: FeatureStore, shared: list[str]) -> dict[str, Any]:
    found = _only(list(first.utterances.keys), list(second.utterances.keys))
    a, b = first.utterances.rows(shared).tolist(), second.utterances.rows(shared).tolist()
    columns = {}
    for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS):
        one, two = getattr(first.utterances, name), getattr(second.utterances, name)
        rows = [key for key, i, j in zip(shared, a, b, strict=True) if not _same(one[i], two[j])]
        if rows:
            columns[name] = _named(rows)
    return found | ({"changed": columns} if columns else {})


def _same(one: Any, two: Any) -> bool:
    both_nan = isinstance(one, float) and isinstance(two, float) and np.isnan(one) and np.isnan(two)
    return bool(both_nan or one == two)


def _only(first: list[str], second: list[str]) -> dict[str, Any]:
    ours, theirs = set(first), set(second)
    sides = {
        "only_first": [name for name in first if name not in theirs],
        "only_second": [name for name in second if name not in ours],
    }
    return {side: _named(names) for side, names in sides.items() if names}


def _named(names: list[str]) -> dict[str, Any]:
    return {"count": len(names), "first": names[:MOST_NAMED]}


def _targets(first: FeatureStore, second: FeatureStore, shared: list[str]) -> dict[str, Any]:
    one, two = first.utterances.labels, second.utterances.labels
    found = _only(list(one), list(two))
    a, b = first.utterances.rows(shared), second.utterances.rows(shared)
    for name in one:
        if name in two and (told := _target(one[name].select(a), two[name].select(b), shared)):
            found[name] = told
    return found


def _target(one: LabelColumn, two: LabelColumn, shared: list[str]) -> dict[str, Any]:
    told = changed({"kind": one.kind, "classes": list(one.classes)}, {"kind": two.kind, "classes": list(two.classes)})
    if one.kind != two.kind:
        return told
    if one.kind == "class":
        named = [np.array([*column.classes, ""], object)[column.values] for column in (one, two)]
        differs = named[0] != named[1]
    elif one.classes == two.classes:
        same = (one.values == two.values) | (np.isnan(one.values) & np.isnan(two.values))
        differs = ~same if same.ndim == 1 else ~same.all(axis=1)
    else:
        return told
    rows = [key for key, other in zip(shared, differs.tolist(), strict=True) if other]
    return told | ({"changed": _named(rows)} if rows else {})


# ---------------------------------------------------------------------------------------------------------- features


def _sets(first: FeatureStore, second: FeatureStore, shared: list[str]) -> dict[str, Any]:
    pairs = _pairs(first, second)
    found = _only(
        [name for name in first.sets if name not in pairs],
        [name for name in second.sets if name not in pairs.values()],
    )
    for one, two in pairs.items():
        told = changed(asdict(first.sets[one].spec), asdict(second.sets[two].spec))
        part: dict[str, Any] = {"spec": told} if told else {}
        part |= _features(first, second, one, two, shared)
        if part:
            found[one if one == two else f"{one} / {two}"] = part
    return found


def _pairs(first: FeatureStore, second: FeatureStore) -> dict[str, str]:
    """Sets of the same name, then the remaining ones of the same modality, encoder and width, each once."""
    pairs = {name: name for name in first.sets if name in second.sets}
    for name, index in first.sets.items():
        for other, candidate in second.sets.items():
            if name not in pairs and other not in pairs.values() and _kin(index) == _kin(candidate):
                pairs[name] = other
    return pairs


def _kin(index: SetIndex) -> tuple[str, str, int]:
    return index.spec.modality, index.spec.name, index.spec.dim


def _features(first: FeatureStore, second: FeatureStore, one: str, two: str, shared: list[str]) -> dict[str, Any]:
    a, b = first.utterances.rows(shared), second.utterances.rows(shared)
    before, after = first.sets[one], second.sets[two]
    fates = [
        f"{key}: {Fate(x).name.lower()} -> {Fate(y).name.lower()}"
        for key, x, y in zip(shared, before.fates[a].tolist(), after.fates[b].tolist(), strict=True)
        if x != y
    ]
    found: dict[str, Any] = {"fates": _named(fates)} if fates else {}
    both = before.ok[a] & after.ok[b]
    alike = both & (before.spec.dtype == after.spec.dtype) & (before.checksums[a] == after.checksums[b])
    left = np.flatnonzero(both & ~alike)
    if not len(left):
        return found
    found["shared"], found["identical"] = int(both.sum()), int(alike.sum())
    lengths = [shared[row] for row in left.tolist() if before.length[a[row]] != after.length[b[row]]]
    if lengths:
        found["other_lengths"] = _named(lengths)
    compared = [row for row in left.tolist() if before.length[a[row]] == after.length[b[row]] > 0]
    if compared:
        found |= _distance(first, second, one, two, [shared[row] for row in compared])
    return found


def _distance(first: FeatureStore, second: FeatureStore, one: str, two: str, keys: list[str]) -> dict[str, Any]:
    """How far utterances of equal length lie apart: largest difference, and cosine of whole utterances."""
    largest, cosines, masks = [], [], 0
    for key in keys:
        x, y = first.read(one, key), second.read(two, key)
        masks += not np.array_equal(x.valid, y.valid)
        u, v = x.values.astype(np.float64), y.values.astype(np.float64)
        largest.append(float(np.abs(u - v).max(initial=0)))
        cosines.append(_cosine(u.reshape(-1), v.reshape(-1)))
    worst = int(np.argmin(cosines))
    return {
        "compared": len(keys),
        "max_abs_difference": max(largest),
        "mean_cosine": float(np.mean(cosines)),
        "least_cosine": cosines[worst],
        "least_alike": keys[worst],
        **({"other_masks": masks} if masks else {}),
    }


def _cosine(u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]) -> float:
    scale = float(np.linalg.norm(u) * np.linalg.norm(v))
    return float(u @ v) / scale if scale else float(not u.any() and not v.any())
