"""Files appear whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mer.cache import MerError, atomic_write, sweep_partials
from mer.cache.atomic import sweep_beside


def test_the_file_appears_with_its_content_and_nothing_else(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "new" / "a.txt").exists()
        assert temporary.name.startswith(".a.txt.")
        assert temporary.name.endswith(".partial")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert (tmp_path / "new" / "a.txt").read_text() == "whole"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_keeps_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(MerError, match=r"a\.h5: the disk is full; free some space"), atomic_write(tmp_path / "a.h5"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_hdf5_writes_is_told(tmp_path: Path) -> None:
    """The process may write 100 kB per file; a shard of 400 kB must fail in one sentence and leave nothing."""
    program = f"""
import resource, signal, sys
import numpy as np
from mer.cache import Fate, FeatureSequence, FeatureSpec, MerError, ShardRow, write_shard
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
rows = [ShardRow("a", bytes(16), Fate.OK, "", FeatureSequence.of(np.ones((2000, 100), np.float32), np.arange(2000)))]
try:
    write_shard(Path({str(tmp_path)!r}), FeatureSpec("audio", "x", {{}}, 100), rows)
except MerError as error:
    print("told:", error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("told:"), done.stderr
    assert "the disk is full" in done.stdout
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MerError, match="choose another place"), atomic_write(tmp_path / "file" / "a.h5"):
        pass


def test_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    old, new = tmp_path / "sub" / ".a.h5.0123abcd.partial", tmp_path / ".b.h5.0123abcd.partial"
    old.parent.mkdir()
    for path in (old, new, tmp_path / "data.partial"):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    os.utime(tmp_path / "data.partial", (0, 0))
    assert sweep_partials(tmp_path) == [old]
    assert new.exists()
    assert (tmp_path / "data.partial").exists()


KILLED_WRITER = """
import os, signal, sys
from mer.cache import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_what_a_killed_writer_left_is_nobody_s_and_what_is_being_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "pack[1].h5"
    subprocess.run([sys.executable, "-c", KILLED_WRITER, path], check=False)
    (left,) = tmp_path.iterdir()
    assert sweep_beside(path) == []  # it could belong to somebody who just began
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"whole")
        for partial in (left, temporary):
            os.utime(partial, (0, 0))
        assert sweep_beside(path) == [left]
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]
