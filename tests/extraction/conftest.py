"""A small folder of real clips and the options that extract it with the demo encoders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from folder_clips import Extract, manifest_rows, write_manifest
from synthetic import write_clip

from mer.pipeline.extraction.options import ExtractOptions


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of the user's for the whole session, so that demo checkpoints are built once."""
    folder = tmp_path_factory.mktemp("user-cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("MER_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def drawn_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips with a face and a sound, each of another length."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(6):
        write_clip(folder / f"clip{i}.mp4", seconds=0.5 + 0.25 * i, sound="noise" if i % 2 else "tone")
    write_manifest(folder, manifest_rows(6))
    return folder


@pytest.fixture
def clips(drawn_clips: Path, tmp_path: Path) -> Path:
    """A copy of the clips that a test may change."""
    return Path(shutil.copytree(drawn_clips, tmp_path / "clips"))


@pytest.fixture
def options(clips: Path, tmp_path: Path) -> Extract:
    """Build options for `clips`; keyword arguments override them."""

    def build(**changes: object) -> ExtractOptions:
        given: dict[str, object] = {
            "corpus": "folder",
            "root": clips,
            "out": tmp_path / "cache" / "mine.h5",
            "encoders": {"text": ("demo-text",), "audio": ("demo-audio",), "face": ("demo-face",)},
            "face_detector": "cascade",
        }
        return ExtractOptions(**{**given, **changes})  # type: ignore[arg-type]

    return build
