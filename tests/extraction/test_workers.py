"""Worker processes that die, and checkpoints that no worker can load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from folder_clips import HERE, Extract, write_manifest

from mer.cache import Fate, FeatureStore, MerError
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
