"""`mer extract` and `mer bench` on a GPU."""

from __future__ import annotations

import json

import numpy as np
import pytest
from folder_clips import HERE, Extract
from typer.testing import CliRunner

from mer.cache import Fate, FeatureStore
from mer.pipeline.cli import app
from mer.pipeline.extraction.options import Execution
from mer.pipeline.extraction.run import extract


def test_a_corpus_has_the_same_features_and_fates(gpu: str, options: Extract) -> None:
    given = options(precision="float32")
    here = extract(given, HERE)
    there = extract(options(precision="float32", out=given.catalogue.with_name("gpu.h5")), Execution(device=gpu))
    assert there.count(Fate.OK) == here.count(Fate.OK) == 18
    one, other = FeatureStore.open(here.catalogue), FeatureStore.open(there.catalogue)
    assert one.set_names() == other.set_names()
    for name in one.set_names():
        a, b = one.load(name), other.load(name)
        np.testing.assert_array_equal(a.offsets, b.offsets)
        np.testing.assert_allclose(a.values.astype(np.float32), b.values.astype(np.float32), atol=5e-3)


def test_bfloat16_is_the_default_and_part_of_the_spec(gpu: str, options: Extract) -> None:
    summary = extract(options(), Execution(device=gpu))
    for index in summary.made.values():
        assert json.loads(index.spec.to_json())["encoder"]["precision"] == ("float32" if gpu == "cpu" else "bfloat16")
    assert summary.count(Fate.OK) == 18


@pytest.mark.parametrize("modality", ["text", "audio", "face"])
def test_the_bench_measures_a_gpu(gpu: str, modality: str) -> None:
    asked = ["bench", "--json", "--part=extraction", "--size=tiny", "--limit=5", "--repeat", "1", "--device", gpu]
    outcome = CliRunner().invoke(app, [*asked, "--modality", modality])
    assert outcome.exit_code == 0, outcome.output
    (rate,) = json.loads(outcome.stdout)["extraction"]
    assert rate["largest_difference"] < 0.1
    assert rate["matrix_rate"] > 1e9
    assert (rate["device_peak_mb"] > 0) == (gpu != "cpu")
