"""Fetches the Parquet files of a Hub dataset into a temporary folder, for an import."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import MerError
from ..transfer.hub import HubAddress, download


@contextmanager
def local_copy(source: str) -> Iterator[Path]:
    """Path of a source: itself, or for `hf://datasets/ORG/NAME[@REVISION][/FOLDER]` a folder that is removed after.

    Raises
    ------
    MerError
        If the repository cannot be read, or holds no Parquet files.
    """
    if "://" not in source:
        yield Path(source)
        return
    if not source.startswith("hf://"):
        raise MerError(f"{source}: only hf://datasets/ORG/NAME and local paths are imported; fetch it first")
    address = HubAddress.parse(source)
    with tempfile.TemporaryDirectory(prefix="mer-import-") as folder:
        home = Path(folder) / address.repo.rpartition("/")[2]
        download(address, home, ".parquet")
        yield home
