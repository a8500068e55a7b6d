"""What the exchange formats are read into and written from: a table of utterances and sets of sequences."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FormatError, MerError
from ..hdf import FORBIDDEN_IN_KEY
from ..sequence import FeatureSequence
from ..table import LabelColumn, UtteranceTable

MODALITIES = ("text", "audio", "face")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
"""Names of splits in the field -> names here."""


@dataclass(frozen=True)
class PackSet:
    """One feature set in memory or behind a lazy sequence."""

    modality: str
    name: str
    dim: int
    sequences: Sequence[FeatureSequence | None]
    """One entry per utterance of the table; None where the utterance has no features."""
    slot: str = ""
    """Where the foreign format keeps this set; a sidecar finds the set again by it."""
    padded: bool = False
    """Whether sequences still carry zero rows that fill them to a common length."""
    columns: Sequence[str] = ()
    """Names of the D dimensions, where the source has them."""
    gaps: bool = False
    """Whether NaN stands for a value that the source does not have."""
    dtype: str | None = None
    """Stored type, where the format keeps it."""


@dataclass(frozen=True)
class Imported:
    """What an importer understood."""

    utterances: UtteranceTable
    sets: list[PackSet]
    lost: list[str]
    """One sentence for everything guessed, dropped or changed."""
    corpus: Mapping[str, Any] = field(default_factory=dict)
    mapping: Mapping[str, str] = field(default_factory=dict)
    """The mapping that was used, given or guessed."""


@dataclass(frozen=True)
class Outgoing:
    """What an exporter is given."""

    corpus: Mapping[str, Any]
    utterances: UtteranceTable
    sets: list[PackSet]
    datasheet: Mapping[str, Any] = field(default_factory=dict)
    packed: bool = False
    """Whether a pack is exported, whose maker decided on its texts already."""

    def only(self, modality: str) -> PackSet | None:
        """The set of a modality, or None.

        Raises
        ------
        MerError
            If there are several, where the format has room for one.
        """
        found = [made for made in self.sets if made.modality == modality]
        if len(found) > 1:
            names = ", ".join(made.name for made in found)
            raise MerError(f"the format holds one {modality} set and these are chosen: {names}; name one with --set")
        return found[0] if found else None


@dataclass(frozen=True)
class Exported:
    """What an exporter wrote: the ids and places under which an importer will see it."""

    keys: list[str]
    slots: list[str]
    sets: list[PackSet]
    """The sets as written, in the order of `slots`: a format of utterance vectors has means in place of sequences."""
    lost: list[str]


class LazySequences(Sequence[FeatureSequence | None]):
    """Sequences that are read when asked for."""

    def __init__(self, count: int, read: Callable[[int], FeatureSequence | None]) -> None:
        self._count = count
        self._read = read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(self._count))]
        if not 0 <= row < self._count:
            raise IndexError(row)
        return self._read(row)


# --------------------------------------------------------------------------------------------------- sequences


def stepped(values: npt.NDArray[Any], times: npt.NDArray[Any] | None = None) -> FeatureSequence:
    """Sequence of foreign values, shape (T, D) or (D,) for one step; without times they are step numbers, and noted so.

    Raises
    ------
    FormatError
        If the values are not numbers or have another shape.
    """
    if values.dtype.kind not in "fiub" or values.ndim not in (1, 2):
        raise FormatError(f"features must be numbers of shape (T, D) or (D,), got {values.dtype} {values.shape}")
    rows = values[None] if values.ndim == 1 else values
    if times is not None:
        return FeatureSequence.of(rows, times)
    return FeatureSequence.of(rows, np.arange(len(rows)), {"times": "step numbers; the source has none"})


def trimmed(imported: Imported) -> Imported:
    """Take the padding off the sets that have it, and say so: the true lengths are inferred from all-zero rows."""
    sets, lost = [], list(imported.lost)
    for made in imported.sets:
        if not made.padded:
            sets.append(made)
            continue
        filled = [made.sequences[row] for row in range(len(made.sequences))]
        there = [one.values for one in filled if one is not None and len(one)]
        first, last = (sum(bool(_not_zero(values[side])) for values in there) for side in (0, -1))
        side = "start" if last > first else "end"
        lost.append(f"{made.slot}: true lengths were inferred by taking all-zero rows off the {side}")
        sequences = LazySequences(len(filled), partial(_without_padding, made.sequences, side == "start"))
        sets.append(replace(made, sequences=sequences, padded=False))
    return replace(imported, sets=sets, lost=lost)


def _not_zero(values: npt.NDArray[Any]) -> Any:
    """Whether any number along the last axis is not 0; damaged files hold NaN that numpy would warn of."""
    with np.errstate(invalid="ignore"):
        return values.any(-1)


def _without_padding(sequences: Sequence[FeatureSequence | None], at_start: bool, row: int) -> FeatureSequence | None:
    sequence = sequences[row]
    if sequence is None:
        return None
    filled = np.flatnonzero(_not_zero(sequence.values))
    if not len(filled):
        return stepped(sequence.values[:0])
    return stepped(sequence.values[filled[0] :] if at_start else sequence.values[: filled[-1] + 1])


def boxed(rows: Sequence[Any]) -> npt.NDArray[Any]:
    """Array of objects with one entry per row, whatever the rows are."""
    made: npt.NDArray[Any] = np.empty(len(rows), object)
    for at, row in enumerate(rows):
        made[at] = row
    return made


# ------------------------------------------------------------------------------------------------ keys and text


def clean_key(raw: str) -> str:
    """An id the store accepts: control characters percent-encoded, surrogates too.

    Raises
    ------
    MerError
        If it is empty or longer than 1024 bytes.
    """
    key = FORBIDDEN_IN_KEY.sub(lambda found: "".join(f"%{b:02X}" for b in _utf8(found[0])), raw)
    if not key or len(key.encode()) > 1024:
        raise MerError(f"utterance id {raw[:60]!a} is empty or longer than 1024 bytes; rename it in the source")
    return key


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def unique_keys(raw: Sequence[str], prefixes: Sequence[str], lost: list[str]) -> list[str]:
    """Ids made unique: where an id occurs twice, all get their prefix (their split) in front."""
    keys = [clean_key(key) for key in raw]
    if any(key != was for key, was in zip(keys, raw, strict=True)):
        lost.append("ids with control characters were percent-encoded")
    if len(set(keys)) == len(keys):
        return keys
    prefixed = [f"{prefix}/{key}" for prefix, key in zip(prefixes, keys, strict=True)]
    if len(set(prefixed)) != len(prefixed):
        seen: set[str] = set()
        twice = next(key for key in prefixed if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise MerError(f"utterance {twice!a} occurs twice in the source; remove one")
    lost.append("some ids occur in several splits; every id now starts with its split")
    return prefixed


SAFE_IN_FILE_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.+=@,")
LONGEST_FILE_NAME = 200


def file_name(key: str) -> str:
    """Escape an id into one file name, reversibly by `key_of_file`: everything but plain ASCII is percent-encoded.

    An id too long for a file name is cut and gets a digest; that cannot be reversed and the sidecar keeps it.
    """
    name = "".join(c if c in SAFE_IN_FILE_NAME else "".join(f"%{b:02X}" for b in _utf8(c)) for c in key)
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) <= LONGEST_FILE_NAME:
        return name
    return f"{name[: LONGEST_FILE_NAME - 34]}~{hashlib.sha256(_utf8(key)).hexdigest()[:32]}"


def key_of_file(name: str) -> str:
    """Undo `file_name` where the name is one it makes; other names are ids as they stand."""
    from urllib.parse import unquote

    try:
        key = unquote(name, errors="strict")
    except UnicodeDecodeError:
        return name
    return key if file_name(key) == name and not FORBIDDEN_IN_KEY.search(key) else name


def as_text(value: Any) -> str:
    """Text of a foreign string, bytes or number."""
    if isinstance(value, memoryview):
        value = bytes(value)
    if isinstance(value, (bytes, np.bytes_)):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")
    return str(value)


def split_of(name: str, where: str, lost: list[str]) -> str:
    """Name of a foreign split here; unknown names are kept."""
    known = SPLITS.get(name.lower())
    if known is None:
        lost.append(f"{where}: split {name!a} is kept under that name")
    return known or name


# -------------------------------------------------------------------------------------------------------- labels


def class_column(raw: Sequence[str | None], order: Sequence[str] = ()) -> LabelColumn:
    """Label column of class names; `order` first, names outside it after, in order of appearance sorted."""
    found = {name for name in raw if name is not None}
    classes = [name for name in order if name in found or not found - set(order)]
    classes += sorted(found - set(classes))
    return LabelColumn.of("class", classes, raw)


def real_column(raw: Sequence[float | None]) -> LabelColumn:
    """Label column of numbers; None and NaN mean unlabelled."""
    return LabelColumn.of("real", (), raw)


def class_names(column: LabelColumn, rows: Sequence[int]) -> list[str]:
    """Class name of each row, empty where unlabelled; for multi-label rows the names joined by `+`."""
    if column.kind == "class":
        return [column.classes[code] if (code := int(column.values[row])) >= 0 else "" for row in rows]
    names = []
    for row in rows:
        chosen = column.values[row]
        names.append("+".join(name for name, on in zip(column.classes, chosen, strict=True) if on > 0))
    return names


def first_label(table: UtteranceTable, kind: str, wanted: str | None = None) -> str | None:
    """Name of the label column to export: the wanted one if it is of this kind, else the first of the kind."""
    if wanted is not None and wanted not in table.labels:
        raise MerError(f"there is no target {wanted!r}; the pack has: {', '.join(table.labels) or 'none'}")
    if wanted is not None and table.labels[wanted].kind == kind:
        return wanted
    return next((name for name, column in table.labels.items() if column.kind == kind), None)


def lost_labels(table: UtteranceTable, kept: Sequence[str | None]) -> list[str]:
    """One sentence naming the targets a format has no place for."""
    left = [name for name in table.labels if name not in kept]
    return [f"targets {', '.join(left)} have no place in the format; the sidecar keeps them"] if left else []


# ------------------------------------------------------------------------------------------------------- sources


def sidecar_path(exported: Path) -> Path:
    """Where the sidecar of an exported file or folder lies."""
    return exported.with_name(exported.name + ".mer.npz")


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    return sorted(path for path in source.rglob("*") if path.is_file())


def source_bytes(source: Path) -> int:
    """Size of a file, or of all files of a folder."""
    return sum(path.stat().st_size for path in _files(source))


def content_digest(source: Path) -> str:
    """SHA-256 of a file, or of names and contents of all files of a folder, in hex.

    Raises
    ------
    MerError
        If there is nothing to read.
    """
    files = _files(source)
    if not files:
        raise MerError(f"{source}: there is nothing to import; check the path")
    digest = hashlib.sha256()
    for path in files:
        if path != source:
            digest.update(path.relative_to(source).as_posix().encode("utf-8", "surrogateescape") + b"\0")
        with path.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()
