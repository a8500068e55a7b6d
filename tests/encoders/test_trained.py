"""Trained encoders: what tests on random weights cannot show. Runs where MER_TRAINED_ENCODERS names their folder."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mer.stages.encoders.catalog import make_encoder
from mer.stages.encoders.testing import EncoderTests, difference, make_faces, make_texts, make_waveforms
from mer.stages.interfaces import SAMPLE_RATE_HZ, Encoder, EncoderInput
from mer.stages.media.reader import MediaRequest, read_media
from mer.stages.speech.transcribe import listen

HOME = os.environ.get("MER_TRAINED_ENCODERS", "")
SPEECH = Path(__file__).resolve().parents[3] / "shared" / "data" / "speech" / "ravdess_16k_flac"
KIDS, DOGS = "Kids are talking by the door.", "Dogs are sitting by the door."
NEAR = (
    ("I am so happy for you!", "This is wonderful, I am delighted for you."),
    ("She burst into tears at the funeral.", "The grieving woman cried as he was buried."),
    ("The train leaves at nine.", "At nine o'clock the train departs."),
)

pytestmark = pytest.mark.skipif(not HOME, reason="MER_TRAINED_ENCODERS names no folder of trained encoders")


def folder(name: str) -> str:
    """Folder of a trained encoder, or a skipped test."""
    path = Path(HOME) / name
    if not (path / "config.json").is_file():
        pytest.skip(f"{path} is not there")
    return str(path)


def words(number: int) -> np.ndarray:
    """Waveform of an acted clip: an even number says the sentence of the kids, an odd one that of the dogs."""
    actor, emotion, sentence = number // 2 % 24 + 1, 1 + number // 2 % 8, 1 + number % 2
    names = sorted(SPEECH.rglob(f"03-01-{emotion:02}-01-{sentence:02}-01-{actor:02}.flac"))
    if not names:
        pytest.skip("no recordings in ../shared/data/speech")
    decoded: Any = read_media(names[0], MediaRequest())
    return decoded.waveform


TRAINED = (("text", "minilm"), ("text", "mpnet"), ("audio", "whisper-base"), ("face", "dinov2-small"))


@pytest.mark.parametrize(("modality", "name"), TRAINED, ids=[name for _, name in TRAINED])
class TestTrained(EncoderTests):
    tolerance = 5e-4  # Whisper's states reach 24, where float32 itself is exact to 2e-6 only

    @pytest.fixture
    def encoder(self, modality: str, name: str) -> Encoder:
        return make_encoder(modality, folder(name)).resolve()

    @pytest.fixture
    def items(self, modality: str) -> list[EncoderInput]:
        """Few and short ones: a real model takes its time."""
        return {"text": make_texts, "audio": make_waveforms, "face": make_faces}[modality]()[:3]


@pytest.mark.parametrize("name", ["minilm", "mpnet"])
def test_texts_equal_the_library(name: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    texts = [text for pair in NEAR for text in pair]
    model, tokenizer = AutoModel.from_pretrained(folder(name)).eval(), AutoTokenizer.from_pretrained(folder(name))
    loaded: Any = make_encoder("text", folder(name)).resolve().load("cpu")
    for text, found in zip(texts, loaded.encode(texts), strict=True):
        with torch.no_grad():
            tokens = tokenizer(text, return_tensors="pt")
            expected = model(tokens["input_ids"]).last_hidden_state[0, 1:-1].numpy()
        np.testing.assert_allclose(found.values, expected, atol=2e-5)


@pytest.mark.parametrize("name", ["minilm", "mpnet"])
def test_a_sentence_is_nearest_to_the_one_that_says_the_same(name: str) -> None:
    loaded: Any = make_encoder("text", folder(name)).resolve().load("cpu")
    means = [one.values.mean(axis=0) for one in loaded.encode([text for pair in NEAR for text in pair])]
    unit = np.array([mean / np.linalg.norm(mean) for mean in means])
    alike = unit @ unit.T - 2 * np.eye(len(unit))
    assert alike.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]
    assert min(alike[first, first + 1] for first in (0, 2, 4)) > 0.5
    assert max(alike[first, other] for first, other in pairwise((0, 2, 4))) < 0.4


@pytest.mark.parametrize("window", ["clip", "30s"])
def test_sound_equals_the_library(window: str) -> None:
    from transformers import WhisperFeatureExtractor, WhisperModel

    waves = [words(0), words(3)]
    loaded: Any = make_encoder("audio", folder("whisper-base"), window=window).resolve().load("cpu")
    found = loaded.encode(waves)
    for one, wave in zip(found, waves, strict=True):
        assert difference(one, loaded.encode([wave])[0])[0] < 1e-4
    if window == "clip":
        return  # another feature than the library's, which also attends to 27 seconds of silence
    features = WhisperFeatureExtractor.from_pretrained(folder("whisper-base"))(
        waves, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt"
    ).input_features
    with torch.no_grad():
        expected = WhisperModel.from_pretrained(folder("whisper-base"), dtype=torch.float32).encoder(features)
    for one, whole in zip(found, expected.last_hidden_state.numpy(), strict=True):
        np.testing.assert_allclose(one.values, whole[: len(one)], atol=2e-3)


def test_silence_behind_a_clip_changes_none_of_its_features() -> None:
    wave = words(0)
    loaded: Any = make_encoder("audio", folder("whisper-base"), window="30s").resolve().load("cpu")
    longer = np.concatenate([wave, np.zeros(SAMPLE_RATE_HZ, np.float32)])
    alone, followed = (loaded.encode([one])[0].values for one in (wave, longer))
    np.testing.assert_allclose(alone, followed[: len(alone)], atol=2e-4)


def test_faces_equal_the_library() -> None:
    from transformers import AutoModel

    loaded: Any = make_encoder("face", folder("dinov2-small")).resolve().load("cpu")
    clip: Any = make_faces()[1]
    with torch.no_grad():
        pictures = loaded.recipe.apply(torch.from_numpy(clip.crops))
        expected = AutoModel.from_pretrained(folder("dinov2-small")).eval()(pictures).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(loaded.encode([clip])[0].values[clip.valid], expected, atol=1e-4)


def test_known_speech_is_written_down_and_what_is_no_speech_is_not() -> None:
    rate = SAMPLE_RATE_HZ
    clock = np.arange(2 * rate) / rate
    noise = np.random.default_rng(0).standard_normal(2 * rate)
    notes = 0.2 * np.sin(2 * np.pi * 330 * clock) * np.exp(-12 * (clock % 0.25)) + 0.002 * noise
    spoken = [words(0), words(5) / 4]
    other = [np.zeros(2 * rate), 0.1 * noise, 0.3 * np.sin(2 * np.pi * 440 * clock), notes]
    heard = listen([*spoken, *(one.astype(np.float32) for one in other)], folder("whisper-base"), "cpu")
    assert [one.text for one in heard] == [KIDS, DOGS, "", "", "", ""]
    assert all(one.note["language"] == "en" for one in heard[:2])
    for one, wave in zip(heard[:2], spoken, strict=True):
        ((start, stop, text),) = one.segments
        assert 0 <= start < stop <= len(wave) / rate
        assert text == one.text
