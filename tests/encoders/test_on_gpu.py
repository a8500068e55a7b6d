"""Encoders on a GPU: the numbers of the CPU, batches of any make-up, and a memory that is not enough."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from tiny_checkpoints import EVERY, FEW
from tiny_checkpoints import MAKERS as CHECKPOINTS

from mer.cache import FeatureSequence
from mer.stages.encoders.batching import GPU_BUDGETS, GPU_LANES, begin_lane, find_budget
from mer.stages.encoders.testing import MAKERS, difference, encode_all


def encoded(loaded: Any, items: list[Any], budget: int, threads: int = 1) -> list[FeatureSequence]:
    found = encode_all(loaded, items, budget, threads)
    assert all(isinstance(sequence, FeatureSequence) for sequence in found), found
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(("modality", "family"), EVERY)
def test_a_gpu_gives_the_features_of_a_cpu(gpu: str, tiny: Any, modality: str, family: str) -> None:
    encoder = tiny(modality, family, layers="all")
    items = list(MAKERS[modality]())
    here, there = (encoded(encoder.load(device), items, FEW[modality]) for device in ("cpu", gpu))
    for one, other in zip(here, there, strict=True):
        greatest, cosine = difference(one, other)
        assert greatest <= 1e-3
        assert cosine >= 1 - 1e-5


@pytest.mark.parametrize(("modality", "family"), EVERY)
def test_bfloat16_batches_equal_their_singles_within_its_rounding(
    gpu: str, tiny: Any, modality: str, family: str
) -> None:
    loaded = tiny(modality, family, precision="bfloat16").load(gpu)
    items = list(MAKERS[modality]())
    together, alone = encoded(loaded, items, 10 * FEW[modality]), encoded(loaded, items, 1)
    exact = encoded(tiny(modality, family).load("cpu"), items, FEW[modality])
    for batch, single, true in zip(together, alone, exact, strict=True):
        assert difference(batch, single)[1] >= 0.99
        assert difference(batch, true)[1] >= 0.98


@pytest.mark.parametrize(("modality", "family"), EVERY)
def test_batches_in_flight_together_equal_batches_in_turn(gpu: str, tiny: Any, modality: str, family: str) -> None:
    loaded = tiny(modality, family, layers="all").load(gpu)
    items = list(MAKERS[modality]()) * 3
    in_turn = encoded(loaded, items, FEW[modality])
    for _ in range(3):
        for one, other in zip(in_turn, encoded(loaded, items, FEW[modality], GPU_LANES), strict=True):
            assert difference(other, one)[0] <= 1e-4


def test_batches_in_flight_have_streams_of_their_own(gpu: str) -> None:
    if gpu == "cpu":
        pytest.skip("only a GPU has streams")
    both = threading.Barrier(GPU_LANES)

    def stream() -> int:
        both.wait(timeout=60)
        return int(torch.cuda.current_stream(gpu).cuda_stream)

    with ThreadPoolExecutor(GPU_LANES, initializer=begin_lane, initargs=(gpu, 0)) as lanes:
        found = {begun.result() for begun in [lanes.submit(stream) for _ in range(GPU_LANES)]}
    assert len(found | {torch.cuda.default_stream(gpu).cuda_stream}) == GPU_LANES + 1


@pytest.mark.parametrize("modality", list(CHECKPOINTS))
def test_the_budget_that_is_found_can_be_used(gpu: str, tiny: Any, modality: str) -> None:
    encoder = tiny(modality, next(iter(CHECKPOINTS[modality])))
    loaded = encoder.load(gpu)
    budget = find_budget(loaded, modality, gpu)
    items = list(MAKERS[modality]()) * 4
    assert 0 < budget <= GPU_BUDGETS[modality]
    for one, other in zip(encoded(loaded, items, budget), encoded(encoder.load("cpu"), items, 1), strict=True):
        assert difference(one, other)[0] <= 1e-3


@pytest.fixture
def little_memory(gpu: str) -> Iterator[None]:
    """Allow the device 64 MiB beyond what is in use."""
    if gpu == "cpu":
        pytest.skip("only a GPU's memory can be rationed")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(gpu) + 2**26) / total, gpu)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, gpu)


def test_batches_beyond_the_memory_are_halved_and_nothing_is_lost(
    gpu: str, tiny: Any, little_memory: None, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = tiny("text", "roberta", layers="all").load(gpu)
    items: list[Any] = ["one two three four five six " * (30 + number % 3) for number in range(1500)]
    together = encoded(loaded, items, 10**9)
    assert "halving" in caplog.text
    for place in (0, 700, 1499):
        np.testing.assert_allclose(together[place].values, loaded.encode([items[place]])[0].values, atol=1e-3)
