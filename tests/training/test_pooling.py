"""Steps averaged once, beside a loop that averages them one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mer.cache import FeatureBlock, FeatureStore
from mer.pipeline.results.evaluate import evaluate
from mer.pipeline.training import pooling
from mer.pipeline.training.pooling import pool_steps
from mer.pipeline.training.run import train
from mer.pipeline.training.settings import build_options
from mer.pipeline.training.tensors import Gatherer, Normaliser, Source
from mer.stages.heads.base import ALL_STEPS

CPU = torch.device("cpu")


def block_of(lengths: list[int], seed: int, dtype: Any = np.float16) -> FeatureBlock:
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1])
    values = rng.normal(3, 2, (total, 4)).astype(dtype)
    fates = np.zeros(len(lengths), np.uint8)
    return FeatureBlock(values, np.zeros((total, 2), np.float32), rng.random(total) < 0.7, offsets, fates)


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    most=st.integers(0, 20),
    window=st.sampled_from([1, 2, 3, 4, 7, ALL_STEPS]),
    left_out=st.integers(0, 7),
    chunk=st.sampled_from([1, 200, 1 << 20]),
    seed=st.integers(0, 3),
)
def test_each_mean_is_that_of_its_valid_steps(
    lengths: list[int], most: int, window: int, left_out: int, chunk: int, seed: int
) -> None:
    block = block_of(lengths, seed)
    block.values[~block.valid] = np.nan  # must not be read
    use = np.array(lengths)
    use[left_out:] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooling, "CHUNK_BYTES", chunk)
        found = pool_steps(block, use, most, window)
    assert found.values.dtype == np.float32
    for row, count in enumerate(use.tolist()):
        kept = min(count, most) if most else count
        steps = [block.offsets[row] + t * count // kept for t in range(kept)]
        groups = [steps[i : i + window] for i in range(0, kept, window)]
        assert found.lengths[row] == len(groups)
        for place, group in enumerate(groups, found.starts[row]):
            good = [block.values[s].astype(np.float64) for s in group if block.valid[s]]
            assert found.valid[place] == bool(good)
            np.testing.assert_allclose(found.values[place], np.mean(good, 0) if good else 0, rtol=1e-6, atol=1e-6)
    assert len(found.values) == found.lengths.sum()


def test_averaging_first_gives_what_averaging_the_normalised_batch_gives(toy: Path) -> None:
    """A head that is given every step and averages four of them sees the same numbers."""
    store = FeatureStore.open(toy)
    sets = {"audio": store.pick("audio")}
    rows, labels = np.array([3, 9, 9, 41]), torch.zeros(120)
    normaliser = Normaliser(torch.linspace(-2, 2, 4), torch.linspace(0.5, 3, 4))
    plain, pooled = (Source.open(store, sets, {"audio": 9}, {"audio": window}) for window in (1, 4))
    every, found = (
        Gatherer.of(source, labels, {"audio": normaliser}, CPU).batch(source.window(CPU), rows)
        for source in (plain, pooled)
    )
    for row in range(len(rows)):
        for place in range(found.values["audio"].shape[1]):
            group = slice(4 * place, 4 * place + 4)
            valid = every.valid["audio"][row, group]
            assert found.valid["audio"][row, place] == valid.any()
            if valid.any():
                wanted = every.values["audio"][row, group][valid].mean(0)
                torch.testing.assert_close(found.values["audio"][row, place], wanted, atol=2e-5, rtol=1e-5)


def test_stored_values_are_let_go_once_their_means_are_on_the_device_and_read_again_if_need_be(toy: Path) -> None:
    store = FeatureStore.open(toy)
    sets = {m: store.pick(m) for m in ("text", "audio")}
    source = Source.open(store, sets, {}, {"audio": 4})
    before = source.statistics([np.arange(60)])
    first = source.window(CPU)
    assert set(source.blocks) == {"text"}
    after, second = source.statistics([np.arange(60)]), source.window(CPU)
    assert torch.equal(before["audio"][0].mean, after["audio"][0].mean)
    assert torch.equal(first.flats["audio"].values, second.flats["audio"].values)
    rows = np.arange(120)
    assert source.bytes_of(rows) == sum(
        flat.values.numel() * flat.values.element_size() for flat in first.flats.values()
    )


@pytest.mark.parametrize("head", ["linear", "concat"])
def test_a_run_scores_alike_when_it_is_trained_streamed_and_when_it_is_evaluated(
    make_toy: Callable[..., Path], quick: dict[str, Any], tmp_path: Path, head: str
) -> None:
    cache = make_toy()
    runs = []
    for name, memory in (("resident", None), ("streamed", 1e-9)):
        given = {**quick, "head": head, "features": cache, "out": tmp_path / name, "memory_gb": memory}
        runs.append(train(build_options(given)).run)
    assert runs[1].facts["engine"]["streamed"]
    assert runs[0].facts["metrics"] == runs[1].facts["metrics"]
    assert evaluate(runs[0].path, device="cpu").metrics == runs[0].facts["metrics"]
