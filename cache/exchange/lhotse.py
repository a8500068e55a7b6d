"""lhotse feature manifests: `features-NAME.jsonl.gz` whose arrays lie in an HDF5 file, and `supervisions.jsonl.gz`."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import MerError
from ..sequence import FeatureSequence
from ..table import LabelColumn, UtteranceTable
from .foreign_hdf import numbers, open_foreign
from .guess import modality_of, name_of, stem_of
from .pack import (
    Exported,
    Imported,
    LazySequences,
    Outgoing,
    PackSet,
    class_column,
    class_names,
    file_name,
    key_of_file,
    real_column,
    split_of,
    stepped,
    unique_keys,
)
from .safe_npy import read_npy

RATE_HZ = 16_000
MOST_LINE_BYTES = 1 << 20
MOST_LINES = 10_000_000
STORAGES = ("numpy_hdf5", "numpy_files")


def read(source: Path, mapping: Mapping[str, str] | None = None) -> Imported:
    """Read a folder with feature manifests of storage `numpy_hdf5` or `numpy_files`, and supervisions if there are any.

    Parameters
    ----------
    mapping
        Modality of a manifest, by its file name without endings, where the name does not tell.
    """
    folder = source if source.is_dir() else source.parent
    manifests = _manifests(folder, "features") if source.is_dir() else [source]
    if not manifests:
        raise MerError(f"{source}: there is no features*.jsonl.gz or features*.jsonl")
    lost: list[str] = []
    entries = {path: [_features(path, line) for line in _lines(path)] for path in manifests}
    raw = list(dict.fromkeys(entry["key"] for found in entries.values() for entry in found))
    told = [one for path in _manifests(folder, "supervisions") for one in _lines(path)]
    supervisions = {str(one.get("recording_id")): one for one in told}
    known = [supervisions.get(key, {}) for key in raw]
    raw += [key for key in supervisions if key not in set(raw)]
    known += [supervisions[key] for key in raw[len(known) :]]
    customs = [one.get("custom") or {} for one in known]
    splits = [split_of(str(custom["split"]), "supervisions", []) if custom.get("split") else "" for custom in customs]
    keys = unique_keys([key_of_file(key) for key in raw], splits, lost)
    table = UtteranceTable.of(
        keys,
        text=[one.get("text") if isinstance(one.get("text"), str) else None for one in known],
        speaker=[str(one.get("speaker") or "") for one in known],
        dialogue=[str(custom.get("dialogue") or "") for custom in customs],
        split=splits,
        labels=_labels(customs, known),
    )
    sets = [_set(path, folder, found, raw, mapping or {}) for path, found in entries.items() if found]
    lost += [f"{path.name} lists no features" for path, found in entries.items() if not found]
    return Imported(table, sets, lost, {"name": source.name.split(".")[0]})


def _manifests(folder: Path, prefix: str) -> list[Path]:
    return sorted([*folder.glob(f"{prefix}*.jsonl.gz"), *folder.glob(f"{prefix}*.jsonl")])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a manifest, one per line, each of bounded length."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as handle:
            for number in range(MOST_LINES):
                line = handle.readline(MOST_LINE_BYTES)
                if not line:
                    return
                found = json.loads(line) if line.strip() else None
                if not isinstance(found, dict):
                    raise ValueError(f"line {number + 1} is not an object")
                yield found
    except (OSError, EOFError, ValueError, zlib.error, RecursionError) as error:
        raise MerError(f"{path}: not a manifest of JSON lines ({' '.join(str(error).split())[:100]})") from error


def _features(path: Path, line: dict[str, Any]) -> dict[str, Any]:
    """One feature manifest entry, checked."""
    storage, key = line.get("storage_type"), line.get("recording_id")
    if storage not in STORAGES:
        raise MerError(f"{path}: storage {str(storage)[:40]!r} is not read; store it in lhotse as numpy_hdf5")
    if not all(isinstance(one, str) for one in (key, line.get("storage_path"), line.get("storage_key"))):
        raise MerError(f"{path}: an entry lacks recording_id, storage_path or storage_key")
    shift = line.get("frame_shift")
    return {
        "key": key,
        "hdf5": storage == "numpy_hdf5",
        "path": line["storage_path"],
        "place": line["storage_key"],
        "shift": float(shift) if isinstance(shift, (int, float)) and 0 < shift < 1e6 else None,
        "dim": line.get("num_features"),
    }


def _inside(folder: Path, *parts: str) -> Path:
    """A file a manifest names; it may not lie outside the manifest's folder."""
    path = folder.joinpath(*parts).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise MerError(f"{folder}: the manifest names {'/'.join(parts)!a}, outside the folder; that is refused")
    return path


def _set(path: Path, folder: Path, found: list[dict[str, Any]], raw: list[str], mapping: Mapping[str, str]) -> PackSet:
    name = path.name.removesuffix(".gz").removesuffix(".jsonl").removeprefix("features").lstrip("-_") or "features"
    modality = mapping.get(name) or modality_of(name, str(path))
    dims = {entry["dim"] for entry in found}
    dim = dims.pop() if len(dims) == 1 else None
    if not isinstance(dim, int) or not 0 < dim < 2**24:
        raise MerError(f"{path}: num_features must be one number, found {sorted(map(str, {dim, *dims}))}")
    by_key = {entry["key"]: entry for entry in found}
    opened = {name: open_foreign(_inside(folder, name)) for name in {one["path"] for one in found if one["hdf5"]}}
    sequences = LazySequences(len(raw), partial(_read_one, path, folder, opened, by_key, raw, dim))
    return PackSet(modality, name_of(name), dim, sequences, name)


