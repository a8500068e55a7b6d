"""Moves one file to or from any fsspec URL: resumable, and whole under its name or not there at all."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MerError
from ..progress import Progress

log = logging.getLogger(__name__)

BLOCK_BYTES = 8 << 20
MAX_SIDECAR_BYTES = 4096
SIDECAR = ".sha256"
_MARKS = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "generation", "blob_id")
"""Facts by which file systems tell one version of a file from another."""

_INSTALL = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "ssh": "paramiko",
    "sftp": "paramiko",
    "abfs": "adlfs",
    "az": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "hf": "huggingface_hub",
}
PROTOCOLS = ("file", "memory", *_INSTALL)
_PUTS_WHOLE = ("s3", "gs", "gcs", "abfs", "az", "memory")
"""Stores where an object appears only when its upload has finished; elsewhere it is uploaded aside and renamed."""


class TransferError(MerError):
    """Raised when a server cannot be reached or stops answering; what came is kept for the next attempt."""


@dataclass(frozen=True)
class Remote:
    """One file at a URL."""

    url: str
    fs: Any
    path: str

    @property
    def protocol(self) -> str:
        """Scheme of the URL, such as `https`."""
        return self.url.split("://", 1)[0]

    @property
    def name(self) -> str:
        """File name, safe to use on this machine.

        Raises
        ------
        MerError
            If the URL ends in no usable file name.
        """
        name = self.path.split("?", 1)[0].rstrip("/").rsplit("/", 1)[-1]
        if not re.fullmatch(r"[\w][\w.+=@ -]{0,199}", name):
            raise MerError(f"{self.url}: the URL does not end in a plain file name; add one, such as .../meld.h5")
        return name

    def beside(self, suffix: str) -> Remote:
        """The file whose name is this one's plus `suffix`."""
        path, mark, query = self.path.partition("?")
        return Remote(self.url, self.fs, f"{path}{suffix}{mark}{query}")

    def part(self, suffix: str) -> Remote:
        """The file whose name is this one's stem plus `suffix`."""
        path, mark, query = self.path.partition("?")
        url = self.url.partition("?")[0].removesuffix(".h5") + suffix + mark + query
        return Remote(url, self.fs, f"{path.removesuffix('.h5')}{suffix}{mark}{query}")

    def info(self) -> dict[str, Any]:
        """What the server says about the file."""
        return dict(self.fs.info(self.path))


def is_url(text: str) -> bool:
    """Whether `text` is a URL rather than a path."""
    return "://" in text


def locate(url: str) -> Remote:
    """Find the file system a URL belongs to; nothing is transferred.

    Raises
    ------
    MerError
        For an unknown or chained protocol, or one whose library is not installed (the message has the pip line).
    """
    from fsspec.core import url_to_fs

    protocol = url.split("://", 1)[0]
    if "::" in url or not is_url(url) or protocol not in PROTOCOLS:
        raise MerError(f"{url}: not a URL mer can use; give one of {', '.join(p + '://' for p in PROTOCOLS)}")
    options: dict[str, Any] = {"skip_instance_cache": True}
    if protocol == "hf":
        options["endpoint"] = os.environ.get("HF_ENDPOINT") or None
    try:
        fs, path = url_to_fs(url, **options)
    except ImportError as error:
        raise MerError(f"{url}: needs a library that is not installed; pip install {_INSTALL[protocol]}") from error
    except (ValueError, OSError) as error:
        raise MerError(f"{url}: not a usable URL ({_line(error)})") from error
    return Remote(url, fs, path)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sidecar_line(digest: str, name: str) -> str:
    """Line of a `.sha256` file, in the form `sha256sum -c` reads."""
    return f"{digest}  {name}\n"


@dataclass
class Patience:
    """How often a transfer that stopped is tried again."""

    attempts: int = 8
    """Failures in a row without a new byte before giving up."""
    pause_seconds: float = 1.0
    """Wait after the first failure; doubles with each further one, up to a minute."""
    failures: int = field(default=0, init=False)

    def failed(self, remote: Remote, error: Exception, done: int) -> None:
        """Wait for the next attempt, or raise when there have been enough."""
        self.failures += 1
        most = min(self.attempts, 2) if remote.protocol == "hf" else self.attempts  # the Hub's client retries by itself
        if isinstance(error, (FileNotFoundError, PermissionError)) or self.failures >= most:
            hint = "check the URL and your access" if done == 0 else f"{done} bytes are kept; run it again to resume"
            raise TransferError(f"{remote.url}: transfer failed ({_line(error)}); {hint}") from error
        log.info("%s: interrupted at %d bytes (%s); trying again", remote.url, done, _line(error))
        time.sleep(min(60.0, self.pause_seconds * 2 ** (self.failures - 1)))

    def progressed(self) -> None:
        """Forget earlier failures: bytes have come since."""
        self.failures = 0


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def patiently(remote: Remote, patience: Patience, action: Callable[[], Any]) -> Any:
    """Run a small request until it answers. Any transport's error may be a passing one, hence the broad catch."""
    while True:
        try:
            return action()
        except Exception as error:
            patience.failed(remote, error, 0)


