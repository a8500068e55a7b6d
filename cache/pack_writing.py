"""Writing packs in flat memory: features stream from the source, compared with their checksums on the way."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from .catalogue import Catalogue, SetIndex, put_catalogue
from .errors import MerError
from .hdf import link_name
from .hdf_writing import create, extent, put_array, put_attributes, put_strings
from .inspection import made_here
from .release import install_line
from .seal import Extent, block_size, write_seal
from .shard import ARRAYS, ShardInfo, ShardRows, checksum, put_header, shard_name
from .spec import FeatureSpec
from .store import FeatureStore
from .structure import MOST_TIMES_SMALLER

PIECE_BYTES = 16 << 20
CHUNK_BYTES = 256 << 10
MOST_CHUNK_ENTRIES = 64
"""Runs of compressed chunks that the seal has room for; the chunks of further ones stay in its digest."""

Counter = Callable[[int], None]
Writing = Callable[[Path], AbstractContextManager[Path]]


@dataclass(frozen=True)
class SetPlan:
    """One feature set on its way into a pack."""

    source: str
    rows: npt.NDArray[np.int64]
    """Rows of the source table, in the order of the pack."""
    index: SetIndex
    notes: list[str]
    recast: bool
    """Whether values change their dtype, and so the checksums."""


def pieces(length: npt.NDArray[np.int64], spec: FeatureSpec) -> list[npt.NDArray[np.int64]]:
    """Positions with steps, in groups of about `PIECE_BYTES`."""
    positions = np.flatnonzero(length > 0)
    if not len(positions):
        return []
    running = np.cumsum(length[positions]) * spec.dim * 4 // PIECE_BYTES
    return np.split(positions, np.flatnonzero(np.diff(running)) + 1)


def write_one(
    store: FeatureStore,
    path: Path,
    catalogue: Catalogue,
    plans: Mapping[str, SetPlan],
    compression: str,
    report: Counter,
) -> None:
    entries = len(ARRAYS) * len(plans)
    if compression != "none":
        chunks = sum(plan.index.value_bytes() // CHUNK_BYTES + 1 for plan in plans.values())
        entries += min(MOST_CHUNK_ENTRIES, chunks)
    block = block_size(entries)
    plain: dict[str, Extent] = {}
    packed: dict[str, tuple[Extent, ...]] = {}
    with create(path, block, aligned=compression == "none") as file:
        put_catalogue(file, catalogue)
        for name, plan in plans.items():
            group = file["sets"][link_name(name)]
            put_array(group, "offsets", np.concatenate([[0], np.cumsum(plan.index.length)]).astype(np.int64))
            put_strings(group, "notes", plan.notes)
            _allocate(group, plan.index.spec, int(plan.index.length.sum()), compression)
            group["checksums"][...] = _stream(store, plan, group, np.arange(len(plan.rows)), report)
            for array in ARRAYS:
                _note_extents(group[array], plain, packed)
    made_here(write_seal(path, block, plain, packed))


def write_parts(
    store: FeatureStore,
    folder: Path,
    keys: list[str],
    plan: SetPlan,
    max_bytes: int,
    writing: Writing,
    report: Counter,
) -> list[Path]:
    """Write one set as shards of bounded size and enter them into the plan's index."""
    paths, index = [], plan.index
    for number, positions in enumerate(_parts(plan, max_bytes)):
        rows = ShardRows(
            [keys[position] for position in positions.tolist()],
            index.fates[positions],
            [index.reasons[position] for position in positions.tolist()],
            [plan.notes[position] for position in positions.tolist()],
            index.sources[positions],
            index.length[positions],
            index.checksums[positions],
        )
        info, sums = _write_part(store, folder, plan, positions, rows, writing, report)
        index.shards.append(info)
        index.shard[positions], index.start[positions], index.checksums[positions] = number, rows.offsets[:-1], sums
        paths.append(folder / f"{info.name}.h5")
    return paths


