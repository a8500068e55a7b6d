"""Fetching corpora, from a server of this machine alone: breaks, wrong bytes, a full disk, hostile archives."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tarfile
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transfer.servers import Files, serving

from mer.cache import MerError
from mer.cache.transfer import Patience
from mer.pipeline.cli import main
from mer.stages.corpora import download
from mer.stages.corpora.download import get
from mer.stages.corpora.releases import RELEASES, Download, Release, paragraph
from mer.stages.corpora.unpack import unpack
from mer.stages.registry import CORPORA

SOUND = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "user"))
    monkeypatch.setattr(download, "HEADROOM_BYTES", 0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "www").mkdir()
    with serving(Files, folder=tmp_path / "www") as running:
        yield running


def tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as made:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return path


def fetched(release: Release, target: Path, attempts: int = 3) -> Path:
    return get(release, target, lambda name, done, total: None, Patience(attempts=attempts, pause_seconds=0.0))


def test_an_archive_with_archives_inside_is_unpacked_without_its_top_folder(server: Any, tmp_path: Path) -> None:
    inner = tar(tmp_path / "train.tar.gz", {"train_splits/dia0_utt0.mp4": SOUND}).read_bytes()
    tar(server.folder / "RAW.tar.gz", {"RAW/train.tar.gz": inner, "RAW/train.csv": b"a,b\n"})
    release = Release(
        "RAW", (Download(f"{server.url}/RAW.tar.gz", unpack=True),), inner=("train.tar.gz",), unpacked_bytes=1 << 20
    )
    folder = fetched(release, tmp_path / "data/RAW")
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"train_splits/dia0_utt0.mp4": SOUND, "train.csv": b"a,b\n"}
    assert [path.name for path in folder.parent.iterdir()] == ["RAW"]
    with pytest.raises(MerError, match="is there already"):
        fetched(release, folder)


def test_a_cut_connection_goes_on_where_it_stopped(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar(server.folder / "big.tar", {"a.wav": SOUND * 50}, "w")
    release = Release("BIG", (Download(f"{server.url}/big.tar", unpack=True),), unpacked_bytes=1 << 20)
    monkeypatch.setattr("mer.cache.transfer.remote.BLOCK_BYTES", 40_000)

    def cut_after_two_blocks(name: str, done: int, total: int | None) -> None:
        if done == 80_000:
            server.drops, server.drop_after = 1, 10_000

    with pytest.raises(MerError, match="80000 bytes are kept; run it again to resume"):
        get(release, tmp_path / "BIG", cut_after_two_blocks, Patience(attempts=1))
    assert not (tmp_path / "BIG").exists()
    folder = fetched(release, tmp_path / "BIG")
    assert (folder / "a.wav").read_bytes() == SOUND * 50
    assert any(wanted and wanted.startswith("bytes=80000-") for _, _, wanted in server.requests)


def test_a_published_digest_is_compared(server: Any, tmp_path: Path) -> None:
    (server.folder / "a.csv").write_bytes(b"right")
    right = f"md5:{hashlib.md5(b'right').hexdigest()}"
    url = f"{server.url}/a.csv"
    assert (fetched(Release("A", (Download(url, digest=right),)), tmp_path / "A") / "a.csv").read_bytes() == b"right"
    wrong = Release("B", (Download(url, digest=f"md5:{'0' * 32}"),))
    with pytest.raises(MerError, match=r"the file has md5:\w{32} where md5:0{32} is published; it was removed"):
        fetched(wrong, tmp_path / "B")
    assert not (tmp_path / "B").exists()
    assert not list((tmp_path / "B.partial").iterdir())


def test_the_first_digest_is_written_down_and_compared(server: Any, tmp_path: Path) -> None:
    release = Release("A", (Download(f"{server.url}/a.csv"),))
    (server.folder / "a.csv").write_bytes(b"first")
    fetched(release, tmp_path / "one")
    (server.folder / "a.csv").write_bytes(b"other")
    with pytest.raises(MerError, match=r"came the first time; it was removed\. If the publisher changed it"):
        fetched(release, tmp_path / "two")
    (server.folder / "a.csv").write_bytes(b"first")
    assert fetched(release, tmp_path / "two").is_dir()


def test_files_that_a_table_lists_are_fetched_and_resumed(server: Any, tmp_path: Path) -> None:
    (server.folder / "AudioWAV").mkdir()
    names = ["1001_DFA_ANG_XX", "1002_DFA_SAD_LO", "1003_IEO_HAP_HI"]
    (server.folder / "list.csv").write_text('"","Filename"\n' + "".join(f'"{n}","{n}"\n' for n in names))
    for name in names[:2]:
        (server.folder / f"AudioWAV/{name}.wav").write_bytes(name.encode())
    release = Release(
        "CREMA", (Download(f"{server.url}/list.csv"),), listed=("list.csv", f"{server.url}/AudioWAV/", ".wav")
    )
    with pytest.raises(MerError, match="1003_IEO_HAP_HI"):
        fetched(release, tmp_path / "CREMA", attempts=1)
    (server.folder / f"AudioWAV/{names[2]}.wav").write_bytes(names[2].encode())
    server.requests.clear()
    folder = fetched(release, tmp_path / "CREMA")
    assert {path.stem: path.read_text() for path in (folder / "AudioWAV").iterdir()} == {n: n for n in names}
    assert not any(names[0] in path for _, path, _ in server.requests)


def test_a_small_disk_is_told_before_anything_is_fetched(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**12, 10**12 - 5 * 10**8, 5 * 10**8))
    release = Release("A", (Download(f"{server.url}/a.zip", 10**9, unpack=True),), unpacked_bytes=2 * 10**9)
    with pytest.raises(MerError, match=r"0\.5 GB are free where about 3\.0 GB are needed; make room"):
        fetched(release, tmp_path / "A")
    assert server.requests == []


def test_a_disk_that_fills_up_is_told_at_once(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (server.folder / "a.csv").write_bytes(b"x" * 1000)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mer.cache.transfer.remote._blocks", full)
    with pytest.raises(MerError, match="the disk is full; make room and run it again to go on"):
        fetched(Release("A", (Download(f"{server.url}/a.csv"),)), tmp_path / "A")


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members:
            made.writestr(name, content)
    return path


def linked(path: Path, kind: bytes, name: str = "link", to: str = "/etc/passwd") -> Path:
    with tarfile.open(path, "w") as made:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, to
        made.addfile(info)
    return path


def zip_link(path: Path) -> Path:
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    return zipped(path, (info, b"/etc/passwd"))


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip: a path up": (lambda at: zipped(at, ("../evil", b"x")), "a place outside its folder"),
    "zip: an absolute path": (lambda at: zipped(at, ("/tmp/evil", b"x")), "a place outside its folder"),
    "zip: a drive": (lambda at: zipped(at, ("c:evil", b"x")), "a place outside its folder"),
    "zip: a link": (zip_link, "holds the link or device 'link'"),
    "zip: a bomb": (lambda at: zipped(at, ("zeros", bytes(1 << 22))), "unpacks to more than 1,048,576 bytes"),
    "zip: cut off": (lambda at: cut(zipped(at, ("a", SOUND))), "is no whole archive"),
    "tar: a path up": (lambda at: tar(at, {"a/../../evil": b"x"}), "a place outside its folder"),
    "tar: a symbolic link": (lambda at: linked(at, tarfile.SYMTYPE), "holds the link or device 'link'"),
    "tar: a hard link": (lambda at: linked(at, tarfile.LNKTYPE), "holds the link or device 'link'"),
    "tar: a device": (lambda at: linked(at, tarfile.CHRTYPE), "holds the link or device 'link'"),
    "tar: a bomb": (lambda at: tar(at, {"zeros": bytes(1 << 22)}), "unpacks to more than 1,048,576 bytes"),
    "tar: cut off": (lambda at: cut(tar(at, {"a": os.urandom(50_000)})), "is no whole archive"),
    "tar: one file twice": (lambda at: twice(at), "twice"),
    "no archive": (lambda at: written(at, b"<html>moved</html>"), "is no whole archive"),
}


def cut(path: Path) -> Path:
    return written(path, path.read_bytes()[: path.stat().st_size // 2])


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def twice(path: Path) -> Path:
    with tarfile.open(path, "w") as made:
        for _ in range(2):
            made.addfile(tarfile.TarInfo("a"), io.BytesIO())
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused(name: str, tmp_path: Path) -> None:
    make, what = HOSTILE[name]
    archive = make(tmp_path / "archive")
    with pytest.raises(MerError, match=what):
        unpack(archive, tmp_path / "in/side", 1 << 20)
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and "side" not in path.parts]
    assert outside == [archive]


def test_a_hostile_archive_leaves_no_corpus(server: Any, tmp_path: Path) -> None:
    zipped(server.folder / "a.zip", ("fine.wav", SOUND), ("../evil", b"x"))
    release = Release("A", (Download(f"{server.url}/a.zip", unpack=True),), unpacked_bytes=1 << 20)
    with pytest.raises(MerError, match="a place outside its folder"):
        fetched(release, tmp_path / "A")
    assert not (tmp_path / "A").exists()
    assert not (tmp_path / "evil").exists()
    assert [path.name for path in (tmp_path / "A.partial").iterdir()] == ["a.zip"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(words)
    told = capsys.readouterr()
    return int(left.value.code or 0), told.out, told.err


def test_the_command_fetches_remembers_and_is_found_again(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    zipped(server.folder / "download.zip", ("wav/03a01Wa.wav", SOUND), ("erkennung.txt", b"x"))
    release = Release("EmoDB", (Download(f"{server.url}/download.zip", unpack=True),), unpacked_bytes=1 << 20)
    monkeypatch.setitem(RELEASES, "emodb", release)
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "corpora", "get", "emodb", "--to", "elsewhere/emodb", "--yes")
    assert code == 0
    assert f"{server.url}/download.zip" in out
    assert "licence: free to download, no licence text" in out
    assert "are free" in out
    assert "mer extract --corpus emodb" in out
    assert (tmp_path / "elsewhere/emodb/wav/03a01Wa.wav").read_bytes() == SOUND
    _, out, err = run(capsys, "corpora", "check", "emodb")
    assert "(remembered from last time)" in err
    assert "1 utterances" in out


def test_the_command_asks_first(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RELEASES, "emodb", Release("EmoDB", (Download(f"{server.url}/download.zip"),)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, out, _ = run(capsys, "corpora", "get", "emodb")
    assert (code, server.requests) == (1, [])
    assert "nothing was fetched" in out


@pytest.mark.parametrize("name", [name for name in CORPORA if name not in ("demo", "folder")])
def test_each_corpus_says_where_it_comes_from(name: str) -> None:
    release = RELEASES[name]
    assert paragraph(name, "Who may use it")
    assert paragraph(name, "Layout")
    for one in release.downloads:
        assert one.url.startswith(("https://", "http://emodb.bilderbar.info/"))
        assert not one.unpack or release.unpacked_bytes > one.about_bytes > 0


def test_a_gated_corpus_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "corpora", "get", "iemocap")
    assert code == 1
    assert "sail.usc.edu/iemocap/release_form.php" in out
    assert "layout: `IEMOCAP_full_release/Session{1..5}/`" in out
    assert "mer corpora check iemocap" in out
    assert "nothing was fetched" in out
