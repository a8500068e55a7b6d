"""Training on a GPU: the CPU's numbers where nothing is drawn at random, every head, every way to run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer.pipeline.training.run_folder import Run
from mer.stages.heads.catalog import CATALOG
from training.killing import in_a_process

from .toy import fit, without_draws


def outputs(run: Run) -> list[np.ndarray[Any, Any]]:
    return [run.predictions(member["name"]).outputs for member in run.members]


@pytest.mark.parametrize("head", ["linear", "concat", "drkf", "fdrl"])
@pytest.mark.parametrize("parallel", ["sequential", "stacked"])
def test_a_gpu_trains_to_the_predictions_of_a_cpu(
    gpu: str, toy: Path, tmp_path: Path, quick: dict[str, Any], head: str, parallel: str
) -> None:
    given = {**quick, **without_draws(head), "train.precision": "float32"}
    given |= {"head": head, "seeds": 2, "train.epochs": 2, "parallel": parallel}
    here = fit(toy, tmp_path / "here", {**given, "device": "cpu"})
    there = fit(toy, tmp_path / "there", {**given, "device": gpu})
    assert there.facts["engine"]["stack"] == (2 if parallel == "stacked" else 1)
    for one, other in zip(outputs(here), outputs(there), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-3)


@pytest.mark.parametrize("head", sorted(CATALOG))
@pytest.mark.parametrize("target", ["emotion", "tags", "valence"])
def test_every_head_learns_every_target_in_bfloat16(
    gpu: str, toy: Path, tmp_path: Path, quick: dict[str, Any], head: str, target: str
) -> None:
    given = {**quick, "head": head, "target": target, "device": gpu, "seeds": 2, "train.precision": "bfloat16"}
    run = fit(toy, tmp_path / "run", {**given, "train.epochs": 8, "train.lr": 0.01})
    assert all(np.isfinite(each).all() for each in outputs(run))
    losses = [entry["task"] for entry in run.history(run.members[0]["name"])]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("context", ["bigru", "transformer"])
def test_dialogue_context_runs_on_a_gpu(
    gpu: str, toy: Path, tmp_path: Path, quick: dict[str, Any], context: str
) -> None:
    given = {**quick, "head": "concat", "context": context, "device": gpu, "train.precision": "bfloat16"}
    run = fit(toy, tmp_path / "run", given)
    assert all(np.isfinite(each).all() for each in outputs(run))


def test_streaming_changes_nothing_on_a_gpu(gpu: str, toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    given = {**quick, "device": gpu, "train.precision": "float32", "train.deterministic": True}
    whole = fit(toy, tmp_path / "whole", given)
    blocks = fit(toy, tmp_path / "blocks", {**given, "memory_gb": 2e-6})
    assert blocks.facts["engine"]["streamed"]
    for one, other in zip(outputs(whole), outputs(blocks), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("parallel", ["sequential", "stacked"])
def test_a_killed_run_goes_on_to_the_same_predictions(
    gpu: str, toy: Path, tmp_path: Path, quick: dict[str, Any], parallel: str
) -> None:
    given = {**quick, "features": toy, "head": "drkf", "head.dim": 8, "seeds": 2, "parallel": parallel, "device": gpu}
    given |= {"train.epochs": 4, "train.deterministic": True, "checkpoint_seconds": 0.0}
    assert in_a_process({**given, "out": tmp_path / "calm"}) == 0
    assert in_a_process({**given, "out": tmp_path / "killed"}, 5) == -9
    assert in_a_process({**given, "out": tmp_path / "killed"}) == 0
    calm, killed = Run.open(tmp_path / "calm"), Run.open(tmp_path / "killed")
    for one, other in zip(outputs(calm), outputs(killed), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
