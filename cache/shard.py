"""A shard: the features of some utterances in one feature set, the unit that appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from .atomic import atomic_write
from .errors import DamagedError, FormatError
from .hdf import check_key, get_array, get_dataset, get_keys, get_offsets, get_texts, open_sealed, text_attribute
from .hdf_writing import create, describe, extent, json_text, put_array, put_keys, put_strings
from .inspection import made_here
from .seal import Extent, block_size, write_seal
from .sequence import FeatureSequence
from .source import FileReader
from .spec import FeatureSpec, canonical_json

SHARD = "mer-feature-shard"
ARRAYS = ("values", "times", "valid")
SOURCE_BYTES = 16


class Fate(IntEnum):
    """What became of one utterance in one feature set."""

    PENDING = 0
    """Not tried yet."""
    OK = 1
    MISSING = 2
    """The utterance has nothing to encode in this modality."""
    FAILED = 3
    """It could not be encoded; the reason says why."""


@dataclass(frozen=True)
class ShardRow:
    """One utterance for a shard."""

    key: str
    source: bytes
    """16 bytes: digest of this utterance's own inputs (its text, or its media and span)."""
    fate: Fate
    reason: str = ""
    sequence: FeatureSequence | None = None
    """The features where the fate is OK."""
    note: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able facts about the utterance, joined with the sequence's own note."""


@dataclass(frozen=True)
class ShardInfo:
    """What a catalogue keeps of a shard file."""

    name: str
    """Hex; the file is `<name>.h5`."""
    bytes: int
    """Size of the file."""
    digest: str
    """SHA-256 in hex from the file's seal. It covers the checksums of the utterances, and so the features."""


@dataclass(frozen=True)
class ShardIndex:
    """A shard without its values."""

    info: ShardInfo
    spec: FeatureSpec
    keys: list[str]
    sources: npt.NDArray[np.uint8]
    """Shape (N, 16)."""
    fates: npt.NDArray[np.uint8]
    reasons: list[str]
    notes: list[str]
    """JSON text, empty where there is nothing to note."""
    offsets: npt.NDArray[np.int64]
    """Shape (N + 1,): utterance i has the rows `offsets[i]:offsets[i + 1]`."""
    checksums: npt.NDArray[np.uint64]
    coverage: npt.NDArray[np.float32]
    """Shape (N,), share of valid steps; 0 for an utterance without steps."""


def shard_name(spec: FeatureSpec, keys: Sequence[str], sources: Sequence[bytes]) -> str:
    """Name of the shard that holds these utterances: 32 hex digits that follow from spec, ids and inputs."""
    identity = canonical_json([spec.to_json(), [check_key(key) for key in keys], [source.hex() for source in sources]])
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def checksum(values: npt.NDArray[Any], times: npt.NDArray[Any], valid: npt.NDArray[Any]) -> int:
    """Checksum of one utterance: XXH3-64 over the stored bytes of its values, then times, then valid."""
    digest = xxhash.xxh3_64()
    for array in (values, times, valid):
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.intdigest()


