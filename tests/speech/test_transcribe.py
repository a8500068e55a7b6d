"""Transcripts by Whisper: a tiny random checkpoint of the real classes shows the plumbing; its words mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import noise, silence, tone

from mer.cache import MerError
from mer.stages.interfaces import SAMPLE_RATE_HZ
from mer.stages.speech.activity import by_energy, by_silero, find_speech
from mer.stages.speech.transcribe import _Attempt, listen, split_quietly, transcribe


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Whisper with random weights, saved as a hub checkpoint is."""
    import torch
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    folder = tmp_path_factory.mktemp("whisper")
    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    vocabulary = {token: number for number, token in enumerate(["\u0120", *letters, *special])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(
        vocab=vocabulary, merges=[], additional_special_tokens=special[1:], pad_token="<|endoftext|>"
    )
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    end, start = vocabulary[special[0]], vocabulary[special[1]]
    config = WhisperConfig(
        vocab_size=len(vocabulary), d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_target_positions=24, eos_token_id=end,
        pad_token_id=end, bos_token_id=end, decoder_start_token_id=start, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0)  # apart from its neighbours, so that other sound gives other words
    model.generation_config.max_new_tokens = 12
    model.generation_config.is_multilingual = False
    model.save_pretrained(folder)
    return folder


def syllables(seconds: float, seed: int) -> np.ndarray:
    """Noise that rises and falls four times a second, as speech does."""
    clip = noise(seconds, seed=seed)[:, 0]
    return (clip * np.clip(np.sin(2 * np.pi * 4 * np.arange(len(clip)) / SAMPLE_RATE_HZ), 0.01, 1)).astype(np.float32)


@pytest.fixture(autouse=True)
def energy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell speech by energy, whatever is installed."""
    for module in ("activity", "transcribe"):
        monkeypatch.setattr(f"mer.stages.speech.{module}.method", lambda: "energy")


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take what random weights write: no limit of a trained recogniser holds for it."""
    monkeypatch.setattr(_Attempt, "fault", lambda self, seconds: "")


@pytest.mark.usefixtures("trusting")
def test_every_clip_gets_a_text_and_the_same_one_again(whisper: Path) -> None:
    clips = [syllables(1.0, 1), syllables(2.5, 2), silence(0.3)[:, 0]]
    texts = transcribe(clips, str(whisper), "cpu")
    assert len(texts) == 3
    assert any(texts)
    assert all(set(text) <= set("abcdefghijklmnopqrstuvwxyz ") for text in texts)
    assert transcribe(clips, str(whisper), "cpu") == texts
    assert [transcribe([clip], str(whisper), "cpu")[0] for clip in clips] == texts


def test_sound_of_no_samples_says_nothing(whisper: Path) -> None:
    assert transcribe([np.zeros(0, np.float32)], str(whisper), "cpu") == [""]
    assert transcribe([], str(whisper), "cpu") == []


@pytest.mark.usefixtures("trusting")
def test_long_sound_is_heard_in_pieces(whisper: Path) -> None:
    long = np.concatenate([syllables(29.0, 2), silence(0.2)[:, 0], syllables(4.0, 3)])
    first, second = split_quietly(long)
    assert abs(len(first) / SAMPLE_RATE_HZ - 29.1) < 0.11
    assert np.array_equal(np.concatenate([first, second]), long)
    alone = [transcribe([piece], str(whisper), "cpu")[0] for piece in (first, second)]
    assert transcribe([long], str(whisper), "cpu") == [" ".join(alone)]


@pytest.mark.parametrize("seconds", [0.0, 0.01, 29.999, 30.0, 30.001, 61.0, 300.0])
def test_pieces_are_the_whole_and_none_is_too_long(seconds: float) -> None:
    clip = noise(seconds, seed=4)[:, 0]
    pieces = split_quietly(clip)
    assert all(0 < len(piece) <= 30 * SAMPLE_RATE_HZ for piece in pieces)
    assert np.array_equal(np.concatenate([*pieces, np.zeros(0, np.float32)]), clip)


def test_what_is_no_whisper_checkpoint_is_told(tmp_path: Path, whisper: Path) -> None:
    with pytest.raises(MerError, match="does not exist"):
        transcribe([], str(tmp_path / "nowhere"), "cpu")
    with pytest.raises(MerError, match="is a roberta model"):
        transcribe([], "demo-text", "cpu")
    with pytest.raises(MerError, match="not known"):
        transcribe([], str(whisper), "gpu")


def test_steady_sound_and_silence_hold_no_speech_and_are_not_listened_to(
    whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [silence(2.0)[:, 0], noise(2.0, seed=1)[:, 0], tone(2.0)[:, 0], 1e-3 * noise(2.0, seed=2)[:, 0]]
    assert [by_energy(clip) for clip in clips] == [[]] * 4
    monkeypatch.setattr("mer.stages.speech.transcribe._Listener.listen", lambda *_: pytest.fail("it listened"))
    heard = listen(clips, str(whisper), "cpu")
    assert [one.text for one in heard] == [""] * 4
    assert all(one.note["speech_seconds"] == 0 for one in heard)


def test_energy_finds_where_sound_begins_and_ends() -> None:
    clip = np.concatenate([silence(0.6)[:, 0], syllables(0.9, 1), silence(1.5)[:, 0], syllables(0.6, 2)])
    first, second = by_energy(clip)
    np.testing.assert_allclose([*first, *second], [0.6, 1.5, 3.0, 3.6], atol=0.15)
    quiet = by_energy(clip / 4)
    np.testing.assert_allclose(quiet, [first, second], atol=1e-6)
    assert find_speech(np.zeros(0, np.float32)) == []


def attempt(text: str, **scores: float) -> _Attempt:
    plain = {"no_speech": 0.1, "log_probability": -0.4, "finished": True}
    return _Attempt(text, (), **{**plain, **scores})  # type: ignore[arg-type]


def test_what_is_written_is_held_to_limits() -> None:
    sentence = "Kids are talking by the door."
    assert attempt(sentence).fault(1.5) == ""
    assert attempt("Oh my God!").fault(0.2) == ""
    assert attempt(sentence * 3).fault(1.5) == "longer than what was said can be"  # 87 letters, 20 + 1.5 x 30 at most
    assert attempt(sentence, finished=False).fault(1.5) == "longer than what was said can be"
    assert attempt("no no no " * 20).fault(10.0) == "repeats itself"
    assert attempt(sentence, no_speech=0.7).fault(1.5) == ""
    assert attempt(sentence, no_speech=0.7, log_probability=-1.2).fault(1.5) == "nobody seems to speak"
    assert attempt(sentence, log_probability=-1.2).fault(1.5) == "written without confidence"


def test_what_is_not_trusted_is_tried_twice_and_then_refused(whisper: Path) -> None:
    heard = listen([syllables(1.0, 1)], str(whisper), "cpu")[0]  # random weights have no confidence
    assert heard.text == ""
    assert heard.segments == ()
    assert heard.note["tries"] == 2
    assert heard.note["refused"]
    assert heard.note["refused_text"]


def test_a_language_that_the_recogniser_does_not_know(whisper: Path) -> None:
    with pytest.raises(MerError, match="it knows one language alone"):
        listen([], str(whisper), "cpu", "de")


def test_silero_hears_no_speech_in_syllables_of_noise() -> None:
    pytest.importorskip("silero_vad", reason="voice activity by silero-vad is an extra: pip install 'mer-toolkit[vad]'")
    assert by_energy(syllables(2.0, 1))
    assert by_silero(syllables(2.0, 1)) == []
