"""On equal weights and inputs our fusions give what the peers' own code gives.

The numbers are the output of `benchmarks/peer_parity.py` on MMSA a94e65d and MERTools 89120b7.
"""

import pytest
import torch
from torch import Tensor

from mer.stages.heads.attention_fusion import AttentionHead
from mer.stages.heads.configs import AttentionConfig, EfLstmConfig, GraphMfnConfig, LmfConfig, MfnConfig, TfnConfig
from mer.stages.heads.disparity import class_difference
from mer.stages.heads.ef_lstm import EfLstmHead
from mer.stages.heads.layers import TransformerLayer
from mer.stages.heads.mfn import GraphMfnHead, MfnHead
from mer.stages.heads.misa import central_moment_discrepancy
from mer.stages.heads.tensor_fusion import LmfHead, LowRankFusion, TfnHead, outer_product
from mer.stages.heads.testing import make_inputs

from .peer_weights import fill, wave

TFN = [0.741062, -0.235794, -0.285893, 0.846312, -0.289022, -0.29145]
LMF = [0.482574, 0.458009, 0.157681, 0.468594, 0.43005, 0.180589]
EF_LSTM = [-0.563183, -0.414526, -0.213504, -0.528534, -0.464522, -0.153937]
MFN = [1.283351, -0.515694, 1.236307, 1.341562, -0.59032, 1.317865]
GRAPH_MFN = [-0.140874, 0.022163, -1.208632, -0.088033, -0.057948, -1.111432]
ATTENTION = [-0.727092, 0.0, -0.321606, 0.0, -0.756332, 0.0, -0.32989, 0.0]
MULT_CROSS = [
    -2.132594,
    -1.485242,
    -0.165616,
    1.245398,
    2.117873,
    2.053984,
    1.069493,
    -0.407252,
    -1.836455,
    -1.15858,
    0.037925,
    1.230083,
    1.890908,
    1.722122,
    0.788825,
    -0.504715,
    -1.704257,
    -0.858995,
    0.364004,
    1.429301,
    1.869567,
    1.490253,
    0.455471,
    -0.782779,
    -1.326907,
    -0.267279,
    0.901548,
    1.664914,
    1.690531,
    0.972754,
    -0.16763,
    -1.226741,
    -1.600998,
    -0.353348,
    1.043994,
    1.968889,
    2.013067,
    1.162146,
    -0.200472,
    -1.466383,
    -1.934466,
    -0.624305,
    0.962995,
    2.115951,
    2.319021,
    1.483087,
    -0.015501,
    -1.504387,
]
MISA_CMD, MISA_DIFF = 0.291426, 1.335368

SEQUENCES = [wave(3, 2, 4, 3), wave(4, 2, 4, 3), wave(5, 2, 4, 3)]
HERE = torch.ones(2, 3, dtype=torch.bool)


def close(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found.detach().flatten(), torch.tensor(expected), atol=6e-6, rtol=1e-5)


def vectors() -> list[Tensor]:
    """Sound, face and text, as wide as the peers' subnetworks are set."""
    return [wave(3, 2, 3), wave(4, 2, 2), wave(5, 2, 4)]


def test_tensor_fusion() -> None:
    head = TfnHead(make_inputs(3), TfnConfig(dim=8, hidden=5)).eval()
    head.first = torch.nn.Linear(4 * 3 * 5, 5)
    fill(10, head.first, head.second, head.classifier)
    close(head.classify(head.second(head.first(outer_product(vectors())).relu()).relu()), TFN)


def test_low_rank_fusion() -> None:
    fusion = LowRankFusion({"audio": 3, "face": 2, "text": 4}, rank=2, out=3)
    for number, parameter in enumerate((*fusion.factors.values(), fusion.weights, fusion.bias), 10):
        parameter.data = wave(number, *parameter.shape)
    close(fusion(vectors(), HERE), LMF)
    absent = HERE.clone()
    absent[:, 1] = False
    audio, _, text = vectors()
    two = LowRankFusion({"audio": 3, "text": 4}, rank=2, out=3)
    for number, parameter in zip((10, 12, 13, 14), (*two.factors.values(), two.weights, two.bias), strict=True):
        parameter.data = wave(number, *parameter.shape)
    torch.testing.assert_close(fusion(vectors(), absent), two([audio, text], HERE[:, :2]))
    assert LmfHead(make_inputs(3), LmfConfig(dim=8)).fusion(list(wave(1, 3, 2, 8)), HERE).shape == (2, 8)


