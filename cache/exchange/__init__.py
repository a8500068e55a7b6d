"""Import from and export to the feature formats the field already shares."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MerError

__all__ = ["FORMATS", "Format", "export_features", "import_features"]


@dataclass(frozen=True)
class Format:
    """One foreign format: where its code is and which options it takes."""

    module: str
    about: str
    reader: str = "read"
    reads_with: tuple[str, ...] = ()
    writes_with: tuple[str, ...] | None = None
    """Options of the exporter; None where there is none."""
    folder: bool = False
    """Whether an export is a folder."""
    defaults: Mapping[str, str] | None = None


FORMATS: dict[str, Format] = {
    "mmsa": Format("mmsa", "MMSA and MMSA-FET pickle", writes_with=("label",)),
    "csd": Format("csd", "CMU-MultimodalSDK .csd files", "read", ("mapping",), (), True),
    "merbench": Format("merbench", "MERBench .npy folders, label npz", "read", ("mapping",), ("label",), True),
    "dialoguernn": Format("dialoguernn", "DialogueRNN pickle", "read", (), ("layout", "label")),
    "mmgcn": Format("dialoguernn", "MMGCN pickle", "read", (), ("layout", "label"), defaults={"layout": "mmgcn-meld"}),
    "cosmic": Format(
        "dialoguernn", "COSMIC pickle", "read", (), ("layout", "label"), defaults={"layout": "cosmic-meld"}
    ),
    "emotion2vec": Format("emotion2vec", "emotion2vec and data2vec blobs", "read", ("modality",), ("label",), True),
    "lhotse": Format("lhotse", "lhotse manifests with numpy_hdf5", "read", ("mapping",), (), True),
    "npz": Format("tables", "plain .npz, by a mapping", "read_arrays", ("mapping",)),
    "csv": Format("tables", "plain .csv, by a mapping", "read_csv", ("mapping",)),
}


def _format(name: str, exporting: bool = False) -> Format:
    known = [key for key, one in FORMATS.items() if not exporting or one.writes_with is not None]
    if name not in known:
        what = "export" if exporting else "import"
        raise MerError(f"format {name!r} is not known for {what}; one of {', '.join(known)}")
    return FORMATS[name]


def _options(form: str, accepted: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options that were given; an option the format does not take is refused."""
    used = {name: value for name, value in given.items() if value}
    for name in used:
        if name not in accepted:
            shown = {"mapping": "--map", "label": "--target"}.get(name, f"--{name}")
            raise MerError(f"format {form!r} takes no {shown}")
    return used


def import_features(
    form: str,
    source: Path,
    out: Path,
    *,
    mapping: Mapping[str, str] | None = None,
    modality: str | None = None,
    dtype: str = "float32",
) -> list[str]:
    """Read a foreign file or folder into a cache.

    Parameters
    ----------
    form
        Name in `FORMATS`.
    source, out
        What is read, and the catalogue that is written (shards beside it).
    mapping
        What the source does not say itself: a modality per file, or a role per array.
    modality
        Of a format that holds one set.
    dtype
        `float32` or `float16`.

    Returns
    -------
    list of str
        One sentence for everything guessed, dropped or changed.

    Raises
    ------
    MerError
        If the source is missing, damaged, hostile or not of this format.
    """
    from .bridge import save
    from .pack import content_digest, source_bytes, trimmed
    from .sidecar import restore

    known = _format(form)
    options = _options(form, known.reads_with, {"mapping": mapping, "modality": modality})
    if not source.exists():
        raise MerError(f"{source} does not exist")
    digest = content_digest(source)
    reader = getattr(importlib.import_module(f".{known.module}", __name__), known.reader)
    imported = trimmed(restore(reader(source, **options), source, digest))
    if not imported.sets:
        raise MerError(f"{source}: holds no features, only a table of {len(imported.utterances)} utterances")
    save(imported, out, form, digest, source_bytes(source), dtype)
    return imported.lost


def export_features(
    form: str,
    pack: Path | str,
    target: Path,
    *,
    sets: Sequence[str] = (),
    label: str | None = None,
    layout: str | None = None,
) -> list[str]:
    """Write a cache or pack in a foreign format, with a sidecar for what the format cannot hold.

    Parameters
    ----------
    pack
        Cache or pack that is read.
    target
        File or folder that is written; it must not be there yet.
    sets
        Feature sets; by default the newest of every modality.
    label
        Target to put where the format has room for one.
    layout
        Of the pickles that have several.

    Returns
    -------
    list of str
        One sentence for everything the format loses.
    """
    from ..store import FeatureStore
    from .bridge import outgoing
    from .pack import content_digest
    from .sidecar import write_sidecar

    known = _format(form, exporting=True)
    given = {**(known.defaults or {}), **{k: v for k, v in (("label", label), ("layout", layout)) if v}}
    options = _options(form, known.writes_with or (), given)
    if target.exists():
        raise MerError(f"{target} is there already; choose another name or remove it")
    chosen = outgoing(FeatureStore.open(pack), sets)
    module = importlib.import_module(f".{known.module}", __name__)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        exported = module.write(chosen, aside if known.folder else target, **options)
        if known.folder:
            os.replace(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    write_sidecar(target, chosen, exported, content_digest(target))
    return list(exported.lost)
