"""Clips are decoded in helper processes: one that crashes, hangs or swallows its decoder is a failed utterance.

The helpers of a process are started once and serve all of its tasks; one that dies is replaced. What they send back,
sound and face crops, is small beside the work of decoding, and is received without a copy.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import threading
import weakref
from collections.abc import Iterable
from typing import Any

from mer.cache import Fate, MerError
from mer.cache.helper_process import HelperDiedError, HelperProcess, Served, end_after, limit_memory

from .decoding import Decoded, TaskSettings, decode, loaded_finder
from .jobs import Job

MEMORY_BYTES = 4 << 30
"""What one clip may take in a helper; four hours of sound need half of it."""
FIRST_SECONDS = 120.0
SECONDS_PER_SECOND = 30.0
"""Time a clip has when nobody says otherwise: so much, and so much again for each of its seconds."""
ATTEMPTS = 2
"""Helpers that a clip may crash: the first may have died of an earlier clip, or of something outside."""

_MODULE = "mer.pipeline.extraction.isolation"
_ALARM = "signal SIGALRM"


class ClipHelpers:
    """Helper processes of this process. Threads borrow them; there are as many as clips that are decoded at once."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[HelperProcess] = []
        self._busy: set[HelperProcess] = set()
        self._started: weakref.WeakSet[HelperProcess] = weakref.WeakSet()
        self._stopped = False

    def start(self, count: int) -> None:
        """Have so many helpers ready, which start up while something else is done."""
        with self._changed:
            self._stopped = False
            self._idle += [HelperProcess(_MODULE) for _ in range(count - len(self._idle) - len(self._busy))]

    def decode(self, job: Job, media: Iterable[str], settings: TaskSettings) -> Decoded:
        """`decode`, in a helper.

        Raises
        ------
        MerError
            If it meets trouble that is not the clip's own, or the work was stopped.
        """
        asked = pickle.dumps((job, sorted(media), settings))
        for attempt in range(ATTEMPTS):
            helper = self._borrow(settings.decode_threads, fresh=attempt > 0)
            try:
                self._wait_for_start(helper)
                helper.send(asked)
                decoded = _received(helper)
            except HelperDiedError as error:
                self._give_back(helper, alive=False)
                how = str(error)
                if how == _ALARM:
                    return _failed("it could not be decoded in the time that a clip has (--clip-timeout)")
            except BaseException:
                self._give_back(helper, alive=False)
                raise
            else:
                self._give_back(helper, alive=True)
                if isinstance(decoded, MerError):
                    raise decoded
                return decoded
        return _failed(f"the decoder crashes on it ({how})")

    def _wait_for_start(self, helper: HelperProcess) -> None:
        if helper in self._started:
            return
        try:
            helper.receive()
        except HelperDiedError as error:
            with self._changed:
                if not self._stopped:
                    raise MerError(
                        f"the helper process in which clips are decoded does not start ({error}); "
                        "see above, or add --no-isolation to decode in this process"
                    ) from error
            raise
        self._started.add(helper)

    def stop(self) -> None:
        """End all helpers at once, also those at work."""
        with self._changed:
            self._stopped = True
            for helper in self._busy:
                helper.end()
            for helper in self._idle:
                helper.kill()
            self._idle = []
            self._changed.notify_all()

    def close(self) -> None:
        """Let idle helpers end."""
        with self._changed:
            idle, self._idle = self._idle, []
        for helper in idle:
            helper.close()

    def _borrow(self, most: int, fresh: bool) -> HelperProcess:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._busy) < most)
            if self._stopped:
                raise MerError("interrupted")
            if fresh and self._idle:
                self._idle.pop().kill()
            helper = HelperProcess(_MODULE) if fresh or not self._idle else self._idle.pop()
            self._busy.add(helper)
            return helper

    def _give_back(self, helper: HelperProcess, alive: bool) -> None:
        with self._changed:
            self._busy.discard(helper)
            if self._stopped or not alive:
                helper.kill()
            else:
                self._idle.append(helper)
            self._changed.notify()
            if self._stopped:
                raise MerError("interrupted")


_OF_PROCESS: dict[int, ClipHelpers] = {}


def clip_helpers() -> ClipHelpers:
    """Helpers of this process; those of the process it was forked from are left to that one."""
    if os.getpid() not in _OF_PROCESS:
        _OF_PROCESS.clear()
        _OF_PROCESS[os.getpid()] = helpers = ClipHelpers()
        atexit.register(helpers.close)
    return _OF_PROCESS[os.getpid()]


def decode_apart(job: Job, media: set[str], settings: TaskSettings) -> Decoded:
    """`decode`, in a helper process unless the settings say otherwise."""
    if not settings.isolated:
        return decode(job, media, settings)
    return clip_helpers().decode(job, media, settings)


def _received(helper: HelperProcess) -> Decoded | MerError:
    lengths = json.loads(helper.receive())
    content = helper.receive()
    buffers = [helper.receive() for _ in range(lengths)]
    decoded: Decoded | MerError = pickle.loads(content, buffers=buffers)
    return decoded


def _failed(reason: str) -> Decoded:
    return Decoded(sound_fate=(Fate.FAILED, reason), face_fate=(Fate.FAILED, reason))


# --- in the helper ------------------------------------------------------------------------------------------------


def main() -> None:
    """Decode clips for the parent, until it goes away."""
    served = Served()
    _import_decoders()
    limit_memory(MEMORY_BYTES)
    served.send(b"started")
    while True:
        job, media, settings = pickle.loads(served.receive())
        answer: Any
        try:
            if "face" in media:
                loaded_finder(settings.finder)
            end_after(settings.clip_timeout_seconds or FIRST_SECONDS)
            answer = decode(job, set(media), settings, None if settings.clip_timeout_seconds else _give_time)
        except MerError as error:
            answer = error
        finally:
            end_after(0)
        buffers: list[pickle.PickleBuffer] = []
        content = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
        served.send(json.dumps(len(buffers)).encode())
        served.send(content)
        for buffer in buffers:
            served.send(buffer.raw())
        del answer, buffers, content


def _give_time(seconds: float) -> None:
    """Give a clip of this length its time."""
    end_after(FIRST_SECONDS + SECONDS_PER_SECOND * seconds)


def _import_decoders() -> None:
    """Import what decoding needs before the first clip, so that it counts neither as its time nor as its memory."""
    import av  # noqa: F401
    import cv2
    import soxr  # noqa: F401

    cv2.setNumThreads(1)
