"""The pickles of DialogueRNN, MMGCN and COSMIC: a tuple of dicts from dialogue to a list over its utterances.

What stands where in the tuple differs from paper to paper and is nowhere written in the file; it is told from the
length and from what lies where. Every utterance has one vector per modality.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    LazySequences,
    Outgoing,
    PackSet,
    as_text,
    class_column,
    first_label,
    lost_labels,
    stepped,
    unique_keys,
)
from .safe_pickle import load

IEMOCAP = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
MELD = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
MELD_SENTIMENT = ("neutral", "positive", "negative")
MOST_SPEAKERS = 9


@dataclass(frozen=True)
class Layout:
    """What stands where in the tuple."""

    fields: tuple[str, ...]
    modalities: Mapping[str, str]
    """Field -> modality."""
    one_hot: bool
    """Speakers as one-hot rows instead of `M` and `F`."""


_TRI = {"text": "text", "audio": "audio", "visual": "face"}
_COSMIC = {f"roberta{at}": "text" for at in (1, 2, 3, 4)}
LAYOUTS = {
    "iemocap": Layout(
        ("ids", "speakers", "labels", "text", "audio", "visual", "sentence", "train", "test"), _TRI, False
    ),
    "meld": Layout(
        ("ids", "speakers", "labels", "text", "audio", "sentence", "train", "test", "labels3"),
        {"text": "text", "audio": "audio"},
        True,
    ),
    "mmgcn-meld": Layout(
        ("ids", "speakers", "labels", "text", "audio", "visual", "sentence", "train", "test", "labels3"), _TRI, True
    ),
    "cosmic-iemocap": Layout(("speakers", "labels", *_COSMIC, "sentence", "train", "test", "valid"), _COSMIC, False),
    "cosmic-meld": Layout(
        ("speakers", "labels", "labels3", *_COSMIC, "sentence", "train", "test", "valid"), _COSMIC, True
    ),
}


def read(source: Path) -> Imported:
    """Read one of the pickles; which one is told from its shape.

    Raises
    ------
    MerError
        If it is none of the known layouts, or its parts disagree.
    """
    content = load(source)
    name = _layout_of(content)
    if name is None:
        known = ", ".join(f"{key} ({len(one.fields)})" for key, one in LAYOUTS.items())
        size = len(content) if isinstance(content, (list, tuple)) else type(content).__name__
        raise MerError(f"{source}: holds {size} parts that fit none of the known layouts: {known}")
    layout = LAYOUTS[name]
    parts = dict(zip(layout.fields, content, strict=False))
    lost = [f"read as layout {name!r}"]
    if "valid" not in parts:
        lost.append("train and validation dialogues are one list in the format; all of it is 'train'")
    if name.startswith("cosmic"):
        lost.append("such text features come from a RoBERTa fine-tuned on the training split, not from a frozen one")
    dialogues = list(parts["labels"])
    counts = [len(parts["labels"][dialogue]) for dialogue in dialogues]
    places = [(d, at) for d, count in zip(dialogues, counts, strict=True) for at in range(count)]
    flat = {
        field: _flat(source, field, parts[field], dialogues, counts)
        for field in layout.fields
        if field not in ("train", "test", "valid") and field in parts
    }
    table = _table(source, name, parts, places, flat, lost)
    sets = [_set(source, field, modality, flat[field]) for field, modality in layout.modalities.items()]
    return Imported(table, sets, lost, {"name": source.stem})


def _layout_of(content: Any) -> str | None:
    """Name of the layout whose every field has the right kind of thing."""
    if not isinstance(content, (list, tuple)):
        return None
    for name, layout in LAYOUTS.items():
        if len(content) not in {len(layout.fields), len(layout.fields) - (layout.fields[-1] == "labels3")}:
            continue
        kinds = [
            isinstance(part, (list, tuple, set, np.ndarray) if field in ("train", "test", "valid") else dict)
            for field, part in zip(layout.fields, content, strict=False)
        ]
        if all(kinds):
            return name
    return None


def _flat(source: Path, field: str, part: Mapping[Any, Any], dialogues: list[Any], counts: list[int]) -> list[Any]:
    """Entries of one field for every utterance, in the order of the labels."""
    entries: list[Any] = []
    for dialogue, count in zip(dialogues, counts, strict=True):
        found = part.get(dialogue)
        if not isinstance(found, (list, tuple, np.ndarray)) or len(found) != count:
            raise MerError(f"{source}: {field!r} of dialogue {as_text(dialogue)[:60]!r} has not its {count} utterances")
        entries.extend(found)
    return entries


def _table(
    source: Path,
    name: str,
    parts: Mapping[str, Any],
    places: list[tuple[Any, int]],
    flat: Mapping[str, list[Any]],
    lost: list[str],
) -> UtteranceTable:
    members = {split: {_plain(one) for one in parts[split]} for split in ("train", "test", "valid") if split in parts}
    in_split = {one: "val" if split == "valid" else split for split, ones in members.items() for one in ones}
    splits = [in_split.get(_plain(dialogue), "") for dialogue, _ in places]
    if "ids" in flat and len({as_text(one) for one in flat["ids"]}) == len(places):
        raw = [as_text(one) for one in flat["ids"]]
    else:
        raw = [f"{as_text(dialogue)}_{at}" for dialogue, at in places]
        lost.append("utterances have no unique ids of their own; they are DIALOGUE_POSITION")
    labels = {"emotion": _classes(name, flat["labels"], lost)}
    if "labels3" in flat:
        labels["sentiment"] = _coded(flat["labels3"], MELD_SENTIMENT)
    return UtteranceTable.of(
        unique_keys(raw, splits, lost),
        text=[as_text(one) for one in flat["sentence"]],
        speaker=[_speaker(one) for one in flat["speakers"]],
        dialogue=[as_text(dialogue) for dialogue, _ in places],
        turn=np.array([at for _, at in places], np.int64),
        split=splits,
        labels=labels,
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _speaker(value: Any) -> str:
    """`M`, `F` or a name as they stand; a one-hot row as `speakerN`."""
    if isinstance(value, (list, tuple, np.ndarray)):
        row = np.asarray(value)
        return f"speaker{int(row.argmax())}" if row.ndim == 1 and row.dtype.kind in "fiub" and row.any() else ""
    return as_text(value)


def _classes(name: str, raw: Sequence[Any], lost: list[str]) -> LabelColumn:
    known = MELD if LAYOUTS[name].one_hot else IEMOCAP
    if all(isinstance(_plain(one), int) and -1 <= _plain(one) < len(known) for one in raw):
        lost.append(f"label codes are taken to mean {', '.join(known)}")
        return _coded(raw, known)
    lost.append("label codes are kept as they are; the file does not say what they mean")
    return class_column([as_text(_plain(one)) for one in raw])


def _coded(raw: Sequence[Any], names: Sequence[str]) -> LabelColumn:
    codes = [_plain(one) for one in raw]
    if not all(isinstance(code, int) and -1 <= code < len(names) for code in codes):
        return class_column([as_text(code) for code in codes])
    return LabelColumn("class", tuple(names), np.array(codes, np.int64))


def _set(source: Path, field: str, modality: str, entries: Sequence[Any]) -> PackSet:
    vectors = [_vector(source, field, one) for one in entries]
    widths = {len(one) for one in vectors}
    if len(widths) != 1 or 0 in widths:
        raise MerError(f"{source}: {field!r} has vectors of widths {sorted(widths)}; one width is needed")

    def one(row: int) -> FeatureSequence:
        return stepped(vectors[row])

    return PackSet(modality, f"dialoguernn-{field}", widths.pop(), LazySequences(len(vectors), one), field)


def _vector(source: Path, field: str, value: Any) -> npt.NDArray[Any]:
    """One utterance's vector: an array, or a list of numbers."""
    if isinstance(value, (list, tuple)) and all(isinstance(_plain(one), (int, float)) for one in value):
        return np.array(value, np.float64)
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.size == value.shape[-1]:
        return value.reshape(-1)
    raise MerError(f"{source}: {field!r} holds something that is not a vector of numbers")


