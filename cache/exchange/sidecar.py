"""The file beside an export that keeps what the foreign format cannot: `NAME.mer.npz`.

It holds no features. It holds the utterance table with all labels, the true lengths, the times and validity of every
step, and under which id and in which place of the foreign file each of them went. An import that finds the sidecar of
the very bytes it reads restores all that; if the bytes changed since, the sidecar is left aside and that is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..atomic import atomic_write
from ..errors import FormatError, MerError
from ..sequence import FeatureSequence
from ..spec import canonical_json
from ..table import NUMBER_COLUMNS, TEXT_COLUMNS, LabelColumn, UtteranceTable
from .pack import Exported, Imported, LazySequences, Outgoing, PackSet, sidecar_path
from .safe_npy import read_npz

VERSION = 1


def write_sidecar(target: Path, outgoing: Outgoing, exported: Exported, digest: str) -> None:
    """Write the sidecar of an export whose content has the given digest."""
    table = outgoing.utterances
    arrays: dict[str, npt.NDArray[Any]] = {name: getattr(table, name) for name in NUMBER_COLUMNS}
    for index, column in enumerate(table.labels.values()):
        arrays[f"label{index}"] = column.values
    for index, made in enumerate(exported.sets):
        arrays |= _steps(index, made)
    head = {
        "mer-sidecar": VERSION,
        "digest": digest,
        "corpus": outgoing.corpus,
        "keys": table.keys,
        "foreign-keys": exported.keys,
        "columns": {name: getattr(table, name) for name in TEXT_COLUMNS},
        "labels": [[name, column.kind, list(column.classes)] for name, column in table.labels.items()],
        "sets": [
            [made.modality, made.name, made.dim, slot] for made, slot in zip(exported.sets, exported.slots, strict=True)
        ],
    }
    arrays["head"] = np.frombuffer(canonical_json(head).encode("utf-8", "surrogatepass"), np.uint8)
    with atomic_write(sidecar_path(target)) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **arrays)  # type: ignore[arg-type]


def _steps(index: int, made: PackSet) -> dict[str, npt.NDArray[Any]]:
    """True lengths (-1 where the utterance has no features), times and validity of one set."""
    found = [made.sequences[row] for row in range(len(made.sequences))]
    return {
        f"lengths{index}": np.array([-1 if one is None else len(one) for one in found], np.int64),
        f"times{index}": np.concatenate([np.zeros(0, np.float32), *(one.times for one in found if one is not None)]),
        f"valid{index}": np.concatenate([np.zeros(0, np.bool_), *(one.valid for one in found if one is not None)]),
    }


def restore(imported: Imported, source: Path, digest: str) -> Imported:
    """Put back what the sidecar of `source` kept; without a fitting sidecar return `imported` as it is."""
    path = sidecar_path(source)
    if not path.exists():
        return imported
    try:
        arrays = read_npz(path)
        head = json.loads(arrays["head"].tobytes().decode("utf-8", "surrogatepass"))
        if head["digest"] != digest:
            raise FormatError("the file changed since it was exported")
        restored = _restored(imported, head, arrays)
    except (MerError, KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        note = f"{path.name} does not fit and is left aside ({' '.join(str(error).split())[:120]})"
        return replace(imported, lost=[*imported.lost, note])
    return replace(restored, lost=[f"ids, labels, lengths and times come from {path.name}"])


def _restored(imported: Imported, head: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Imported:
    if head["mer-sidecar"] != VERSION:
        raise FormatError(f"it has version {head['mer-sidecar']}")
    labels = {
        name: LabelColumn(kind, tuple(classes), arrays[f"label{index}"])
        for index, (name, kind, classes) in enumerate(head["labels"])
    }
    columns = {**head["columns"], **{name: arrays[name] for name in NUMBER_COLUMNS}}
    table = UtteranceTable(keys=head["keys"], labels=labels, **columns)
    row_of = {key: row for row, key in enumerate(imported.utterances.keys)}
    rows = [row_of.get(key, -1) for key in head["foreign-keys"]]
    slots = {made.slot: made for made in imported.sets}
    sets = [
        _restored_set(slots.get(slot), rows, arrays, index, (modality, name, dim, slot))
        for index, (modality, name, dim, slot) in enumerate(head["sets"])
    ]
    return replace(imported, utterances=table, sets=sets, corpus=head["corpus"])


def _restored_set(
    made: PackSet | None,
    rows: list[int],
    arrays: Mapping[str, npt.NDArray[Any]],
    index: int,
    names: tuple[str, str, int, str],
) -> PackSet:
    modality, name, dim, slot = names
    lengths, times, valid = (arrays[f"{part}{index}"] for part in ("lengths", "times", "valid"))
    stops = np.cumsum(np.maximum(lengths, 0))
    if len(lengths) != len(rows) or len(times) != len(valid) or (stops[-1] if len(stops) else 0) != len(times):
        raise FormatError("its lengths contradict its times")
    if made is None and len(times):
        raise FormatError(f"the file has no {slot!r}")
    for row, length in zip(rows, lengths, strict=True):
        if length > 0 and (row < 0 or made is None or made.dim != dim):
            raise FormatError(f"the file has other utterances or widths than {slot!r} had")

    def read(position: int) -> FeatureSequence | None:
        length = int(lengths[position])
        if length < 0:
            return None
        start = int(stops[position]) - length
        values = np.zeros((length, dim), np.float32)
        foreign = made.sequences[rows[position]] if made is not None and length else None
        if foreign is not None:
            kept = min(length, len(foreign))
            values[:kept] = foreign.values[:kept]  # rows that padding swallowed at the end were zero
        steps = slice(start, start + length)
        return FeatureSequence(values, times[steps].astype(np.float32), valid[steps].astype(np.bool_))

    return PackSet(modality, name, dim, LazySequences(len(rows), read), slot)
