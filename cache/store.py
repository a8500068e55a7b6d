"""Reading features: one utterance at a time, or in bulk at the speed of the disk."""

from __future__ import annotations

import itertools
import os
import shlex
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from .catalogue import (
    CATALOGUE,
    Catalogue,
    SetIndex,
    check_not_renamed,
    check_set_name,
    has_no_shards,
    open_catalogue,
    shards_beside,
)
from .errors import DamagedError, MerError
from .hdf import get_group, get_keys, get_texts, link_name, open_sealed
from .seal import read_seal
from .sequence import FeatureSequence
from .shard import ARRAYS, SHARD, Fate, checksum, note_of
from .source import FileReader, is_url
from .structure import open_hdf, reading
from .table import UtteranceTable

MOST_HANDLES = 64
PIECE_VALUES = 1 << 23

Arrays = tuple[npt.NDArray[Any], npt.NDArray[np.float32], npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class FeatureBlock:
    """Features of many utterances, one after the other."""

    values: npt.NDArray[np.floating[Any]]
    """Shape (T_total, D), the stored dtype."""
    times: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    """Shape (N + 1,): utterance i has the rows `offsets[i]:offsets[i + 1]`, none where it has no features."""
    fates: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.fates)


@dataclass(frozen=True)
class _Place:
    """One file with rows of a feature set."""

    location: str
    starts: Mapping[str, int]
    """Offset in the file of each array that is stored plainly."""
    steps: int
    group: str
    """HDF5 group of the arrays."""


