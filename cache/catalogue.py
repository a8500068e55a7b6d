"""The catalogue: what `cache/NAME.h5` says about a corpus and its feature sets, with the data beside it or inside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from .atomic import atomic_write, followed, sweep_beside
from .errors import DamagedError, FormatError
from .hdf import (
    any_attribute,
    get_array,
    get_dataset,
    get_group,
    get_keys,
    get_offsets,
    get_texts,
    json_attribute,
    link_name,
    names_attribute,
    open_sealed,
    text_attribute,
)
from .hdf_writing import create, describe, json_text, put_array, put_attributes, put_keys, put_strings
from .inspection import made_here
from .seal import Seal, block_size, write_seal
from .shard import SOURCE_BYTES, Fate, ShardInfo
from .spec import FeatureSpec, canonical_json
from .table import UtteranceTable, get_table, put_table

CATALOGUE = "mer-catalogue"
MOST_STEPS = 1 << 48
SHARD_NAME = re.compile(r"[0-9a-f]{16,64}")
SET_NAME = re.compile(r"\w[\w.\-]{0,199}")
TERMS = ("license", "terms", "citation", "contact")
"""Entries of the datasheet that are root attributes of their own as well, for readers of plain HDF5."""
KNOWN_ATTRIBUTES = {"encoding-type", "encoding-version", "form", "corpus", "provenance", "datasheet", *TERMS}


@dataclass
class SetIndex:
    """One feature set for all N utterances: their fates, and where their features lie."""

    spec: FeatureSpec
    fates: npt.NDArray[np.uint8]
    """Shape (N,), values of `Fate`."""
    reasons: list[str]
    """Why an utterance is missing or failed; empty otherwise."""
    shard: npt.NDArray[np.int32]
    """Shape (N,), index into `shards`; -1 for an utterance in none, and for all of a packed file."""
    start: npt.NDArray[np.int64]
    """Shape (N,), first row of the utterance in the `values` of its shard, or of the set in a packed file."""
    length: npt.NDArray[np.int64]
    """Shape (N,), number of steps; 0 unless the fate is OK."""
    checksums: npt.NDArray[np.uint64]
    sources: npt.NDArray[np.uint8]
    """Shape (N, 16)."""
    coverage: npt.NDArray[np.float32]
    """Shape (N,), share of steps that are valid."""
    shards: list[ShardInfo] = field(default_factory=list)

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which utterances have features, shape (N,)."""
        return np.asarray(self.fates == Fate.OK)

    def value_bytes(self) -> int:
        """Bytes of all values of the set, uncompressed."""
        return int(self.length.sum()) * self.spec.dim * np.dtype(self.spec.dtype).itemsize


@dataclass
class Catalogue:
    """Everything of a cache but the features."""

    corpus: dict[str, Any]
    """Facts about the corpus, JSON-able."""
    utterances: UtteranceTable
    sets: dict[str, SetIndex]
    """By set name, the newest last."""
    provenance: dict[str, Any]
    """Versions, options and command that made it; no clocks and no hosts."""
    datasheet: dict[str, Any] = field(default_factory=dict)
    """Licence, citation, contact and what a reader should know; empty until it is packed."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Root attributes this version does not know, kept as they are."""
    packed: bool = False
    """True when the data are inside the file."""


def shards_beside(catalogue_path: Path | str) -> Path:
    """Folder `<stem>.shards` beside a catalogue; of a link that has none, the one beside the file it leads to."""
    folders = [path.parent / f"{path.stem}.shards" for path in (Path(catalogue_path), followed(catalogue_path))]
    return folders[0] if folders[0].is_dir() else folders[1]


def shard_folder(catalogue_path: Path | str, set_name: str) -> Path:
    """Folder of a feature set's shards: `<stem>.shards/<set_name>` beside the catalogue.

    Raises
    ------
    FormatError
        If the set name could not be a folder name.
    """
    return shards_beside(catalogue_path) / check_set_name(set_name)


def has_no_shards(catalogue_path: Path | str, catalogue: Catalogue) -> bool:
    """Whether a catalogue lists shards and none of them is where it belongs."""
    shards = _listed(catalogue)
    return bool(shards) and not any((shards_beside(catalogue_path) / shard).exists() for shard in shards)


def check_not_renamed(catalogue_path: Path | str, catalogue: Catalogue) -> None:
    """Check that a catalogue was not renamed without its folder.

    Raises
    ------
    DamagedError
        If none of its shards is where it belongs, and another folder beside it has them.
    """
    if not has_no_shards(catalogue_path, catalogue):
        return
    folder, first = shards_beside(catalogue_path), _listed(catalogue)[0]
    for other in sorted(folder.parent.glob("*.shards")):
        if (other / first).exists():
            raise DamagedError(f"{catalogue_path}: its shards lie in {other}; rename that folder to {folder.name}")