# -------------------------------------------------------------------------------------------------------- export


def write(outgoing: Outgoing, target: Path, layout: str | None = None, label: str | None = None) -> Exported:
    """Write one of the pickles.

    Parameters
    ----------
    layout
        Name in `LAYOUTS`; by default `iemocap`, which has all three modalities.
    """
    name = layout or "iemocap"
    if name not in LAYOUTS:
        raise MerError(f"layout {name!r} is not known; one of {', '.join(LAYOUTS)}")
    shape, table = LAYOUTS[name], outgoing.utterances
    kind = first_label(table, "class", label)
    if kind is None:
        raise MerError("these pickles need a target of classes and the pack has none")
    chosen, lost = _chosen(outgoing, shape)
    dialogues = _dialogues(table)
    rows_of = {title: rows for title, (_, rows) in dialogues.items()}
    split_of_dialogue = {title: split for title, (split, _) in dialogues.items()}
    columns = {field: _block(made, len(table)) for field, made in chosen.items()}
    speakers = _one_hot(table, rows_of, lost) if shape.one_hot else _genders(table, rows_of, lost)
    codes = [int(code) for code in table.labels[kind].values]
    known = MELD if shape.one_hot else IEMOCAP
    if table.labels[kind].classes != known[: len(table.labels[kind].classes)]:
        lost.append(f"codes follow this pack's order ({', '.join(table.labels[kind].classes)}), not the peers' own")
    flat: dict[str, Sequence[Any]] = {
        "ids": table.keys,
        "speakers": speakers,
        "labels": codes,
        "labels3": _sentiment(table, codes, lost) if "labels3" in shape.fields else codes,
        "sentence": [text or "" for text in table.text],
        **columns,
    }
    parts = [
        _members(field, split_of_dialogue, "valid" in shape.fields)
        if field in ("train", "test", "valid")
        else {title: [flat[field][row] for row in rows] for title, rows in rows_of.items()}
        for field in shape.fields
    ]
    with atomic_write(target) as temporary, temporary.open("wb") as handle:
        pickle.dump(parts if name == "cosmic-meld" else tuple(parts), handle, protocol=2)
    keys = _keys_seen(table, rows_of, "ids" in shape.fields)
    used = {field: made for field, made in chosen.items() if made is not None and field in ("roberta1", *_TRI)}
    sets = [_pooled(made, len(table)) for made in used.values()]
    return Exported(keys, list(used), sets, lost + lost_labels(table, [kind]))