def read_sidecar(remote: Remote, patience: Patience) -> str | None:
    """SHA-256 the publisher wrote beside the file, or None where there is no such file.

    Raises
    ------
    MerError
        If the server cannot be reached, or the sidecar is not a SHA-256 line.
    """
    beside = remote.beside(SIDECAR)

    def read() -> bytes | None:
        try:
            with beside.fs.open(beside.path, "rb") as handle:
                return bytes(handle.read(MAX_SIDECAR_BYTES))
        except (FileNotFoundError, PermissionError):
            return None

    raw = patiently(beside, patience, read)
    if raw is None:
        return None
    digest = raw.decode("ascii", "replace").split(maxsplit=1)[0].lower() if raw.strip() else ""
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise MerError(f"{remote.url}{SIDECAR}: does not start with a SHA-256; ask the publisher to push again")
    return digest


def fetch_checked(remote: Remote, file: Path, patience: Patience, on_progress: Progress, expected: str = "") -> bool:
    """Download a file; it gets its name when it is complete and, where a SHA-256 is expected, has that.

    Returns
    -------
    bool
        Whether bytes of an earlier, interrupted call were used.

    Raises
    ------
    TransferError
        When the server is gone for good; what came stays in `FILE.part` for the next attempt.
    MerError
        If the content is not what was expected.
    """
    if expected and file.exists() and sha256_of(file) == expected:
        return True
    part = file.with_name(file.name + ".part")
    resumed = _fetch(remote, part, patience, on_progress)
    found = sha256_of(part) if expected else ""
    if resumed and found != expected:  # what an earlier call left may have been torn by a crash
        part.unlink()
        resumed = _fetch(remote, part, patience, on_progress)
        found = sha256_of(part)
    if found != expected:
        raise MerError(
            f"{remote.url}: the content has sha256 {found[:16]}… where {expected[:16]}… was promised; it was removed, "
            "because it is damaged or not what its publisher made"
        )
    os.replace(part, file)
    part.with_name(part.name + ".json").unlink()
    return resumed


def _fetch(remote: Remote, part: Path, patience: Patience, on_progress: Progress) -> bool:
    """Download into `part`, going on from what an earlier call left there of the same version of the file.

    `PART.json` beside it records which version the bytes are of.
    """
    info = patiently(remote, patience, remote.info)
    size = info.get("size")
    version = {"url": remote.url} | {mark: str(info[mark]) for mark in _MARKS if info.get(mark) is not None}
    record = part.with_name(part.name + ".json")
    ranged = size is not None and bool(info.get("partial", True))
    done = part.stat().st_size if ranged and _recorded(record) == version and part.exists() else 0
    resumed = done > 0
    if not resumed:
        part.unlink(missing_ok=True)
    record.write_text(json.dumps(version))
    with part.open("ab") as target:
        while size is None or done < size:
            try:
                for block in _blocks(remote, done, size if ranged else None):
                    target.write(block)
                    done += len(block)
                    patience.progressed()
                    on_progress(done, size)
                break
            except Exception as error:  # any transport's failure: what arrived is kept and the rest asked for again
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise  # trying again makes no room
                if isinstance(error, ValueError):  # what fsspec raises for a web server without range requests
                    ranged = False
                if not ranged:
                    target.truncate(0)
                    done = 0
                patience.failed(remote, error, done)
        target.flush()
        os.fsync(target.fileno())
    if size is not None and done != size:
        part.unlink()
        raise MerError(f"{remote.url}: {done} bytes came where the server promised {size}; nothing was kept")
    return resumed


def _recorded(record: Path) -> Any:
    with suppress(OSError, ValueError, RecursionError):
        return json.loads(record.read_text())
    return None


def _blocks(remote: Remote, done: int, size: int | None) -> Iterator[bytes]:
    """Bytes from `done` up to `size` by range requests; with no size, one stream from the beginning."""
    if size is None:
        streaming = {"block_size": 0} if remote.protocol in ("http", "https") else {}
        with remote.fs.open(remote.path, "rb", **streaming) as source:
            while block := bytes(source.read(BLOCK_BYTES)):
                yield block
        return
    with remote.fs.open(remote.path, "rb", cache_type="none") as source:
        source.seek(done)
        for start in range(done, size, BLOCK_BYTES):
            wanted = min(BLOCK_BYTES, size - start)
            block = bytes(source.read(wanted))
            if len(block) != wanted:
                raise OSError(f"{len(block)} bytes came where {wanted} were asked for")
            yield block


def put(path: Path, remote: Remote) -> None:
    """Upload a file; it gets its name when it is complete.

    Raises
    ------
    MerError
        If the place cannot be written, or holds another number of bytes afterwards.
    """
    if remote.protocol in ("http", "https"):
        raise MerError(
            f"{remote.url}: web servers cannot be written through https; push to s3, ssh, a folder or the Hub"
        )
    whole = remote.protocol in _PUTS_WHOLE
    target = remote.path if whole else f"{remote.path}.uploading"
    try:
        if not whole:
            remote.fs.makedirs(remote.path.rsplit("/", 1)[0], exist_ok=True)
        remote.fs.put_file(str(path), target)
        if not whole:
            remote.fs.mv(target, remote.path)
        size = remote.fs.info(remote.path)["size"]
    except Exception as error:  # every store has its own errors; all of them mean that the file is not there
        raise MerError(f"{remote.url}: cannot be written ({_line(error)})") from error
    if size != path.stat().st_size:
        raise MerError(f"{remote.url}: holds {size} bytes after the upload of {path.stat().st_size}; push again")
