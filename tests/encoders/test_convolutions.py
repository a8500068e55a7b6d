"""Convolutions a stretch at a time against the model's own, on the clip and in a padded batch."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder

from mer.stages.encoders.audio import FrameGrid
from mer.stages.encoders.convolutions import (
    STRETCH_FRAMES,
    BatchLengths,
    ClipGroupNorm,
    StretchedConvolutions,
    in_stretches,
    is_framable,
    stretch_convolutions,
)

FAMILIES: dict[str, dict[str, Any]] = {
    "group": {"feat_extract_norm": "group", "conv_bias": False},
    "group, bias": {"feat_extract_norm": "group", "conv_bias": True},
    "layer": {"feat_extract_norm": "layer", "conv_bias": True},
}


def original(family: str) -> tuple[Wav2Vec2FeatureEncoder, FrameGrid]:
    """Published kernels and strides, 24 channels, norms that are not at their initial values."""
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(conv_dim=(24,) * 7, **FAMILIES[family])
    model = Wav2Vec2FeatureEncoder(config).eval()
    for name, parameter in model.named_parameters():
        if "layer_norm" in name:
            nn.init.normal_(parameter, 1.0, 0.3)
    return model, FrameGrid.of_convolutions(config.conv_kernel, config.conv_stride)


def stretched(model: Wav2Vec2FeatureEncoder, grid: FrameGrid) -> tuple[Any, BatchLengths]:
    """What `mer` puts in the model's place, and the lengths it goes by."""
    own, lengths = copy.deepcopy(model), BatchLengths()
    norm = getattr(own.conv_layers[0], "layer_norm", None)
    if isinstance(norm, nn.GroupNorm):
        own.conv_layers[0].layer_norm = ClipGroupNorm(norm, lengths)
    return stretch_convolutions(own, grid, lengths), lengths


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(
    frames=st.lists(st.integers(1, 3 * STRETCH_FRAMES + 2), min_size=1, max_size=4),
    extra=st.integers(0, 319),
    offset=st.floats(-3, 3),
)
def test_clips_of_a_padded_batch_come_out_as_from_the_model_alone(
    family: str, frames: list[int], extra: int, offset: float
) -> None:
    model, grid = original(family)
    own, lengths = stretched(model, grid)
    assert isinstance(own, StretchedConvolutions)
    rng = np.random.default_rng(len(frames) * 1000 + extra)
    clips = [torch.from_numpy(rng.normal(offset, 1, grid.samples(n) + extra).astype(np.float32)) for n in frames]
    padded = nn.utils.rnn.pad_sequence(clips, batch_first=True)
    first = FrameGrid.of_convolutions((10,), (5,))
    lengths.first = [first.frames(len(clip)) for clip in clips]
    with torch.no_grad():
        found = own(padded)
        assert found.shape == (len(clips), 24, grid.frames(padded.shape[1]))
        for row, clip in enumerate(clips):
            wanted = model(clip[None])[0]
            torch.testing.assert_close(found[row, :, : wanted.shape[1]], wanted, atol=2e-5, rtol=1e-4)


def test_without_lengths_whole_rows_count() -> None:
    model, grid = original("group")
    own, _ = stretched(model, grid)
    sound = torch.randn(2, 33_000)
    with torch.no_grad():
        torch.testing.assert_close(own(sound), model(sound), atol=2e-5, rtol=1e-4)


def test_a_silent_clip_stays_finite() -> None:
    model, grid = original("group")
    own, lengths = stretched(model, grid)
    lengths.first = [3199]
    sound = torch.zeros(1, 16_000)
    with torch.no_grad():
        torch.testing.assert_close(own(sound), model(sound), atol=2e-5, rtol=1e-4)


def test_each_stretch_sees_its_own_samples_alone() -> None:
    """A mark at the start of every stretch's samples must come out in that stretch's first frame."""
    grid = FrameGrid.of_convolutions((4, 3), (2, 2))
    seen: list[int] = []

    def convolve(piece: torch.Tensor) -> torch.Tensor:
        seen.append(piece.shape[2])
        return piece[:, :, : (piece.shape[2] - grid.field) // grid.stride * grid.stride + 1 : grid.stride]

    sound = torch.arange(2000.0).view(1, 1, -1)
    frames = grid.frames(2000)
    assert in_stretches(convolve, sound, grid).flatten().tolist() == [grid.stride * i for i in range(frames)]
    assert seen == [grid.samples(STRETCH_FRAMES)] * (frames // STRETCH_FRAMES) + [grid.samples(frames % STRETCH_FRAMES)]


def test_only_plain_convolutions_of_one_channel_are_framed() -> None:
    layers = [nn.Conv1d(1, 2, 3), nn.Conv1d(1, 2, 3, padding=1), nn.Conv1d(4, 2, 3), nn.Linear(1, 2), None]
    assert [is_framable(layer) for layer in layers] == [True, False, False, False, False]


def test_another_kind_of_first_layer_is_left_alone() -> None:
    model, grid = original("group")
    model.conv_layers[0].conv = nn.Conv1d(1, 24, 10, 5, padding=2)
    assert stretch_convolutions(model, grid, BatchLengths()) is model
    model, grid = original("group")
    norm = nn.GroupNorm(2, 24)
    model.conv_layers[0].layer_norm = ClipGroupNorm(norm, BatchLengths())
    assert stretch_convolutions(model, grid, BatchLengths()) is model
