"""Gathered batches and fold statistics against plain NumPy, resident and streamed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mer.cache import FeatureBlock, FeatureStore, MerError
from mer.pipeline.training.batches import DialogueBatch, dialogue_batches, dialogues_of, epoch_batches, epoch_shape
from mer.pipeline.training.prepare import make_training_data
from mer.pipeline.training.run import prepare_run
from mer.pipeline.training.settings import build_options
from mer.pipeline.training.tensors import Flat, Gatherer, Normaliser, Source, take
from mer.stages.heads.base import ALL_STEPS

CPU = torch.device("cpu")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_gather_is_what_a_loop_over_utterances_gives(data: st.DataObject) -> None:
    lengths = np.array(data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=8)))
    steps = data.draw(st.integers(1, 10))
    rng = np.random.default_rng(0)
    total = max(int(lengths.sum()), 1)
    values, valid = rng.normal(size=(total, 3)).astype(np.float16), rng.random(total) < 0.7
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    flat = Flat(*(torch.from_numpy(a) for a in (values, valid, starts, lengths)))
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=5)))
    mean, scale = rng.normal(size=3).astype(np.float32), rng.uniform(0.5, 2, 3).astype(np.float32)
    found, mask = flat.gather(rows, steps, Normaliser(torch.from_numpy(mean), torch.from_numpy(scale)))
    for position, row in enumerate(rows.tolist()):
        length, kept = int(lengths[row]), min(int(lengths[row]), steps)
        picked = [starts[row] + t * length // kept for t in range(kept)]
        wanted, there = np.zeros((steps, 3), np.float32), np.zeros(steps, bool)
        for t, index in enumerate(picked):
            there[t] = valid[index]
            wanted[t] = (values[index].astype(np.float32) - mean) * scale * valid[index]
        np.testing.assert_array_equal(mask[position].numpy(), there)
        np.testing.assert_allclose(found[position].numpy(), wanted, atol=1e-6)


def test_thinning_keeps_both_ends_of_long_utterances() -> None:
    flat = Flat(torch.arange(100.0)[:, None], torch.ones(100, dtype=torch.bool), torch.tensor([0]), torch.tensor([100]))
    found, _ = flat.gather(torch.tensor([0]), 10, None)
    assert found[0, :, 0].tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]


def test_runs_side_by_side_get_their_own_statistics() -> None:
    flat = Flat(torch.ones(4, 2), torch.ones(4, dtype=torch.bool), torch.tensor([0, 2]), torch.tensor([2, 2]))
    both = Normaliser(torch.tensor([[0.0, 0.0], [1.0, 3.0]]), torch.tensor([[1.0, 1.0], [5.0, 0.5]]))
    found, _ = flat.gather(torch.tensor([[0, 1, 0], [1, 0, 1]]), 2, both)
    assert found.shape == (2, 3, 2, 2)
    assert found[0].unique().tolist() == [1.0]
    assert found[1, 0, 0].tolist() == [0.0, -1.0]


def open_source(path: Path, budget: float | None = None, text: int = 0, audio_pool: int = 1) -> Source:
    store = FeatureStore.open(path)
    sets = {modality: store.pick(modality) for modality in ("text", "audio")}
    return Source.open(store, sets, {"text": text, "audio": 0}, {"audio": audio_pool}, budget)


def test_statistics_count_valid_steps_of_training_rows_only(toy: Path) -> None:
    source = open_source(toy)
    folds = [np.arange(0, 40), np.arange(30, 120)]
    for block in source.blocks.values():
        block.valid[::3] = False
        block.values[::3] = 1e3  # must not be read
    found = source.statistics(folds)
    for modality in ("text", "audio"):
        block = source.blocks[modality]
        for rows, normaliser in zip(folds, found[modality], strict=True):
            steps = np.concatenate([np.arange(block.offsets[r], block.offsets[r + 1]) for r in rows])
            values = block.values[steps[block.valid[steps]]]
            exact = values.astype(np.float64)
            np.testing.assert_allclose(normaliser.mean.numpy(), exact.mean(0), rtol=1e-6)
            np.testing.assert_allclose(normaliser.scale.numpy(), 1 / exact.std(0), rtol=1e-5)


@pytest.mark.parametrize("budget", [None, 0.0])
def test_statistics_are_of_the_means_where_a_head_sees_means(toy: Path, budget: float | None) -> None:
    source, store = open_source(toy, budget, audio_pool=ALL_STEPS), FeatureStore.open(toy)
    block = store.load(store.pick("audio"))
    means = np.stack([block.values[a:b].astype(np.float64).mean(0) for a, b in itertools.pairwise(block.offsets)])
    found = source.statistics([np.arange(40, 120)])["audio"][0]
    np.testing.assert_allclose(found.mean.numpy(), means[40:].mean(0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.scale.numpy(), 1 / means[40:].std(0), rtol=1e-4)


def test_statistics_survive_a_large_offset_and_a_constant_dimension(toy: Path) -> None:
    source = open_source(toy)
    block = source.blocks["text"]
    values = np.random.default_rng(0).normal(1e4, 1e-2, block.values.shape).astype(np.float32)
    values[:, 2] = 7.0
    source.blocks["text"] = replace(block, values=values)
    found = source.statistics([np.arange(120)])["text"][0]
    exact = values.astype(np.float64)
    np.testing.assert_allclose(1 / found.scale[0].item(), exact[:, 0].std(), rtol=1e-3)
    assert found.scale[2].item() == 1.0
    assert found.mean[2].item() == 7.0


@pytest.mark.parametrize("audio_pool", [1, 3, ALL_STEPS])
def test_streaming_gives_the_same_batches(toy: Path, audio_pool: int) -> None:
    resident, streamed = (open_source(toy, budget, 3, audio_pool) for budget in (None, 0.0))
    assert (resident.streamed, streamed.streamed) == (False, True)
    assert not streamed.blocks
    rows = np.array([5, 119, 5, 64])
    labels = torch.arange(120)
    batches = []
    for source in (resident, streamed):
        gatherer = Gatherer.of(source, labels, {"text": None, "audio": None}, CPU)
        window = source.window(CPU, rows if source.streamed else None)
        batches.append(gatherer.batch(window, rows))
    for modality in ("text", "audio"):
        assert torch.equal(batches[0].values[modality], batches[1].values[modality])
        assert torch.equal(batches[0].valid[modality], batches[1].valid[modality])
    assert batches[0].values["text"].shape[1] <= 3
    assert torch.equal(batches[0].labels, torch.tensor(rows))


def test_a_window_holds_as_many_batches_as_fit(toy: Path, quick: dict[str, Any]) -> None:
    """Averaged, an utterance takes 4 x (6 + 4) bytes, so 1000 bytes hold 25: eleven batches of four that share two."""
    prepared = prepare_run(build_options({**quick, "features": toy, "memory_gb": 1e-6}))
    data, whole = make_training_data(prepared), prepared.source.window(CPU)
    gatherer = data.gatherer(prepared.seed_runs, stacked=False)
    batches = [np.arange(2 * n, 2 * n + 4) for n in range(30)]
    batches += [np.arange(50), np.array([7, 119]), np.array([3])]  # the first of these is too large by itself
    windows = list(data.windows(batches))
    assert [(start, stop) for _, start, stop in windows] == [(0, 11), (11, 22), (22, 30), (30, 31), (31, 33)]
    for window, start, stop in windows:
        for batch in batches[start:stop]:
            found, wanted = gatherer.batch(window, batch), gatherer.batch(whole, batch)
            assert all(torch.equal(found.values[m], wanted.values[m]) for m in ("text", "audio"))
        held = sum(flat.values.numel() * flat.values.element_size() for flat in window.flats.values())
        assert held == 40 * len(np.unique(np.concatenate(batches[start:stop])))


def test_a_row_without_features_is_masked(make_toy: Callable[..., Path]) -> None:
    source = open_source(make_toy(missing_audio=(3, 4), missing_text=(4,)))
    batch = Gatherer.of(source, torch.zeros(120), {"text": None, "audio": None}, CPU).batch(
        source.window(CPU), np.array([2, 3, 4])
    )
    assert batch.present["audio"].tolist() == [True, False, False]
    assert batch.present["text"].tolist() == [True, True, False]
    assert not batch.valid["audio"][1:].any()
    assert not batch.values["audio"][1:].any()
    assert source.any_present.sum() == 119


def spoil(monkeypatch: pytest.MonkeyPatch, rows: list[int], value: float) -> None:
    """Let a store hand out values that `mer` itself would never have written."""
    honest = FeatureStore.load

    def load(self: FeatureStore, name: str, wanted: np.ndarray | None = None, verify: bool = False) -> FeatureBlock:
        block = honest(self, name, wanted, verify)
        numbers = np.arange(len(block.fates)) if wanted is None else wanted
        for position in np.flatnonzero(np.isin(numbers, rows)):
            block.values[block.offsets[position]] = value
        return block

    monkeypatch.setattr(FeatureStore, "load", load)


@pytest.mark.parametrize("budget", [None, 0.0])
def test_damaged_features_are_told_with_the_utterance(toy: Path, budget: float | None) -> None:
    store = FeatureStore.open(toy)
    name = store.pick("audio")
    place = store._open_shard(name, 0)
    row = int(np.flatnonzero(store.index(name).start == 0)[0])
    with Path(place.location).open("r+b") as file:
        file.seek(place.starts["values"])
        file.write(b"\x01\x3c\x02\x3c\x03\x3c\x04\x3c")
    told = rf"{store.utterances.keys[row]}' of {name} does not match its checksum \(mer verify .*toy\.h5 lists"
    with pytest.raises(MerError, match=told):
        open_source(toy, budget)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("budget", [None, 0.0])
def test_not_finite_rows_count_as_absent_and_leave_no_trace(
    toy: Path, monkeypatch: pytest.MonkeyPatch, value: float, budget: float | None
) -> None:
    spoil(monkeypatch, [7, 50], value)
    source = open_source(toy, budget)
    assert source.unusable == {"text": 2, "audio": 2}
    assert not source.present["text"][[7, 50]].any()
    statistics = source.statistics([np.arange(120)])
    assert all(torch.isfinite(n[0].mean).all() for n in statistics.values())
    rows = np.array([7, 8])
    gatherer = Gatherer.of(source, torch.zeros(120), {m: n[0] for m, n in statistics.items()}, CPU)
    batch = gatherer.batch(source.window(CPU, rows), rows)
    assert torch.isfinite(batch.values["text"]).all()


def test_nothing_usable_is_told(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, list(range(120)), np.nan)
    with pytest.raises(MerError, match=r"no utterance has usable text features .* 120 utterances hold NaN or infinity"):
        open_source(toy)


def test_take_views_and_copies_alike(toy: Path) -> None:
    source = open_source(toy)
    block = source.blocks["audio"]
    run, scattered = take(block, np.array([4, 5, 6])), take(block, np.array([6, 4, 5]))
    assert run.values.base is not None
    assert np.shares_memory(run.values, block.values)
    np.testing.assert_array_equal(scattered.values[: np.diff(scattered.offsets)[0]], run.values[run.offsets[2] :])


@given(st.integers(2, 200), st.integers(2, 70), st.integers(0, 5), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_batches_of_an_epoch(count: int, size: int, seed: int, epoch: int) -> None:
    cost = np.random.default_rng(1).integers(1, 50, 400)
    rows = np.arange(100, 100 + count)
    shape = epoch_shape([count, count + 3], size)
    batches = epoch_batches(rows, cost, shape, seed, 0, epoch)
    assert batches.shape == (shape.steps, shape.size)
    assert shape.size <= size
    assert len(np.unique(batches)) == batches.size
    assert set(batches.ravel()) <= set(rows)
    assert count - batches.size < shape.steps
    np.testing.assert_array_equal(batches, epoch_batches(rows, cost, shape, seed, 0, epoch))


def test_batches_differ_between_epochs_and_seeds_and_hold_alike_lengths() -> None:
    cost = np.random.default_rng(0).integers(1, 1000, 4000)
    shape = epoch_shape([4000], 64)
    one, two, three = (
        epoch_batches(np.arange(4000), cost, shape, *which) for which in ((0, 0, 0), (0, 0, 1), (1, 0, 0))
    )
    assert (np.sort(one[0]) != np.sort(two[0])).any()
    assert (np.sort(one[0]) != np.sort(three[0])).any()
    padding = [
        1 - cost[b].sum() / (cost[b].max(1) * b.shape[1]).sum()
        for b in (one, np.arange(shape.steps * shape.size).reshape(shape.steps, -1))
    ]
    assert padding[0] < 0.15 < padding[1]
    # step for step the batches of two seeds are about as long
    assert np.corrcoef(cost[one].max(1), cost[three].max(1))[0, 1] > 0.95


def test_dialogues_come_whole_in_turn_order() -> None:
    dialogue = ["b", "a", "b", "", "a", "b", ""]
    turn = np.array([2, 0, 0, -1, 1, 1, -1])
    found = dialogues_of(np.arange(7), dialogue, turn, 10)
    assert [d.tolist() for d in found] == [[2, 5, 0], [1, 4], [3], [6]]
    assert [len(d) for d in dialogues_of(np.array([0, 2, 5]), dialogue, turn, 2)] == [2, 1]


def test_dialogue_batches_lay_utterances_in_a_grid() -> None:
    dialogues = [np.array([3, 1]), np.array([5]), np.array([0, 2, 4])]
    batches = dialogue_batches(dialogues, 4, 0, 0, 0)
    assert sorted(np.concatenate([b.rows for b in batches])) == [0, 1, 2, 3, 4, 5]
    one = DialogueBatch.of(dialogues)
    assert one.shape == (3, 3)
    grid = np.full(one.shape, -1)
    grid[one.dialogue, one.turn] = one.rows
    assert grid.tolist() == [[3, 1, -1], [5, -1, -1], [0, 2, 4]]
