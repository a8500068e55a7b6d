"""Which shards this machine wrote or read to the last byte, so that a run need not read every stored byte again.

A shard is trusted while its size and modification time are those of then; its seal and its index are checked in every
run all the same. `mer extract --check` and `mer verify` trust nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mer.cache import ShardIndex, atomic_write, check_shard, read_shard_index


class CheckedShards:
    """Remembered shards of one cache, in a JSON file beside them."""

    def __init__(self, folder: Path, trust: bool = True) -> None:
        """Read what is remembered.

        Parameters
        ----------
        folder
            Folder beside the catalogue that belongs to this machine.
        trust
            False reads every shard to the last byte, whatever is remembered.
        """
        self._path = folder / "checked-shards.json"
        self._known: dict[str, tuple[int, int]] = {}
        self._trust = trust
        self._changed = False
        try:
            read = json.loads(self._path.read_text(encoding="utf-8"))
            self._known = {str(name): (int(size), int(time)) for name, (size, time) in read.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            pass  # a damaged memory costs one reading, nothing else

    def read(self, path: Path) -> ShardIndex:
        """Index of a shard, its features compared with their checksums unless that was done before.

        Raises
        ------
        DamagedError
            If it is missing or damaged.
        """
        if not (self._trust and self.is_known(path)):
            check_shard(path, deep=True)
            self.remember([path])
        return read_shard_index(path)

    def remember(self, paths: Iterable[Path]) -> None:
        """Trust shards that were just written or checked, from now on."""
        for path in paths:
            try:
                stat = path.stat()
            except OSError:
                continue
            self._known[_name(path)] = (stat.st_size, stat.st_mtime_ns)
            self._changed = True

    def save(self) -> None:
        """Write the memory down, if there is anything new in it."""
        if not self._changed:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._path) as temporary:
            temporary.write_text(json.dumps(self._known, sort_keys=True), encoding="utf-8")
        self._changed = False

    def is_known(self, path: Path) -> bool:
        """Whether a shard has the size and time it had when it was written or checked here."""
        try:
            stat = path.stat()
        except OSError:
            return False
        return self._known.get(_name(path)) == (stat.st_size, stat.st_mtime_ns)


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"
