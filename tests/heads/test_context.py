"""Dialogue context layers: padding, causality, lone utterances, wrong settings."""

import pytest
import torch

from mer.cache import MerError
from mer.stages.heads.context import make_context

KINDS = ["bigru", "transformer"]
VALID = torch.tensor([[True] * 5, [True, True, False, False, False]])


def build(kind: str, **settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return make_context(kind, 12, {"hidden": 8, "layers": 2, **settings}).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_the_rest_of_the_batch_do_not_matter(kind: str) -> None:
    layer, vectors = build(kind), torch.randn(2, 5, 12)
    together = layer(vectors, VALID)
    assert together.shape == vectors.shape
    alone = layer(vectors[1:, :2], VALID[1:, :2])
    assert torch.allclose(together[1, :2], alone[0], atol=1e-6)
    vectors[1, 2:] = 100.0
    assert torch.allclose(layer(vectors, VALID)[1, :2], alone[0], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_says_nothing_leaves_every_turn_its_own_vector(kind: str) -> None:
    layer, vectors = build(kind), torch.randn(2, 5, 12)
    torch.nn.init.zeros_(layer.out.weight)
    torch.nn.init.zeros_(layer.out.bias)
    assert torch.equal(layer(vectors, VALID), vectors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("causal", [True, False])
def test_causal_layers_see_no_later_turn(kind: str, causal: bool) -> None:
    layer, vectors = build(kind, causal=causal), torch.randn(2, 5, 12)
    before = layer(vectors, VALID)
    vectors[0, 4] += torch.randn(12)
    after = layer(vectors, VALID)
    assert torch.allclose(before[0, :4], after[0, :4], atol=1e-6) == causal
    assert not torch.allclose(before[0, 4], after[0, 4], atol=1e-6)
    vectors[0, 0] += torch.randn(12)
    assert not torch.allclose(after[0, 4], layer(vectors, VALID)[0, 4], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_and_empty_dialogues_are_harmless(kind: str) -> None:
    layer = build(kind).train()
    valid = torch.cat([VALID, torch.zeros(1, 5, dtype=torch.bool)])
    layer(torch.randn(3, 5, 12), valid)[valid].square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_unknown_names_are_told() -> None:
    with pytest.raises(MerError, match=r"context\.kind is 'gru'; choose one of bigru, transformer"):
        make_context("gru", 8, {})
    with pytest.raises(MerError, match=r"unknown setting context\.hiden; did you mean 'hidden'"):
        make_context("bigru", 8, {"hiden": 3})
    with pytest.raises(MerError, match=r"context\.hidden is 6"):
        make_context("bigru", 8, {"hidden": 6})
