"""`mer bench`: the loops it compares make the same features, and the ratios follow from the times it reports."""

from __future__ import annotations

import json
import timeit
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mer.pipeline.cli import app
from mer.pipeline.rates.cache import random_cache
from mer.pipeline.rates.matrix_rate import matrix_rate, operations
from mer.pipeline.rates.models import bench_checkpoint
from mer.pipeline.rates.training import bench_epoch
from mer.pipeline.training.model import DialogueLayout, Parts
from mer.pipeline.training.settings import build_options
from mer.pipeline.training.stacked import SingleModel


@pytest.mark.parametrize("modality", ["text", "audio", "face"])
def test_the_loops_agree_and_the_ratios_follow(modality: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mer.pipeline.rates.extraction.matrix_rate", lambda device, precision: 1e13
    )  # no clock of this machine
    asked = ["bench", "--json", "--part=extraction", "--size=tiny", "--limit=5", "--repeat", "2", "--device", "cpu"]
    outcome = CliRunner().invoke(app, [*asked, "--modality", modality])
    assert outcome.exit_code == 0, outcome.output
    (rate,) = json.loads(outcome.stdout)["extraction"]
    assert rate["clips"] == 5
    assert rate["bytes_written"] > 0
    assert rate["largest_difference"] < 2e-3  # float16 in the cache
    a, b, c = (np.array(rate["seconds"][name]) for name in "abc")
    assert len(a) == 2
    assert rate["over_loop"] == pytest.approx(np.median(b / a))
    assert rate["of_limit"] == pytest.approx(np.median(c / a))
    assert rate["of_matrix_rate"] == pytest.approx(rate["operations"] / np.median(a) / rate["matrix_rate"])
    assert 0 < rate["of_matrix_rate"] < 1
    assert rate["stage_seconds"][f"encode {modality}"] > 0


def test_the_cache_and_an_epoch_are_measured_and_the_ratios_follow() -> None:
    asked = ["bench", "--part", "cache", "--part", "training", "--head", "linear", "--head", "drkf", "--size", "tiny"]
    outcome = CliRunner().invoke(app, [*asked, "--repeat", "1", "--device", "cpu", "--json"])
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(outcome.stdout)
    assert set(found) == {"cache", "training"}
    (cache,) = found["cache"]
    assert cache["utterances"] == 60
    assert [rate["head"] for rate in found["training"]] == ["linear", "drkf"]
    for rate in (cache, *found["training"]):
        seconds = rate["seconds"]
        assert rate["over_loop"] == pytest.approx(seconds["b"] / seconds["a"])
        assert rate["of_limit"] == pytest.approx(seconds["c"] / seconds["a"])
        assert min(seconds.values()) > 0
    shown = CliRunner().invoke(app, [*asked, "--repeat", "1", "--device", "cpu"]).stdout
    assert "the cache" in shown
    assert "one epoch on cpu" in shown
    assert CliRunner().invoke(app, ["bench", "--part", "sleep"]).exit_code != 0


def test_an_unknown_modality_is_refused() -> None:
    refused = CliRunner().invoke(app, ["bench", "--modality", "video"])
    assert str(refused.exception) == "modality 'video' is not known; known: audio, face, text"


def test_the_checkpoints_are_built_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MER_CACHE", str(tmp_path))
    assert (bench_checkpoint("face", "tiny") / "model.safetensors").is_file()
    assert capfd.readouterr() == ("", "")


def test_all_sides_of_an_epoch_see_all_utterances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = random_cache(tmp_path / "random.h5", 60, 8)
    options = build_options({"features": cache, "head": "linear", "device": "cpu", "seeds": 1, "train.batch_size": 10})
    seen: list[int] = []
    losses = SingleModel.losses

    def counted(
        self: SingleModel, parts: Parts, layout: DialogueLayout | None, progress: float
    ) -> dict[str, torch.Tensor]:
        seen.append(len(parts[3]))
        return losses(self, parts, layout, progress)

    monkeypatch.setattr(SingleModel, "losses", counted)
    assert bench_epoch(options, tmp_path, repeat=1).utterances == 40
    assert sum(seen) == 3 * 2 * 40  # three sides, two turns


def test_operations_are_those_of_the_products_and_convolutions() -> None:
    product, convolution = torch.nn.Linear(5, 7, bias=False), torch.nn.Conv1d(4, 6, 3, groups=2, bias=False)

    def run() -> None:
        with torch.inference_mode():
            product(torch.ones(11, 5))
            convolution(torch.ones(1, 4, 12))

    assert operations(run) == 2 * 11 * 5 * 7 + 2 * 10 * 6 * 2 * 3


def test_the_matrix_rate_is_of_the_order_of_a_product_timed_by_hand() -> None:
    """Within a factor of 20 of one small product: a wrong unit or a forgotten count is off by more."""
    left = torch.randn(1024, 1024)
    seconds = min(timeit.repeat(lambda: left @ left, number=1, repeat=5))
    assert 1 / 20 < matrix_rate("cpu", "float32") / (2 * 1024**3 / seconds) < 20