def _parts(plan: SetPlan, max_bytes: int) -> list[npt.NDArray[np.int64]]:
    """Cut the utterances where a part would grow over its size; metadata are reckoned at their most."""
    spec = plan.index.spec
    step_bytes = spec.dim * np.dtype(spec.dtype).itemsize + 5
    room = max_bytes - (64 << 10)
    parts, begin, filled = [], 0, 0
    for position, length in enumerate(plan.index.length.tolist()):
        size = length * step_bytes + 2048 + len(plan.notes[position]) * 4 + len(plan.index.reasons[position]) * 4
        if position > begin and filled + size > room:
            parts.append(np.arange(begin, position))
            begin, filled = position, 0
        if size > room:
            raise MerError(f"one utterance alone takes {size:,} bytes; give a larger --max-bytes")
        filled += size
    return [*parts, np.arange(begin, len(plan.index.length))]


def _write_part(
    store: FeatureStore,
    folder: Path,
    plan: SetPlan,
    positions: npt.NDArray[np.int64],
    rows: ShardRows,
    writing: Writing,
    report: Counter,
) -> tuple[ShardInfo, npt.NDArray[np.uint64]]:
    spec = plan.index.spec
    name = shard_name(spec, rows.keys, [source.tobytes() for source in rows.sources])
    block = block_size(len(ARRAYS))
    plain: dict[str, Extent] = {}
    with writing(folder / f"{name}.h5") as temporary:
        with create(temporary, block) as file:
            put_header(file, spec, rows)
            _allocate(file, spec, int(rows.lengths.sum()), "none")
            sums = _stream(store, plan, file, positions, report)
            file["checksums"][...] = sums
            for array in ARRAYS:
                _note_extents(file[array], plain, {})
        seal = write_seal(temporary, block, plain)
    made_here(seal)
    return ShardInfo(name, seal.size, seal.digest), sums


def _allocate(group: h5py.Group, spec: FeatureSpec, steps: int, compression: str) -> None:
    """Create the three arrays of a set, empty."""
    group.create_dataset("valid", (steps,), np.uint8)
    put_attributes(group.create_dataset("times", (steps,), "<f4"), {"units": "s"})
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    if compression == "none" or not steps:
        group.create_dataset("values", (steps, spec.dim), dtype)
        return
    try:
        zstd = importlib.import_module("hdf5plugin").Zstd(clevel=3)
    except ImportError as error:
        raise MerError(f"compression zstd needs hdf5plugin: {install_line('zstd')}") from error
    chunk = (min(steps, max(1, CHUNK_BYTES // (spec.dim * dtype.itemsize))), spec.dim)
    group.create_dataset("values", (steps, spec.dim), dtype, chunks=chunk, shuffle=True, **zstd)


def _stream(
    store: FeatureStore, plan: SetPlan, group: h5py.Group, positions: npt.NDArray[np.int64], report: Counter
) -> npt.NDArray[np.uint64]:
    """Copy features piece by piece, each compared with its checksum, and return the checksums of what was written."""
    index, at = plan.index, 0
    sums = index.checksums[positions].copy()
    for piece in pieces(index.length[positions], index.spec):
        block = store.load(plan.source, plan.rows[positions[piece]], verify=True)
        values = block.values.astype(np.dtype(index.spec.dtype).newbyteorder("<"), copy=False)
        valid, end = block.valid.view(np.uint8), at + len(values)
        for name, array in zip(ARRAYS, (values, block.times, valid), strict=True):
            group[name][at:end] = array
        if plan.recast:
            bounds = itertools.pairwise(block.offsets.tolist())
            for position, (a, b) in zip(piece.tolist(), bounds, strict=True):
                sums[position] = checksum(values[a:b], block.times[a:b], valid[a:b])
        at = end
        report(values.nbytes)
    return sums


def _note_extents(dataset: h5py.Dataset, plain: dict[str, Extent], packed: dict[str, tuple[Extent, ...]]) -> None:
    """Enter where an array lies in the file into the seal's lists."""
    name = str(dataset.name)
    if dataset.chunks is None:
        place = extent(dataset)
        if place is not None:
            plain[name] = place
        return
    dataset.file.flush()
    stored = int(dataset.id.get_storage_size())
    if dataset.nbytes > MOST_TIMES_SMALLER * stored:
        raise MerError(f"{name} is almost all zeros and compresses like a bomb; pack with --compression none")
    infos = [dataset.id.get_chunk_info(number) for number in range(dataset.id.get_num_chunks())]
    merged: list[Extent] = []
    for at, length in sorted((int(info.byte_offset), int(info.size)) for info in infos):
        if merged and sum(merged[-1]) == at:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        else:
            merged.append((at, length))
    packed[name] = tuple(merged)
