"""How a checkpoint wants its inputs prepared, from whichever file its processor was saved in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mer.cache import MerError

from .config_files import read_json

NESTED = "processor_config.json"
"""What transformers 5 saves a whole processor to: one object per part."""
USUAL = "preprocessor_config.json"
FILES = {"feature_extractor": USUAL, "image_processor": USUAL, "video_processor": "video_preprocessor_config.json"}
"""Where each part is saved by itself."""


def find_preprocessing(folder: Path, parts: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
    """Name of the file and settings of the first of some parts of a processor, or None where there is none of them.

    Settings inside a whole processor count before those in a file of their own, as for transformers.
    """
    whole = read_json(folder / NESTED) if (folder / NESTED).is_file() else {}
    for part in parts:
        if isinstance(whole.get(part), dict):
            return NESTED, whole[part]
    for part in parts:
        if (folder / FILES[part]).is_file():
            return FILES[part], read_json(folder / FILES[part])
    return None


def read_preprocessing(folder: Path, label: str, parts: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Name of the file and settings of a processor; empty where a family needs none.

    Raises
    ------
    MerError
        If there are none: what the library assumes by itself may not be what the model was trained on.
    """
    if not parts:
        return "", {}
    found = find_preprocessing(folder, parts)
    if found is None:
        auto = "Auto" + parts[-1].title().replace("_", "")
        raise MerError(
            f"checkpoint {label} has no {USUAL}, which says how its inputs are prepared; with the ID of the "
            f"checkpoint it was made from, run {auto}.from_pretrained(ID).save_pretrained({str(folder)!r})"
        )
    return found
