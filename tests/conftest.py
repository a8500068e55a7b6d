"""Fixtures every test may use."""

import os
import tempfile
from pathlib import Path

import pytest

# Tests run side by side, one worker a core, on tiny models: more threads would only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a run remembers (where a corpus lay, digests of downloads) is no business of the user's own cache folder.
os.environ.setdefault("MER_CACHE", str(Path(tempfile.gettempdir(), f"mer-tests-{os.getuid()}")))

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real clips, speech and annotations beside the checkout; tests skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data not found: ../shared/data is absent")
    return SHARED_DATA


@pytest.fixture(scope="session")
def gpu() -> str:
    """The CUDA device; tests skip where there is none. `MER_TEST_DEVICE=cpu` runs them without, to check themselves."""
    import torch

    asked = os.environ.get("MER_TEST_DEVICE", "cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    return asked


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that ask for the GPU, so that `pytest -m cuda` runs them alone."""
    for item in items:
        if "gpu" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cuda)
