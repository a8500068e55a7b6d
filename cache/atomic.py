"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import MerError
from .source import refuse_url

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STALE_AFTER_SECONDS = 3600.0
UNHELD_AFTER_SECONDS = 10.0
"""A partial file older than this that no process holds is nobody's; a writer takes hold of its own at once."""
HELD = -2


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Give a temporary path in the same folder; on leaving without an error it becomes `path`, durably.

    The body writes and closes the temporary file. On any error, interruption included, the temporary file is removed
    and whatever `path` held before stays.

    Raises
    ------
    MerError
        If the disk is full or the folder cannot be written.
    """
    path = Path(path)
    refuse_url(path, "the file to write")
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.partial"
    held = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        held = _hold(temporary)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        told = _told_why(path, error)
        if told is None:
            raise
        raise told from error
    finally:
        if held >= 0:
            os.close(held)


def _hold(path: Path) -> int:
    """Take hold of a file until the handle is closed or the process ends; `HELD` by another, or -1 without locks."""
    handle = -1
    try:
        import fcntl

        handle = os.open(path, os.O_RDWR)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        if handle >= 0:
            os.close(handle)
        return HELD if isinstance(error, BlockingIOError) else -1
    return handle


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk, where the platform lets a folder be opened."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(handle)


def _told_why(path: Path, error: BaseException) -> MerError | None:
    """Turn what the system says about writing into a sentence; None for errors that are not about the disk."""
    if isinstance(error, MerError) or not isinstance(error, (OSError, RuntimeError)):
        return None
    number = getattr(error, "errno", None)
    if number in FULL or "No space left" in str(error) or "File too large" in str(error):
        return MerError(f"{path}: the disk is full; free some space or choose another folder, then run the same again")
    if isinstance(error, (PermissionError, NotADirectoryError, FileExistsError)):
        return MerError(f"{path} cannot be written ({error.strerror}); choose another place")
    return None


def followed(path: Path | str) -> Path:
    """The file that a link leads to, so that writing it leaves the link a link; any other path as it is."""
    path = Path(path)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def sweep_beside(path: Path | str) -> list[Path]:
    """Remove what killed writers of this one file left beside it, and return the paths removed.

    A file that a writer holds stays; where files cannot be held, one younger than an hour does.
    """
    path, removed = Path(path), []
    for partial in sorted(path.parent.glob(f".{glob.escape(path.name)}.*.partial")):
        with suppress(OSError):
            age_seconds = time.time() - partial.stat().st_mtime
            held = _hold(partial) if age_seconds > UNHELD_AFTER_SECONDS else -1
            if held >= 0:
                os.close(held)
            if held >= 0 or (held != HELD and age_seconds > STALE_AFTER_SECONDS):
                partial.unlink()
                removed.append(partial)
    return removed


def sweep_partials(folder: Path | str, older_than_seconds: float = STALE_AFTER_SECONDS) -> list[Path]:
    """Remove what killed writers left under a folder, and return the paths removed.

    Files younger than `older_than_seconds` may belong to a writer at work and stay.
    """
    removed = []
    for partial in sorted(Path(folder).rglob(".*.partial")):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > older_than_seconds:
                partial.unlink()
                removed.append(partial)
    return removed
