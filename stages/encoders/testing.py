"""The conformance suite an encoder must pass. Subclass `EncoderTests` in a test file and give it an encoder.

class TestMine(EncoderTests):
    @pytest.fixture
    def encoder(self):
        return make_encoder("audio", "my_package:MyEncoder").resolve()
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest

from mer.cache import FeatureSequence, FeatureSpec, MerError

from ..interfaces import SAMPLE_RATE_HZ, Encoder, EncoderInput, FaceCrops, LoadedEncoder
from .batching import Encoding, begin_lane

TEXTS = (
    "No.",
    "I am so happy for you, this is wonderful news!",
    "Well, she said that the report would be ready by nine, but nobody has seen it, and now I am worried.",
    "Was für eine Überraschung 🙂 — 我很高兴。",
    "We went home and talked about the weather. " * 120,
)
SECONDS = (0.003, 0.06, 0.5, 1.0, 2.34, 7.5, 30.0)
CROPS = ((1, 1), (3, 5), (0, 4), (19, 24), (40, 40))
"""Frames with a face and frames in all."""


def make_texts() -> list[EncoderInput]:
    """Transcripts from one word to several windows."""
    return list(TEXTS)


def make_waveforms() -> list[EncoderInput]:
    """Buzzing tones with pauses, from a click to half a minute."""
    random = np.random.default_rng(5)
    waves: list[EncoderInput] = []
    for number, seconds in enumerate(SECONDS):
        clock = np.arange(max(1, int(seconds * SAMPLE_RATE_HZ))) / SAMPLE_RATE_HZ
        pitch = 110 * 1.3**number * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * clock))
        buzz = np.sign(np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ)) * (np.sin(2 * np.pi * 1.7 * clock) > -0.5)
        waves.append((0.1 * buzz + 0.01 * random.standard_normal(len(clock))).astype(np.float32))
    return waves


def make_faces(edge: int = 96) -> list[EncoderInput]:
    """Pictures of blobs, with steps that have none."""
    random = np.random.default_rng(7)
    clips: list[EncoderInput] = []
    for faces, frames in CROPS:
        coarse = random.integers(0, 256, (faces, 6, 6, 3), dtype=np.uint8)
        crops = coarse.repeat(edge // 6, axis=1).repeat(edge // 6, axis=2)
        valid = np.zeros(frames, np.bool_)
        valid[random.permutation(frames)[:faces]] = True
        clips.append(FaceCrops(crops, (np.arange(frames) / 5).astype(np.float32), valid, {"made": "up"}))
    return clips


MAKERS = {"text": make_texts, "audio": make_waveforms, "face": make_faces}


def encode_all(
    loaded: LoadedEncoder, items: Sequence[EncoderInput], budget: int, threads: int = 1
) -> list[FeatureSequence | MerError]:
    """Encode items in batches as `mer extract` does."""
    device = str(getattr(loaded, "device", "cpu"))
    with ThreadPoolExecutor(threads, initializer=begin_lane, initargs=(device, 0)) as lanes:
        found = dict(Encoding(loaded, items, budget, lanes).finished())
    return [found[place] for place in range(len(items))]


def difference(one: FeatureSequence, other: FeatureSequence) -> tuple[float, float]:
    """Greatest absolute difference and least cosine between the rows of two sequences of equal length."""
    assert one.values.shape == other.values.shape
    rows = one.valid
    if not rows.any():
        return 0.0, 1.0
    a, b = one.values[rows].astype(np.float64), other.values[rows].astype(np.float64)
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.where(scale > 0, (a * b).sum(1) / np.maximum(scale, 1e-300), 1.0)  # a row of zeros has no direction
    return float(np.abs(a - b).max()), float(cosine.min())


_KEPT: dict[tuple[str, bytes], tuple[LoadedEncoder, list[FeatureSequence]]] = {}
"""The encoder that was loaded last and what it made of each item alone, kept from test to test."""


class EncoderTests:
    """What every encoder promises. Override `items` to test on input of your own."""

    device: ClassVar[str] = "cpu"
    tolerance: ClassVar[float] = 1e-4
    """Greatest absolute difference between a feature encoded in a batch and encoded alone."""
    least_cosine: ClassVar[float] = 0.99999

    @pytest.fixture
    def encoder(self) -> Encoder:
        """The resolved encoder under test."""
        raise NotImplementedError("override the fixture `encoder` with the encoder to test, resolved")

    @pytest.fixture
    def items(self, encoder: Encoder) -> list[EncoderInput]:
        """Inputs of very different sizes."""
        return MAKERS[encoder.modality]()

    @pytest.fixture
    def loaded(self, encoder: Encoder) -> LoadedEncoder:
        key = (self.device, pickle.dumps(encoder))
        if key not in _KEPT:
            _KEPT.clear()  # one model at a time
            _KEPT[key] = (encoder.load(self.device), [])
        return _KEPT[key][0]

    @pytest.fixture
    def singles(self, encoder: Encoder, loaded: LoadedEncoder, items: list[EncoderInput]) -> list[FeatureSequence]:
        kept = _KEPT[self.device, pickle.dumps(encoder)][1]
        if not kept:
            kept.extend(loaded.encode([item])[0] for item in items)
        return kept

    @pytest.fixture
    def spec(self, encoder: Encoder) -> FeatureSpec:
        return encoder.spec({}, "float32")

    def test_is_an_encoder_that_travels(self, encoder: Encoder, spec: FeatureSpec) -> None:
        assert isinstance(encoder, Encoder)
        assert encoder.modality in MAKERS
        copy = pickle.loads(pickle.dumps(encoder))
        assert copy == encoder
        assert copy.spec({}, "float32") == spec

    def test_spec_survives_json_and_resolving_again(self, encoder: Encoder, spec: FeatureSpec) -> None:
        assert FeatureSpec.from_json(spec.to_json()) == spec
        assert encoder.resolve().spec({}, "float32").fingerprint == spec.fingerprint

    def test_fingerprint_follows_inputs_and_dtype(self, encoder: Encoder, spec: FeatureSpec) -> None:
        half = encoder.spec({}, "float16")
        assert (half.fingerprint == spec.fingerprint) == (half.dtype == spec.dtype)
        assert encoder.spec({"channel": "center"}, "float32").fingerprint != spec.fingerprint

    def test_sequences_have_the_promised_shape(
        self, spec: FeatureSpec, items: list[EncoderInput], singles: list[FeatureSequence]
    ) -> None:
        for item, sequence in zip(items, singles, strict=True):
            assert sequence.values.dtype == np.float32
            assert sequence.values.shape == (len(sequence.times), spec.dim)
            assert np.isfinite(sequence.values).all()
            assert sequence.times.dtype == np.float32
            assert np.isfinite(sequence.times).all()
            assert (np.diff(sequence.times) > 0).all()
            assert (sequence.times >= 0).all()
            assert sequence.valid.dtype == np.bool_
            assert not sequence.values[~sequence.valid].any()
            json.dumps(dict(sequence.note), allow_nan=False)
            if isinstance(item, FaceCrops):
                assert np.array_equal(sequence.valid, item.valid)
            elif len(item):
                assert len(sequence) > 0
            if isinstance(item, np.ndarray):
                assert (sequence.times <= len(item) / SAMPLE_RATE_HZ + 0.05).all()

    def test_a_batch_equals_its_singles(
        self, loaded: LoadedEncoder, items: list[EncoderInput], singles: list[FeatureSequence]
    ) -> None:
        everything = list(range(len(items)))
        for order in (everything, everything[-2::-1]):
            together = loaded.encode([items[place] for place in order])
            for place, sequence in zip(order, together, strict=True):
                greatest, cosine = difference(sequence, singles[place])
                assert greatest <= self.tolerance
                assert cosine >= self.least_cosine
                assert np.array_equal(sequence.times, singles[place].times)
                assert np.array_equal(sequence.valid, singles[place].valid)
                assert dict(sequence.note) == dict(singles[place].note)

    def test_different_inputs_have_different_features(self, singles: list[FeatureSequence]) -> None:
        means = [sequence.values[sequence.valid].mean(axis=0) for sequence in singles if sequence.valid.any()]
        for number, mean in enumerate(means):
            for other in means[:number]:
                assert np.abs(mean - other).max() > 10 * self.tolerance

    def test_the_same_input_gives_the_same_bytes(
        self, loaded: LoadedEncoder, items: list[EncoderInput], singles: list[FeatureSequence]
    ) -> None:
        for item, sequence in zip(items[:4], singles, strict=False):
            assert np.array_equal(loaded.encode([item])[0].values, sequence.values)

    def test_costs_are_positive_and_an_empty_batch_is_empty(
        self, loaded: LoadedEncoder, items: Sequence[EncoderInput]
    ) -> None:
        assert all(loaded.cost(item) > 0 for item in items)
        assert loaded.encode([]) == []

    def test_input_of_another_modality_is_refused(self, encoder: Encoder, loaded: LoadedEncoder) -> None:
        wrong: Any = 3.5
        with pytest.raises(MerError, match=f"{encoder.modality} encoder takes"):
            loaded.encode([wrong])
