"""A device whose memory holds little: whatever the batch, the features are the same and nothing is lost."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import roberta

from mer.cache import FeatureSequence
from mer.stages.encoders.catalog import make_encoder
from mer.stages.encoders.testing import MAKERS, difference, encode_all


class OutOfMemoryError(RuntimeError):
    """Named like CUDA's."""


def shrink(loaded: Any, modality: str, most: int) -> list[int]:
    """Let the model refuse batches of more than `most` rows; return the sizes it is asked for."""
    asked: list[int] = []
    run = loaded._run

    def refusing(*args: Any) -> Any:
        rows = len(args[1]) if modality == "text" else len(args[0])
        asked.append(rows)
        if rows > most:
            raise OutOfMemoryError("CUDA out of memory")
        return run(*args)

    loaded._run = refusing
    return asked


@pytest.mark.parametrize(
    ("modality", "family", "most"), [("text", "roberta", 2), ("audio", "wav2vec2-group", 1), ("face", "vit", 3)]
)
def test_batches_are_halved_until_they_fit(tiny: Any, modality: str, family: str, most: int) -> None:
    loaded: Any = tiny(modality, family).load("cpu")
    items = MAKERS[modality]()[:5]
    singles = [loaded.encode([item])[0] for item in items]
    asked = shrink(loaded, modality, most)
    found = encode_all(loaded, items, budget=10**9)
    assert max(asked) > most
    for sequence, single in zip(found, singles, strict=True):
        assert isinstance(sequence, FeatureSequence)
        assert difference(sequence, single)[0] <= 1e-4


@pytest.mark.parametrize("layers", ["1,2,3", "all"])
def test_a_pass_that_breaks_off_leaves_nothing_behind(tiny: Any, layers: str) -> None:
    """Memory runs out inside the model, after some layers were taken."""
    loaded: Any = tiny("audio", "wav2vec2-layer", layers=layers).load("cpu")
    items = MAKERS["audio"]()[:4]
    singles = [loaded.encode([item])[0] for item in items]

    def break_off(module: Any, args: tuple[Any, ...]) -> None:
        if len(args[0]) > 1:
            raise OutOfMemoryError("CUDA out of memory")

    loaded.model.encoder.layers[2].register_forward_pre_hook(break_off)
    for sequence, single in zip(encode_all(loaded, items, budget=10**9), singles, strict=True):
        assert isinstance(sequence, FeatureSequence)
        assert difference(sequence, single)[0] <= 1e-4


def test_the_budget_bounds_what_one_long_clip_takes(tiny: Any) -> None:
    loaded: Any = tiny("audio", "wav2vec2-layer", max_seconds=10.0).load("cpu")
    clip = np.tile(np.asarray(MAKERS["audio"]()[5]), 4)  # half a minute
    asked = shrink(loaded, "audio", 1000)
    whole = encode_all(loaded, [clip], budget=2 * 160_000)[0]
    assert isinstance(whole, FeatureSequence)
    assert max(asked) == 2
    assert whole.note["audio_chunks"] == sum(asked)
    # One frame every 20 ms, as if the clip had been encoded in one piece.
    assert len(whole) == 1 + (len(clip) - 400) // 320
    np.testing.assert_allclose(np.diff(whole.times), 0.02, atol=1e-5)


def test_a_clip_in_chunks_resembles_the_clip_in_one_piece(tiny: Any) -> None:
    """Frame for frame at the same times; the values differ only by what attention sees beyond the chunk."""
    whole: Any = tiny("audio", "wav2vec2-layer", max_seconds=60.0).load("cpu")
    cut: Any = tiny("audio", "wav2vec2-layer", max_seconds=10.0).load("cpu")
    clip = np.tile(np.asarray(MAKERS["audio"]()[5]), 3)
    one, many = whole.encode([clip])[0], cut.encode([clip])[0]
    assert one.values.shape == many.values.shape
    np.testing.assert_array_equal(one.times, many.times)
    cosines = (
        (one.values * many.values).sum(1) / np.linalg.norm(one.values, axis=1) / np.linalg.norm(many.values, axis=1)
    )
    assert cosines.min() > 0.9


class Activations:
    """Memory that is taken for as long as anything refers to it."""


class SmallDevice:
    """An encoder that holds one piece of memory per cost of its batch, on a device with a few pieces."""

    pieces = 9

    def __init__(self) -> None:
        self.taken: weakref.WeakSet[Activations] = weakref.WeakSet()

    def cost(self, item: str) -> int:
        return len(item)

    def encode(self, batch: list[str]) -> list[FeatureSequence]:
        held = []
        for _ in "".join(batch):
            if len(self.taken) == self.pieces:
                raise OutOfMemoryError("CUDA out of memory")
            held.append(Activations())
            self.taken.add(held[-1])
        return [FeatureSequence.of(np.ones((1, 1), np.float32), np.zeros(1)) for _ in batch]


def test_an_item_that_does_not_fit_leaves_the_memory_to_its_neighbours() -> None:
    device: Any = SmallDevice()
    found = encode_all(device, ["long" * 5, *["ab"] * 8], budget=10**9)
    assert "too small for one item" in str(found[0])
    assert all(isinstance(sequence, FeatureSequence) for sequence in found[1:])
    assert not device.taken


def test_memory_probe_of_words_whose_padding_is_the_last_token(tmp_path: Path) -> None:
    folder = roberta(tmp_path / "mine")
    tokenizer = folder / "tokenizer_config.json"
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), "pad_token": "<mask>"}))
    loaded: Any = make_encoder("text", str(folder)).resolve().load("cpu")
    assert loaded.pad + 1 == loaded.model.get_input_embeddings().num_embeddings
    assert loaded.probe(2) == 2 * loaded.encoder.window()
