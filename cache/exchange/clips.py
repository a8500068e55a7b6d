"""A folder of one file per clip: `.npy`, `.npz`, `.pt`, or tables per frame (OpenFace, py-feat, openSMILE, Praat).

Files directly in the folder are one feature set; folders in it are one set each (`audio/dia0_utt1.npy`). A clip's key
is its path without the ending. A table beside them (`labels.csv`, `metadata.csv`, …) has a column of those keys, and
splits, speakers, transcripts and labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MerError
from ..sequence import FeatureSequence
from ..table import UtteranceTable
from .delimited import read_table
from .frames import columns_of_frames, frames
from .guess import modality_of
from .named import load_any
from .pack import MODALITIES, Imported, LazySequences, PackSet, clean_key, key_of_file, stepped
from .roles import ALIASES, TARGETS
from .tables import TEXT_ROLES, arrays_roles, label_column, table_of

Array = npt.NDArray[Any]
ARRAYS = (".npy", ".npz", ".pt", ".pth", ".safetensors", ".mat")
TABLES = (".csv", ".tsv", ".arff")
LABEL_FILES = re.compile(r"(labels?|metadata|meta|annotations?|utterances|index)\.(csv|tsv)", re.IGNORECASE)
MOST_FILES = 2_000_000
VALUES = ("values", "features", "feature", "embedding", "embeddings", "hidden_states", "x", "data")
TIMES = ("times", "timestamps", "timestamp", "time")
VALID = ("valid", "mask", "success")


def read(source: Path, mapping: Mapping[str, str] | None = None, modality: str | None = None) -> Imported:
    """Read a folder of one file per clip.

    Parameters
    ----------
    mapping
        Folder -> modality where its name does not tell; role -> column of the table beside them.
    modality
        Of the files that lie directly in the folder.
    """
    lost: list[str] = []
    given = dict(mapping or {})
    groups, beside = _files(source, lost)
    folders = {name: given.pop(name, "") or _modality(source, name, files, modality) for name, files in groups.items()}
    found = sorted({key for files in groups.values() for key in files})
    table, roles = _table(source, beside, found, given, lost)
    sets = [_set(name, folders[name], files, table.keys, lost) for name, files in groups.items()]
    used = {**{name: made for name, made in folders.items() if name != "."}, **roles}
    return Imported(table, [made for made in sets if made is not None], lost, {"name": source.stem}, used)


def _files(source: Path, lost: list[str]) -> tuple[dict[str, dict[str, Path]], Path | None]:
    """Clips of every folder as key -> file, and the table beside them; links are not followed."""
    groups: dict[str, dict[str, Path]] = {}
    beside: Path | None = None
    links = left = 0
    for number, path in enumerate(sorted(source.rglob("*"))):
        if number > MOST_FILES:
            raise MerError(f"{source}: has more than {MOST_FILES:,} files; import a part of it")
        if path.is_symlink() or any(parent.is_symlink() for parent in _inside(path, source)):
            links += 1
            continue
        if not path.is_file():
            continue
        if path.parent == source and LABEL_FILES.fullmatch(path.name):
            beside = path
        elif path.suffix.lower() in ARRAYS + TABLES:
            relative = path.relative_to(source)
            folder = relative.parts[0] if len(relative.parts) > 1 else "."
            name = relative.relative_to(folder) if folder != "." else relative
            key = clean_key(key_of_file(name.with_suffix("").as_posix()))
            if key in groups.setdefault(folder, {}):
                raise MerError(f"{path}: {groups[folder][key].name} has the same name; keep one of the two")
            groups[folder][key] = path
        else:
            left += 1
    lost += [f"{links} links are not followed"] if links else []
    lost += [f"{left} files of other kinds are not read"] if left else []
    if not groups:
        raise MerError(f"{source}: holds no {', '.join(ARRAYS + TABLES)} files, one per clip")
    return groups, beside


def _inside(path: Path, source: Path) -> list[Path]:
    return list(path.parents)[: len(path.relative_to(source).parts) - 1]


def _modality(source: Path, name: str, files: Mapping[str, Path], modality: str | None) -> str:
    if name == "." and modality:
        return modality
    path = next(iter(files.values()))
    if path.suffix.lower() in TABLES:
        kind = columns_of_frames(read_table(path)).kind
        if kind in ("OpenFace", "py-feat"):
            return "face"
        if kind in ("openSMILE", "Praat"):
            return "audio"
    try:
        return modality_of(source.name if name == "." else name, str(source))
    except MerError:
        how = "--modality text|audio|face" if name == "." else f"--map {name}=text|audio|face"
        where = "the files" if name == "." else f"folder {name!r}"
        raise MerError(f"{source}: the modality of {where} is not told by a name; say it with {how}") from None


# ------------------------------------------------------------------------------------------------------- the table


def _table(
    source: Path, beside: Path | None, found: Sequence[str], mapping: Mapping[str, str], lost: list[str]
) -> tuple[UtteranceTable, dict[str, str]]:
    if beside is None:
        if mapping:
            raise MerError(f"{source}: --map {next(iter(mapping))}=… is neither a folder nor is there a labels.csv")
        lost.append("there is no labels.csv beside the clips; they have no labels, splits or speakers")
        return UtteranceTable.of(list(found)), {}
    table = read_table(beside)
    roles = {role: name for role, name in _roles(table.names).items() if role not in mapping} | dict(mapping)
    for role, name in roles.items():
        if name not in table.names:
            raise MerError(f"{beside}: has no column {name!r} for {role}; it has: {', '.join(table.names[:40])}")
        if not arrays_roles(role) and not role.startswith("label:"):
            raise MerError(f"{beside}: role {role!r} is none of id, split, label:NAME, {', '.join(TEXT_ROLES)}")
    if "id" not in roles:
        raise MerError(f"{beside}: no column names the clips; say which with --map id=COLUMN")
    there = set(found)
    keys = [_key(cell, there) for cell in table.column(roles["id"])]
    extra = sorted(there - set(keys))
    absent = len(set(keys) - there)
    if extra:
        lost.append(f"{len(extra)} clips are not in {beside.name}, the first is {extra[0]!a}; they have no labels")
    lost += [f"{absent} rows of {beside.name} have no file; they are kept, without features"] if absent else []
    columns = {role: [*table.column(name), *[""] * len(extra)] for role, name in roles.items() if arrays_roles(role)}
    columns["id"] = [*keys, *extra]
    for role in set(columns) - {"id", "split", *TEXT_ROLES}:
        columns[role] = [cell or "nan" for cell in columns[role]]
    labels = {
        role[6:]: label_column([*map(_value, table.column(name)), *[None] * len(extra)])
        for role, name in roles.items()
        if role.startswith("label:")
    }
    unused = [name for name in table.names if name not in roles.values()]
    lost += [f"columns of {beside.name} not read: {', '.join(unused[:40])}"] if unused else []
    return table_of(columns, labels, len(columns["id"]), None, source, lost), roles


def _roles(names: Sequence[str]) -> dict[str, str]:
    roles: dict[str, str] = {}
    for name in names:
        word = name.lower()
        role = next((role for role, words in ALIASES.items() if word in words.split()), "")
        role = "transcript" if word == "text" else role
        if word in TARGETS:
            role = "label:label" if word in ("labels", "target", "targets", "y") else f"label:{word}"
        if role and role not in roles:
            roles[role] = name
    return roles


def _key(cell: str, found: set[str]) -> str:
    """Key of a row: its id, or the id without an ending where the table names files."""
    cell = cell.strip()
    bare = re.sub(r"\.(wav|mp4|avi|mkv|flac|mp3|npy|npz|csv|pt)$", "", cell, flags=re.IGNORECASE)
    return bare if bare != cell and cell not in found else cell


def _value(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


# ---------------------------------------------------------------------------------------------------- the features


def _set(name: str, modality: str, files: Mapping[str, Path], keys: Sequence[str], lost: list[str]) -> PackSet | None:
    if modality not in MODALITIES:
        raise MerError(f"folder {name!r}: {modality!r} is none of {', '.join(MODALITIES)}")
    columns: tuple[str, ...] = ()
    dim = 0
    for path in files.values():
        sequence, columns = _sequence(path, lost)
        dim = sequence.values.shape[1]
        if len(sequence):
            break
    shown = name
    if name == ".":
        kind = columns_of_frames(read_table(path)).kind if path.suffix.lower() in TABLES else ""
        shown = kind or path.suffix.lower().removeprefix(".")
    read_one = partial(_read_one, files, list(keys), dim, columns)
    return PackSet(modality, shown, dim, LazySequences(len(keys), read_one), shown, columns=columns)


def _read_one(
    files: Mapping[str, Path], keys: Sequence[str], dim: int, columns: tuple[str, ...], row: int
) -> FeatureSequence | None:
    path = files.get(keys[row])
    if path is None:
        return None
    sequence, names = _sequence(path, [])
    if names != columns:
        raise MerError(f"{path}: has other columns than the clips before it: {_differing(names, columns)}")
    if sequence.values.shape[1] != dim:
        raise MerError(f"{path}: has {sequence.values.shape[1]} dimensions where other clips have {dim}")
    return sequence


def _differing(names: Sequence[str], columns: Sequence[str]) -> str:
    return ", ".join(sorted(set(names) ^ set(columns))[:8]) or "their order differs"


def _sequence(path: Path, lost: list[str]) -> tuple[FeatureSequence, tuple[str, ...]]:
    """Features of one clip, and the names of their columns where the file has them."""
    if path.suffix.lower() in TABLES:
        sequence, columns, told = frames(read_table(path))
        lost += told
        return sequence, columns
    content = load_any(path)
    times = valid = None
    if isinstance(content, Mapping):
        named = {str(name): value for name, value in content.items() if isinstance(value, np.ndarray) and value.ndim}
        times = next((named.pop(name) for name in TIMES if name in named), None)
        valid = next((named.pop(name) for name in VALID if name in named), None)
        chosen = next((named[name] for name in VALUES if name in named), None)
        if chosen is None and len(named) != 1:
            raise MerError(f"{path}: which array holds the features? it has {', '.join(named) or 'none'}")
        content = chosen if chosen is not None else next(iter(named.values()))
    if not isinstance(content, np.ndarray):
        raise MerError(f"{path}: holds a {type(content).__name__}, not an array of numbers")
    values = content[0] if content.ndim == 3 and len(content) == 1 else content
    try:
        sequence = stepped(values, None if times is None else np.asarray(times, np.float64).ravel())
        if valid is None:
            return sequence, ()
        return FeatureSequence(sequence.values, sequence.times, np.asarray(valid).ravel().astype(np.bool_)), ()
    except (MerError, ValueError, TypeError) as error:
        raise MerError(f"{path}: {error}") from error
