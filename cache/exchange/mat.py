"""One `.mat` file for MATLAB and Octave: tables as columns, features as a cell of T × D matrices per set.

MATLAB reads packs themselves with h5read; Octave has no reader for HDF5 with texts, and this file is for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import atomic_write
from ..errors import MerError
from ..table import NUMBER_COLUMNS, TEXT_COLUMNS
from .hub_names import column_name, without_texts
from .pack import Exported, Outgoing, boxed

HEADER = b"MATLAB 5.0 MAT-file, written by mer"
MOST_BYTES = 2**31 - 1
"""Of one variable in a file of version 5."""
MOST_NAME_CHARACTERS = 63


def write(outgoing: Outgoing, target: Path) -> Exported:
    """Write the file; NaN and empty text where something is unknown."""
    from scipy.io import savemat

    lost: list[str] = []
    table = without_texts(outgoing, lost)
    variables: dict[str, Any] = {"id": boxed(table.keys)}
    variables |= {name: boxed([value or "" for value in getattr(table, name)]) for name in TEXT_COLUMNS}
    variables |= {name: getattr(table, name) for name in NUMBER_COLUMNS}
    for name, label in table.labels.items():
        shown = _identifier(f"label_{name}")
        if label.kind == "class":
            variables[shown] = boxed([label.classes[code] if code >= 0 else "" for code in label.values])
        else:
            variables[shown] = label.values
    names = [_identifier(column_name(made)) for made in outgoing.sets]
    for made, name in zip(outgoing.sets, names, strict=True):
        found = [made.sequences[row] for row in range(len(table))]
        empty = np.zeros((0, made.dim), np.float32)
        values = [empty if one is None else np.asarray(one.values, np.float32) for one in found]
        if sum(one.nbytes for one in values) > MOST_BYTES:
            raise MerError(f"{made.name}: more than 2 GB do not fit a .mat file; choose other sets, or use parquet")
        variables[name] = boxed(values)
        variables[_identifier(f"{name}_times")] = boxed([np.zeros(0) if one is None else one.times for one in found])
        variables[_identifier(f"{name}_valid")] = boxed([np.zeros(0) if one is None else one.valid for one in found])
    with atomic_write(target) as temporary:
        with temporary.open("wb") as handle:
            savemat(handle, variables, long_field_names=True, do_compression=True, oned_as="column")
        with temporary.open("r+b") as handle:
            handle.write(HEADER.ljust(116))  # scipy puts the date there
    lost.append("datasheet, fates and encoders' identity are not written; Octave cuts texts beyond ASCII")
    return Exported(table.keys, names, outgoing.sets, lost)


def _identifier(name: str) -> str:
    """Name that MATLAB takes for a variable."""
    made = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return made[:MOST_NAME_CHARACTERS]
