"""What the extras bring: Optuna's sampler and TensorBoard files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer.pipeline.training.run import train
from mer.pipeline.training.settings import build_options
from mer.pipeline.training.sweep import Sweep, _tpe, run_sweep

from .toy import parts_of_trials

TPE = """
method = "tpe"
trials = 5
seeds = 1
[space]
"train.lr" = { low = 1e-4, high = 1e-1, log = true }
"train.batch_size" = { low = 8, high = 32, int = true }
"train.normalise" = [true, false]
"""


def test_the_best_of_optunas_trials_is_trained_and_a_second_sweep_proposes_the_same(
    toy: Path, tmp_path: Path, quick: dict[str, Any]
) -> None:
    pytest.importorskip("optuna", reason="needs the extra sweep: pip install 'mer-toolkit[sweep]'")
    (tmp_path / "sweep.toml").write_text(TPE)
    trials = []
    for name in ("one", "two"):
        options = build_options({"features": toy, "out": tmp_path / name, **quick})
        recipe = run_sweep(options, tmp_path / "sweep.toml").run.facts["recipe"]
        trials.append(json.loads((tmp_path / f"{name}-trials" / "trials.json").read_text()))
        best = trials[-1][0]["settings"]
        assert {key: recipe[key.partition(".")[2]] for key in best} == best
    assert trials[0] == trials[1]
    tried = [trial["settings"] for trial in trials[0]]
    assert len(tried) == 5
    assert parts_of_trials(tmp_path / "one-trials") == [{"val"}] * 5
    assert all(1e-4 <= point["train.lr"] <= 1e-1 for point in tried)
    assert all(isinstance(point["train.batch_size"], int) for point in tried)


@pytest.mark.parametrize("lower", [True, False])
def test_optuna_is_told_which_way_is_better(lower: bool) -> None:
    pytest.importorskip("optuna", reason="needs the extra sweep: pip install 'mer-toolkit[sweep]'")
    distance: list[float] = []

    def attempt(point: dict[str, float]) -> float:
        distance.append(abs(point["train.lr"] - 0.2))
        return distance[-1] if lower else -distance[-1]

    _tpe(Sweep({"train.lr": {"low": 0.0, "high": 1.0}}, "tpe", trials=30), attempt, lambda: lower)
    assert np.mean(distance[20:]) < 0.15 < np.mean(distance[:10])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_the_history(toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs the extra tensorboard: pip install 'mer-toolkit[tensorboard]'",
    )
    summary = train(build_options({"features": toy, "out": tmp_path / "run", **quick, "tensorboard": True}))
    (folder,) = {file.parent for file in (summary.path / "tensorboard").rglob("events.*")}
    board = reading.EventAccumulator(str(folder)).Reload()
    history = summary.run.history(summary.run.members[0]["name"])
    (tag,) = [tag for tag in board.Tags()["scalars"] if tag.endswith("val_wf1")]
    assert [(event.step, event.value) for event in board.Scalars(tag)] == [
        (entry["epoch"], pytest.approx(entry["val_wf1"], abs=1e-6)) for entry in history
    ]
