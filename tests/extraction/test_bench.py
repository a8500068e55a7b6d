"""`mer bench`: the loops it compares make the same features, and the ratios follow from the times it reports."""

from __future__ import annotations

import json
import timeit

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mer.pipeline.cli import app
from mer.pipeline.matrix_rate import matrix_rate, operations


@pytest.mark.parametrize("modality", ["text", "audio", "face"])
def test_the_loops_agree_and_the_ratios_follow(modality: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mer.pipeline.bench.matrix_rate", lambda device, precision: 1e13)  # no clock of this machine
    asked = ["bench", "--size", "tiny", "--limit", "5", "--repeat", "2", "--device", "cpu", "--json"]
    outcome = CliRunner().invoke(app, [*asked, "--modality", modality])
    assert outcome.exit_code == 0, outcome.output
    (rate,) = json.loads(outcome.stdout)
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
