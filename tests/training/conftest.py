"""Caches of the toy corpus, and quick settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .toy import load_benchmark, write_toy


@pytest.fixture(scope="session")
def write_cache() -> Callable[..., Path]:
    return load_benchmark("caches").write_cache


@pytest.fixture
def make_toy(tmp_path: Path, write_cache: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function that writes the toy corpus and gives the cache's path."""

    def build(name: str = "toy.h5", **changes: Any) -> Path:
        return write_toy(tmp_path / name, write_cache, **changes)

    return build


@pytest.fixture
def toy(make_toy: Callable[..., Path]) -> Path:
    return make_toy()


QUICK = {"seeds": 1, "train.epochs": 3, "train.batch_size": 16, "head": "linear", "device": "cpu"}


@pytest.fixture
def quick() -> dict[str, Any]:
    """Settings of a run that takes a moment."""
    return dict(QUICK)
