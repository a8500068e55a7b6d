"""Building blocks against their definitions."""

import math

import pytest
import torch

from mer.stages.heads.base import Batch, ModalityShape
from mer.stages.heads.configs import ConcatConfig
from mer.stages.heads.inputs import ModalityEncoders
from mer.stages.heads.layers import (
    Adapter,
    AttentivePool,
    Transformer,
    drop_steps,
    locked_dropout,
    masked_mean,
    presence,
    sinusoids,
    span_mask,
)
from mer.stages.heads.testing import make_inputs

VALID = torch.tensor([[True, True, False, True, True], [False] * 5])


def test_masked_mean_of_nothing_is_zero() -> None:
    x = torch.randn(2, 5, 3)
    mean = masked_mean(x, VALID)
    assert torch.allclose(mean[0], x[0, VALID[0]].mean(0))
    assert mean[1].tolist() == [0, 0, 0]


def test_attentive_pool_is_a_weighted_mean_of_valid_steps() -> None:
    torch.manual_seed(0)
    pool, x = AttentivePool(3), torch.randn(2, 5, 3)
    steps = x[0, VALID[0]]
    share = torch.stack([pool.score.weight[0] @ (pool.hidden.weight @ h + pool.hidden.bias).tanh() for h in steps])
    wanted = (share.softmax(0).unsqueeze(1) * steps).sum(0)
    assert torch.allclose(pool(x, VALID), torch.stack([wanted, torch.zeros(3)]), atol=1e-6)


def test_position_codes_by_hand() -> None:
    """Two rates, 1 and 1 in 10,000; a width of five leaves a zero."""
    wanted = [[math.sin(t), math.sin(t / 1e4), math.cos(t), math.cos(t / 1e4), 0.0] for t in range(3)]
    assert torch.allclose(sinusoids(3, 5, torch.zeros(1)), torch.tensor(wanted))


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


def test_features_are_dropped_at_all_steps_alike_and_the_others_scaled_up() -> None:
    torch.manual_seed(0)
    kept = locked_dropout(torch.ones(300, 4, 10), 0.25)
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    assert kept.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert 0.23 < (kept[:, 0] == 0).float().mean() < 0.27


def bare(adapter: Adapter) -> Adapter:
    """Let an adapter pass on what it is given, so that its noise can be seen."""
    adapter.linear.weight.data, adapter.linear.bias.data = torch.eye(3), torch.zeros(3)
    adapter.norm = torch.nn.Identity()  # type: ignore[assignment]
    return adapter.train()


def test_an_adapter_disturbs_in_training_alone() -> None:
    torch.manual_seed(0)
    x, valid = torch.ones(100, 40, 3), torch.ones(100, 40, dtype=torch.bool)
    noisy = bare(Adapter(ModalityShape(3), 3, noise=0.5))
    assert 0.48 < (noisy(x, valid)[0] - x).std() < 0.52
    assert torch.equal(noisy.eval()(x, valid)[0], x)
    spans, mask = bare(Adapter(ModalityShape(3), 3, hide_spans=0.2, span=4))(x, valid)
    assert torch.equal(mask, valid)
    assert torch.equal(spans, spans[..., :1].expand_as(spans))
    assert 0.15 < (spans == 0).float().mean() < 0.25
    hidden, mask = bare(Adapter(ModalityShape(3), 3, hide_steps=0.2))(x, valid)
    assert torch.equal(hidden, mask.unsqueeze(-1).expand_as(hidden).float())
    assert 0.15 < (~mask).float().mean() < 0.25


def test_tokens_are_hidden_singly_and_frames_in_spans_of_cached_steps() -> None:
    """A span of ten cached audio steps is two of the means over four."""
    config = ConcatConfig(dim=8, hide_tokens=0.3, hide_spans=0.4, audio_stride=4, span=10)
    each = {name: part.adapter for name, part in ModalityEncoders(make_inputs(3), config).each.items()}
    hidden = {name: (one.hide_steps, one.hide_spans) for name, one in each.items()}
    assert hidden == {"text": (0.3, 0.0), "audio": (0.0, 0.4), "face": (0.0, 0.4)}
    assert (each["audio"].span, each["face"].span) == (2, 10)


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
