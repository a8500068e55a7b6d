"""The blobs of data2vec and emotion2vec: `SPLIT.npy` of all frames, `SPLIT.lengths`, `SPLIT.emo`, `SPLIT.tsv`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import MerError
from ..sequence import FeatureSequence
from ..table import UtteranceTable
from .pack import (
    Exported,
    Imported,
    LazySequences,
    Outgoing,
    PackSet,
    class_column,
    class_names,
    file_name,
    first_label,
    key_of_file,
    lost_labels,
    split_of,
    unique_keys,
)
from .safe_npy import read_npy

STEP_SECONDS = 0.02
"""Frames of these encoders come at 50 Hz."""
UNLABELLED = "unlabelled"


def read(source: Path, modality: str = "audio") -> Imported:
    """Read a folder of blobs, or one `.npy` with its `.lengths` beside it."""
    files = sorted(source.glob("*.npy")) if source.is_dir() else [source]
    files = [path for path in files if path.with_suffix(".lengths").exists()]
    if not files:
        raise MerError(f"{source}: there is no .npy with a .lengths file of the same name")
    lost = [f"step times assume {1 / STEP_SECONDS:.0f} frames per second"]
    raw: list[str] = []
    splits: list[str] = []
    labels: list[str | None] = []
    pieces: list[npt.NDArray[np.floating]] = []
    for path in files:
        values = read_npy(path)
        lengths = _lengths(path, values)
        names, classes = _names(path, len(lengths), lost)
        raw += names
        labels += classes
        splits += [split_of(path.stem, path.name, lost)] * len(lengths)
        pieces += np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []
    dims = {piece.shape[1] for piece in pieces}
    if len(dims) != 1:
        raise MerError(f"{source}: the blobs have different widths: {sorted(dims)}")
    keys = unique_keys([key_of_file(name) for name in raw], splits, lost)
    columns = {"emotion": class_column(labels)} if any(labels) else {}
    table = UtteranceTable.of(keys, labels=columns, split=splits)

    def timed(row: int) -> FeatureSequence:
        return FeatureSequence.of(pieces[row], (np.arange(len(pieces[row])) + 0.5) * STEP_SECONDS)

    made = PackSet(modality, source.stem, dims.pop(), LazySequences(len(keys), timed), "blob")
    return Imported(table, [made], lost, {"name": source.stem})


def _lengths(path: Path, values: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    beside = path.with_suffix(".lengths")
    try:
        lengths = np.array([int(line) for line in beside.read_text().split()], np.int64)
    except (OSError, ValueError, OverflowError) as error:
        raise MerError(f"{beside}: not one whole number per line ({error})") from error
    if values.ndim != 2 or values.dtype.kind != "f" or (lengths < 0).any() or lengths.sum() != len(values):
        raise MerError(f"{path}: shape {values.shape} does not agree with the {lengths.sum()} frames of {beside.name}")
    return lengths


def _names(path: Path, count: int, lost: list[str]) -> tuple[list[str], list[str | None]]:
    """Ids and labels from `.emo`; without it ids from `.tsv`, or running numbers."""
    emo, tsv = path.with_suffix(".emo"), path.with_suffix(".tsv")
    if emo.exists():
        pairs = [line.split(None, 1) for line in _lines(emo)]
        if len(pairs) != count or not all(len(pair) == 2 for pair in pairs):
            raise MerError(f"{emo}: does not have a line `id label` for each of {count} lengths")
        classes = [key_of_file(pair[1]) for pair in pairs]
        return [pair[0] for pair in pairs], [None if name == UNLABELLED else name for name in classes]
    if tsv.exists():
        lines = _lines(tsv)[1:]
        if len(lines) != count:
            raise MerError(f"{tsv}: lists {len(lines)} files where {count} lengths are there")
        return [line.split("\t")[0] for line in lines], [None] * count
    lost.append(f"{path.name} has no .emo or .tsv; utterances are numbered")
    return [f"{path.stem}-{index:06d}" for index in range(count)], [None] * count


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise MerError(f"{path}: not readable as text ({error})") from error


def write(outgoing: Outgoing, target: Path, label: str | None = None) -> Exported:
    """Write one feature set as blobs, one per split.

    Raises
    ------
    MerError
        If several sets are chosen: a blob holds one.
    """
    if len(outgoing.sets) != 1:
        several = ", ".join(made.name for made in outgoing.sets)
        raise MerError(f"a blob holds one feature set and these are chosen: {several}; name one with --set")
    made, table = outgoing.sets[0], outgoing.utterances
    kind = first_label(table, "class", label)
    lost = ["texts, speakers and step times (the format means 50 frames per second) live in the sidecar only"]
    missing = sum(made.sequences[row] is None for row in range(len(table)))
    if missing:
        lost.append(f"{missing} utterances without features have length 0")
    names = [file_name(key) for key in table.keys]
    target.mkdir(parents=True, exist_ok=True)
    for split in dict.fromkeys(table.split):
        rows = [row for row, own in enumerate(table.split) if own == split]
        classes = class_names(table.labels[kind], rows) if kind else []
        _write_split(target, file_name(split) or "all", rows, made, names, classes)
    return Exported([key_of_file(name) for name in names], ["blob"], [made], lost + lost_labels(table, [kind]))


def _write_split(target: Path, stem: str, rows: list[int], made: PackSet, names: list[str], classes: list[str]) -> None:
    found = [made.sequences[row] for row in rows]
    lengths = [0 if one is None else len(one) for one in found]
    with (target / f"{stem}.npy").open("wb") as handle:
        head = {"descr": "<f4", "fortran_order": False, "shape": (sum(lengths), made.dim)}
        np.lib.format.write_array_header_1_0(handle, head)
        for one in found:
            if one is not None:
                handle.write(np.ascontiguousarray(one.values, "<f4").tobytes())
    labels = [file_name(name) or UNLABELLED for name in classes] or [UNLABELLED] * len(rows)
    texts: dict[str, list[str]] = {
        "lengths": [str(length) for length in lengths],
        "emo": [f"{names[row]}\t{label}" for row, label in zip(rows, labels, strict=True)],
        "tsv": [".", *(f"{names[row]}\t{length}" for row, length in zip(rows, lengths, strict=True))],
    }
    for suffix, lines in texts.items():
        (target / f"{stem}.{suffix}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
