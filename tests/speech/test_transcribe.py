"""Transcripts by Whisper: a tiny random checkpoint of the real classes shows the plumbing; its words mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import noise, silence, tone

from mer.cache import MerError
from mer.stages.interfaces import SAMPLE_RATE_HZ
from mer.stages.speech.transcribe import split_quietly, transcribe


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


def test_every_clip_gets_a_text_and_the_same_one_again(whisper: Path) -> None:
    clips = [noise(1.0, seed=1)[:, 0], tone(2.5)[:, 0], silence(0.3)[:, 0]]
    texts = transcribe(clips, str(whisper), "cpu")
    assert len(texts) == 3
    assert any(texts)
    assert all(set(text) <= set("abcdefghijklmnopqrstuvwxyz ") for text in texts)
    assert transcribe(clips, str(whisper), "cpu") == texts
    assert [transcribe([clip], str(whisper), "cpu")[0] for clip in clips] == texts


def test_sound_of_no_samples_says_nothing(whisper: Path) -> None:
    assert transcribe([np.zeros(0, np.float32)], str(whisper), "cpu") == [""]
    assert transcribe([], str(whisper), "cpu") == []


def test_long_sound_is_heard_in_pieces(whisper: Path) -> None:
    long = np.concatenate([noise(29.0, seed=2)[:, 0], silence(0.2)[:, 0], noise(4.0, seed=3)[:, 0]])
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
