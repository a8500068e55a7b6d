"""`mer bench`: the loops it compares make the same features, and the ratios follow from the times it reports."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mer.pipeline.cli import app


@pytest.mark.parametrize("modality", ["text", "audio", "face"])
def test_the_loops_agree_and_the_ratios_follow(modality: str) -> None:
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
    assert rate["stage_seconds"][f"encode {modality}"] > 0