def _chosen(outgoing: Outgoing, shape: Layout) -> tuple[dict[str, PackSet | None], list[str]]:
    chosen = {field: outgoing.only(modality) for field, modality in shape.modalities.items()}
    lost = ["every utterance is one vector per modality: the mean over its valid steps"]
    for field, made in chosen.items():
        if made is None:
            lost.append(f"there are no {shape.modalities[field]} features; {field!r} is one zero per utterance")
    strays = [made.name for made in outgoing.sets if made.modality not in shape.modalities.values()]
    lost += [f"{name} has no place in this layout and is left out" for name in strays]
    if "roberta1" in chosen:
        lost.append("roberta1 to roberta4 are the same features: the pack holds one text set")
    missing = sum(made.sequences[row] is None for made in outgoing.sets for row in range(len(outgoing.utterances)))
    if missing:
        lost.append(f"{missing} missing features are vectors of zeros")
    return chosen, lost


def _pooled(made: PackSet, count: int) -> PackSet:
    """The set as written: one step per utterance, the mean over valid steps; None where there are no features."""

    def one(row: int) -> FeatureSequence | None:
        sequence = made.sequences[row]
        if sequence is None:
            return None
        if not sequence.valid.any():
            return FeatureSequence(np.zeros((1, made.dim), np.float32), np.zeros(1, np.float32), np.zeros(1, np.bool_))
        mean = np.asarray(sequence.values[sequence.valid], np.float32).mean(0)
        return FeatureSequence.of(mean[None], np.array([sequence.times[sequence.valid].mean()]))

    return PackSet(made.modality, made.name, made.dim, LazySequences(count, one))


