"""Reads back the Parquet datasets that `hub_parquet` writes, and those that `datasets` made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MerError
from ..sequence import FeatureSequence
from ..table import NUMBER_COLUMNS, TEXT_COLUMNS, LabelColumn, UtteranceTable
from .arrow import pyarrow, read_arrow
from .hub_names import PARTS, WITHOUT_SPLIT
from .pack import MODALITIES, SPLITS, Imported, LazySequences, PackSet, clean_key

Array = npt.NDArray[Any]
FILE = re.compile(r"(?P<split>.+?)(-\d{5}-of-\d{5})?\.parquet")


def is_ours(path: Path) -> bool:
    """Whether a Parquet file has the columns of a feature set as `hub_parquet` writes them."""
    return bool(_sets(_schema(path)))


def read(source: Path) -> Imported:
    """Read a `.parquet` file or a folder of them.

    Raises
    ------
    MerError
        If there is none, or it is damaged, or its columns are not those of an export.
    """
    files = [source] if source.is_file() else sorted([*source.glob("data/**/*.parquet"), *source.glob("*.parquet")])
    if not files:
        raise MerError(f"{source}: holds no .parquet files")
    lost: list[str] = []
    schema = _schema(files[0])
    sets = _sets(schema)
    if not sets:
        raise MerError(f"{source}: has no feature columns NAME, NAME_times and NAME_valid; map its columns as arrays")
    parts = [_without_means(read_arrow(path)) for path in files]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name in parts[-1]}
    splits = [_split(path, part, row) for path, part in zip(files, parts, strict=True) for row in range(_count(part))]
    if "row" in columns and columns["row"].dtype.kind in "iu":
        order = np.argsort(columns["row"], kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
        splits = [splits[row] for row in order]
    table = _table(columns, splits, _features(schema), source)
    made = [_set(modality, name, column, columns) for modality, name, column in sets]
    corpus = _told(schema).get("corpus")
    if not isinstance(corpus, dict):
        corpus = {}
        lost.append("the files say nothing of the corpus' licence; keep to the terms of the dataset's page")
    return Imported(table, made, lost, {"name": source.stem, **corpus})


def _schema(path: Path) -> Any:
    library = pyarrow()
    try:
        return library.parquet.read_schema(path)
    except (library.ArrowException, OSError, ValueError) as error:
        raise MerError(f"{path}: not a readable table ({' '.join(str(error).split())[:120]})") from error


def _sets(schema: Any) -> list[tuple[str, str, str]]:
    """Modality, name and column of every feature set; names as they were where the file still says them."""
    names = set(schema.names)
    try:
        known = {column: (modality, name) for modality, name, column in _told(schema).get("sets", [])}
    except (ValueError, TypeError):
        known = {}
    found = []
    for column in schema.names:
        if not {f"{column}_times", f"{column}_valid"} <= names:
            continue
        modality, name = known.get(column, (column.partition("_")[0], column.partition("_")[2]))
        if modality in MODALITIES and isinstance(name, str) and name:
            found.append((modality, name, column))
    return found


def _told(schema: Any) -> dict[str, Any]:
    """What an export of ours says of itself; empty where another tool wrote the file."""
    try:
        told = json.loads((schema.metadata or {}).get(b"mer", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _features(schema: Any) -> dict[str, Any]:
    """What `datasets` keeps about the columns; class names are there."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, TypeError, KeyError):
        return {}
    return features if isinstance(features, dict) else {}


def _count(part: Mapping[str, Array]) -> int:
    return len(next(iter(part.values())))


def _without_means(columns: dict[str, Array]) -> dict[str, Array]:
    return {name: column for name, column in columns.items() if not name.endswith("_mean")}


def _split(path: Path, part: Mapping[str, Array], row: int) -> str:
    if "split" in part:
        return str(part["split"][row] or "")
    match = FILE.fullmatch(path.name)
    name = match["split"] if match else ""
    return "" if name == WITHOUT_SPLIT else SPLITS.get(name, name)


def _table(
    columns: Mapping[str, Array], splits: list[str], features: Mapping[str, Any], source: Path
) -> UtteranceTable:
    if "id" not in columns:
        raise MerError(f"{source}: has no column 'id'")
    made: dict[str, Any] = {}
    for name in TEXT_COLUMNS:
        if name in columns and name != "split":
            absent = None if name in ("text", "media") else ""
            made[name] = [absent if one is None else str(one) for one in columns[name]]
    for name in NUMBER_COLUMNS:
        if name in columns:
            made[name] = _numbers(columns[name], name, source)
    labels = {
        name[6:]: _label(columns[name], features.get(name), name, source)
        for name in columns
        if name.startswith("label_") and len(name) > 6
    }
    return UtteranceTable.of([clean_key(str(key)) for key in columns["id"]], labels=labels, split=splits, **made)


def _numbers(column: Array, name: str, source: Path) -> Array:
    try:
        return column.astype(NUMBER_COLUMNS[name])
    except (TypeError, ValueError) as error:
        raise MerError(f"{source}: column {name!r} is no column of numbers ({error})") from error


def _label(column: Array, feature: Any, name: str, source: Path) -> LabelColumn:
    try:
        if column.dtype.kind == "O":
            classes = tuple(map(str, feature["feature"]["names"]))
            rows = [None if one is None else [classes[code] for code in np.asarray(one, np.int64)] for one in column]
            return LabelColumn.of("multi", classes, rows)
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            codes = np.where(np.isnan(column.astype(np.float64)), -1, column).astype(np.int64)
            return LabelColumn("class", tuple(map(str, feature["names"])), codes)
        return LabelColumn("real", (), column.astype(np.float64))
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise MerError(f"{source}: column {name!r} is not readable as labels ({error})") from error


def _set(modality: str, name: str, column: str, columns: Mapping[str, Array]) -> PackSet:
    values, times, valid = columns[column], *(columns[f"{column}_{part}"] for part in PARTS[:2])
    first = next((one for one in values if one is not None), None)
    if not isinstance(first, np.ndarray) or first.ndim != 2 or first.dtype.kind not in "fiub":
        raise MerError(f"column {column!r} holds no sequences of vectors of numbers")
    dtype = "float16" if first.dtype == np.float16 else "float32"

    def one(row: int) -> FeatureSequence | None:
        if values[row] is None:
            return None
        try:
            return FeatureSequence(values[row], times[row].astype(np.float32), valid[row].astype(np.bool_))
        except (AttributeError, TypeError, ValueError) as error:
            raise MerError(f"column {column!r}, row {row}: its times or flags are not numbers ({error})") from error

    return PackSet(modality, name, first.shape[1], LazySequences(len(values), one), column, dtype=dtype)
