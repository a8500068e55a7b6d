"""Convolutions by the Fourier transform against PyTorch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mer.stages.encoders.fourier import FourierConvolution, by_fourier


@settings(max_examples=40, deadline=None)
@given(
    taps=st.integers(1, 140),
    groups=st.integers(1, 4),
    padding=st.integers(0, 70),
    steps=st.integers(1, 700),
    size=st.integers(1, 3),
    bias=st.booleans(),
)
def test_it_is_the_convolution(taps: int, groups: int, padding: int, steps: int, size: int, bias: bool) -> None:
    torch.manual_seed(taps)
    layer = nn.Conv1d(3 * groups, 2 * groups, taps, padding=padding, groups=groups, bias=bias)
    x = torch.randn(size, 3 * groups, max(steps, taps - 2 * padding))
    with torch.no_grad():
        expected = layer(x)
        torch.testing.assert_close(FourierConvolution(layer)(x), expected, atol=1e-5, rtol=1e-5)


def test_what_follows_a_clip_does_not_reach_back() -> None:
    layer = FourierConvolution(nn.Conv1d(4, 4, 128, padding=64, groups=2))
    x = torch.randn(1, 4, 300)
    longer = torch.cat([x, torch.zeros(1, 4, 512)], -1)
    with torch.no_grad():
        torch.testing.assert_close(layer(longer)[..., :237], layer(x)[..., :237], atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["wav2vec2-group", "wav2vec2-layer", "hubert-large", "wavlm-base"])
def test_the_positional_convolutions_of_a_cpu_are_done_so(tiny: Any, family: str) -> None:
    loaded: Any = tiny("audio", family).load("cpu")
    kinds = {name: type(m) for name, m in loaded.model.named_modules() if name.endswith("pos_conv_embed.conv")}
    assert set(kinds.values()) == {FourierConvolution}


def test_short_and_half_precision_convolutions_stay() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 19, padding=9), nn.Conv1d(2, 2, 128, padding=64).bfloat16())
    by_fourier(model)
    assert [type(layer) for layer in model] == [nn.Conv1d, nn.Conv1d]