class FeatureStore:
    """A feature cache or pack. It holds paths, not handles: it can be pickled, forked and spawned."""

    def __init__(self, location: str, catalogue: Catalogue, places: dict[tuple[str, int], _Place], size: int) -> None:
        self.location = location
        self.size = size
        """Bytes of the catalogue or pack itself."""
        self.catalogue = catalogue
        self._places = places
        self._files: OrderedDict[str, FileReader] = OrderedDict()
        self._packs: dict[str, h5py.File] = {}
        self._owner = os.getpid()

    @classmethod
    def open(cls, path: Path | str) -> FeatureStore:
        """Open a catalogue with shards, or a packed file; a URL is read in place through fsspec.

        Raises
        ------
        FormatError
            If the file is not one of `mer`, is of a newer major version, or holds what the format forbids.
        DamagedError
            If its metadata are damaged.
        """
        catalogue, seal = open_catalogue(path)
        places = {}
        if catalogue.packed:
            for name, index in catalogue.sets.items():
                group = f"/sets/{link_name(name)}"
                starts = {
                    array: seal.plain[f"{group}/{array}"][0] for array in ARRAYS if f"{group}/{array}" in seal.plain
                }
                places[name, -1] = _Place(str(path), starts, int(index.length.sum()), group)
        return cls(str(path), catalogue, places, seal.size)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": OrderedDict(), "_packs": {}, "_owner": -1}

    def __repr__(self) -> str:
        return f"FeatureStore({self.location!r}, {len(self.utterances)} utterances, sets: {', '.join(self.sets)})"

    @property
    def path(self) -> Path:
        """The catalogue or pack as a local path."""
        return Path(self.location)

    @property
    def corpus(self) -> dict[str, Any]:
        """Facts about the corpus."""
        return self.catalogue.corpus

    @property
    def utterances(self) -> UtteranceTable:
        """Every utterance, with or without features."""
        return self.catalogue.utterances

    @property
    def sets(self) -> dict[str, SetIndex]:
        """Feature sets by name, the newest last."""
        return self.catalogue.sets

    @property
    def provenance(self) -> dict[str, Any]:
        """What made the cache."""
        return self.catalogue.provenance

    def set_names(self, modality: str | None = None) -> list[str]:
        """Names of all feature sets, or of those of one modality, the newest last."""
        return [name for name, index in self.sets.items() if modality in (None, index.spec.modality)]

    def pick(self, modality: str, name: str | None = None) -> str:
        """Name of the newest set of a modality, or of the one that `name` means.

        Parameters
        ----------
        modality
            `text`, `audio` or `face`.
        name
            A set name or an encoder name.

        Raises
        ------
        MerError
            If there is none; the message lists what there is.
        """
        candidates = self.set_names(modality)
        chosen = [c for c in candidates if name in (None, c, self.sets[c].spec.name)]
        if not chosen:
            wanted = f"{modality} features" + (f" {name!r}" if name else "")
            raise MerError(
                f"{self.location} has no {wanted}; it has: {', '.join(candidates or self.sets) or 'nothing'}"
            )
        return chosen[-1]

    def index(self, set_name: str) -> SetIndex:
        """Index of one feature set.

        Raises
        ------
        MerError
            If there is no such set.
        """
        if set_name not in self.sets:
            raise MerError(f"{self.location} has no feature set {set_name!r}; it has: {', '.join(self.sets) or 'none'}")
        return self.sets[set_name]

    def read(self, set_name: str, key: str, verify: bool = True) -> FeatureSequence:
        """Read one utterance.

        Parameters
        ----------
        set_name, key
            Feature set and utterance.
        verify
            Whether to compare with the checksum.

        Returns
        -------
        Values of shape (T, D) in the stored dtype, with times and mask.

        Raises
        ------
        MerError
            If there is no such set or utterance, or it has no features; the message gives the reason.
        DamagedError
            If the file that holds it is missing or damaged.
        """
        index = self.index(set_name)
        row = int(self.utterances.rows([key])[0])
        if index.fates[row] != Fate.OK:
            fate, reason = Fate(index.fates[row]).name.lower(), index.reasons[row]
            raise MerError(f"{key!r} has no features in {set_name}: {fate}" + (f" ({reason})" if reason else ""))
        values, times, valid = self.raw(set_name, row)
        if verify:
            self._check(set_name, row, values, times, valid)
        return FeatureSequence(values, times, valid != 0)

    def raw(self, set_name: str, row: int) -> Arrays:
        """Read the stored arrays of the utterance in one row of the table, unchecked; empty where it has none."""
        index = self.index(set_name)
        start, length = int(index.start[row]), int(index.length[row])
        arrays = _allocate(index, length)
        if length:
            self._fill(self._place(set_name, int(index.shard[row])), arrays, start)
        return arrays

    def load(
        self, set_name: str, rows: npt.NDArray[np.integer[Any]] | None = None, verify: bool = False
    ) -> FeatureBlock:
        """Read many utterances into one array.

        Parameters
        ----------
        set_name
            Feature set.
        rows
            Rows of the utterance table in the order wanted; None takes all.
        verify
            Whether to compare every utterance with its checksum.

        Raises
        ------
        DamagedError
            If a file is missing or damaged; the message names it and the command that repairs it.
        """
        index = self.index(set_name)
        chosen = np.asarray(np.arange(len(self.utterances)) if rows is None else rows, np.int64)
        offsets = np.concatenate([[0], np.cumsum(index.length[chosen])])
        places = {shard: self._place(set_name, shard) for shard in _shards(index, chosen)}
        arrays = _allocate(index, int(offsets[-1]))
        for shard, start, to, end in _segments(index, chosen, offsets):
            values, times, valid = arrays
            self._fill(places[shard], (values[to:end], times[to:end], valid[to:end]), start)
        if verify:
            for position, row in enumerate(chosen.tolist()):
                part = slice(offsets[position], offsets[position + 1])
                if index.fates[row] == Fate.OK:
                    self._check(set_name, row, arrays[0][part], arrays[1][part], arrays[2][part])
        return FeatureBlock(arrays[0], arrays[1], arrays[2] != 0, offsets, index.fates[chosen])

    def vectors(self, set_name: str) -> npt.NDArray[np.float32]:
        """Mean over the valid steps of every utterance, shape (N, D) float32; NaN rows where there is none."""
        index = self.index(set_name)
        means = np.full((len(self.utterances), index.spec.dim), np.nan, np.float32)
        for rows in _pieces(index):
            block = self.load(set_name, rows)
            weights, values = block.valid.astype(np.float32), block.values.astype(np.float32)
            for row, (start, end) in zip(rows.tolist(), itertools.pairwise(block.offsets.tolist()), strict=True):
                if steps := weights[start:end].sum():
                    means[row] = weights[start:end] @ values[start:end] / steps
        return means

    def notes(self, set_name: str, key: str) -> dict[str, Any]:
        """Facts noted about one utterance when it was encoded; empty where there are none.

        Raises
        ------
        DamagedError
            If the file that holds them is missing or damaged.
        """
        index = self.index(set_name)
        row = int(self.utterances.rows([key])[0])
        return note_of(self._notes(set_name, int(index.shard[row])).get(key, ""))

    def all_notes(self, set_name: str) -> list[str]:
        """Notes of every utterance as JSON text, in the order of the table; empty where there are none."""
        index = self.index(set_name)
        notes = {shard: self._notes(set_name, shard) for shard in range(-1, len(index.shards))}
        keys = self.utterances.keys
        return [notes[shard].get(key, "") for shard, key in zip(index.shard.tolist(), keys, strict=True)]

    def _notes(self, set_name: str, shard: int) -> dict[str, str]:
        """Notes by id, of one shard or of a packed set."""
        if self.catalogue.packed:
            with open_sealed(self.location, {CATALOGUE: "a pack"}) as (file, _):
                group = get_group(file["sets"], link_name(set_name), "mer-feature-set")
                notes = get_texts(group, "notes", len(self.utterances))
            return dict(zip(self.utterances.keys, notes, strict=True))
        if shard < 0:
            return {}
        with open_sealed(self._place(set_name, shard).location, {SHARD: "a shard"}) as (file, _):
            keys = get_keys(file, "keys")
            return dict(zip(keys, get_texts(file, "notes", len(keys)), strict=True))

    def repair(self) -> str:
        """What to do about damaged features: the `mer extract` command that made them, or fetching a pack again."""
        if self.catalogue.packed or self.catalogue.datasheet:
            return "fetch or pack the file again"
        command = self.provenance.get("command")
        if isinstance(command, list):
            command = shlex.join(map(str, command))
        usual = f"mer extract --corpus {self.corpus.get('name', 'NAME')} --out {self.location}"
        told = command or f"{usual} (with the options that `mer info {self.location} --reproduce` prints)"
        return f"run: {told}"

    def shard_location(self, set_name: str, shard: int) -> str:
        """Path or URL of one shard file of a set."""
        folder = f"{self.location.removesuffix('.h5')}.shards"
        if not is_url(self.location):
            folder = str(shards_beside(self.path))
        return f"{folder}/{check_set_name(set_name)}/{self.index(set_name).shards[shard].name}.h5"

    def check_shards(self) -> None:
        """Check that the shards did not stay behind as a whole, as when the catalogue alone was moved or renamed.

        Raises
        ------
        DamagedError
            If none of them is where it belongs; the message says which folder is missing.
        """
        if is_url(self.location) or not has_no_shards(self.path, self.catalogue):
            return
        check_not_renamed(self.path, self.catalogue)
        raise DamagedError(
            f"{self.location}: its shards are not in {shards_beside(self.path)}; a cache that is moved or renamed takes"
            f" this folder along, named like the file; if it is lost, {self.repair()}"
        )

    def _place(self, set_name: str, shard: int) -> _Place:
        """Find and check the file that holds some rows of a set."""
        if (set_name, shard) not in self._places:
            self._places[set_name, shard] = self._open_shard(set_name, shard)
        return self._places[set_name, shard]

    def _open_shard(self, set_name: str, shard: int) -> _Place:
        location, info = self.shard_location(set_name, shard), self.index(set_name).shards[shard]
        try:
            seal = read_seal(self._reader(location))
        except MerError as error:
            self.check_shards()
            what = "is missing" if isinstance(error.__cause__, FileNotFoundError) else f"is damaged ({error})"
            raise DamagedError(f"shard {location} {what}; to repair it {self.repair()}") from error
        index = self.index(set_name)
        row_bytes = {"values": index.spec.dim * np.dtype(index.spec.dtype).itemsize, "times": 4, "valid": 1}
        steps = {seal.plain.get(f"/{name}", (0, 0))[1] / row_bytes[name] for name in ARRAYS}
        inside = index.shard == shard
        if seal.digest != info.digest or len(steps) != 1:
            raise DamagedError(f"shard {location} is not the one the catalogue names; to repair it {self.repair()}")
        if int((index.start + index.length)[inside & index.ok].max(initial=0)) > min(steps):
            raise DamagedError(f"shard {location} holds fewer steps than the catalogue says; {self.repair()}")
        starts = {name: seal.plain[f"/{name}"][0] for name in ARRAYS if f"/{name}" in seal.plain}
        return _Place(location, starts, int(min(steps)), "/")

    def _reader(self, location: str) -> FileReader:
        """Open file of this process; handles are never shared with another.

        A file that gives way to others closes itself when no thread reads it any more.
        """
        if self._owner != os.getpid():
            self._files, self._packs, self._owner = OrderedDict(), {}, os.getpid()
        reader = self._files.pop(location, None) or FileReader(location)
        while len(self._files) >= MOST_HANDLES:
            self._files.popitem(last=False)
        self._files[location] = reader  # the last one used is the last to go
        return reader

    def _fill(self, place: _Place, arrays: Arrays, start: int) -> None:
        """Read rows from `start` on into arrays of the wanted length."""
        reader = self._reader(place.location)
        wanted: list[npt.NDArray[Any]] = [*arrays]
        for name, array in zip(ARRAYS, wanted, strict=True):
            if name in place.starts:
                step_bytes = array.itemsize * (array.shape[1] if array.ndim == 2 else 1)
                reader.read_into(array, place.starts[name] + start * step_bytes)
            else:
                with reading(place.location):
                    dataset = self._pack(place.location, reader)[f"{place.group}/{name}"]
                    dataset.read_direct(array, np.s_[start : start + len(array)])

    def _pack(self, location: str, reader: FileReader) -> h5py.File:
        """HDF5 view of a file with compressed arrays; opening the store has checked its structure."""
        if location not in self._packs:
            self._packs[location] = open_hdf(reader)
        return self._packs[location]

    def _check(
        self,
        set_name: str,
        row: int,
        values: npt.NDArray[Any],
        times: npt.NDArray[np.float32],
        valid: npt.NDArray[np.uint8],
    ) -> None:
        index = self.index(set_name)
        if checksum(values, times, valid) != index.checksums[row]:
            where = self._place(set_name, int(index.shard[row])).location if index.length[row] else self.location
            raise DamagedError(
                f"{where}: {self.utterances.keys[row]!r} of {set_name} does not match its checksum "
                f"(mer verify {self.location} lists all damage); remove the file and {self.repair()}"
            )


