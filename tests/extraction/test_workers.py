"""Worker processes that die, and checkpoints that no worker can load."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster
from distributed.comm import CommClosedError
from folder_clips import HERE, Extract, write_manifest

from mer.cache import Fate, FeatureStore, MerError
from mer.pipeline.extraction import cluster as cluster_module
from mer.pipeline.extraction.run import extract

WORDS = ("one", "two words", "a deadly word", "four words at last")
TWO = replace(HERE, workers=2)


@pytest.fixture
def transcripts(tmp_path: Path) -> Path:
    folder = tmp_path / "words"
    folder.mkdir()
    write_manifest(folder, [{"id": f"u{i}", "path": "", "text": text} for i, text in enumerate(WORDS)])
    return folder


def test_an_utterance_that_kills_its_worker_is_found_and_the_others_are_kept(
    options: Extract, transcripts: Path
) -> None:
    encoders = {"text": ("odd_encoders:Deadly",)}
    summary = extract(options(root=transcripts, encoders=encoders), replace(HERE, workers=1))
    store = FeatureStore.open(summary.catalogue)
    made = store.sets[store.pick("text")]
    assert [Fate(int(fate)).name for fate in made.fates] == ["OK", "OK", "FAILED", "OK"]
    assert "the worker process died" in made.reasons[2]
    assert store.read(store.pick("text"), "u3").values.tolist() == [[len(WORDS[3])]]


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [("Unloadable", "the weights of unloadable are damaged"), ("DeadlyToLoad", "died while it loaded the encoders")],
)
def test_what_no_worker_can_load_is_told_before_any_work(
    options: Extract, transcripts: Path, capfd: pytest.CaptureFixture[str], encoder: str, reason: str
) -> None:
    asked = options(root=transcripts, encoders={"text": (f"odd_encoders:{encoder}",)})
    with pytest.raises(MerError, match=reason):
        extract(asked, TWO)
    assert "Traceback" not in capfd.readouterr().err
    assert not list(asked.catalogue.parent.rglob("*.h5"))
    # No worker outlives the run.
    assert not [child for child in psutil.Process().children(recursive=True) if "spawn_main" in str(child.cmdline())]


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """A scheduler that has no workers yet."""
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None, protocol="tcp") as made:
        yield made


def test_a_scheduler_without_workers_is_told(
    cluster: LocalCluster,
    options: Extract,
    transcripts: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cluster_module, "WAIT_SECONDS", 1.0)
    monkeypatch.setattr(cluster_module, "WORD_AFTER_SECONDS", 0.2)
    asked = options(root=transcripts, encoders={"text": ("odd_encoders:Counting",)})
    with pytest.raises(MerError, match=r"has no workers; start some: dask worker tcp://"):
        extract(asked, replace(HERE, scheduler=cluster.scheduler_address))
    assert "waiting for workers at tcp://" in caplog.text


def test_a_worker_with_another_library_or_file_system_is_refused(
    cluster: LocalCluster, options: Extract, transcripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.scale(1)
    cluster.sync(cluster._correct_state)
    asked = options(root=transcripts, encoders={"text": ("odd_encoders:Counting",)})
    there = replace(HERE, scheduler=cluster.scheduler_address)
    whole = cluster_module._of_worker
    with monkeypatch.context() as patch:
        patch.setattr(cluster_module, "_of_worker", lambda paths: (whole(paths)[0] | {"torch": "1.0"}, []))
        with pytest.raises(MerError, match=r"has torch 1\.0 and this machine .*install the same version"):
            extract(asked, there)
    with monkeypatch.context() as patch:
        patch.setattr(cluster_module, "_of_worker", lambda paths: (whole(paths)[0], paths))
        with pytest.raises(MerError, match=r"does not see .*; corpus and --out must lie on a file system"):
            extract(asked, there)
    assert extract(asked, there).count(Fate.OK) == len(WORDS)


def test_a_scheduler_that_goes_away_is_told_in_a_sentence() -> None:
    for error in (CancelledError(), CommClosedError("gone"), TimeoutError()):
        with pytest.raises(MerError, match="the scheduler tcp://x went away; finished shards are kept"):  # noqa: SIM117
            with cluster_module.scheduler_trouble("tcp://x"):
                raise error
