"""Import from and export to the feature formats the field already shares."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MerError

if TYPE_CHECKING:
    from .pack import Imported

__all__ = ["FORMATS", "Format", "Understood", "export_features", "import_features", "understand"]


@dataclass(frozen=True)
class Format:
    """One foreign format: where its code is and which options it takes."""

    module: str
    about: str
    reader: str = "read"
    """Function, or `module:function` where it is in another module."""
    reads_with: tuple[str, ...] | None = ()
    """Options of the importer; None where there is none."""
    writes_with: tuple[str, ...] | None = None
    """Options of the exporter; None where there is none."""
    folder: bool = False
    """Whether an export is a folder."""
    defaults: Mapping[str, str] | None = None
    sidecar: bool = True
    """Whether an export leaves something out that `DST.mer.npz` keeps."""


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
    "parquet": Format("hub_parquet", "Parquet dataset for the Hub", "hub_read:read", (), (), True, sidecar=False),
    "webdataset": Format("webdataset", "WebDataset tar shards", "read", None, (), True, sidecar=False),
    "mat": Format("mat", "one .mat file for MATLAB and Octave", "read", None, (), sidecar=False),
    "arrays": Format("tables", "pickle, npz, pt, safetensors, mat, Arrow, JSON lines", "read_arrays", ("mapping",)),
    "npz": Format("tables", "named arrays", "read_arrays", ("mapping",)),
    "csv": Format("tables", "table of one utterance per row, .csv or .arff", "read_csv", ("mapping",)),
    "clips": Format("clips", "folder of one file per clip", "read", ("mapping", "modality")),
}


def _format(name: str, exporting: bool = False) -> Format:
    known = [key for key, one in FORMATS.items() if (one.writes_with if exporting else one.reads_with) is not None]
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


@dataclass(frozen=True)
class Understood:
    """What an import would read."""

    form: str
    about: str
    mapping: Mapping[str, str]
    """What was given, and what was told from names and content."""
    imported: Imported


def understand(
    form: str | None, source: Path, *, mapping: Mapping[str, str] | None = None, modality: str | None = None
) -> Understood:
    """Read a foreign file or folder as far as its content can be told; nothing is written.

    Parameters
    ----------
    form
        Name in `FORMATS`; None tells it from the content.
    source
        What is read.
    mapping
        What the source does not say itself: a modality per file or folder, or a role per array or column.
    modality
        Of a source that holds one set.

    Raises
    ------
    MerError
        If the source is missing, damaged, hostile or not of this format.
    """
    from .detect import detect
    from .pack import trimmed

    given = {"mapping": mapping, "modality": modality}
    if form is not None:
        _options(form, _format(form).reads_with or (), given)
    if not source.exists():
        raise MerError(f"{source} does not exist")
    form = form or detect(source)
    known = _format(form)
    options = _options(form, known.reads_with or (), given)
    module, _, function = f"{known.module}:{known.reader}".rpartition(":")
    reader = getattr(importlib.import_module(f".{module.rpartition(':')[2]}", __name__), function)
    imported = _restored(reader(source, **options), source, known)
    imported = _gaps_counted(trimmed(imported))
    if not imported.sets:
        count = len(imported.utterances)
        raise MerError(f"{source}: holds no features that are told by name, only a table of {count} utterances")
    return Understood(form, known.about, {**imported.mapping, **(mapping or {})}, imported)


def _restored(imported: Imported, source: Path, known: Format) -> Imported:
    from .pack import content_digest, sidecar_path
    from .sidecar import restore

    if not known.sidecar or not sidecar_path(source).exists():
        return imported
    return restore(imported, source, content_digest(source))


def import_features(
    form: str | None,
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
    form, source, mapping, modality
        As in `understand`.
    out
        The catalogue that is written, shards beside it.
    dtype
        `float32` or `float16`; sets of formats that state their type keep it.

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
    from .pack import content_digest, source_bytes

    found = understand(form, source, mapping=mapping, modality=modality)
    imported = found.imported
    save(imported, out, found.form, content_digest(source), source_bytes(source), dtype)
    return imported.lost


def _gaps_counted(imported: Imported) -> Imported:
    from .gaps import with_gaps

    sets, lost = [], list(imported.lost)
    for made in imported.sets:
        counted, told = with_gaps(made)
        sets.append(counted)
        lost += told
    return replace(imported, sets=sets, lost=lost)


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
    if known.sidecar:
        write_sidecar(target, chosen, exported, content_digest(target))
    gapped = [made.name for made in chosen.sets if made.gaps]
    return [*exported.lost, *([f"gaps of {', '.join(gapped)} are written as NaN"] if gapped else [])]
