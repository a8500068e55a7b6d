"""Where folders and files of the user's lay, by the digest of their content, so that the digest alone finds them again.

A spec, a run and a pack name a checkpoint folder by its digest and its last name, never by its path. The path is
remembered in the user's cache, on this machine alone.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mer.cache import atomic_write
from mer.cache.user_cache import user_cache


def remember_place(digest: str, path: Path) -> None:
    """Write down where something lies; a cache folder that cannot be written is no error."""
    note = _note(digest)
    with suppress(OSError):
        if note.is_file() and note.read_text("utf-8") == str(path):
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(note) as temporary:
            temporary.write_text(str(path), "utf-8")


def remembered_place(digest: str) -> Path | None:
    """Where something lay last, or None where that is unknown here or nothing is there any more."""
    try:
        path = Path(_note(digest).read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return path if path.exists() else None


def _note(digest: str) -> Path:
    return user_cache("places", f"{digest}.txt")
