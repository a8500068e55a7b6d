"""Packing: one self-contained file to share, or parts of a bounded size, made in flat memory."""

from __future__ import annotations

import filecmp
import hashlib
import importlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from .atomic import atomic_write, followed
from .catalogue import Catalogue, SetIndex, put_catalogue, read_catalogue, shard_folder, write_catalogue
from .contents import summarise
from .errors import MerError
from .hdf import MOST_TIMES_SMALLER, create, extent, json_text, link_name, put_array, put_attributes, put_strings
from .progress import Progress, tally
from .release import install_line, program_version
from .seal import Extent, block_size, write_seal
from .shard import ARRAYS, SOURCE_BYTES, Fate, ShardInfo, ShardRows, checksum, put_header, shard_name
from .spec import FeatureSpec
from .store import FeatureStore
from .table import UtteranceTable

COMPRESSIONS = ("none", "zstd")
PIECE_BYTES = 16 << 20
CHUNK_BYTES = 256 << 10
MOST_CHUNK_ENTRIES = 64
"""Runs of compressed chunks that the seal has room for; the chunks of further ones stay in its digest."""
SMALLEST_PART = 1 << 20
SMALLEST_SALT = 8
FOLDERS = re.compile(r"(?:[A-Za-z]:)?[\\/](?:[^\s\\/'\"]+[\\/])+")
PATH = re.compile(r"(?:[A-Za-z]:)?[\\/]|~|\.{1,2}[\\/]")
FLOAT16_MAX = float(np.finfo(np.float16).max)

Counter = Callable[[int], None]
Writing = Callable[[Path], AbstractContextManager[Path]]


@dataclass(frozen=True)
class PackOptions:
    """What goes into a pack and under which terms.

    Raises
    ------
    MerError
        If an option is impossible.
    """

    license: str
    """SPDX id of the licence of the features, or `LicenseRef-...` with `terms`."""
    terms: str = ""
    """Conditions in words; needed where the licence has no SPDX id."""
    citation: str = ""
    """What to cite; empty takes the corpus' own."""
    contact: str = ""
    title: str = ""
    description: str = ""
    gaps: tuple[str, ...] = ()
    """Known gaps, one sentence each, beside those that are counted."""
    sets: tuple[str, ...] = ()
    """Set names, encoder names or modalities; empty takes all."""
    splits: tuple[str, ...] = ()
    """Splits to keep; empty takes all."""
    dtype: str | None = None
    """`float16` or `float32`; None keeps each set's own."""
    compression: str = "none"
    strip_text: bool | None = None
    """Leave the transcripts out; None does so for a gated corpus."""
    salt: str | None = None
    """When given, ids, speakers, dialogues and sessions are replaced by salted hashes and media paths left out."""
    may_share: bool = False
    """Whoever packs a gated corpus says so."""
    max_bytes: int | None = None
    """Split the features into files of at most this size; None makes one file."""

    def __post_init__(self) -> None:
        if not _is_spdx(self.license):
            raise MerError(f"licence {self.license!r} is not an SPDX id such as CC-BY-4.0, or LicenseRef-NAME")
        if "licenseref-" in self.license.lower() and not self.terms:
            raise MerError(f"licence {self.license!r} says nothing by itself; give the conditions with --terms")
        if self.compression not in COMPRESSIONS:
            raise MerError(f"compression {self.compression!r} is not one of {', '.join(COMPRESSIONS)}")
        if self.dtype not in (None, "float16", "float32"):
            raise MerError(f"dtype {self.dtype!r} is not one of float16, float32")
        if self.salt is not None and len(self.salt) < SMALLEST_SALT:
            raise MerError(f"a salt of {len(self.salt)} characters can be guessed; give at least {SMALLEST_SALT}")
        if self.max_bytes is not None and self.max_bytes < SMALLEST_PART:
            raise MerError(f"parts of {self.max_bytes:,} bytes are too small; give at least {SMALLEST_PART:,}")
        if self.max_bytes is not None and self.compression != "none":
            raise MerError("compressed parts are not supported; leave out --max-bytes or --compression")


def _is_spdx(license_id: str) -> bool:
    """Whether SPDX knows a licence, or it is a `LicenseRef-NAME`."""
    try:
        canonicalize_license_expression(license_id)
    except InvalidLicenseExpression:
        return False
    return True


