"""Parquet in the form the Hub's viewer and `datasets.load_dataset` read: one row per utterance, a folder to publish.

    README.md          the card: configurations, licence, sizes, columns
    croissant.json     the same for search engines (Croissant 1.0)
    data/train-00000-of-00002.parquet …

A feature set is four columns: `audio_NAME` (a list of T vectors of D numbers), `audio_NAME_times` (T seconds),
`audio_NAME_valid` (T flags) and `audio_NAME_mean` (one vector, over the valid steps); null where an utterance has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..sequence import FeatureSequence
from ..table import NUMBER_COLUMNS, TEXT_COLUMNS, UtteranceTable
from .arrow import pyarrow
from .hub_card import write_card
from .hub_names import column_name, split_name, without_texts
from .pack import Exported, Outgoing, PackSet

SHARD_BYTES = 256 << 20
ROWS_AT_ONCE = 64


def write(outgoing: Outgoing, target: Path) -> Exported:
    """Write a new folder: data, card and Croissant metadata."""
    library = pyarrow()
    lost: list[str] = []
    table = without_texts(outgoing, lost)
    columns = [column_name(made) for made in outgoing.sets]
    schema = _schema(outgoing, table, columns)
    (target / "data").mkdir(parents=True)
    splits: dict[str, list[int]] = {}
    for row, split in enumerate(table.split):
        splits.setdefault(split_name(split), []).append(row)
    files: dict[str, list[Path]] = {}
    for split, rows in splits.items():
        shards = shards_of(outgoing.sets, rows)
        for number, part in enumerate(shards):
            path = target / "data" / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
            with library.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
                for at in range(0, len(part), ROWS_AT_ONCE):
                    writer.write_batch(_batch(table, outgoing.sets, columns, schema, part[at : at + ROWS_AT_ONCE]))
            files.setdefault(split, []).append(path)
    write_card(target, outgoing, files, {split: len(rows) for split, rows in splits.items()}, schema)
    lost.append("reasons of failures, provenance and the datasheet live in the card's words only")
    return Exported(table.keys, columns, outgoing.sets, lost)


def shards_of(sets: Sequence[PackSet], rows: list[int]) -> list[list[int]]:
    """Rows of a split in parts of about `SHARD_BYTES` of features."""
    parts: list[list[int]] = [[]]
    size = 0
    for row in rows:
        held = sum(0 if one is None else one.values.nbytes for one in (made.sequences[row] for made in sets))
        if parts[-1] and size + held > SHARD_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(row)
        size += held
    return parts


# ------------------------------------------------------------------------------------------------------- the schema


def _schema(outgoing: Outgoing, table: UtteranceTable, columns: Sequence[str]) -> Any:
    """Arrow schema with the features that `datasets` reads from it, the names of the sets, and the corpus' terms."""
    library, sets = pyarrow(), outgoing.sets
    fields: dict[str, tuple[Any, Any]] = {"id": (library.string(), _value("string"))}
    fields["row"] = (library.int64(), _value("int64"))  # place in the table: files hold one split after the other
    fields |= {name: (library.string(), _value("string")) for name in TEXT_COLUMNS}
    fields["turn"] = (library.int64(), _value("int64"))
    fields |= {name: (library.float64(), _value("float64")) for name in NUMBER_COLUMNS if name.endswith("_seconds")}
    fields["machine_text"] = (library.bool_(), _value("bool"))
    for name, label in table.labels.items():
        shown = f"label_{name}"
        if label.kind == "class":
            fields[shown] = (library.int64(), {"names": list(label.classes), "_type": "ClassLabel"})
        elif label.kind == "real":
            fields[shown] = (library.float64(), _value("float64"))
        else:
            of_classes = {"feature": {"names": list(label.classes), "_type": "ClassLabel"}, "_type": "List"}
            fields[shown] = (library.list_(library.int64()), of_classes)
    for made, name in zip(sets, columns, strict=True):
        number = library.float16() if made.dtype == "float16" else library.float32()
        value = _value(str(made.dtype or "float32"))
        vector = {"feature": value, "length": made.dim, "_type": "List"}
        fields[name] = (library.list_(library.list_(number, made.dim)), {"feature": vector, "_type": "List"})
        fields[f"{name}_times"] = (library.list_(library.float32()), {"feature": _value("float32"), "_type": "List"})
        fields[f"{name}_valid"] = (library.list_(library.bool_()), {"feature": _value("bool"), "_type": "List"})
        mean = {"feature": _value("float32"), "length": made.dim, "_type": "List"}
        fields[f"{name}_mean"] = (library.list_(library.float32(), made.dim), mean)
    corpus = {"license": outgoing.datasheet.get("license", ""), **outgoing.corpus}
    ours = {
        "version": 1,
        "corpus": corpus,
        "sets": [[made.modality, made.name, name] for made, name in zip(sets, columns, strict=True)],
    }
    features = {name: feature for name, (_, feature) in fields.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}}), "mer": json.dumps(ours)}
    return library.schema([(name, kind) for name, (kind, _) in fields.items()], metadata=metadata)


