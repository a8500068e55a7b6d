"""CMU-MultimodalSDK computational sequences: HDF5 with `/ROOT/data/ID/features` and `intervals` in seconds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import MerError
from ..hdf import link_name
from ..sequence import FeatureSequence
from ..table import LabelColumn, UtteranceTable
from .foreign_hdf import numbers, open_foreign
from .guess import modality_of, name_of, stem_of
from .pack import Exported, Imported, LazySequences, Outgoing, PackSet, clean_key, file_name, stepped
from .roles import MOSEI_COLUMNS

LABEL_ROOTS = re.compile("label|opinion segment", re.IGNORECASE)
FUSED = "dimension namescomputational sequence version"
"""The SDK's list of required names lacks a comma between two of them, so this is the name it looks for."""

MARGIN_SECONDS = 1e-3
"""By which exported utterances reach beyond their last interval, so that its middle lies inside."""

Span = tuple[str, float, float]
"""Id in the file, start and end in seconds."""
Spans = dict[str, Span]


def read(source: Path, mapping: Mapping[str, str] | None = None) -> Imported:
    """Read a `.csd` file or a folder of them.

    Where one of them holds labels, its intervals are the utterances and features are cut to them; otherwise every id is
    an utterance.

    Parameters
    ----------
    mapping
        Modality of a file, by root name or file stem, where the name does not tell; `labels` marks the label file.
    """
    files = sorted(source.glob("*.csd")) if source.is_dir() else [source]
    if not files:
        raise MerError(f"{source}: there is no .csd file in this folder")
    lost = ["metadata of the sequences (creator, citations) are not read"]
    tables = {path: _table_of(open_foreign(path), path) for path in files}
    roles = {path: _role(path, data, mapping or {}) for path, data in tables.items()}
    label_files = [path for path, role in roles.items() if role == "labels"]
    if len(label_files) > 1:
        raise MerError(f"{source}: {label_files[0].name} and {label_files[1].name} both hold labels; remove one")
    features = {path: data for path, data in tables.items() if path not in label_files}
    spans, labels = _labels(label_files[0], tables[label_files[0]]) if label_files else (_whole(features), {})
    keys = list(spans)
    if label_files:
        lost.append("features whose interval has its middle inside an utterance's interval belong to the utterance")
    made = {path: _set(path, data, roles[path], spans) for path, data in features.items()}
    sets = [one for one in made.values() if one is not None]
    lost += [f"{path.name} holds no sequence" for path, one in made.items() if one is None]
    starts, ends = ([spans[key][at] for key in keys] for at in (1, 2))
    table = UtteranceTable.of(
        keys,
        dialogue=[re.sub(r"\[\d+\]$", "", spans[key][0]) for key in keys],
        start_seconds=np.array(starts, np.float64),
        end_seconds=np.array(ends, np.float64),
        duration_seconds=np.subtract(ends, starts, dtype=np.float64),
        labels=labels,
    )
    return Imported(table, sets, lost, {"name": source.stem})


def _table_of(file: h5py.File, path: Path) -> h5py.Group:
    """Group of the sequences; it keeps the file open."""
    for name in file:
        if isinstance(file[name], h5py.Group) and isinstance(file[name].get("data"), h5py.Group):
            return file[name]["data"]
    raise MerError(f"{path}: not a computational sequence; it has no group with 'data'")


def _role(path: Path, data: h5py.Group, mapping: Mapping[str, str]) -> str:
    root = str(data.parent.name).strip("/")
    for name in (root, path.stem):
        if name in mapping:
            return mapping[name]
    if LABEL_ROOTS.search(root) or LABEL_ROOTS.search(path.stem):
        return "labels"
    return modality_of(f"{path.stem} {root}", str(path))


def _labels(path: Path, data: h5py.Group) -> tuple[Spans, dict[str, LabelColumn]]:
    """Utterances as the label intervals cut them, and the label columns."""
    spans: Spans = {}
    rows: list[npt.NDArray[Any]] = []
    for raw in data:
        values, intervals = _entry(data, raw, path)
        for index, (row, (start, end)) in enumerate(zip(values, intervals, strict=True)):
            name = raw if len(values) == 1 else f"{raw}[{index}]"
            spans[clean_key(_key_of_link(name))] = (raw, float(start), float(end))
            rows.append(row)
    widths = {len(row) for row in rows}
    if len(widths) != 1:
        raise MerError(f"{path}: rows of labels have different widths: {sorted(widths)}")
    width = widths.pop()
    names = MOSEI_COLUMNS if width == len(MOSEI_COLUMNS) else ("sentiment",) if width == 1 else _numbered(width)
    columns = np.stack(rows).astype(np.float64)
    return spans, {name: LabelColumn("real", (), columns[:, at]) for at, name in enumerate(names)}


def _key_of_link(name: str) -> str:
    """Undo `link_name` where the name is one it makes."""
    key = unquote(name, errors="replace")
    return key if link_name(key) == name else name


def _numbered(width: int) -> tuple[str, ...]:
    return tuple(f"label{at}" for at in range(width))


