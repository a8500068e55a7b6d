"""WebDataset tar shards, for training that streams: one sample per utterance, `.json` and `.npy` members.

A sample `KEY` is `KEY.json` (id, split, labels, transcript …) and for every feature set `KEY.NAME.npy` (T, D),
`KEY.NAME.times.npy` (T,) and `KEY.NAME.valid.npy` (T,). The key is the id, with everything but letters, digits, `_` and
`-` percent-encoded, for WebDataset cuts a member's name at its first dot.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..table import NUMBER_COLUMNS, TEXT_COLUMNS, UtteranceTable
from .hub_names import column_name, split_name, without_texts
from .hub_parquet import shards_of
from .pack import Exported, Outgoing, file_name


def write(outgoing: Outgoing, target: Path) -> Exported:
    """Write `SPLIT-000000.tar` … into a new folder."""
    lost: list[str] = []
    table = without_texts(outgoing, lost)
    names = [column_name(made) for made in outgoing.sets]
    target.mkdir(parents=True)
    splits: dict[str, list[int]] = {}
    for row, split in enumerate(table.split):
        splits.setdefault(split_name(split), []).append(row)
    for split, rows in splits.items():
        for number, part in enumerate(shards_of(outgoing.sets, rows)):
            with tarfile.open(target / f"{split}-{number:06d}.tar", "w", format=tarfile.GNU_FORMAT) as archive:
                for row in part:
                    _sample(archive, table, outgoing, names, row)
    lost.append("the datasheet and the encoders' identity are not written; mer has no reader for these shards")
    return Exported(table.keys, names, outgoing.sets, lost)


def sample_key(key: str) -> str:
    """Key of a sample: the id without dots."""
    return file_name(key).replace(".", "%2E").replace("/", "%2F")


def _sample(archive: tarfile.TarFile, table: UtteranceTable, outgoing: Outgoing, names: list[str], row: int) -> None:
    key = sample_key(table.keys[row])
    facts = json.dumps(_facts(table, row), ensure_ascii=False, allow_nan=False)
    _add(archive, f"{key}.json", facts.encode("utf-8", "surrogatepass"))
    for made, name in zip(outgoing.sets, names, strict=True):
        sequence = made.sequences[row]
        if sequence is None:
            continue
        values = np.asarray(sequence.values, made.dtype or "float32")
        for part, array in ((name, values), (f"{name}.times", sequence.times), (f"{name}.valid", sequence.valid)):
            _add(archive, f"{key}.{part}.npy", _npy(array))


def _facts(table: UtteranceTable, row: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"id": table.keys[row]}
    facts |= {name: getattr(table, name)[row] for name in TEXT_COLUMNS}
    for name in NUMBER_COLUMNS:
        value = getattr(table, name)[row].item()
        facts[name] = None if value != value else value
    for name, label in table.labels.items():
        value = label.values[row]
        if label.kind == "class":
            facts[f"label_{name}"] = label.classes[value] if value >= 0 else None
        elif label.kind == "real":
            facts[f"label_{name}"] = None if np.isnan(value) else float(value)
        else:
            chosen = [one for one, on in zip(label.classes, value, strict=True) if on > 0]
            facts[f"label_{name}"] = None if np.isnan(value).any() else chosen
    return facts


def _npy(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member without a clock or an owner: equal packs give equal shards."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