def _value(kind: str) -> dict[str, str]:
    return {"dtype": kind, "_type": "Value"}


# --------------------------------------------------------------------------------------------------------- the rows


def _batch(table: UtteranceTable, sets: Sequence[PackSet], columns: Sequence[str], schema: Any, rows: list[int]) -> Any:
    library = pyarrow()
    arrays: dict[str, Any] = {"id": [table.keys[row] for row in rows], "row": rows}
    arrays |= {name: [getattr(table, name)[row] for row in rows] for name in TEXT_COLUMNS}
    for name in NUMBER_COLUMNS:
        column = getattr(table, name)[rows]
        arrays[name] = library.array(column, mask=np.isnan(column) if name.endswith("_seconds") else None)
    for name, label in table.labels.items():
        shown = f"label_{name}"
        values = label.values[rows]
        if label.kind == "multi":
            arrays[shown] = [None if np.isnan(one).any() else np.flatnonzero(one).tolist() for one in values]
        else:
            unknown = values < 0 if label.kind == "class" else np.isnan(values)
            arrays[shown] = library.array(values, mask=unknown)
    for made, name in zip(sets, columns, strict=True):
        found = [made.sequences[row] for row in rows]
        arrays |= dict(_features(made, name, found))
    return library.record_batch([_typed(arrays[field.name], field.type) for field in schema], schema=schema)


def _typed(values: Any, kind: Any) -> Any:
    library = pyarrow()
    return values if isinstance(values, library.Array) else library.array(values, kind)


def _features(made: PackSet, name: str, found: Sequence[FeatureSequence | None]) -> Iterator[tuple[str, Any]]:
    library = pyarrow()
    there = [one for one in found if one is not None]
    dtype = np.dtype(made.dtype or "float32")
    empty = np.zeros((0, made.dim), dtype)
    values = np.concatenate([empty, *(np.asarray(one.values, dtype) for one in there)])
    flat = library.array(values.reshape(-1))
    vectors = library.FixedSizeListArray.from_arrays(flat, made.dim)
    yield name, _ragged(found, vectors)
    times = np.concatenate([np.zeros(0, np.float32), *(one.times for one in there)])
    yield f"{name}_times", _ragged(found, library.array(times))
    valid = np.concatenate([np.zeros(0, np.bool_), *(one.valid for one in there)])
    yield f"{name}_valid", _ragged(found, library.array(valid))
    means = np.stack([_mean(one, made.dim) for one in found])
    unknown = library.array(np.array([one is None or not one.valid.any() for one in found]))
    yield (
        f"{name}_mean",
        library.FixedSizeListArray.from_arrays(library.array(means.reshape(-1)), made.dim, mask=unknown),
    )


def _ragged(found: Sequence[FeatureSequence | None], content: Any) -> Any:
    """List column over end-to-end content; null where there is no sequence."""
    library = pyarrow()
    lengths = np.array([0 if one is None else len(one) for one in found])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    absent = np.array([one is None for one in found])
    return library.ListArray.from_arrays(library.array(offsets), content, mask=library.array(absent))


def _mean(sequence: FeatureSequence | None, dim: int) -> npt.NDArray[np.float32]:
    if sequence is None or not sequence.valid.any():
        return np.zeros(dim, np.float32)
    rows = sequence.values[sequence.valid].astype(np.float64)
    known = ~np.isnan(rows)
    counts = known.sum(0)
    sums = np.where(known, rows, 0).sum(0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)
