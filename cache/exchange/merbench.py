"""MERBench folders: `features/NAME-UTT|-FRA/ID.npy`, `label*.npz` and a table of transcripts."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MerError
from ..sequence import FeatureSequence
from ..table import LabelColumn, UtteranceTable
from .guess import modality_of, name_of, stem_of
from .pack import (
    Exported,
    Imported,
    LazySequences,
    Outgoing,
    PackSet,
    as_text,
    class_column,
    file_name,
    first_label,
    key_of_file,
    lost_labels,
    split_of,
    stepped,
    unique_keys,
)
from .safe_npy import read_npy, read_npz

NO_VALENCE = -10.0
MELD = ("anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise")
IEMOCAP = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
LEVELS = ("UTT", "FRA")
TRANSCRIPTS = "transcription-engchi-polish.csv"


def read(source: Path, mapping: Mapping[str, str] | None = None) -> Imported:
    """Read a dataset folder.

    Parameters
    ----------
    source
        Folder with `features/` and a `label*.npz`, or the `.npz` alone for its table.
    mapping
        Modality of a feature folder, by its name without the level, where the name does not tell.
    """
    lost: list[str] = []
    folder = source if source.is_dir() else source.parent
    labels = sorted(folder.glob("label*.npz")) if source.is_dir() else [source]
    if len(labels) != 1:
        raise MerError(f"{source}: {len(labels)} label*.npz files; exactly one says which utterances there are")
    table = _table(labels[0], folder / TRANSCRIPTS, lost)
    home = folder / "features" if (folder / "features").is_dir() else folder
    sets = []
    for path in sorted(home.iterdir()) if source.is_dir() else []:
        level = path.name[-3:]
        if path.is_dir() and level in LEVELS and path.name[-4:-3] in ("-", "_"):
            made = _set(path, table.keys, mapping or {})
            sets += [made] if made else []
            lost += [] if made else [f"{path.name} holds no .npy of any utterance in the label file"]
    return Imported(table, sets, lost, {"name": source.stem})


def _table(path: Path, transcripts: Path, lost: list[str]) -> UtteranceTable:
    names: list[str] = []
    splits: list[str] = []
    facts: list[Mapping[str, Any]] = []
    for field, array in read_npz(path).items():
        corpus = array.item() if array.shape == () else None
        if not field.endswith("_corpus") or not isinstance(corpus, dict):
            raise MerError(f"{path}: {field!r} is not a table of utterances")
        part = field.removesuffix("_corpus")
        split = "" if part == "whole" else part if part[:4] == "test" else split_of(part, path.name, lost)
        for name, fact in corpus.items():
            if not isinstance(fact, dict):
                raise MerError(f"{path}: {as_text(name)[:60]!r} has no labels")
            names.append(as_text(name))
            splits.append(split)
            facts.append(fact)
    keys = unique_keys([key_of_file(name) for name in names], splits, lost)
    text = _transcripts(transcripts)
    return UtteranceTable.of(
        keys, text=[text.get(name) for name in names], split=splits, labels=_labels(names, facts, lost)
    )


def _transcripts(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as handle:
        rows = list(csv.DictReader(handle))
    return {row["name"]: row.get("english") or row.get("chinese") or "" for row in rows if row.get("name")}


def _labels(names: Sequence[str], facts: Sequence[Mapping[str, Any]], lost: list[str]) -> dict[str, LabelColumn]:
    columns: dict[str, LabelColumn] = {}
    emotions = [fact.get("emo") for fact in facts]
    if len({str(one) for one in emotions}) > 1:
        columns["emotion"] = _emotion(names, emotions, lost)
    elif emotions:
        lost.append("'emo' is the same for every utterance and is left out")
    valence = np.array([_number(fact.get("val")) for fact in facts])
    valence[valence == NO_VALENCE] = np.nan
    if not np.isnan(valence).all():
        columns["sentiment"] = LabelColumn("real", (), valence)
    return columns


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float, np.number)) else np.nan


def _emotion(names: Sequence[str], raw: Sequence[Any], lost: list[str]) -> LabelColumn:
    """Class names for MERBench's codes where the ids tell the corpus; the codes themselves elsewhere."""
    known: tuple[str, ...] = ()
    if all(name.split("_")[0] in ("train", "val", "test") and "_utt" in name for name in names):
        known = MELD
    elif all(name.startswith("Ses0") for name in names):
        known = IEMOCAP
    codes = [int(one) if isinstance(one, (int, np.integer)) else None for one in raw]
    if known and all(code is not None and -1 <= code < len(known) for code in codes):
        used = known[: max(code or 0 for code in codes) + 1]
        return LabelColumn.of("class", used, [None if code is None or code < 0 else known[code] for code in codes])
    lost.append("emotions keep MERBench's codes or names; the file does not say what the codes mean")
    return class_column([None if one is None or one == -1 else as_text(one) for one in raw])


