"""Reads Parquet and Arrow tables with pyarrow: columns of numbers, texts and lists of numbers; sizes bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MerError
from .safe_npy import INFLATION_FLOOR_BYTES, MAX_INFLATION

Array = npt.NDArray[Any]
MOST_ROWS = 50_000_000
MOST_COLUMNS = 100_000
ROWS_AT_ONCE = 256
THRIFT_LIMIT = 64 << 20


def pyarrow() -> Any:
    """Return the library, or say how to get it."""
    try:
        import pyarrow as pa
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise MerError("Parquet and Arrow need pyarrow; install it with: pip install 'mer-toolkit[parquet]'") from error
    return pa


def read_arrow(path: Path) -> dict[str, Array]:
    """Columns of a Parquet or Arrow file; a list column is an array of objects, one array per row.

    Raises
    ------
    MerError
        If it is damaged, has too many rows or columns, or unpacks to an unreasonable size.
    """
    library = pyarrow()
    limit = max(INFLATION_FLOOR_BYTES, MAX_INFLATION * path.stat().st_size)
    parts: dict[str, list[Array]] = {}
    try:
        for batch in batches(path):
            batch.validate(full=True)  # offsets of a damaged file lead outside its buffers
            limit -= batch.nbytes
            if limit < 0:
                raise MerError(f"{path}: unpacks to far more than its size, which is refused as a bomb")
            for name, column in _flat(batch):
                parts.setdefault(name, []).append(column_array(column))
    except (library.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        raise MerError(f"{path}: not a readable table ({' '.join(str(error).split())[:120]})") from error
    return {name: _together(pieces) for name, pieces in parts.items()}


def batches(path: Path) -> Iterator[Any]:
    """Record batches of a file, few rows at a time."""
    library = pyarrow()
    with path.open("rb") as handle:
        head = handle.read(6)
    if head.startswith(b"PAR1"):
        limits = {"thrift_string_size_limit": THRIFT_LIMIT, "thrift_container_size_limit": 1 << 22}
        with library.parquet.ParquetFile(path, **limits) as file:
            _check_size(path, file.metadata.num_rows, file.metadata.num_columns)
            yield from file.iter_batches(ROWS_AT_ONCE, use_threads=False)
        return
    opener = library.ipc.open_file if head == b"ARROW1" else library.ipc.open_stream
    with library.memory_map(str(path)) as mapped, opener(mapped) as reader:
        _check_size(path, 0, len(reader.schema.names))
        if head == b"ARROW1":
            yield from (reader.get_batch(at) for at in range(reader.num_record_batches))
        else:
            yield from reader


def _check_size(path: Path, rows: int, columns: int) -> None:
    if rows > MOST_ROWS or columns > MOST_COLUMNS:
        raise MerError(f"{path}: claims {rows:,} rows of {columns:,} columns, more than are read")


def _flat(batch: Any) -> Iterator[tuple[str, Any]]:
    """Columns of a batch; those of a struct are named `struct.field`."""
    library = pyarrow()
    pending = list(zip(batch.schema.names, batch.columns, strict=True))
    while pending:
        name, column = pending.pop(0)
        if library.types.is_struct(column.type):
            fields = [f"{name}.{column.type.field(at).name}" for at in range(column.type.num_fields)]
            pending = [*zip(fields, column.flatten(), strict=True), *pending]
        else:
            yield name, column


def column_array(column: Any) -> Array:
    """One Arrow column as numbers (NaN for null), texts (None for null), or an array of arrays."""
    library = pyarrow()
    types = library.types
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_fixed_size_list(column.type):
        column = column.cast(library.list_(column.type.value_type))
    if types.is_list(column.type) or types.is_large_list(column.type):
        return _lists(column)
    if types.is_boolean(column.type) or types.is_integer(column.type) or types.is_floating(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    made: Array = np.empty(len(column), object)
    texts = types.is_string(column.type) or types.is_large_string(column.type)
    made[:] = [value if texts else None if value is None else str(value) for value in column.to_pylist()]
    return made


def _lists(column: Any) -> Array:
    """Array of one array per row: (T,) of lists of numbers, (T, D) of lists of lists of D numbers."""
    types = pyarrow().types
    made: Array = np.empty(len(column), object)
    offsets = column.offsets.to_numpy()
    inner = column.values
    if types.is_fixed_size_list(inner.type):
        width = inner.type.list_size
        numbers = inner.values.slice(inner.offset * width, len(inner) * width)
        values = np.asarray(numbers.to_numpy(zero_copy_only=False)).reshape(-1, width)
    elif types.is_list(inner.type) or types.is_large_list(inner.type):
        bounds = inner.offsets.to_numpy()
        widths = np.unique(np.diff(bounds))
        if len(widths) > 1:
            raise MerError("a column of sequences has rows of different widths; one width is needed")
        width = int(widths[0]) if len(widths) else 1
        flat = inner.values.slice(int(bounds[0]), int(bounds[-1] - bounds[0]))
        values = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, width)
    elif types.is_integer(inner.type) or types.is_floating(inner.type) or types.is_boolean(inner.type):
        values = np.asarray(inner.to_numpy(zero_copy_only=False))
    else:
        made[:] = [None if row is None else " ".join(map(str, row)) for row in column.to_pylist()]
        return made
    there = column.is_valid().to_numpy(zero_copy_only=False)
    for row in range(len(column)):
        made[row] = values[offsets[row] : offsets[row + 1]] if there[row] else None
    return made


def _together(pieces: list[Array]) -> Array:
    if len({piece.dtype.kind for piece in pieces}) > 1 and any(piece.dtype.kind == "O" for piece in pieces):
        pieces = [piece.astype(object) for piece in pieces]
    return np.concatenate(pieces)