def _listed(catalogue: Catalogue) -> list[Path]:
    """Every shard of a catalogue, from the folder of its shards on."""
    sets = catalogue.sets.items()
    return [Path(check_set_name(name), f"{info.name}.h5") for name, index in sets for info in index.shards]


def check_set_name(name: str) -> str:
    """Return a set name that is safe as a file name and as an HDF5 link."""
    if not SET_NAME.fullmatch(name):
        raise FormatError(f"feature-set name {name[:60]!a} is not allowed: letters, digits, `.`, `_` and `-` only")
    return name


def write_catalogue(path: Path | str, catalogue: Catalogue) -> None:
    """Write a catalogue whose features lie in shards; equal catalogues give equal bytes.

    Raises
    ------
    FormatError
        If the catalogue contradicts itself.
    MerError
        If the disk is full or the folder cannot be written.
    """
    if catalogue.packed:
        raise FormatError("a packed catalogue cannot be written without its data")
    check_catalogue(catalogue)
    block = block_size(0)
    sweep_beside(followed(path))
    with atomic_write(followed(path)) as temporary:
        with create(temporary, block) as file:
            put_catalogue(file, catalogue)
        seal = write_seal(temporary, block, {})
    made_here(seal)


def put_catalogue(file: h5py.File, catalogue: Catalogue) -> None:
    """Write everything of a catalogue into an open file."""
    describe(
        file,
        CATALOGUE,
        form="packed" if catalogue.packed else "sharded",
        corpus=json_text(catalogue.corpus) or "{}",
        provenance=json_text(catalogue.provenance) or "{}",
    )
    if catalogue.datasheet:
        terms = {name: str(catalogue.datasheet[name]) for name in TERMS if catalogue.datasheet.get(name)}
        put_attributes(file, {"datasheet": json_text(catalogue.datasheet), **terms})
    put_attributes(file, {name: catalogue.extra[name] for name in sorted(set(catalogue.extra) - KNOWN_ATTRIBUTES)})
    put_table(file, catalogue.utterances)
    sets = file.create_group("sets")
    describe(sets, "mer-feature-sets", order=canonical_json(list(catalogue.sets)))
    for name, index in catalogue.sets.items():
        group = sets.create_group(link_name(check_set_name(name)))
        describe(group, "mer-feature-set", spec=index.spec.to_json(), fingerprint=index.spec.fingerprint)
        _put_set(group, index)


def _put_set(group: h5py.Group, index: SetIndex) -> None:
    put_array(group, "fates", index.fates.astype(np.uint8))
    put_strings(group, "reasons", index.reasons)
    put_array(group, "shard", index.shard.astype(np.int32))
    put_array(group, "start", index.start.astype(np.int64))
    put_array(group, "length", index.length.astype(np.int64))
    put_array(group, "checksums", index.checksums.astype(np.uint64))
    put_array(group, "sources", index.sources.astype(np.uint8))
    put_array(group, "coverage", index.coverage.astype(np.float32))
    shards = group.create_group("shards")
    describe(shards, "mer-shard-list")
    put_keys(shards, "names", [info.name for info in index.shards])
    put_array(shards, "bytes", np.array([info.bytes for info in index.shards], np.int64))
    digests = b"".join(bytes.fromhex(info.digest) for info in index.shards)
    put_array(shards, "digests", np.frombuffer(digests, np.uint8).reshape(len(index.shards), 32))


def read_catalogue(path: Path | str) -> Catalogue:
    """Read the catalogue of a sharded or packed file, without features.

    Raises
    ------
    FormatError
        If the file is not one of `mer`, is of a newer major version, or breaks the format.
    DamagedError
        If bytes changed.
    """
    return open_catalogue(path)[0]


def open_catalogue(location: Path | str) -> tuple[Catalogue, Seal]:
    """Read a catalogue and the seal of its file."""
    with open_sealed(location, {CATALOGUE: "a feature cache or pack"}) as (file, seal):
        form = text_attribute(file, "form")
        if form not in ("sharded", "packed"):
            raise FormatError(f"form {form[:40]!r} is neither sharded nor packed")
        table = get_table(file)
        sets = get_group(file, "sets", "mer-feature-sets")
        catalogue = Catalogue(
            corpus=json_attribute(file, "corpus"),
            utterances=table,
            sets={name: _get_set(sets, name, table, form == "packed") for name in names_attribute(sets, "order")},
            provenance=json_attribute(file, "provenance"),
            datasheet=json_attribute(file, "datasheet"),
            extra={name: any_attribute(file, name) for name in sorted(set(file.attrs) - KNOWN_ATTRIBUTES)},
            packed=form == "packed",
        )
        check_catalogue(catalogue)
    return catalogue, seal


