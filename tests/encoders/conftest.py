"""A tiny checkpoint of every family, built once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_checkpoints import MAKERS

from mer.stages.encoders.catalog import make_encoder
from mer.stages.interfaces import Encoder

Make = Callable[..., Encoder]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep what encoders remember out of the user's cache folder."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("cache")
    patch.setenv("MER_CACHE", str(folder))
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield folder
    patch.undo()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Make:
    """Build a resolved encoder on the tiny checkpoint of a family: `tiny("audio", "wavlm-base", layers="-2:")`."""
    home = tmp_path_factory.mktemp("checkpoints")

    def make(modality: str, family: str, **options: object) -> Encoder:
        folder = home / family
        if not folder.is_dir():
            MAKERS[modality][family](folder)
        return make_encoder(modality, str(folder), **options).resolve()  # type: ignore[arg-type]

    return make
