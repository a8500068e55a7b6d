"""`mer evaluate --without`, `--missing`, `--noise`: what is taken away, and that nothing else changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mer.cache import FeatureStore, MerError
from mer.pipeline.cli import app
from mer.pipeline.results.disturbance import Disturbance
from mer.pipeline.results.evaluate import evaluate

RUNS = Path(__file__).parents[1] / "data" / "version-0.1.0"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A trained run of face and text, and its features."""
    folder = tmp_path_factory.mktemp("disturbed") / "made"
    shutil.copytree(RUNS, folder)
    return folder / "run-drkf", folder / "demo.h5"


def outputs(run: tuple[Path, Path], asked: Disturbance) -> np.ndarray:
    found = evaluate(*run, "cpu", asked)
    assert found.same is None
    return np.concatenate([part.outputs for part in found.parts.values()])


def test_nothing_asked_is_nothing_changed(run: tuple[Path, Path]) -> None:
    assert evaluate(*run, "cpu", Disturbance(seed=3)).same is True


def test_without_a_modality_is_as_if_it_had_never_been_there(run: tuple[Path, Path]) -> None:
    """Its features may then be anything: noise on top changes the other modality's part alone."""
    plain = np.concatenate([part.outputs for part in evaluate(*run, "cpu").parts.values()])
    alone = {name: outputs(run, Disturbance(without=(name,))) for name in ("text", "face")}
    assert not np.allclose(alone["text"], plain, atol=1e-3)
    assert not np.allclose(alone["text"], alone["face"], atol=1e-3)
    told = evaluate(*run, "cpu", Disturbance(without=("text",))).record()
    assert "without text" in told["notes"]
    assert told["same_as_recorded"] is None


def test_missing_takes_the_share_it_says_and_never_all(run: tuple[Path, Path]) -> None:
    keys = [f"u{row}" for row in range(4000)]
    present = {m: np.ones(4000, dtype=bool) for m in ("text", "audio", "face")}
    present["face"][:1000] = False
    hidden = Disturbance(missing=0.5, seed=1).hidden(keys, present)
    assert not (hidden["face"] & ~present["face"]).any()
    left = sum((present[m] & ~hidden[m]).astype(int) for m in present)
    assert left.min() == 1
    # Of three modalities 1/2 is lost, less the 1/8 of utterances that lose all, which keep one of three.
    for name in present:
        assert hidden[name][1000:].mean() == pytest.approx(1 / 2 - 1 / 24, abs=0.03)
    again = Disturbance(missing=0.5, seed=1).hidden(keys[::-1], {m: x[::-1] for m, x in present.items()})
    assert all(np.array_equal(again[m][::-1], hidden[m]) for m in present)
    other = Disturbance(missing=0.5, seed=2).hidden(keys, present)
    assert any(not np.array_equal(other[m], hidden[m]) for m in present)


def test_noise_and_zeros_reach_the_head(run: tuple[Path, Path]) -> None:
    quiet, loud = (outputs(run, Disturbance(noise=size)) for size in (1e-6, 3.0))
    plain = np.concatenate([part.outputs for part in evaluate(*run, "cpu").parts.values()])
    assert np.allclose(quiet, plain, atol=1e-3)
    assert not np.allclose(loud, plain, atol=1e-2)
    assert np.array_equal(loud, outputs(run, Disturbance(noise=3.0)))
    zeros = outputs(run, Disturbance(without=("text",), fill="zeros"))
    assert not np.allclose(zeros, outputs(run, Disturbance(without=("text",))), atol=1e-4)


def test_the_command_says_what_was_done_and_refuses_what_it_cannot(run: tuple[Path, Path]) -> None:
    command = ["evaluate", str(run[0]), "-f", str(run[1]), "--device", "cpu"]
    done = CliRunner().invoke(app, [*command, "--missing", "0.3", "--json"])
    assert done.exit_code == 0, done.output
    assert "modalities missing with probability 0.3, never all (seed 0)" in json.loads(done.stdout)["notes"][-1]
    for asked, told in (
        (Disturbance(without=("audio",)), "--without audio: the run has"),
        (Disturbance(without=("text", "face")), "leaves the run nothing"),
        (Disturbance(missing=1.0), "--missing 1: must be at least 0 and below 1"),
        (Disturbance(noise=-1.0), "--noise -1"),
        (Disturbance(fill="mean"), "--fill mean: use one of absent, zeros"),
    ):
        with pytest.raises(MerError, match=told):
            evaluate(*run, "cpu", asked)
    assert len(FeatureStore.open(run[1]).utterances) == 36