def _get_set(sets: h5py.Group, name: str, table: UtteranceTable, packed: bool) -> SetIndex:
    group = get_group(sets, link_name(check_set_name(name)), "mer-feature-set")
    count = len(table)
    spec = FeatureSpec.from_json(text_attribute(group, "spec"))
    if text_attribute(group, "fingerprint") != spec.fingerprint:
        raise FormatError(f"{group.name}: the fingerprint is not the spec's {spec.fingerprint}")
    shards = get_group(group, "shards", "mer-shard-list")
    names = get_keys(shards, "names")
    sizes = get_array(shards, "bytes", np.int64, (len(names),)).tolist()
    digests = get_array(shards, "digests", np.uint8, (len(names), 32))
    index = SetIndex(
        spec=spec,
        fates=get_array(group, "fates", np.uint8, (count,)),
        reasons=get_texts(group, "reasons", count),
        shard=get_array(group, "shard", np.int32, (count,)),
        start=get_array(group, "start", np.int64, (count,)),
        length=get_array(group, "length", np.int64, (count,)),
        checksums=get_array(group, "checksums", np.uint64, (count,)),
        sources=get_array(group, "sources", np.uint8, (count, SOURCE_BYTES)),
        coverage=get_array(group, "coverage", np.float32, (count,)),
        shards=[
            ShardInfo(shard, size, digest.tobytes().hex())
            for shard, size, digest in zip(names, sizes, digests, strict=True)
        ],
    )
    if packed:
        _check_inside(group, index)
    return index


def _check_inside(group: h5py.Group, index: SetIndex) -> None:
    steps = len(get_dataset(group, "values", index.spec.dtype, (-1, index.spec.dim)))
    get_dataset(group, "times", np.float32, (steps,))
    get_dataset(group, "valid", np.uint8, (steps,))
    offsets = get_offsets(group, "offsets", len(index.fates), steps)
    if index.shards or (np.diff(offsets) != index.length).any() or (offsets[:-1] != index.start).any():
        raise FormatError(f"{group.name}: offsets, start and length do not agree")


def check_catalogue(catalogue: Catalogue) -> None:
    """Check that a catalogue does not contradict itself.

    Raises
    ------
    FormatError
        Naming the feature set and what is wrong with it.
    """
    for name, index in catalogue.sets.items():
        check_set_name(name)
        for problem, broken in _contradictions(index, len(catalogue.utterances), catalogue.packed).items():
            if broken:
                raise FormatError(f"feature set {name}: {problem}")


def _contradictions(index: SetIndex, count: int, packed: bool) -> Mapping[str, bool]:
    columns = (index.fates, index.reasons, index.shard, index.start, index.length, index.checksums, index.coverage)
    if any(len(column) != count for column in columns) or index.sources.shape != (count, SOURCE_BYTES):
        return {f"a column does not have one row for each of the {count} utterances": True}
    reach = index.start + np.minimum(index.length, MOST_STEPS)
    placed = index.ok & (index.length > 0)
    lowest = 0 if not packed else -1
    return {
        "a fate is not one of 0 to 3": bool((index.fates > max(Fate)).any()),
        "an utterance lies in a shard that is not listed": bool(
            ((index.shard < -1) | (index.shard >= len(index.shards))).any()
        ),
        "an utterance with features lies in no shard": bool((index.shard[placed] < lowest).any()),
        "an utterance without features has steps": bool((index.length[~index.ok] != 0).any()),
        "a start or length is out of range": bool(
            ((index.start < 0) | (index.length < 0) | (index.start > MOST_STEPS) | (index.length > MOST_STEPS)).any()
        ),
        "utterances overlap": _overlap(index.shard[placed], index.start[placed], reach[placed]),
        "a coverage is not between 0 and 1": not bool(((index.coverage >= 0) & (index.coverage <= 1)).all()),
        "a shard name is not hex": not all(SHARD_NAME.fullmatch(info.name) for info in index.shards),
        "a shard size or digest is impossible": not all(
            info.bytes > 0 and len(info.digest) == 64 for info in index.shards
        ),
    }


def _overlap(shard: npt.NDArray[np.int32], start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]) -> bool:
    order = np.lexsort((start, shard))
    shard, start, end = shard[order], start[order], end[order]
    return bool(((shard[1:] == shard[:-1]) & (start[1:] < end[:-1])).any())