def prepare_row(spec: FeatureSpec, row: ShardRow) -> ShardRow:
    """Cast one row to what is stored; features that cannot be stored turn it into a failed row with a reason.

    Raises
    ------
    FormatError
        If the row contradicts itself or the spec: a defect of the caller, not of the data.
    """
    if len(row.source) != SOURCE_BYTES:
        raise FormatError(f"the source digest of {row.key!r} must have {SOURCE_BYTES} bytes, got {len(row.source)}")
    reason = " ".join(row.reason.split())
    if row.fate is not Fate.OK:
        if row.fate is Fate.PENDING:
            raise FormatError(f"utterance {row.key!r} is pending; a shard holds finished utterances only")
        return replace(row, reason=reason, sequence=None)
    sequence = row.sequence
    if sequence is None or sequence.values.shape[1] != spec.dim:
        shape = None if sequence is None else sequence.values.shape
        raise FormatError(f"utterance {row.key!r} needs features of shape (T, {spec.dim}), got {shape}")
    valid = np.ascontiguousarray(sequence.valid, np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.where(valid[:, None] != 0, sequence.values, 0).astype(np.dtype(spec.dtype).newbyteorder("<"))
    times = np.ascontiguousarray(sequence.times, "<f4")
    problem = _problem(sequence.values, values, valid, times, spec)
    if problem:
        return replace(row, fate=Fate.FAILED, reason=problem, sequence=None, note={**row.note, **sequence.note})
    stored = FeatureSequence(np.ascontiguousarray(values), times, valid.view(np.bool_))
    return replace(row, reason=reason, sequence=stored, note={**row.note, **sequence.note})


def _problem(
    given: npt.NDArray[Any],
    stored: npt.NDArray[Any],
    valid: npt.NDArray[Any],
    times: npt.NDArray[Any],
    spec: FeatureSpec,
) -> str:
    fits = not np.isinf(stored).any() if spec.has_gaps else np.isfinite(stored).all()
    if not fits:
        broken = given[valid != 0]
        if spec.has_gaps:
            broken = broken[~np.isnan(broken)]
        if not np.isfinite(broken).all():
            return f"{int((~np.isfinite(broken)).sum())} feature values are NaN or infinite"
        return f"feature values up to {np.abs(broken).max():.6g} do not fit {spec.dtype}; extract with --dtype float32"
    return "" if np.isfinite(times).all() else "step times are not finite"


def write_shard(folder: Path, spec: FeatureSpec, rows: Sequence[ShardRow]) -> ShardInfo:
    """Write a shard under its own name; equal rows give equal bytes.

    Parameters
    ----------
    folder
        Where the feature set's shards lie; made if it is not there.
    rows
        At least one utterance. Features are cast to the spec's dtype; steps that are not valid are stored as zeros. An
        utterance whose features are not finite, or overflow the dtype, is stored as failed with the reason.

    Raises
    ------
    MerError
        If the disk is full or the folder cannot be written.
    """
    name = shard_name(spec, [row.key for row in rows], [row.source for row in rows])
    stored = [prepare_row(spec, row) for row in rows]
    with atomic_write(Path(folder) / f"{name}.h5") as temporary:
        block = block_size(len(ARRAYS))
        with create(temporary, block) as file:
            put_header(file, spec, ShardRows.of(stored))
            plain = put_sequences(file, spec, [row.sequence for row in stored if row.sequence is not None])
        seal = write_seal(temporary, block, plain)
    made_here(seal)
    return ShardInfo(name, seal.size, seal.digest)


@dataclass(frozen=True)
class ShardRows:
    """Everything of a shard but the features, as columns."""

    keys: Sequence[str]
    fates: npt.NDArray[np.uint8]
    reasons: Sequence[str]
    notes: Sequence[str]
    """JSON text each, empty where there is nothing to note."""
    sources: npt.NDArray[np.uint8]
    """Shape (N, 16)."""
    lengths: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, rows: Sequence[ShardRow]) -> ShardRows:
        """Columns of prepared rows."""
        sequences = [row.sequence for row in rows]
        return cls(
            [row.key for row in rows],
            np.array([row.fate for row in rows], np.uint8),
            [row.reason for row in rows],
            [json_text(row.note) for row in rows],
            np.frombuffer(b"".join(row.source for row in rows), np.uint8).reshape(len(rows), SOURCE_BYTES),
            np.array([0 if s is None else len(s) for s in sequences], np.int64),
            np.array([0 if s is None else checksum(s.values, s.times, s.valid) for s in sequences], np.uint64),
        )

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Shape (N + 1,): where each utterance begins among the steps, and the last one ends."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths, dtype=np.int64)])


def put_header(file: h5py.File, spec: FeatureSpec, rows: ShardRows) -> None:
    """Write everything of a shard but the features."""
    describe(file, SHARD, spec=spec.to_json(), fingerprint=spec.fingerprint)
    put_keys(file, "keys", rows.keys)
    put_array(file, "fates", rows.fates)
    put_strings(file, "reasons", rows.reasons)
    put_strings(file, "notes", rows.notes)
    put_array(file, "sources", rows.sources)
    put_array(file, "offsets", rows.offsets)
    put_array(file, "checksums", rows.checksums)


def put_sequences(group: h5py.Group, spec: FeatureSpec, sequences: Sequence[FeatureSequence]) -> dict[str, Extent]:
    """Write the features of consecutive utterances and tell where they lie in the file."""
    empty = FeatureSequence.of(np.zeros((0, spec.dim), spec.dtype), np.zeros(0))
    parts = [empty, *sequences]
    valid = put_array(group, "valid", np.concatenate([part.valid for part in parts]).view(np.uint8))
    times = put_array(group, "times", np.concatenate([part.times for part in parts]), "s")
    values = put_array(group, "values", np.concatenate([part.values for part in parts], dtype=spec.dtype))
    found = {str(dataset.name): extent(dataset) for dataset in (valid, times, values)}
    return {name: place for name, place in found.items() if place is not None}


