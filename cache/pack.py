"""Packing: one self-contained file to share, or parts of a bounded size, made in flat memory."""

from __future__ import annotations

import filecmp
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .atomic import atomic_write, followed, sweep_beside
from .catalogue import Catalogue, SetIndex, read_catalogue, shard_folder, write_catalogue
from .errors import MerError
from .hdf_writing import json_text
from .pack_facts import pack_catalogue, scrubbed
from .pack_options import PackOptions, chosen_sets
from .pack_writing import SetPlan, pieces, write_one, write_parts
from .progress import Progress, tally
from .shard import SOURCE_BYTES, Fate
from .store import FeatureStore

__all__ = ["PackOptions", "pack"]

FLOAT16_MAX = float(np.finfo(np.float16).max)


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
    plans: dict[str, SetPlan] = {}
    for plan in _plans(store, options, rows, stripped):
        name = plan.index.spec.set_name
        if name in plans:
            raise MerError(f"{plan.source} and {plans[name].source} become the same set {name}; name one with --set")
        plans[name] = plan
    catalogue = pack_catalogue(store, options, rows, plans, stripped)
    if not overwrite:
        _refuse_another(out, catalogue)
    sweep_beside(followed(out))  # a pack that was killed left as much as the whole of it
    writing = partial(_new_file, overwrite=overwrite)
    report = tally(progress, sum(plan.index.value_bytes() for plan in plans.values()))
    if options.max_bytes is None:
        with writing(out) as temporary:
            write_one(store, temporary, catalogue, plans, options.compression, report)
        return [out]
    keys, parts = catalogue.utterances.keys, []
    for name, plan in plans.items():
        parts += write_parts(store, shard_folder(out, name), keys, plan, options.max_bytes, writing, report)
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


def _plans(store: FeatureStore, options: PackOptions, rows: npt.NDArray[np.int64], stripped: bool) -> Iterator[SetPlan]:
    names = chosen_sets(store, options.sets)
    if not names:
        raise MerError(f"{store.location} has no feature sets to pack; run mer extract first")
    private = stripped or options.salt is not None
    for name in names:
        old = store.sets[name]
        spec = replace(old.spec, dtype=options.dtype or old.spec.dtype)
        fates, reasons = old.fates[rows].copy(), [scrubbed(old.reasons[row]) for row in rows.tolist()]
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
        yield SetPlan(name, rows, index, [notes[row] for row in rows.tolist()], spec != old.spec)


def _overflowing(store: FeatureStore, name: str, rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, float]]:
    index = store.sets[name]
    for positions in pieces(index.length[rows], index.spec):
        block = store.load(name, rows[positions])
        for position, (start, end) in zip(positions.tolist(), itertools.pairwise(block.offsets.tolist()), strict=True):
            peak = float(np.fmax.reduce(np.abs(block.values[start:end]), axis=None, initial=0))  # past NaN for a gap
            if peak > FLOAT16_MAX:
                yield position, peak
