"""Digests of the media files of a corpus, remembered by path, size and modification time.

Content, not time stamps, decides what is encoded again; the memory only saves reading unchanged files twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mer.cache import MerError, atomic_write

from .jobs import SeenFile, stamp_of


class MediaDigests:
    """Remembered digests of one folder's files, in a small JSON file."""

    def __init__(self, path: Path, digest: Callable[[Path], bytes]) -> None:
        self.path = path
        self._digest = digest
        self._known: dict[str, tuple[int, int, str]] = {}
        self.seen: dict[Path, SeenFile] = {}
        """Every file whose digest was asked for, as it was then."""
        if path.is_file():
            try:
                self._known = {key: tuple(value) for key, value in json.loads(path.read_text()).items()}
            except (ValueError, TypeError, AttributeError, RecursionError):
                self._known = {}  # a damaged memory costs one re-reading, nothing else

    def of(self, file: Path) -> bytes | None:
        """Digest of a file's content, or None when there is no such file or it cannot be read."""
        try:
            stat = file.stat()
        except OSError:
            return None
        remembered = self._known.get(str(file))
        if remembered and remembered[:2] == (stat.st_size, stat.st_mtime_ns):
            self.seen[file] = SeenFile(str(file), stamp_of(stat), bytes.fromhex(remembered[2]))
            return self.seen[file].digest
        try:
            found = self._digest(file)
        except MerError:
            return None
        self._known[str(file)] = (stat.st_size, stat.st_mtime_ns, found.hex())
        self.seen[file] = SeenFile(str(file), stamp_of(stat), found)
        return found

    def of_all(self, files: Iterable[Path], tick: Callable[[], None]) -> dict[Path, bytes | None]:
        """Digests of many files, read a few at a time; `tick` is called after each."""
        wanted = list(dict.fromkeys(files))
        found: dict[Path, bytes | None] = {}
        with ThreadPoolExecutor(max_workers=4) as pool:
            for file, digest in zip(wanted, pool.map(self.of, wanted), strict=True):
                found[file] = digest
                tick()
        return found

    def save(self) -> None:
        """Write the memory down."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self._known, sort_keys=True))