def _block(made: PackSet | None, count: int) -> list[npt.NDArray[np.float32]]:
    if made is None:
        return [np.zeros(1, np.float32)] * count
    pooled = _pooled(made, count).sequences
    zero = np.zeros(made.dim, np.float32)
    return [zero if (one := pooled[row]) is None else np.asarray(one.values[0], np.float32) for row in range(count)]


def _dialogues(table: UtteranceTable) -> dict[str, tuple[str, list[int]]]:
    """Split and rows of every dialogue, in order of turns; without a dialogue an utterance is its own."""
    groups: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(table.keys):
        groups.setdefault((table.dialogue[row] or key, table.split[row]), []).append(row)
    times_used = Counter(title for title, _ in groups)
    return {
        title if times_used[title] == 1 else f"{split}/{title}": (split, sorted(rows, key=lambda row: table.turn[row]))
        for (title, split), rows in groups.items()
    }


def _members(field: str, splits: Mapping[str, str], has_valid: bool) -> list[str]:
    """Dialogues of a list of ids: everything that is not test trains, and validation too where it has no list."""
    wanted = {"test": "test", "valid": "val"}.get(field)
    if wanted:
        return [title for title, split in splits.items() if split == wanted]
    return [title for title, split in splits.items() if split != "test" and not (has_valid and split == "val")]


def _keys_seen(table: UtteranceTable, rows_of: Mapping[str, list[int]], has_ids: bool) -> list[str]:
    if has_ids:
        return table.keys
    seen = [""] * len(table)
    for title, rows in rows_of.items():
        for at, row in enumerate(rows):
            seen[row] = f"{title}_{at}"
    return seen


def _positions(table: UtteranceTable, rows_of: Mapping[str, list[int]]) -> list[int]:
    """Number of each utterance's speaker within its dialogue, in order of first appearance."""
    numbers = [0] * len(table)
    for rows in rows_of.values():
        order: dict[str, int] = {}
        for row in rows:
            numbers[row] = order.setdefault(table.speaker[row], len(order))
    return numbers


def _one_hot(table: UtteranceTable, rows_of: Mapping[str, list[int]], lost: list[str]) -> list[list[int]]:
    numbers = _positions(table, rows_of)
    if any(number >= MOST_SPEAKERS for number in numbers):
        lost.append(f"dialogues have more than {MOST_SPEAKERS} speakers; the last place holds the rest")
    lost.append("speakers are one-hot rows in order of appearance in their dialogue")
    return [[int(min(number, MOST_SPEAKERS - 1) == at) for at in range(MOST_SPEAKERS)] for number in numbers]


def _genders(table: UtteranceTable, rows_of: Mapping[str, list[int]], lost: list[str]) -> list[str]:
    ends = [speaker[-1:].upper() for speaker in table.speaker]
    if all(end in ("M", "F") for end in ends):
        return ends
    lost.append("speakers are 'M' for the first of a dialogue and 'F' for the others: the layout knows two")
    return ["F" if number else "M" for number in _positions(table, rows_of)]


def _sentiment(table: UtteranceTable, codes: list[int], lost: list[str]) -> list[int]:
    column = table.labels.get("sentiment")
    if column is not None and column.kind == "class" and set(column.classes) <= set(MELD_SENTIMENT):
        return [MELD_SENTIMENT.index(column.classes[code]) if code >= 0 else -1 for code in column.values.tolist()]
    lost.append("there is no three-class sentiment; its place holds the emotion codes")
    return codes
