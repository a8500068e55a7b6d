"""A helper process: this Python once more, for work on content that may crash, hang or swallow the one that does it.

Messages are frames, a length of eight bytes and then so many bytes. The helper's standard output goes to its standard
error, so that nothing a library prints is taken for a message.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

LONGEST_NUMBER = 8
START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "import importlib; importlib.import_module(sys.argv[2]).main()"
)
PIPE_BYTES = 1 << 20
"""Room asked for in a pipe, where the system gives it: a clip's sound then needs few turns."""


class HelperDiedError(Exception):
    """Raised when the helper ended before it answered."""


class HelperProcess:
    """A running helper. One thread at a time talks to it.

    Parameters
    ----------
    module
        Module whose `main()` serves; it answers through `Served`.
    quiet
        Drop what the helper writes to its standard error.
    """

    def __init__(self, module: str, quiet: bool = False) -> None:
        # A session of its own: Ctrl-C is for the parent, which ends its helpers.
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, json.dumps(sys.path), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            start_new_session=True,
        )
        for pipe in (self._to, self._from):
            _widen(pipe)

    @property
    def _to(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _from(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, *parts: bytes | memoryview) -> None:
        """Send one message, given in parts.

        Raises
        ------
        HelperDiedError
            If nobody reads it any more.
        """
        try:
            write_frame(self._to, *parts)
        except (OSError, ValueError) as error:
            raise HelperDiedError(self.how_it_ended()) from error

    def receive(self) -> bytearray:
        """Wait for the next message.

        Raises
        ------
        HelperDiedError
            If the helper ends before; the message says how.
        """
        try:
            return read_frame(self._from)
        except (EOFError, OSError, ValueError) as error:
            raise HelperDiedError(self.how_it_ended()) from error

    def how_it_ended(self) -> str:
        """Wait for the end and tell it: `signal SIGSEGV`, or `exit code 1`."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        if self._process.poll() is None:
            self.kill()
        code = self._process.returncode
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End the helper at once and wait for it."""
        self.end()
        self._process.wait()
        self.close()

    def end(self) -> None:
        """End the helper at once; a thread that waits for its answer is told."""
        with suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """Let the helper end by itself: it does when nobody talks to it any more."""
        for pipe in (self._to, self._from):
            with suppress(OSError):
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """Leave the helper to the process this one was forked from."""
        self._process.returncode = 0  # no child of ours: nothing to wait for


class Served:
    """The helper's side: where its messages come from and go to."""

    def __init__(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._from = os.fdopen(os.dup(0), "rb", buffering=1 << 16)
        self._to = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)

    def receive(self) -> bytearray:
        """Next message; ends the process when the parent is gone."""
        try:
            return read_frame(self._from)
        except (EOFError, OSError):
            os._exit(0)

    def send(self, *parts: bytes | memoryview) -> None:
        """Send one message, given in parts."""
        try:
            write_frame(self._to, *parts)
        except OSError:
            os._exit(0)


def limit_memory(more_bytes: int) -> None:
    """Let this process take so much more memory than it has now, where the system can hold it to that."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        status = Path("/proc/self/status").read_text(encoding="ascii")
        has = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData")) * 1024
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = has + more_bytes if hard == resource.RLIM_INFINITY else min(hard, has + more_bytes)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def end_after(seconds: float, computing: bool = False) -> None:
    """Let the system end this process, also one that hangs in a library, unless this is called again before then.

    Zero takes the bound away. With `computing` only seconds of computing count, not those of waiting. Where there are
    no timers there is no bound.
    """
    if hasattr(signal, "setitimer"):  # nobody handles SIGALRM and SIGPROF: they end the process
        signal.setitimer(signal.ITIMER_PROF if computing else signal.ITIMER_REAL, seconds)


def write_frame(to: IO[bytes] | Any, *parts: bytes | memoryview) -> None:
    """Write one message."""
    total = sum(len(memoryview(part).cast("B")) for part in parts)
    for part in (total.to_bytes(LONGEST_NUMBER, "little"), *parts):
        view = memoryview(part).cast("B")
        while view:
            view = view[to.write(view) or 0 :]
    to.flush()


def read_frame(source: IO[bytes]) -> bytearray:
    """Read one message.

    Raises
    ------
    EOFError
        If it does not come, or not whole.
    """
    start = source.read(LONGEST_NUMBER)
    if len(start) < LONGEST_NUMBER:
        raise EOFError
    content = bytearray(int.from_bytes(start, "little"))
    view = memoryview(content)
    while view:
        count = source.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        view = view[count:]
    return content


def _widen(pipe: IO[bytes]) -> None:
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