def _entry(data: h5py.Group, name: str, path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    what = f"{path}: {name!a}"
    if not isinstance(data.get(name), h5py.Group):
        raise MerError(f"{what} has no features and intervals")
    values, intervals = numbers(data[name], "features", what), numbers(data[name], "intervals", what)
    if intervals.shape != (len(values), 2):
        raise MerError(f"{what}: {len(values)} rows of features have intervals of shape {intervals.shape}")
    return values, intervals


def _whole(files: Mapping[Path, h5py.Group]) -> Spans:
    """Every id of the feature files as one utterance, from its first to its last interval."""
    spans: Spans = {}
    for path, data in files.items():
        for raw in data:
            intervals = _entry(data, raw, path)[1]
            key = clean_key(_key_of_link(raw))
            start, end = (float(intervals.min()), float(intervals.max())) if len(intervals) else (np.nan, np.nan)
            _, old_start, old_end = spans.get(key, (raw, np.nan, np.nan))
            spans[key] = (raw, float(np.fmin(start, old_start)), float(np.fmax(end, old_end)))
    return spans


def _set(path: Path, data: h5py.Group, modality: str, spans: Spans) -> PackSet | None:
    there = set(data)
    if not there:
        return None
    dim = int(numbers(data[min(there)], "features", str(path)).shape[1])
    entries = list(spans.items())
    sequences = LazySequences(len(entries), partial(_read_one, path, data, there, dim, entries))
    return PackSet(modality, name_of(path.stem), dim, sequences, path.stem)


def _read_one(
    path: Path,
    data: h5py.Group,
    there: set[str],
    dim: int,
    entries: list[tuple[str, tuple[str, float, float]]],
    row: int,
) -> FeatureSequence | None:
    key, (raw, start, end) = entries[row]
    name = raw if raw in there else next((n for n in (key, link_name(key)) if n in there), None)
    if name is None:
        return None
    values, intervals = _entry(data, name, path)
    if values.shape[1] != dim:
        raise MerError(f"{path}: {name!a} has {values.shape[1]} columns where others have {dim}")
    middles = intervals.mean(1)
    inside = np.ones(len(values), np.bool_)
    whole = not len(values) or not np.isfinite([start, end]).all() or (start, end) == (intervals.min(), intervals.max())
    if name == raw and not whole:
        inside = (middles >= start) & (middles < end)
    times = middles[inside] - (start if np.isfinite(start) else 0)
    return FeatureSequence.of(values[inside], times) if np.isfinite(times).all() else stepped(values[inside])


# -------------------------------------------------------------------------------------------------------- export


def write(outgoing: Outgoing, target: Path) -> Exported:
    """Write one `.csd` file per feature set, and `labels.csd`, into a new folder."""
    table = outgoing.utterances
    names = [link_name(key) for key in table.keys]
    lost = ["texts, speakers and splits live in the sidecar only", "labels of classes are written as their codes"]
    lengths = np.zeros(len(table))
    for made in outgoing.sets:
        entries = {}
        for row, name in enumerate(names):
            sequence = made.sequences[row]
            if sequence is not None:
                entries[name] = (np.asarray(sequence.values, np.float32), _intervals(sequence.times))
                lengths[row] = max(lengths[row], entries[name][1].max(initial=0))
        _write_file(target / f"{_stem(made)}.csd", _stem(made), outgoing, entries, made)
    columns = [column.values.reshape(len(table), -1) for column in table.labels.values()]
    if columns:
        block = np.concatenate(columns, axis=1).astype(np.float32)
        spans = np.stack([np.zeros(len(table)), np.where(lengths > 0, lengths, 1.0) + MARGIN_SECONDS], axis=1)
        entries = {name: (block[row : row + 1], spans[row : row + 1]) for row, name in enumerate(names)}
        _write_file(target / "labels.csd", "All Labels", outgoing, entries)
    return Exported(table.keys, [_stem(made) for made in outgoing.sets], outgoing.sets, lost)


def _stem(made: PackSet) -> str:
    return file_name(stem_of(made.modality, made.name))


def _intervals(times: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Interval of every step such that its middle is the step's time; shape (T, 2), seconds."""
    centres = times.astype(np.float64)
    gaps = np.diff(centres)
    half = np.full(len(centres), max(float(np.median(gaps)), 0.0) / 2 if len(gaps) else 0.5)
    return np.stack([centres - half, centres + half], axis=1)


def _write_file(
    path: Path, root: str, outgoing: Outgoing, entries: Mapping[str, Any], made: PackSet | None = None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", libver=("v110", "v110"), locking=False) as file:
        data = file.create_group(f"{root}/data")
        for name, (values, intervals) in entries.items():
            data.create_dataset(f"{name}/features", data=values)
            data.create_dataset(f"{name}/intervals", data=intervals)
        for name, value in _metadata(root, outgoing, made).items():
            text = file.create_dataset(f"{root}/metadata/{name}", (1,), dtype=h5py.string_dtype())
            text[0] = json.dumps(value)


def _metadata(root: str, outgoing: Outgoing, made: PackSet | None) -> dict[str, object]:
    """Every entry that the SDK asks for; texts where it knows nothing, for it joins them."""
    labels = list(outgoing.utterances.labels)
    corpus = outgoing.corpus
    what = f"{made.modality} features {made.name}" if made else f"targets {', '.join(labels)}"
    facts: dict[str, object] = {
        "root name": root,
        "computational sequence description": f"{what}, one sequence per utterance",
        "dimension names": [f"{made.name}_{at}" for at in range(made.dim)] if made else labels,
        "computational sequence version": "1.0",
        "alignment compatible": "no",
        "dataset name": str(corpus.get("name") or "unnamed"),
        "dataset version": str(corpus.get("version") or "1.0"),
        "creator": "mer",
        "contact": str(outgoing.datasheet.get("contact") or corpus.get("url") or "none"),
        "featureset bib citation": str(outgoing.datasheet.get("citation") or ""),
        "dataset bib citation": str(corpus.get("citation") or ""),
        "uuid": "",
        "md5": None,
    }
    return {**facts, FUSED: [facts["dimension names"], facts["computational sequence version"]]}