@dataclass(frozen=True)
class _SetPlan:
    """One feature set on its way into a pack."""

    source: str
    rows: npt.NDArray[np.int64]
    """Rows of the source table, in the order of the pack."""
    index: SetIndex
    notes: list[str]
    recast: bool
    """Whether values change their dtype, and so the checksums."""


def pack(
    source: FeatureStore | Path | str,
    out: Path | str,
    options: PackOptions,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Make a pack; equal sources and options give equal bytes.

    Parameters
    ----------
    source
        A cache or another pack. Every utterance is compared with its checksum on the way.
    out
        The pack, `.h5`. With `max_bytes` it is a catalogue and the parts lie in `<stem>.shards` beside it.
    progress
        Called with the bytes of features dealt with so far, and those in all.
    overwrite
        Whether files that are there, and are not the very pack already, are replaced.

    Returns
    -------
    The files made, the pack or catalogue first.

    Raises
    ------
    MerError
        If the corpus is gated and sharing is not confirmed, nothing is left to pack, another file is there, or the
        disk is full.
    DamagedError
        If features of the source are damaged.
    """
    store = source if isinstance(source, FeatureStore) else FeatureStore.open(source)
    out = Path(out)
    if out.exists() and str(out.resolve()) == str(Path(store.location).resolve()):
        raise MerError(f"{out} cannot be packed onto itself; give another name with -o")
    if out.is_dir():
        raise MerError(f"{out} is a folder; name the .h5 file to write with -o")
    stripped = _check_terms(store, options)
    rows = _rows(store, options)
    plans: dict[str, _SetPlan] = {}
    for plan in _plans(store, options, rows, stripped):
        name = plan.index.spec.set_name
        if name in plans:
            raise MerError(f"{plan.source} and {plans[name].source} become the same set {name}; name one with --set")
        plans[name] = plan
    catalogue = _catalogue(store, options, rows, plans, stripped)
    if not overwrite:
        _refuse_another(out, catalogue)
    writing = partial(_new_file, overwrite=overwrite)
    report = tally(progress, sum(plan.index.value_bytes() for plan in plans.values()))
    if options.max_bytes is None:
        with writing(out) as temporary:
            _write_one(store, temporary, catalogue, plans, options.compression, report)
        return [out]
    keys, parts = catalogue.utterances.keys, []
    for name, plan in plans.items():
        parts += _write_parts(store, shard_folder(out, name), keys, plan, options.max_bytes, writing, report)
    with writing(out) as temporary:
        write_catalogue(temporary, replace(catalogue, packed=False))
    return [out, *parts]


def _refuse_another(out: Path, catalogue: Catalogue) -> None:
    """Refuse, before the long work, to replace a file that is plainly not the pack to be made."""
    if not out.exists():
        return
    try:
        there = read_catalogue(out)
    except MerError as error:  # no cache or pack at all
        raise MerError(_taken(out)) from error
    same = there.utterances.keys == catalogue.utterances.keys and list(there.sets) == list(catalogue.sets)
    if not same or json_text(there.datasheet) != json_text(catalogue.datasheet):
        raise MerError(_taken(out))


@contextmanager
def _new_file(path: Path, overwrite: bool) -> Iterator[Path]:
    """Write a file whole or not at all; what is there is replaced when asked for, or when it has the very bytes."""
    with atomic_write(followed(path)) as temporary:
        yield temporary
        if not overwrite and path.exists() and not filecmp.cmp(temporary, path, shallow=False):
            raise MerError(_taken(path))


def _taken(path: Path) -> str:
    return f"{path} is there already and is another file; choose another name with -o, or replace it with --overwrite"


# ------------------------------------------------------------------------------------------------------ choices


def _check_terms(store: FeatureStore, options: PackOptions) -> bool:
    """Check that sharing is allowed, and tell whether transcripts are left out."""
    gated = bool(store.corpus.get("gated"))
    if gated and not options.may_share:
        terms = store.corpus.get("license") or "its terms"
        raise MerError(
            f"{store.corpus.get('name', 'this corpus')} is gated ({terms}); if you may share features of it, "
            "say so with --i-have-the-right-to-share"
        )
    return gated if options.strip_text is None else options.strip_text


def _rows(store: FeatureStore, options: PackOptions) -> npt.NDArray[np.int64]:
    split = np.array(store.utterances.split, dtype=object)
    missing = [name for name in options.splits if name not in set(store.utterances.split)]
    if missing:
        there = ", ".join(dict.fromkeys(store.utterances.split)) or "none"
        raise MerError(f"{store.location} has no split {missing[0]!r}; it has: {there}")
    return np.flatnonzero(np.isin(split, options.splits)) if options.splits else np.arange(len(split))


def _chosen(store: FeatureStore, wanted: Sequence[str]) -> list[str]:
    if not wanted:
        return list(store.sets)
    chosen: dict[str, None] = {}
    for word in wanted:
        found = [n for n, made in store.sets.items() if word in (n, made.spec.name, made.spec.modality)]
        if not found:
            raise MerError(f"{store.location} has no feature set {word!r}; it has: {', '.join(store.sets) or 'none'}")
        chosen |= dict.fromkeys(found)
    return [name for name in store.sets if name in chosen]


def _plans(
    store: FeatureStore, options: PackOptions, rows: npt.NDArray[np.int64], stripped: bool
) -> Iterator[_SetPlan]:
    names = _chosen(store, options.sets)
    if not names:
        raise MerError(f"{store.location} has no feature sets to pack; run mer extract first")
    private = stripped or options.salt is not None
    for name in names:
        old = store.sets[name]
        spec = replace(old.spec, dtype=options.dtype or old.spec.dtype)
        fates, reasons = old.fates[rows].copy(), [_scrubbed(old.reasons[row]) for row in rows.tolist()]
        if options.salt is not None:
            reasons = [""] * len(rows)
        if (old.spec.dtype, spec.dtype) == ("float32", "float16"):
            for position, peak in _overflowing(store, name, rows):
                fates[position] = Fate.FAILED
                reasons[position] = f"feature values up to {peak:.6g} do not fit float16; pack with --dtype float32"
        ok = fates == Fate.OK
        length = np.where(ok, old.length[rows], 0)
        index = SetIndex(
            spec=spec,
            fates=fates,
            reasons=reasons,
            shard=np.full(len(rows), -1, np.int32),
            start=np.cumsum(length) - length,
            length=length,
            checksums=np.where(ok, old.checksums[rows], 0).astype(np.uint64),
            sources=np.zeros((len(rows), SOURCE_BYTES), np.uint8) if private else old.sources[rows],
            coverage=np.where(ok, old.coverage[rows], 0).astype(np.float32),
        )
        kept = options.salt is None and not (stripped and spec.modality == "text")
        notes = store.all_notes(name) if kept else [""] * len(store.utterances)
        yield _SetPlan(name, rows, index, [notes[row] for row in rows.tolist()], spec != old.spec)


def _scrubbed(reason: str) -> str:
    """A reason without the folders of the machine it happened on."""
    return FOLDERS.sub("", reason)


def without_folders(value: Any) -> Any:
    """A JSON-able value in which every path that names folders of this machine is cut down to its last part.

    A hub id such as `owner/name` is none; a URL neither.
    """
    if isinstance(value, str):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1] if PATH.match(value) else value
    if isinstance(value, Mapping):
        return {name: without_folders(item) for name, item in value.items()}
    return [without_folders(item) for item in value] if isinstance(value, (list, tuple)) else value


def _overflowing(store: FeatureStore, name: str, rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, float]]:
    index = store.sets[name]
    for positions in _pieces(index.length[rows], index.spec):
        block = store.load(name, rows[positions])
        for position, (start, end) in zip(positions.tolist(), itertools.pairwise(block.offsets.tolist()), strict=True):
            peak = float(np.abs(block.values[start:end]).max(initial=0))
            if peak > FLOAT16_MAX:
                yield position, peak


def _pieces(length: npt.NDArray[np.int64], spec: FeatureSpec) -> list[npt.NDArray[np.int64]]:
    """Positions with steps, in groups of about `PIECE_BYTES`."""
    positions = np.flatnonzero(length > 0)
    if not len(positions):
        return []
    running = np.cumsum(length[positions]) * spec.dim * 4 // PIECE_BYTES
    return np.split(positions, np.flatnonzero(np.diff(running)) + 1)


# ------------------------------------------------------------------------------------------------------ catalogue


def _catalogue(
    store: FeatureStore,
    options: PackOptions,
    rows: npt.NDArray[np.int64],
    plans: Mapping[str, _SetPlan],
    stripped: bool,
) -> Catalogue:
    table = store.utterances.select(rows)
    if stripped:
        table = replace(table, text=[None] * len(table))
    if options.salt is not None:
        table = _hashed(table, options.salt)
    catalogue = Catalogue(
        corpus=store.corpus,
        utterances=table,
        sets={name: plan.index for name, plan in plans.items()},
        provenance=without_folders(store.provenance),
        extra=store.catalogue.extra,
        packed=True,
    )
    catalogue.datasheet = _datasheet(store, options, catalogue, stripped)
    return catalogue


def hashed_id(text: str, salt: str) -> str:
    """Salted hash of an id: 32 hex digits; empty stays empty."""
    return hashlib.sha256(f"{salt}\0{text}".encode()).hexdigest()[:32] if text else ""


def _hashed(table: UtteranceTable, salt: str) -> UtteranceTable:
    """Replace everything that names a person, place or file."""
    changed: dict[str, Any] = {"media": [None] * len(table)}
    for column in ("keys", "speaker", "dialogue", "session"):
        changed[column] = [hashed_id(value, salt) for value in getattr(table, column)]
    return replace(table, **changed)


def _datasheet(store: FeatureStore, options: PackOptions, catalogue: Catalogue, stripped: bool) -> dict[str, Any]:
    corpus, before = store.corpus, store.catalogue.datasheet
    said = {
        "license": options.license,
        "terms": options.terms,
        "citation": options.citation or before.get("citation") or corpus.get("citation") or "",
        "contact": options.contact or before.get("contact") or "",
        "title": options.title or before.get("title") or f"Features of {corpus.get('title') or corpus.get('name', '')}",
        "description": options.description or before.get("description") or "",
        "data": {name: corpus[name] for name in ("name", "url", "license", "gated") if name in corpus},
        "changes": [*before.get("changes", []), *_changes(store, options, catalogue, stripped)],
        "gaps": [*_gaps(catalogue), *options.gaps],
        "packed_by": f"mer {program_version()}",
        "contents": summarise(catalogue),
    }
    return {name: value for name, value in said.items() if value}


def _changes(store: FeatureStore, options: PackOptions, catalogue: Catalogue, stripped: bool) -> list[str]:
    """What is different from the cache that was packed, one sentence each."""
    dropped = [name for name in store.sets if name not in _chosen(store, options.sets)]
    recast = [name for name in _chosen(store, options.sets) if options.dtype not in (None, store.sets[name].spec.dtype)]
    sentences = {
        f"only the splits {', '.join(options.splits)}": bool(options.splits),
        f"feature sets left out: {', '.join(dropped)}": bool(dropped),
        f"stored as {options.dtype}: {', '.join(recast)}": bool(recast),
        "transcripts left out": stripped and any(text is not None for text in store.utterances.text),
        "ids, speakers, dialogues and sessions replaced by salted hashes; media paths left out": options.salt
        is not None,
    }
    return [sentence for sentence, holds in sentences.items() if holds]


def _gaps(catalogue: Catalogue) -> list[str]:
    """Count what a reader would otherwise find out late."""
    gaps = []
    for name, index in catalogue.sets.items():
        for fate, words in {Fate.MISSING: "are missing", Fate.FAILED: "failed", Fate.PENDING: "are pending"}.items():
            if count := int((index.fates == fate).sum()):
                gaps.append(f"{name}: {count:,} of {len(index.fates):,} utterances {words}")
        if partly := int((index.coverage[index.ok] < 1).sum()):
            gaps.append(f"{name}: {partly:,} utterances have steps without features")
    table = catalogue.utterances
    for name, label in table.labels.items():
        if unlabelled := int((~label.labelled).sum()):
            gaps.append(f"{name}: {unlabelled:,} of {len(table):,} utterances are not labelled")
    return gaps


# -------------------------------------------------------------------------------------------------------- writing


def _write_one(
    store: FeatureStore,
    path: Path,
    catalogue: Catalogue,
    plans: Mapping[str, _SetPlan],
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
    write_seal(path, block, plain, packed)


def _write_parts(
    store: FeatureStore,
    folder: Path,
    keys: list[str],
    plan: _SetPlan,
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


def _parts(plan: _SetPlan, max_bytes: int) -> list[npt.NDArray[np.int64]]:
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
    plan: _SetPlan,
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
    store: FeatureStore, plan: _SetPlan, group: h5py.Group, positions: npt.NDArray[np.int64], report: Counter
) -> npt.NDArray[np.uint64]:
    """Copy features piece by piece, each compared with its checksum, and return the checksums of what was written."""
    index, at = plan.index, 0
    sums = index.checksums[positions].copy()
    for piece in _pieces(index.length[positions], index.spec):
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
