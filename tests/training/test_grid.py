"""`mer train --head a,b --context c,d`: what is trained, what is taken again, and how it is compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mer.pipeline.cli import app
from mer.pipeline.library.grid import asked_grid
from mer.pipeline.results.compare import compare
from mer.pipeline.training.run_folder import Run


def ask(*arguments: object) -> str:
    outcome = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_a_grid_trains_all_and_compares_with_the_best_baseline_on_validation(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid"
    command = ["train", "-f", toy, "--head", "mlp,drkf", "--context", "none,bigru", "--seeds", 1, "--epochs", 1]
    command += ["--device", "cpu", "--out", out, "--set", "head.dim=8"]
    rows = json.loads(ask(*command, "--json"))
    assert {row["name"] for row in rows} == {"mlp", "mlp-bigru", "drkf", "drkf-bigru"}
    base, *others = rows
    assert base["difference"] is None
    validation = {
        name: np.mean([m["best_score"] for m in Run.open(out / name).members]) for name in ("mlp", "mlp-bigru")
    }
    assert base["name"] == max(validation, key=lambda name: validation[name])
    pairs = compare([out / base["name"], *(out / row["name"] for row in others)])
    assert [row["difference"] for row in others] == [pair.difference for pair in pairs]
    assert [row["p_holm"] for row in others] == [pair.p_holm for pair in pairs]
    assert all(Run.open(out / row["name"]).facts["parameters"] == row["parameters"] for row in rows)
    written = {name: (out / name / "run.json").stat().st_mtime_ns for name in ("mlp", "drkf-bigru")}
    shown = ask(*command)
    assert "baseline" in shown
    assert f"grid: {out}" in shown
    assert all((out / name / "run.json").stat().st_mtime_ns == when for name, when in written.items())
    with (out / "grid.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert [row["name"] for row in listed] == [row["name"] for row in rows]


def test_heads_may_come_from_a_file_and_from_settings(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text('head = "drkf, concat"\n[context]\nkind = "none,bigru"\n')
    assert asked_grid({}, file) == (("drkf", "concat"), ("none", "bigru"))
    assert asked_grid({"head": "late"}, file, ["context=none"]) == (("late",), ("none",))
    assert asked_grid({}, None) == (("drkf",), ("none",))


def test_an_unknown_head_stops_a_grid_before_anything_is_trained(toy: Path, tmp_path: Path) -> None:
    command = ["train", "-f", str(toy), "--head", "linear,lienar", "--out", str(tmp_path / "grid"), "--device", "cpu"]
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code != 0
    assert "unknown head 'lienar'; did you mean 'linear'" in str(outcome.exception or "") + outcome.output
    assert not (tmp_path / "grid").exists()
    with pytest.raises(Exception, match=r"context.kind is 'gru'"):
        CliRunner().invoke(app, [*command[:4], "linear,mlp", "--context", "none,gru"], catch_exceptions=False)
