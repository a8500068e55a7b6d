"""Face crops kept on disk, so that another face encoder needs no decoding. Lossless, and no pickle in the file."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import atomic_write, canonical_json

from ..interfaces import FaceCrops

FORMAT = 2
log = logging.getLogger("mer.faces")

PNG_EFFORT = 1
"""zlib level: 1 takes 2 ms per crop, 9 saves a tenth of the bytes for ten times the time."""


def crops_path(folder: Path, source: bytes, inputs: Mapping[str, Any]) -> Path:
    """Where the crops of one utterance lie.

    `source` is the digest of the utterance's own inputs (content of its media, span, region of the speaker), `inputs`
    says how crops are made of them: the face inputs of a feature spec (`FaceFinder.identity()`, frame rate, channel).
    Crops made otherwise have another name.
    """
    made = canonical_json({"format": FORMAT, **inputs})
    name = hashlib.sha256(source + made.encode()).hexdigest()[:32]
    return folder / name[:2] / f"{name}.npz"


def save_crops(path: Path, faces: FaceCrops) -> None:
    """Write crops, times, mask and note to one file, whole or not at all.

    Raises
    ------
    MerError
        If the disk is full or the folder cannot be written.
    """
    import cv2

    pictures = [
        cv2.imencode(".png", crop[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, PNG_EFFORT])[1] for crop in faces.crops
    ]
    note = json.dumps(dict(faces.note), allow_nan=False).encode()
    arrays: dict[str, Any] = {
        "png": np.concatenate(pictures) if pictures else np.zeros(0, np.uint8),
        "ends": np.cumsum([len(picture) for picture in pictures], dtype=np.int64),
        "size": np.asarray(faces.crops.shape[1:], np.int64),
        "times": np.asarray(faces.times, np.float32),
        "valid": np.asarray(faces.valid, np.bool_),
        "note": np.frombuffer(note, np.uint8),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, Path(temporary).open("wb") as file:
        np.savez(file, **arrays)


def load_crops(path: Path) -> FaceCrops | None:
    """Read what `save_crops` wrote; None when there is no such file or it is damaged, so that it is made again."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("png", "ends", "size", "times", "valid", "note")}
        crops = _decode(arrays["png"], arrays["ends"], tuple(int(side) for side in arrays["size"]))
        note: dict[str, Any] = json.loads(arrays["note"].tobytes())
        if len(crops) != int(arrays["valid"].sum()) or arrays["times"].shape != arrays["valid"].shape:
            raise ValueError("counts differ")
    except FileNotFoundError:
        return None
    except Exception as error:  # damage shows in many ways
        log.warning("kept face crops %s are damaged (%s): they are made again", path, error)
        return None
    return FaceCrops(crops, arrays["times"].astype(np.float32), arrays["valid"].astype(np.bool_), note)


def _decode(png: npt.NDArray[Any], ends: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    import cv2

    crops = np.empty((len(ends), *shape), np.uint8)
    start = 0
    for row, end in enumerate(ends.tolist()):
        picture = cv2.imdecode(np.asarray(png[start:end], np.uint8), cv2.IMREAD_COLOR)
        if picture is None or picture.shape != shape:
            raise ValueError(f"crop {row} cannot be decoded")
        crops[row] = picture[..., ::-1]
        start = end
    return crops
