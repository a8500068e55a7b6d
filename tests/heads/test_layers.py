"""Building blocks against their definitions."""

import pytest
import torch

from mer.stages.heads.base import Batch, ModalityShape
from mer.stages.heads.layers import (
    Adapter,
    AttentivePool,
    Transformer,
    drop_steps,
    masked_mean,
    presence,
    span_mask,
)

VALID = torch.tensor([[True, True, False, True, True], [False] * 5])


def test_masked_mean_of_nothing_is_zero() -> None:
    x = torch.randn(2, 5, 3)
    mean = masked_mean(x, VALID)
    assert torch.allclose(mean[0], x[0, VALID[0]].mean(0))
    assert mean[1].tolist() == [0, 0, 0]


def test_attentive_pool_is_a_weighted_mean_of_valid_steps() -> None:
    pool, x = AttentivePool(3), torch.ones(2, 5, 3)
    assert torch.allclose(pool(x, VALID), torch.tensor([[1.0] * 3, [0.0] * 3]))


@pytest.mark.parametrize("pre_norm", [True, False])
def test_readout_equals_the_first_steps_of_the_whole(pre_norm: bool) -> None:
    torch.manual_seed(0)
    encoder = Transformer(2, 8, 2, pre_norm=pre_norm).eval()
    x = torch.randn(2, 5, 8)
    assert torch.allclose(encoder(x, VALID, readout=1), encoder(x, VALID)[:, :1], atol=1e-6)


def test_transformer_equals_torchs() -> None:
    torch.manual_seed(0)
    ours = Transformer(1, 8, 2, expand=2, dropout=0.0).eval()
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    layer = ours.layers[0]
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(
            torch.cat([layer.attention.query.weight, layer.attention.key_value.weight])
        )
        theirs.self_attn.in_proj_bias.copy_(torch.cat([layer.attention.query.bias, layer.attention.key_value.bias]))
        for mine, their in ((layer.attention.out, theirs.self_attn.out_proj), (layer.feed[0], theirs.linear1)):
            their.load_state_dict(mine.state_dict())
        theirs.linear2.load_state_dict(layer.feed[2].state_dict())
        theirs.norm1.load_state_dict(layer.norm1.state_dict())
        theirs.norm2.load_state_dict(layer.norm2.state_dict())
    x = torch.randn(1, 5, 8)
    with torch.no_grad():
        expected = theirs(x, src_key_padding_mask=~VALID[:1])
    assert torch.allclose(layer(x, VALID[:1])[VALID[:1]], expected[VALID[:1]], atol=1e-5)


def test_layer_mix_starts_as_the_mean_of_the_layers() -> None:
    torch.manual_seed(0)
    adapter = Adapter(ModalityShape(4, 3), 8).eval()
    x, valid = torch.randn(2, 5, 12), torch.ones(2, 5, dtype=torch.bool)
    expected = adapter.norm(adapter.linear(x.view(2, 5, 3, 4).mean(2)))
    assert torch.allclose(adapter(x, valid)[0], expected, atol=1e-6)


def test_noise_hides_about_as_much_as_asked_and_never_all() -> None:
    torch.manual_seed(0)
    valid = torch.ones(200, 100, dtype=torch.bool)
    assert 0.04 < span_mask(valid, 0.05, 10).float().mean() < 0.06
    assert 0.18 < 1 - drop_steps(valid, 0.2).float().mean() < 0.22
    short = torch.ones(500, 2, dtype=torch.bool)
    assert drop_steps(short, 0.9).any(-1).all()
    assert not drop_steps(VALID, 0.5)[1].any()


def test_modality_dropout_leaves_one() -> None:
    torch.manual_seed(0)
    yes = torch.ones(500, dtype=torch.bool)
    here = {"text": yes, "audio": yes.clone(), "face": ~yes}
    here["audio"][:250] = False
    valid = {name: mask.unsqueeze(-1) for name, mask in here.items()}
    batch = Batch({}, valid, here)
    kept = presence(batch, here, 0.5, training=True)
    assert kept.any(-1).all()
    assert not kept[:, 2].any()
    assert kept[:250, 0].all()
    dropped = (~kept[250:, 0]).float().mean()
    assert 0.2 < dropped < 0.3  # half, less the quarter where both would go
    assert torch.equal(presence(batch, here, 0.5, training=False)[:, 1], here["audio"])