def read_shard_index(path: Path | str) -> ShardIndex:
    """Read a shard without its values, checking everything but them.

    Raises
    ------
    DamagedError
        If the file is missing, truncated, changed, or not the shard its name says.
    FormatError
        If it is not a shard or was written by a newer `mer`.
    """
    path = Path(path)
    if not path.exists():
        raise DamagedError(f"{path} is missing")
    with open_sealed(path, {SHARD: "a shard"}) as (file, seal):
        spec = FeatureSpec.from_json(text_attribute(file, "spec"))
        keys = get_keys(file, "keys")
        count = len(keys)
        steps = len(get_dataset(file, "values", spec.dtype, (-1, spec.dim)))
        get_dataset(file, "times", np.float32, (steps,))
        offsets = get_offsets(file, "offsets", count, steps)
        index = ShardIndex(
            info=ShardInfo(path.stem, seal.size, seal.digest),
            spec=spec,
            keys=keys,
            sources=get_array(file, "sources", np.uint8, (count, SOURCE_BYTES)),
            fates=get_array(file, "fates", np.uint8, (count,)),
            reasons=get_texts(file, "reasons", count),
            notes=get_texts(file, "notes", count),
            offsets=offsets,
            checksums=get_array(file, "checksums", np.uint64, (count,)),
            coverage=coverage_of(get_array(file, "valid", np.uint8, (steps,)), offsets),
        )
        _check_index(index, text_attribute(file, "fingerprint"))
    return index


def coverage_of(valid: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Share of valid steps of each utterance, shape (N,) float32; 0 where it has no steps."""
    running = np.concatenate([[0], np.cumsum(valid != 0, dtype=np.int64)])
    lengths = np.diff(offsets)
    return np.asarray((running[offsets[1:]] - running[offsets[:-1]]) / np.maximum(lengths, 1), np.float32)


def _check_index(index: ShardIndex, fingerprint: str) -> None:
    if fingerprint != index.spec.fingerprint:
        raise FormatError(f"the fingerprint {fingerprint[:40]!r} is not the spec's {index.spec.fingerprint}")
    name = shard_name(index.spec, index.keys, [row.tobytes() for row in index.sources])
    if name != index.info.name:
        raise DamagedError(f"the content belongs to {name}.h5; the file was renamed or replaced")
    if not np.isin(index.fates, (Fate.OK, Fate.MISSING, Fate.FAILED)).all():
        raise FormatError("a fate is none of ok, missing, failed")
    if np.diff(index.offsets)[index.fates != Fate.OK].any():
        raise FormatError("an utterance without features has steps")


def check_shard(path: Path | str, deep: bool = False) -> None:
    """Check that a shard is whole; with `deep` also every utterance against its checksum.

    Raises
    ------
    DamagedError
        Naming the file and, with `deep`, the first damaged utterance.
    """
    index = read_shard_index(path)
    if not deep:
        return
    damaged = damaged_rows(path, index)
    if damaged:
        raise DamagedError(f"{path}: {len(damaged)} damaged utterances, the first is {index.keys[damaged[0]]!r}")


def damaged_rows(path: Path | str, index: ShardIndex) -> list[int]:
    """Rows of a shard whose features do not match their checksum, reading one utterance at a time."""
    with open_sealed(path, {SHARD: "a shard"}) as (_, seal), FileReader(path) as reader:
        places = {name: seal.plain.get(f"/{name}", (0, 0))[0] for name in ARRAYS}
        damaged = []
        for row, (start, end) in enumerate(zip(index.offsets[:-1].tolist(), index.offsets[1:].tolist(), strict=True)):
            if index.fates[row] != Fate.OK:
                continue
            values, times, valid = read_rows(reader, index.spec, places, start, end - start)
            if checksum(values, times, valid) != index.checksums[row]:
                damaged.append(row)
    return damaged


def read_rows(
    reader: FileReader, spec: FeatureSpec, places: Mapping[str, int], start: int, length: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Read rows of the three contiguous arrays that begin at `places` in a file."""
    values = np.empty((length, spec.dim), np.dtype(spec.dtype).newbyteorder("<"))
    times, valid = np.empty(length, "<f4"), np.empty(length, np.uint8)
    row_bytes = {"values": spec.dim * values.itemsize, "times": 4, "valid": 1}
    for name, array in zip(ARRAYS, (values, times, valid), strict=True):
        reader.read_into(array, places[name] + start * row_bytes[name])
    return values, times, valid


def note_of(text: str) -> dict[str, Any]:
    """Parse one entry of `notes`."""
    try:
        note = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"a note is not JSON ({error})") from error
    return note if isinstance(note, dict) else {}
