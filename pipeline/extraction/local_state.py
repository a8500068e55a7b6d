"""What belongs to a cache on this machine alone: where its corpus lies, and who writes it now.

It is kept beside the cache, never in it, so that no pack carries it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mer.cache import MerError, atomic_write, shards_beside


def side_folder(catalogue: Path) -> Path:
    """Folder beside a catalogue that holds its shards and what else belongs to this machine alone."""
    return shards_beside(catalogue).resolve()


@contextmanager
def one_at_a_time(catalogue: Path) -> Iterator[None]:
    """Wait until no other run writes this catalogue, and keep others waiting; the lock ends with the process."""
    path = side_folder(catalogue) / "catalogue.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        with suppress(ImportError, OSError):  # a platform or file system without locks
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remember_root(catalogue: Path, root: Path) -> None:
    """Write down the corpus folder that a catalogue was made from."""
    path = _note(catalogue)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(str(root), encoding="utf-8")


def remembered_root(catalogue: Path) -> Path:
    """Return the corpus folder that a catalogue was made from here.

    Raises
    ------
    MerError
        If it was made elsewhere, or the folder is gone.
    """
    root = noted_root(catalogue)
    if root is None:
        raise MerError(f"{catalogue}: its corpus was not read on this machine; give its folder, --root")
    if not root.is_dir():
        raise MerError(f"{catalogue}: its corpus was read from {root}, which is gone; give its new folder, --root")
    return root


def noted_root(catalogue: Path) -> Path | None:
    """Return the corpus folder that was written down for a catalogue, there or not; None where none was."""
    try:
        return Path(_note(catalogue).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def _note(catalogue: Path) -> Path:
    return side_folder(catalogue) / "corpus-root.txt"
