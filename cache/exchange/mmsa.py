"""MMSA and MMSA-FET pickles: `{"train"|"valid"|"test": {"text": (N, L, D), "audio": ..., "vision": ...}}`.

Every utterance is padded to the longest; only audio and vision say their lengths, and only when unaligned.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..atomic import atomic_write
from ..errors import MerError
from ..sequence import FeatureSequence
from ..table import LabelColumn, UtteranceTable
from .pack import (
    Exported,
    Imported,
    Outgoing,
    PackSet,
    as_text,
    class_column,
    class_names,
    first_label,
    lost_labels,
    real_column,
    split_of,
    stepped,
    unique_keys,
)
from .safe_pickle import load

MODALITIES = {"text": "text", "audio": "audio", "vision": "face"}
SENTIMENTS = {
    "regression_labels": "sentiment",
    "regression_labels_T": "sentiment_text",
    "regression_labels_A": "sentiment_audio",
    "regression_labels_V": "sentiment_vision",
}
POLARITY = ("Negative", "Neutral", "Positive")
IGNORED = ("text_bert", "align", "feature")
KNOWN = {*MODALITIES, *SENTIMENTS, *IGNORED, "id", "raw_text", "audio_lengths", "vision_lengths"}
KNOWN |= {"annotations", "classification_labels"}


def read(source: Path, target: str | None = None) -> Imported:
    """Read an MMSA pickle.

    Raises
    ------
    MerError
        If it is not one; the message names the split and field.
    """
    content = load(source)
    splits = {
        name: split for name, split in _items(content) if isinstance(split, dict) and "id" in split and name != "config"
    }
    if not splits:
        raise MerError(f"{source}: not an MMSA pickle; it has no split with ids (train, valid, test)")
    lost: list[str] = []
    names = [split_of(name, source.name, lost) for name in splits]
    sizes = [len(split["id"]) for split in splits.values()]
    parts = list(splits.values())
    split_column = [name for name, size in zip(names, sizes, strict=True) for _ in range(size)]
    raw_ids = [as_text(one) for split in parts for one in split["id"]]
    keys = unique_keys(raw_ids, split_column, lost)
    text = [as_text(one) for split, size in zip(parts, sizes, strict=True) for one in _column(split, "raw_text", size)]
    table = UtteranceTable.of(
        keys,
        text=text if any("raw_text" in split for split in parts) else [None] * len(keys),
        split=split_column,
        dialogue=[one.rpartition("$_$")[0] for one in raw_ids],
        turn=np.array([_turn(one) for one in raw_ids], np.int64),
        labels=_labels(parts, sizes),
    )
    sets = [made for field in MODALITIES if (made := _set(source, field, parts, sizes, lost)) is not None]
    lost += [f"{name!r} is not read" for name in sorted({field for split in parts for field in split} - KNOWN)]
    if any("text_bert" in split for split in parts):
        lost.append("'text_bert' (token ids for fine-tuning BERT) is not read")
    return Imported(table, sets, lost, {"name": source.stem})


def _items(content: Any) -> list[tuple[str, Any]]:
    return [(as_text(name), split) for name, split in content.items()] if isinstance(content, dict) else []


def _turn(identity: str) -> int:
    clip = identity.rpartition("$_$")[2]
    return int(clip) if "$_$" in identity and clip.isascii() and clip.isdigit() and len(clip) < 10 else -1


def _column(split: dict[str, Any], field: str, size: int) -> Sequence[Any]:
    column = split.get(field)
    if column is None:
        return [None] * size
    if not isinstance(column, (list, tuple, np.ndarray)) or len(column) != size:
        raise MerError(f"MMSA field {field!r} has not one entry for each of {size} ids")
    return list(column)


def _labels(parts: list[dict[str, Any]], sizes: list[int]) -> dict[str, LabelColumn]:
    labels: dict[str, LabelColumn] = {}
    for field, name in SENTIMENTS.items():
        if any(field in split for split in parts):
            raw = [one for split, size in zip(parts, sizes, strict=True) for one in _column(split, field, size)]
            labels[name] = real_column([None if one is None else float(one) for one in raw])
    for field, name in (("annotations", "annotation"), ("classification_labels", "class")):
        if any(field in split for split in parts):
            raw = [one for split, size in zip(parts, sizes, strict=True) for one in _column(split, field, size)]
            texts = [None if one is None or as_text(one) == "" else as_text(one) for one in raw]
            labels[name] = class_column(texts, POLARITY)
    return labels


def _set(source: Path, field: str, parts: list[dict[str, Any]], sizes: list[int], lost: list[str]) -> PackSet | None:
    sequences: list[FeatureSequence | None] = []
    for split, size in zip(parts, sizes, strict=True):
        values = split.get(field)
        if values is None or not size:
            sequences += [None] * size
            continue
        numeric = isinstance(values, np.ndarray) and values.dtype.kind in "fiu"
        if not numeric or values.ndim != 3 or len(values) != size:
            raise MerError(f"{source}: {field!r} must be numbers of shape (N, L, D) with N = {size}")
        lengths = _column(split, f"{field}_lengths", size)
        sequences += [stepped(_cut(rows, length)) for rows, length in zip(values, lengths, strict=True)]
        if values.dtype.kind == "f" and np.isneginf(values).any():
            lost.append(f"{field}: -inf was replaced by 0, as MMSA does")
    dims = {sequence.values.shape[1] for sequence in sequences if sequence is not None}
    if not dims or dims == {0}:
        return None
    if len(dims) > 1:
        raise MerError(f"{source}: {field!r} has different widths in different splits: {sorted(dims)}")
    padded = not any(f"{field}_lengths" in split for split in parts)
    return PackSet(MODALITIES[field], f"mmsa-{field}", dims.pop(), sequences, field, padded)


def _cut(rows: npt.NDArray[Any], length: Any) -> npt.NDArray[Any]:
    """Rows of true length; padding may lie at either end."""
    if length is not None:
        true = min(max(int(length), 0), len(rows))
        at_start = rows[true:].any() and not rows[: len(rows) - true].any()
        rows = rows[len(rows) - true :] if at_start else rows[:true]
    return np.where(np.isneginf(rows), 0, rows) if rows.dtype.kind == "f" and np.isneginf(rows).any() else rows


# -------------------------------------------------------------------------------------------------------- export


def write(outgoing: Outgoing, target: Path, label: str | None = None) -> Exported:
    """Write a pickle that MMSA's data loader reads.

    Parameters
    ----------
    label
        Target that becomes `regression_labels`; by default the first target that is a number, else a class code.
    """
    table = outgoing.utterances
    chosen = {field: outgoing.only(modality) for field, modality in MODALITIES.items()}
    lost = _losses(outgoing, chosen)
    real, kind = first_label(table, "real", label), first_label(table, "class", label)
    if real is None:
        lost.append(f"no target is a number; 'regression_labels' holds {f'the codes of {kind!r}' if kind else 'NaN'}")
    keys = _identities(table)
    groups: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for row, split in enumerate(table.split):
        groups["valid" if split == "val" else split if split == "test" else "train"].append(row)
    strays = sum(split not in ("train", "val", "test") for split in table.split)
    if strays:
        lost.append(f"{strays} utterances of no or another split are in 'train'")
    longest = {
        field: max((len(one) for row in range(len(table)) if made and (one := made.sequences[row])), default=0) or 1
        for field, made in chosen.items()
    }
    content = {
        name: _split(outgoing, chosen, longest, [keys[row] for row in rows], rows, (real, kind))
        for name, rows in groups.items()
    }
    with atomic_write(target) as temporary, temporary.open("wb") as handle:
        pickle.dump(content, handle, protocol=4)
    slot = {id(made): field for field, made in chosen.items() if made is not None}
    slots = [slot[id(made)] for made in outgoing.sets]
    return Exported(keys, slots, outgoing.sets, lost + lost_labels(table, (real, kind)))


def _identities(table: UtteranceTable) -> list[str]:
    """Ids of the form `video$_$clip`, unique."""
    numbered = [f"{key}$_${max(0, int(turn))}" for key, turn in zip(table.keys, table.turn, strict=True)]
    kept = [key if "$_$" in key else other for key, other in zip(table.keys, numbered, strict=True)]
    return kept if len(set(kept)) == len(kept) else numbered


def _losses(outgoing: Outgoing, chosen: dict[str, PackSet | None]) -> list[str]:
    lost = ["'text_bert' is not written: configure MMSA with use_bert off"]
    for field, made in chosen.items():
        if made is None:
            lost.append(f"there are no {MODALITIES[field]} features; {field!r} is one zero per utterance")
            continue
        missing = sum(made.sequences[row] is None for row in range(len(made.sequences)))
        if missing:
            lost.append(f"{missing} utterances without {MODALITIES[field]} features are zeros in {field!r}")
    return [*lost, "step times, validity and everything about speakers live in the sidecar only"]


def _split(
    outgoing: Outgoing,
    chosen: dict[str, PackSet | None],
    longest: dict[str, int],
    keys: list[str],
    rows: list[int],
    labels: tuple[str | None, str | None],
) -> dict[str, Any]:
    table = outgoing.utterances
    real, kind = labels
    names = class_names(table.labels[kind], rows) if kind else [""] * len(rows)
    if real is not None:
        numbers = table.labels[real].values[rows]
    elif kind is not None:
        codes = table.labels[kind].values[rows]
        numbers = np.where(codes < 0, np.nan, codes)
    else:
        numbers = np.full(len(rows), np.nan)
    made: dict[str, Any] = {
        "id": list(keys),
        "raw_text": [table.text[row] or "" for row in rows],
        "regression_labels": np.asarray(numbers, np.float32),
        "annotations": names,
    }
    for field, features in chosen.items():
        made[field], made[f"{field}_lengths"] = _padded(features, longest[field], rows)
    return made


def _padded(features: PackSet | None, longest: int, rows: list[int]) -> tuple[npt.NDArray[np.float32], list[int]]:
    block = np.zeros((len(rows), longest, features.dim if features else 1), np.float32)
    lengths = [0] * len(rows)
    for position, row in enumerate(rows):
        sequence = features.sequences[row] if features else None
        if sequence is not None:
            block[position, : len(sequence)] = sequence.values
            lengths[position] = len(sequence)
    return block, lengths
