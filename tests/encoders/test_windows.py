"""Windows, layer choices and batches: the pure parts, against hand-computed values and properties."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mer.cache import FeatureSequence, MerError
from mer.stages.encoders.batching import Encoding, budget_from_peaks, cut_batches, is_out_of_memory, run_halving
from mer.stages.encoders.layers import choose_layers
from mer.stages.encoders.testing import encode_all
from mer.stages.encoders.windows import Window, cut_windows


def test_windows_of_a_known_length() -> None:
    assert cut_windows(10, 10, 4) == [Window(0, 10, 0, 10)]
    # 14 steps in windows of 10 that share 6: the seam lies in the middle of [4, 10).
    assert cut_windows(14, 10, 4) == [Window(0, 10, 0, 7), Window(4, 14, 7, 14)]
    assert cut_windows(0, 10, 4) == []


@given(st.integers(1, 5000), st.integers(2, 300), st.data())
def test_windows_cover_everything_once_with_context(total: int, longest: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, longest - 1))
    windows = cut_windows(total, longest, overlap)
    kept = [step for window in windows for step in range(window.keep_start, window.keep_stop)]
    assert kept == list(range(total))
    for window in windows:
        assert 0 <= window.start <= window.keep_start < window.keep_stop <= window.stop <= total
        assert window.stop - window.start == min(total, longest)
        if window.keep_start > 0:
            assert window.keep_start - window.start >= overlap // 2
        if window.keep_stop < total:
            assert window.stop - window.keep_stop >= overlap // 2


@given(st.lists(st.integers(1, 1000), max_size=60), st.integers(1, 3000))
def test_batches_hold_every_item_once_within_the_budget(costs: list[int], budget: int) -> None:
    batches = cut_batches(costs, budget)
    assert sorted(place for batch in batches for place in batch) == list(range(len(costs)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(costs[place] for place in batch) <= budget


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(24, 200), st.booleans())
def test_batches_take_the_least_time_of_all_cuts(costs: list[int], budget: int, padded: bool) -> None:
    def size(batch: list[int]) -> int:
        return max(batch) * len(batch) if padded else sum(batch)

    def time(cut: list[list[int]]) -> float:
        return sum(size(batch) + budget // 24 for batch in cut)

    items = sorted(costs, reverse=True)
    seams = itertools.chain.from_iterable(itertools.combinations(range(1, len(items)), n) for n in range(len(items)))
    cuts = [[items[a:b] for a, b in itertools.pairwise([0, *seam, len(items)])] for seam in seams]
    allowed = [cut for cut in cuts if all(len(batch) == 1 or size(batch) <= budget for batch in cut)]
    found = [[costs[place] for place in batch] for batch in cut_batches(costs, budget, padded)]
    assert found in allowed
    assert time(found) == min(map(time, allowed))


def test_short_and_long_texts_are_not_padded_to_one_length() -> None:
    # 16 texts of 4 tokens beside 2 of 60: one batch would hold 18 x 60 tokens, two hold 120 and 64.
    batches = cut_batches([4] * 8 + [60, 60] + [4] * 8, 2048)
    assert [len(batch) for batch in batches] == [2, 16]


@pytest.mark.parametrize(
    ("text", "layers", "stack"),
    [
        ("last", (12,), False),
        ("-4:", (9, 10, 11, 12), False),
        ("6, 9,12", (6, 9, 12), False),
        ("-1", (12,), False),
        ("0", (0,), False),
        ("all", tuple(range(13)), True),
    ],
)
def test_layer_choices_of_a_twelve_layer_model(text: str, layers: tuple[int, ...], stack: bool) -> None:
    choice = choose_layers(text, 12)
    assert (choice.layers, choice.stack) == (layers, stack)


@pytest.mark.parametrize("text", ["", "first", "-0:", "3:", "1,,2", "13", "-14", "-14:"])
def test_impossible_layers_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(MerError, match="layers") as caught:
        choose_layers(text, 12)
    assert "\n" not in str(caught.value)


class OutOfMemoryError(RuntimeError):
    """Named like CUDA's."""


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost() -> None:
    sizes: list[int] = []
    done: list[int] = []

    def run(items: object) -> None:
        assert isinstance(items, list)
        sizes.append(len(items))
        if len(items) > 3:
            raise OutOfMemoryError("CUDA out of memory")
        done.extend(items)

    run_halving(list(range(10)), run)
    assert done == list(range(10))
    assert sizes == [10, 5, 2, 3, 5, 2, 3]


def test_an_item_that_alone_does_not_fit_is_told_why() -> None:
    def run(items: object) -> None:
        raise OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MerError, match="too small for one item"):
        run_halving([1], run)


class Crowded:
    """An encoder whose items of cost 3 fit only when no other batch is on the device."""

    padded = False

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.refused = 0
        self.lock = threading.Lock()

    def cost(self, item: int) -> int:
        return item

    def encode(self, batch: list[int]) -> list[FeatureSequence]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            time.sleep(0.02)
            if 3 in batch and self.now > 1:
                self.refused += 1
                raise OutOfMemoryError("CUDA out of memory")
            return [FeatureSequence.of(np.full((1, 2), item, np.float32), np.zeros(1)) for item in batch]
        finally:
            with self.lock:
                self.now -= 1


def test_an_item_that_does_not_fit_beside_others_is_encoded_alone() -> None:
    """Two lanes share a GPU's memory: what fails beside the other one's batch may still fit by itself."""
    loaded = Crowded()
    items = [3, 1, 3, 2, 3, 1, 3, 2, 3]
    with ThreadPoolExecutor(3) as lanes:
        found = dict(Encoding(loaded, items, 3, lanes).finished())  # type: ignore[arg-type]
    assert loaded.refused > 0
    assert loaded.most > 1
    assert [float(found[place].values[0, 0]) for place in range(9)] == items  # type: ignore[union-attr]


def test_a_full_library_workspace_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_memory_probe_extrapolates_linearly() -> None:
    # 100 bytes fixed, 2 bytes per unit: 10 units peak at 120, 30 at 160; 1100 bytes hold 500 units.
    assert budget_from_peaks([10, 30], [120, 160], 1100, 10_000) == 500
    assert budget_from_peaks([10, 30], [120, 160], 1100, 64) == 64
    assert budget_from_peaks([10, 30], [120, 160], 50, 64) == 10


class FailsOnThirteen:
    """An encoder that cannot encode the number 13 and, as the model would, fails with the whole batch."""

    def cost(self, item: int) -> int:
        return 1

    def encode(self, batch: list[int]) -> list[int]:
        if 13 in batch:
            raise ValueError("thirteen")
        return [10 * item for item in batch]


def test_one_bad_item_does_not_harm_its_batch() -> None:
    results = encode_all(FailsOnThirteen(), [1, 13, 3], 100)  # type: ignore[arg-type, list-item]
    assert results[0] == 10
    assert results[2] == 30
    assert isinstance(results[1], MerError)
    assert str(results[1]) == "thirteen"


def test_long_sound_is_normalised_in_pieces_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    from mer.stages.encoders import audio

    rng = np.random.default_rng(0)
    monkeypatch.setattr(audio, "PIECE_SAMPLES", 1000)
    for samples in (1, 999, 1001, 8000, 12_345):
        wave = rng.normal(0.01, 0.1, samples).astype(np.float32)
        centred = wave.astype(np.float64) - wave.mean(dtype=np.float64)
        whole = (centred / np.sqrt(np.mean(centred**2) + 1e-7)).astype(np.float32)
        assert (audio.normalised(wave, 1e-7) == whole).all()
