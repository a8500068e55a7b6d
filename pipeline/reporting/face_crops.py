"""The face an utterance shows, from the crops kept beside its cache (`mer extract --keep-faces`)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from mer.cache import FeatureStore, MerError
from mer.stages.faces.crop_cache import crops_path, load_crops

from ..extraction.local_state import side_folder
from ..training.run_folder import Run
from .html import Html, el

SIDE = 72
QUALITY = 80


def faces_of(run: Run, keys: Sequence[str]) -> dict[str, Html]:
    """Small picture of each utterance's middle crop; those without kept crops are left out.

    A pack carries no faces: only the machine that extracted them has any.
    """
    spec = run.specs.get("face")
    path = Path(str(run.facts["features"]["path"]))
    if spec is None or not keys or not path.exists():
        return {}
    folder = side_folder(path) / "faces"
    if not folder.is_dir():
        return {}
    try:
        store = FeatureStore.open(path)
        index = store.sets[spec.set_name]
        rows = store.utterances.rows(keys)
    except (MerError, KeyError, OSError):
        return {}
    made = {}
    for key, row in zip(keys, rows, strict=True):
        found = load_crops(crops_path(folder, index.sources[row].tobytes(), spec.inputs))
        if found is not None and len(found.crops):
            made[key] = _picture(found.crops[len(found.crops) // 2])
    return made


def _picture(crop: object) -> Html:
    import cv2
    import numpy as np

    small = cv2.resize(np.asarray(crop)[..., ::-1], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    data = base64.b64encode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()).decode()
    return el("img", src=f"data:image/jpeg;base64,{data}", width=SIDE, height=SIDE, alt="face", class_="face")
