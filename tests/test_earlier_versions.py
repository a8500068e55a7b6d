"""What earlier versions made opens, checks, scores and predicts as it did then.

`data/version-0.1.0` was made by `mer extract --corpus demo --limit 36 --preset demo --audio-encoder none`, `mer pack`
and `mer train --head drkf|fdrl --set head.dim=16`; `expected.json` holds what that version printed of it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mer.cache import FeatureStore, verify
from mer.pipeline.cli import app
from mer.pipeline.extraction.restore import restore_encoder
from mer.pipeline.training.run_folder import Run
from mer.stages.encoders.catalog import make_encoder

MADE = Path(__file__).parent / "data" / "version-0.1.0"
EXPECTED: dict[str, Any] = json.loads((MADE / "expected.json").read_text())
HEADS = sorted(EXPECTED)


def mer(*words: object) -> Any:
    outcome = CliRunner().invoke(app, [str(word) for word in words])
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MADE, tmp_path / "made"))


@pytest.mark.parametrize("name", ["demo.h5", "demo-pack.h5"])
def test_a_cache_and_a_pack_are_whole_and_counted(name: str, made: Path) -> None:
    assert verify(made / name) == []
    facts = mer("info", made / name, "--json")
    assert facts["utterances"]["count"] == 36
    assert sorted(facts["sets"]) == ["face-demo-face-6818a826", "text-demo-text-108d7721"]


@pytest.mark.parametrize("head", HEADS)
def test_a_run_scores_as_it_did(head: str, made: Path) -> None:
    found = mer("evaluate", made / f"run-{head}", "--features", made / "demo-pack.h5", "--device", "cpu", "--json")
    assert found["same_as_recorded"]
    for metric, then in EXPECTED[head]["metrics"].items():
        # its interval is Student's by now, that of 0.1.0 came of resampling
        assert found["metrics"][metric]["mean"] == pytest.approx(then["mean"], abs=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_a_run_predicts_as_it_did(head: str, made: Path) -> None:
    words = EXPECTED[head]["words"]
    (answer,) = mer("predict", made / f"run-{head}", "--text", words, "--device", "cpu", "--json")["clips"]
    assert answer["probabilities"] == pytest.approx(EXPECTED[head]["probabilities"], abs=1e-4)


def test_its_specs_are_those_that_the_encoders_have_now(made: Path) -> None:
    store = FeatureStore.open(made / "demo.h5")
    for name, index in store.sets.items():
        if index.spec.modality == "text":
            assert restore_encoder(index.spec).spec(index.spec.inputs, index.spec.dtype).set_name == name
    assert Run.open(made / "run-drkf").specs.keys() == {"text", "face"}
    audio = make_encoder("audio", "demo-audio", "last", "float32").resolve()
    sound = {"sample_rate_hz": 16000, "channel": "mean", "resampler": "soxr_hq"}
    assert audio.spec(sound, "float16").set_name == "audio-demo-audio-5b6ab2a4"