def test_attention_fusion() -> None:
    head = AttentionHead(make_inputs(3), AttentionConfig(dim=4)).eval()
    encode = [head.encode[name] for name in ("audio", "text", "face")]
    fill(fill(10, *encode), head.attention)
    close(head.combine([f(wave(3 + i, 2, 4)) for i, f in enumerate(encode)]), ATTENTION)


def test_early_fusion_lstm() -> None:
    head = EfLstmHead(make_inputs(3), EfLstmConfig(dim=3, hidden=4)).eval()
    cell = head.lstm
    for number, parameter in enumerate(
        (cell.from_input.weight, cell.from_state.weight, cell.from_input.bias, cell.from_state.bias), 10
    ):
        parameter.data = wave(number, *parameter.shape)
    fill(14, head.out[1], head.classifier)
    x = torch.cat(SEQUENCES, -1)
    state = cell.start(x)
    for step in x.unbind(-2):
        state = cell(step, state)
    close(head.classify(head.out(state[0])), EF_LSTM)


def remembered(head: MfnHead, *looks: torch.nn.Module) -> Tensor:
    number = 26
    for cell in head.lstm.values():
        for parameter in (cell.from_input.weight, cell.from_state.weight, cell.from_input.bias, cell.from_state.bias):
            parameter.data = wave(number, *parameter.shape)
            number += 1
    number = fill(number, *looks)
    fill(number, head.propose, head.keep, head.write, head.out, head.classifier)
    return head.classify(head.out(head.remember(SEQUENCES, HERE)))


def narrow(head: MfnHead, seen: int) -> MfnHead:
    """The peers' hidden layers are set to another width than their LSTMs; ours have one."""
    for name, into, out in (("propose", seen, 6), ("keep", seen + 6, 6), ("write", seen + 6, 6), ("attend", 24, 24)):
        if hasattr(head, name):
            layers = getattr(head, name)
            layers[0], layers[3] = torch.nn.Linear(into, 5), torch.nn.Linear(5, out)
    head.out[0], head.classifier = torch.nn.Linear(18, 5), torch.nn.Linear(5, 3)
    return head.eval()


def test_memory_fusion() -> None:
    head = narrow(MfnHead(make_inputs(3), MfnConfig(dim=3, hidden=4, memory=6)), 24)
    close(remembered(head, head.attend), MFN)


def test_memory_fusion_by_a_graph() -> None:
    head = GraphMfnHead(make_inputs(3), GraphMfnConfig(dim=3, hidden=4, memory=6, node=5))
    narrow(head, 5)
    graph = head.graph
    # The peer's inner layers are 100 wide, and its parts are filled in the order it makes them.
    for part in (*graph.make, graph.result, graph.efficacy):
        first, second = part[0], part[1]
        part[0] = torch.nn.Linear(first.in_features, 100)
        part[1] = torch.nn.Linear(100, second.out_features)
    close(remembered(head, head.single, graph.make, graph.efficacy, graph.result), GRAPH_MFN)


def test_losses_of_misa() -> None:
    first, second, rows = wave(3, 6, 4), wave(4, 6, 4), torch.ones(6)
    assert central_moment_discrepancy(first, second, rows, rows).item() == pytest.approx(MISA_CMD, abs=1e-5)
    assert class_difference(first, second, rows.unsqueeze(-1)).item() == pytest.approx(MISA_DIFF, abs=1e-5)


def test_cross_modal_attention_of_mult() -> None:
    """The attention with its norm and residual; the feed-forward half is zeroed on both sides."""
    layer = TransformerLayer(8, 2, 32, 0.0).eval()
    fill(10, layer.norm1)
    weight, bias = wave(12, 24, 8), wave(13, 24)
    attention = layer.attention
    attention.query.weight.data, attention.key_value.weight.data = weight[:8], weight[8:]
    attention.query.bias.data, attention.key_value.bias.data = bias[:8], bias[8:]
    attention.out.weight.data, attention.out.bias.data = wave(14, 8, 8), wave(15, 8)
    for parameter in layer.feed.parameters():
        parameter.data.zero_()
    close(layer(wave(3, 2, 3, 8), torch.ones(2, 5, dtype=torch.bool), wave(4, 2, 5, 8)), MULT_CROSS)