def _read_one(
    path: Path,
    folder: Path,
    opened: Mapping[str, h5py.File],
    by_key: Mapping[str, dict[str, Any]],
    raw: list[str],
    dim: int,
    row: int,
) -> FeatureSequence | None:
    entry = by_key.get(raw[row])
    if entry is None:
        return None
    if entry["hdf5"]:
        values = numbers(opened[entry["path"]], entry["place"], str(path), ndim=1)
    else:
        values = read_npy(_inside(folder, entry["path"], entry["place"]))
    rows = values[None] if values.ndim == 1 else values
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise MerError(f"{path}: {raw[row]!a} has shape {values.shape} where the manifest says {dim} columns")
    times = None if entry["shift"] is None else (np.arange(len(rows)) + 0.5) * entry["shift"]
    return stepped(rows, times)


def _labels(customs: list[Mapping[str, Any]], known: list[dict[str, Any]]) -> dict[str, LabelColumn]:
    """Label columns of `custom`: text becomes a class, a number a number; `emotion` of supervisions is read too."""
    names = dict.fromkeys(name for custom in customs for name in (custom.get("labels") or {}))
    columns: dict[str, LabelColumn] = {}
    for name in names:
        raw = [(custom.get("labels") or {}).get(name) for custom in customs]
        if all(one is None or (isinstance(one, (int, float)) and not isinstance(one, bool)) for one in raw):
            columns[str(name)] = real_column(raw)
        else:
            columns[str(name)] = class_column([None if one is None else str(one) for one in raw])
    emotions = [one.get("emotion") for one in known]
    if "emotion" not in columns and any(emotions):
        columns["emotion"] = class_column([None if one is None else str(one) for one in emotions])
    return columns


# -------------------------------------------------------------------------------------------------------- export


def write(outgoing: Outgoing, target: Path) -> Exported:
    """Write one manifest and one HDF5 file per feature set, and the supervisions, into a folder.

    Paths in the manifests are relative to the folder: in lhotse, `FeatureSet.with_path_prefix(folder)`.
    """
    table = outgoing.utterances
    names = [file_name(key) for key in table.keys]
    lost = ["step times become one frame shift per utterance; validity of steps lives in the sidecar only"]
    seconds = np.full(len(table), 0.0)
    for made in outgoing.sets:
        lost += _write_set(made, names, target, seconds)
    multi = [name for name, column in table.labels.items() if column.kind == "multi"]
    if multi:
        lost.append(f"multi-label targets {', '.join(multi)} are written with their classes joined by +")
    told = (_supervision(table, names[row], row, seconds[row]) for row in range(len(table)))
    _write_lines(target / "supervisions.jsonl.gz", told)
    return Exported([key_of_file(name) for name in names], [_stem(made) for made in outgoing.sets], outgoing.sets, lost)


def _stem(made: PackSet) -> str:
    return file_name(stem_of(made.modality, made.name))


def _write_lines(path: Path, lines: Iterator[dict[str, Any]]) -> None:
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
        for line in lines:
            packed.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")


def _write_set(made: PackSet, names: list[str], target: Path, seconds: Any) -> list[str]:
    lines, without = [], 0
    stem = _stem(made)
    target.mkdir(parents=True, exist_ok=True)
    with h5py.File(target / f"{stem}.h5", "w", libver=("v110", "v110"), locking=False) as file:
        for row, name in enumerate(names):
            sequence = made.sequences[row]
            if sequence is None or not len(sequence):
                without += 1
                continue
            file.create_dataset(name, data=np.asarray(sequence.values, np.float32))
            lines.append(_feature_line(made, sequence, name, f"{stem}.h5"))
            seconds[row] = max(seconds[row], lines[-1]["duration"])
    _write_lines(target / f"features-{stem}.jsonl.gz", iter(lines))
    return [f"{made.name}: {without} utterances without steps are left out"] if without else []


def _feature_line(made: PackSet, sequence: FeatureSequence, name: str, storage: str) -> dict[str, Any]:
    """A manifest entry whose duration is steps times shift, and whose shift is a whole number of samples."""
    gaps = np.diff(sequence.times.astype(np.float64))
    step = float(np.median(gaps)) if len(gaps) else 2 * float(sequence.times[0])
    hop = min(max(1, round(step * RATE_HZ)), 2**31)
    return {
        "type": made.name,
        "num_frames": len(sequence),
        "num_features": made.dim,
        "frame_shift": hop / RATE_HZ,
        "sampling_rate": RATE_HZ,
        "start": 0.0,
        "duration": len(sequence) * hop / RATE_HZ,
        "storage_type": "numpy_hdf5",
        "storage_path": storage,
        "storage_key": name,
        "recording_id": name,
        "channels": 0,
    }


def _supervision(table: UtteranceTable, name: str, row: int, seconds: float) -> dict[str, Any]:
    labels: dict[str, Any] = {}
    for target, column in table.labels.items():
        if column.kind == "real":
            value = float(column.values[row])
            labels[target] = None if np.isnan(value) else value
        else:
            labels[target] = class_names(column, [row])[0] or None
    custom = {
        "split": table.split[row],
        "dialogue": table.dialogue[row],
        "labels": labels,
    }
    known = float(table.duration_seconds[row])
    return {
        "id": name,
        "recording_id": name,
        "start": 0.0,
        "duration": known if np.isfinite(known) and known > 0 else max(float(seconds), 1 / RATE_HZ),
        "channel": 0,
        "text": table.text[row],
        "speaker": table.speaker[row],
        "custom": custom,
    }
