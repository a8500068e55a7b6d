"""From what an importer understood to a cache on disk, and from a cache to what an exporter is given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..catalogue import Catalogue, SetIndex, shard_folder, write_catalogue
from ..errors import MerError
from ..release import DISTRIBUTION, program_version
from ..sequence import FeatureSequence
from ..shard import Fate, ShardInfo, ShardRow, read_shard_index, write_shard
from ..spec import FeatureSpec
from ..store import FeatureStore
from .pack import Imported, LazySequences, Outgoing, PackSet

SHARD_VALUES = 16 << 20
"""Values per shard, about: 64 MiB of float32."""
SHARD_ROWS = 4096
SMALLEST_LIMIT = 64 << 20
MOST_TIMES_LARGER = 200
"""Features may not take more than this many times the bytes of the source: no honest source expands further."""


def save(imported: Imported, out: Path, form: str, digest: str, source_bytes: int, dtype: str = "float32") -> None:
    """Write imported features as a cache: shards beside the catalogue `out`.

    Parameters
    ----------
    form
        Name of the foreign format, kept in every spec.
    digest
        SHA-256 of the source, kept in every spec.
    source_bytes
        Size of the source, which bounds what its features may take.

    Raises
    ------
    MerError
        If there are more features than the source can honestly hold.
    """
    if out.exists():
        raise MerError(f"{out} is there already; choose another name with -o, or remove it")
    budget = [max(SMALLEST_LIMIT, MOST_TIMES_LARGER * source_bytes)]
    sets: dict[str, SetIndex] = {}
    for made in imported.sets:
        identity = {"type": "imported", "format": form, "source_sha256": digest, "source": made.slot or made.name}
        if made.gaps:
            identity["gaps"] = "nan"
        spec = FeatureSpec(made.modality, made.name, identity, made.dim, {}, dtype=made.dtype or dtype)
        sets[spec.set_name] = _save_set(imported.utterances.keys, made, spec, out, digest, budget)
    corpus = {"name": out.stem, "title": "", **imported.corpus}
    provenance = {
        "libraries": {DISTRIBUTION: program_version()},
        "imported": {"format": form, "source_sha256": digest, "notes": imported.lost},
    }
    write_catalogue(out, Catalogue(corpus, imported.utterances, sets, provenance))


def _save_set(
    keys: Sequence[str], made: PackSet, spec: FeatureSpec, out: Path, digest: str, budget: list[int]
) -> SetIndex:
    """Write one set in shards of consecutive utterances and index it."""
    folder = shard_folder(out, spec.set_name)
    infos: list[ShardInfo] = []
    rows: list[ShardRow] = []
    values = 0
    for position, key in enumerate(keys):
        sequence = made.sequences[position]
        rows.append(_row(key, sequence, digest))
        values += 0 if sequence is None else sequence.values.size
        if values >= SHARD_VALUES or len(rows) >= SHARD_ROWS or position == len(keys) - 1:
            budget[0] -= 4 * values
            if budget[0] < 0:
                raise MerError(f"{made.name}: the features take far more than the source has bytes; refused as a bomb")
            infos.append(write_shard(folder, spec, rows))
            rows, values = [], 0
    return _index(spec, folder, infos)


def _row(key: str, sequence: FeatureSequence | None, digest: str) -> ShardRow:
    source = hashlib.sha256(f"{digest} {key}".encode("utf-8", "surrogatepass")).digest()[:16]
    if sequence is None:
        return ShardRow(key, source, Fate.MISSING, "the source has none")
    return ShardRow(key, source, Fate.OK, "", sequence)


def _index(spec: FeatureSpec, folder: Path, infos: list[ShardInfo]) -> SetIndex:
    indexes = [read_shard_index(folder / f"{info.name}.h5") for info in infos]
    return SetIndex(
        spec=spec,
        fates=np.concatenate([index.fates for index in indexes]),
        reasons=[reason for index in indexes for reason in index.reasons],
        shard=np.repeat(np.arange(len(indexes), dtype=np.int32), [len(index.keys) for index in indexes]),
        start=np.concatenate([index.offsets[:-1] for index in indexes]),
        length=np.concatenate([np.diff(index.offsets) for index in indexes]),
        checksums=np.concatenate([index.checksums for index in indexes]),
        sources=np.concatenate([index.sources for index in indexes]),
        coverage=np.concatenate([index.coverage for index in indexes]),
        shards=infos,
    )


def outgoing(store: FeatureStore, names: Sequence[str] = ()) -> Outgoing:
    """Choose what an exporter is given: the named sets, or the newest of every modality.

    Raises
    ------
    MerError
        If a named set is not there, or there is none.
    """
    modalities = dict.fromkeys(index.spec.modality for index in store.sets.values())
    chosen = list(names) or [store.pick(modality) for modality in modalities]
    if not chosen:
        raise MerError(f"{store.location}: holds no feature sets to export")
    specs = [store.index(name).spec for name in chosen]
    short = [spec.name for spec in specs]
    sets = []
    for name, spec in zip(chosen, specs, strict=True):
        sequences = LazySequences(len(store.utterances), partial(_read, store, name))
        shown = spec.name if short.count(spec.name) == 1 else name
        sets.append(PackSet(spec.modality, shown, spec.dim, sequences, gaps=spec.has_gaps, dtype=spec.dtype))
    datasheet = dict(store.catalogue.datasheet or {})
    return Outgoing(store.corpus, store.utterances, sets, datasheet, bool(datasheet))


def _read(store: FeatureStore, name: str, row: int) -> FeatureSequence | None:
    if store.sets[name].fates[row] != Fate.OK:
        return None
    return store.read(name, store.utterances.keys[row])
