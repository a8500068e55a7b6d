"""Guesses which array is what from names and shapes, where no mapping says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MerError
from .guess import modality_of
from .pack import SPLITS

Array = npt.NDArray[Any]
MOSEI_COLUMNS = ("sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear")
"""Columns of CMU-MOSEI's label arrays, in the order of its SDK."""
ALIASES = {
    "id": "id ids key keys name names file filename segment segments utterance_id utt_id clip_id",
    "transcript": "transcript transcripts raw_text sentence sentences transcription utterance",
    "speaker": "speaker speakers speaker_id",
    "dialogue": "dialogue dialogue_id conversation video video_id vid",
    "turn": "turn turn_id",
    "split": "split splits partition",
    "session": "session",
    "start_seconds": "start_seconds start_time",
    "end_seconds": "end_seconds end_time",
}
TARGETS = "label labels emotion emotions sentiment sentiments valence arousal dominance target targets y".split()  # noqa: SIM905
TUPLES = {"0.1": "face", "0.2": "audio", "0.3": "transcript", "1": "label:sentiment", "2": "id"}
"""The list of tuples that MISA and MMIM publish: ((word ids, visual, acoustic, words, …), label, segment)."""
SHOWN = 30


def suggested(arrays: Mapping[str, Array]) -> dict[str, str]:
    """Role -> array name, as names and shapes tell; empty where they tell nothing."""
    if set(TUPLES) <= set(arrays) and "0.0" in arrays:
        return {role: name for name, role in TUPLES.items()}
    roles = _by_index(arrays)
    taken = {name.replace("{split}", role[6:]) for name in roles.values() for role in roles if role[:6] == "index:"}
    for name, values in arrays.items():
        if name in taken:
            continue
        last = name.rsplit(".", 1)[-1].lower()
        if is_features(values) and last not in TARGETS:
            role = _modality(name)
        elif is_texts(values) and last == "text":
            role = "transcript"
        else:
            role = next((role for role, names in ALIASES.items() if last in names.split()), "")
        if not role and last in TARGETS:
            role = f"label:{'label' if last in ('labels', 'target', 'targets', 'y') else last}"
        if role and role not in roles:
            roles[role] = name
    return roles


def _by_index(arrays: Mapping[str, Array]) -> dict[str, str]:
    """Roles of `text_train`, `text_test` … beside `train_index`, `test_index` (Poria et al. 2017)."""
    splits = [split for split in SPLITS if f"{split}_index" in arrays]
    roles = {f"index:{split}": f"{split}_index" for split in splits}
    for name in arrays:
        base, _, split = name.rpartition("_")
        if split in splits and all(f"{base}_{other}" in arrays for other in splits):
            role = _modality(base)
            if role and role not in roles:
                roles[role] = f"{base}_{{split}}"
    return roles


def _modality(name: str) -> str:
    try:
        return modality_of(name, name)
    except MerError:
        return ""


def _first(values: Array) -> Any:
    return next((one for one in values if one is not None), None) if values.ndim else None


def is_features(values: Array) -> bool:
    """Whether an array can hold features: fractions of shape (N, D), (N, L, D), or arrays of them; ids are none."""
    if values.dtype.kind == "f":
        return values.ndim in (2, 3) and values.shape[-1] > 1
    first = _first(values) if values.dtype.kind == "O" else None
    return isinstance(first, np.ndarray) and first.dtype.kind == "f" and first.ndim in (1, 2) and first.size > 1


def is_texts(values: Array) -> bool:
    """Whether an array holds one text per row."""
    return values.ndim == 1 and (values.dtype.kind in "US" or isinstance(_first(values), (str, bytes)))


def described(arrays: Mapping[str, Array]) -> str:
    """Names with shapes, for a message."""
    shown = [f"{name} {shape_of(values)}" for name, values in list(arrays.items())[:SHOWN]]
    return ", ".join(shown) + (f" and {len(arrays) - SHOWN} more" if len(arrays) > SHOWN else "")


def shape_of(values: Array) -> str:
    """Shape and type of an array in a few characters."""
    if values.dtype.kind == "O":
        first = _first(values)
        if isinstance(first, np.ndarray):
            axes = "".join(f" × {size}" for size in first.shape[1:])
            return (
                f"({len(values)} arrays of T{axes} {first.dtype})"
                if first.ndim > 1
                else f"({len(values)} × {first.size})"
            )
        return f"({len(values)} {'texts' if isinstance(first, (str, bytes)) else type(first).__name__})"
    return f"({' × '.join(map(str, values.shape))} {values.dtype})"