def _allocate(index: SetIndex, steps: int) -> Arrays:
    values = np.empty((steps, index.spec.dim), np.dtype(index.spec.dtype).newbyteorder("<"))
    return values, np.empty(steps, "<f4"), np.empty(steps, np.uint8)


def _shards(index: SetIndex, rows: npt.NDArray[np.int64]) -> Sequence[int]:
    return [int(shard) for shard in np.unique(index.shard[rows][index.length[rows] > 0])]


def _segments(
    index: SetIndex, rows: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]
) -> list[tuple[int, int, int, int]]:
    """Longest runs that are consecutive both in a file and in the result: (shard, start, first row, end row)."""
    placed = np.flatnonzero(index.length[rows] > 0)
    if not len(placed):
        return []
    shard, start = index.shard[rows[placed]], index.start[rows[placed]]
    order = np.lexsort((start, shard))
    shard, start = shard[order], start[order]
    to, end = offsets[:-1][placed[order]], offsets[1:][placed[order]]
    source_end = start + (end - to)
    broken = (shard[1:] != shard[:-1]) | (start[1:] != source_end[:-1]) | (to[1:] != end[:-1])
    first = np.concatenate([[0], np.flatnonzero(broken) + 1])
    last = np.concatenate([first[1:] - 1, [len(order) - 1]])
    return [
        (int(shard[a]), int(start[a]), int(to[a]), int(end[b]))
        for a, b in zip(first.tolist(), last.tolist(), strict=True)
    ]


def _pieces(index: SetIndex) -> list[npt.NDArray[np.int64]]:
    """Rows that have steps, in groups small enough to convert at once."""
    rows = np.flatnonzero(index.length > 0)
    if not len(rows):
        return []
    running = np.cumsum(index.length[rows]) * index.spec.dim // PIECE_VALUES
    return np.split(rows, np.flatnonzero(np.diff(running)) + 1)
