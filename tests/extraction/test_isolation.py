"""Clips that crash, hang or swallow their decoder: each is a failed utterance, and the run goes on."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folder_clips import HERE, Extract, write_manifest
from odd_finders import BRIGHTNESS, OddFinder, write_odd_clip
from synthetic import write_clip

from mer.cache import Fate, FeatureStore, MerError
from mer.pipeline.extraction.decoding import TaskSettings
from mer.pipeline.extraction.isolation import clip_helpers, decode_apart
from mer.pipeline.extraction.jobs import Job
from mer.pipeline.extraction.run import extract

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this platform has no alarms")

REASONS = {
    "crash": "the decoder crashes on it (signal SIGSEGV)",
    "hang": "it could not be decoded in the time that a clip has (--clip-timeout)",
    "memory": "its picture cannot be used: there is not enough memory for it",
    "fault": "it cannot be used: 'a fault of ours'",
    "trouble": "its picture cannot be used: a bus error of the grabber",
}


def job_of(path: Path) -> Job:
    return Job(path.stem, None, str(path), None, None, None, None, "", b"", path.stem.encode().ljust(16))


@pytest.fixture
def settings() -> TaskSettings:
    """Settings whose finder is odd; a helper has three seconds."""
    return TaskSettings("mean", 5.0, OddFinder.make(), decode_threads=2, clip_timeout_seconds=3.0)


def test_every_trouble_is_the_fate_of_its_clip_alone(
    options: Extract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A whole run over clips of each trouble, between clips without: they keep the features that they have alone."""
    monkeypatch.setattr("mer.stages.faces.finder.resolve_finder", OddFinder.make)
    folder = tmp_path / "odd"
    folder.mkdir()
    for trouble in BRIGHTNESS:
        write_odd_clip(folder / f"{trouble}.mp4", trouble)
        write_clip(folder / f"after-{trouble}.mp4", seconds=0.5)
    rows = [
        {"id": f"{kind}{trouble}", "path": f"{kind}{trouble}.mp4"} for trouble in BRIGHTNESS for kind in ("", "after-")
    ]
    write_manifest(folder, rows)
    given = options(root=folder, encoders={"audio": ("demo-audio",), "face": ("demo-face",)})
    with caplog.at_level(logging.ERROR, "mer"):
        extract(given, replace(HERE, clip_timeout_seconds=3.0))
    assert [record.message.splitlines()[0] for record in caplog.records] == [
        "a fault of mer showed with fault; please report it:"
    ]
    assert "odd_finders.py" in caplog.text
    store = FeatureStore.open(given.catalogue)
    audio, face = (store.index(store.pick(modality)) for modality in ("audio", "face"))
    for row, key in enumerate(store.utterances.keys):
        if key in REASONS:
            assert (face.fates[row], face.reasons[row]) == (Fate.FAILED, REASONS[key])
        else:
            assert audio.fates[row] == Fate.OK
            assert audio.length[row] == audio.length[1]
    (tmp_path / "alone").mkdir()
    (folder / "after-crash.mp4").rename(tmp_path / "alone" / "after-crash.mp4")
    write_manifest(tmp_path / "alone", [{"id": "after-crash", "path": "after-crash.mp4"}])
    alone = options(root=tmp_path / "alone", out=tmp_path / "alone.h5", encoders={"audio": ("demo-audio",)})
    extract(alone, replace(HERE, isolated=False))
    name = store.pick("audio")
    one = FeatureStore.open(alone.catalogue).read(name, "after-crash")
    np.testing.assert_allclose(store.read(name, "after-crash").values, one.values, atol=2e-3)


def test_a_helper_that_is_killed_from_outside_costs_nothing(settings: TaskSettings, tmp_path: Path) -> None:
    job = job_of(write_clip(tmp_path / "clip.mp4", seconds=1.0))
    whole = decode_apart(job, {"audio"}, settings)
    (helper,) = clip_helpers()._idle[-1:]
    os.kill(helper.pid, signal.SIGKILL)
    again = decode_apart(job, {"audio"}, settings)
    assert whole.waveform is not None
    assert again.waveform is not None
    assert (again.waveform == whole.waveform).all()
    assert again.waveform.flags.writeable


def test_stopping_does_not_wait_for_a_clip(settings: TaskSettings, tmp_path: Path) -> None:
    job = job_of(write_odd_clip(tmp_path / "hang.mp4", "hang"))
    told: list[BaseException] = []

    def wait() -> None:
        try:
            decode_apart(job, {"face"}, replace(settings, clip_timeout_seconds=300.0))
        except MerError as error:
            told.append(error)

    clip_helpers().start(1)
    waiting = threading.Thread(target=wait)
    waiting.start()
    while not clip_helpers()._busy:
        time.sleep(0.01)
    time.sleep(0.5)
    clip_helpers().stop()
    waiting.join(timeout=20)
    assert [str(error) for error in told] == ["interrupted"]
    clip_helpers().start(0)


def test_a_finder_that_cannot_be_loaded_ends_the_run(settings: TaskSettings, tmp_path: Path) -> None:
    (tmp_path / "not.onnx").write_bytes(b"no model")
    broken = replace(settings.finder, detector="yunet", model=str(tmp_path / "not.onnx"))
    with pytest.raises(MerError, match="cannot be used as YuNet"):
        decode_apart(job_of(write_clip(tmp_path / "clip.mp4")), {"face"}, replace(settings, finder=broken))