def _set(path: Path, keys: Sequence[str], mapping: Mapping[str, str]) -> PackSet | None:
    stem = path.name[:-4]
    modality = mapping.get(path.name) or mapping.get(stem) or modality_of(stem, str(path))
    first = next((found for row in range(len(keys)) if (found := _read_one(path, keys, row)) is not None), None)
    if first is None:
        return None
    name = f"{name_of(stem)}-{path.name[-3:]}"
    sequences = LazySequences(len(keys), partial(_read_one, path, keys))
    return PackSet(modality, name, first.values.shape[1], sequences, path.name)


def _read_one(path: Path, keys: Sequence[str], row: int) -> FeatureSequence | None:
    """Features of one utterance: a file, or a folder of one file per frame."""
    name = file_name(keys[row])
    plain = path / f"{keys[row]}.npy"
    file = path / f"{name}.npy"
    if not file.exists() and "/" not in keys[row] and plain.exists():
        file = plain
    if file.exists():
        return stepped(read_npy(file))
    frames = sorted((path / name).glob("*.npy"))
    return stepped(np.stack([read_npy(frame).ravel() for frame in frames])) if frames else None


# -------------------------------------------------------------------------------------------------------- export


def write(outgoing: Outgoing, target: Path, label: str | None = None) -> Exported:
    """Write every set twice, as frames (`-FRA`) and as the mean over valid steps (`-UTT`), with labels and texts."""
    table = outgoing.utterances
    names = [file_name(key) for key in table.keys]
    kind, real = first_label(table, "class", label), first_label(table, "real", label)
    lost = ["step times, validity and speakers live in the sidecar only"]
    if any(name != key for name, key in zip(names, table.keys, strict=True)):
        lost.append("ids that are no plain file names were percent-encoded, in the label file too")
    for made in outgoing.sets:
        lost += _write_set(made, names, target / "features")
    corpora: dict[str, dict[str, Any]] = {}
    for row, name in enumerate(names):
        emotion = int(table.labels[kind].values[row]) if kind else 0
        valence = float(table.labels[real].values[row]) if real else NO_VALENCE
        fact = {"emo": emotion, "val": NO_VALENCE if np.isnan(valence) else valence}
        corpora.setdefault(f"{table.split[row] or 'whole'}_corpus", {})[name] = fact
    unlabelled = kind is not None and bool((table.labels[kind].values < 0).any())
    lost += ["utterances without a class have emo -1"] if unlabelled else []
    boxed: dict[str, Any] = {name: np.array(corpus, dtype=object) for name, corpus in corpora.items()}
    target.mkdir(parents=True, exist_ok=True)
    np.savez(target / "label.npz", **boxed)
    with (target / TRANSCRIPTS).open("w", newline="", encoding="utf-8", errors="surrogatepass") as handle:
        rows = csv.writer(handle)
        rows.writerow(("name", "chinese", "english"))
        rows.writerows((name, "", text or "") for name, text in zip(names, table.text, strict=True))
    slots = [f"{_stem(made)}-FRA" for made in outgoing.sets]
    return Exported(
        [key_of_file(name) for name in names], slots, outgoing.sets, lost + lost_labels(table, (kind, real))
    )


def _stem(made: PackSet) -> str:
    return file_name(stem_of(made.modality, made.name))


def _write_set(made: PackSet, names: Sequence[str], home: Path) -> list[str]:
    empty = 0
    for row, name in enumerate(names):
        sequence = made.sequences[row]
        values: npt.NDArray[np.float32] = np.zeros((1, made.dim), np.float32)
        valid = np.ones(1, np.bool_)
        if sequence is None or not len(sequence):
            empty += 1
        else:
            values, valid = np.asarray(sequence.values, np.float32), sequence.valid
        mean = values[valid].mean(0) if valid.any() else values[0] * 0
        for level, content in (("FRA", values), ("UTT", mean)):
            folder = home / f"{_stem(made)}-{level}"
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{name}.npy", content)
    return [f"{made.name}: {empty} utterances without steps are one row of zeros, as MERBench has it"] if empty else []
