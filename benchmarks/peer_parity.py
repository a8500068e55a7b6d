"""What the peers' own code gives on fixed weights and inputs: the numbers that `tests/heads/test_parity.py` holds.

    python benchmarks/peer_parity.py MMSA_CHECKOUT MERTOOLS_CHECKOUT

Checkouts of thuiar/MMSA (a94e65d) and zeroQiaoba/MERTools (89120b7, its folder MER2024). Their subnetworks before the
fusion are replaced by the identity, dropout is off, and batch norm over steps is left out, as in ours.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "heads"))
from peer_weights import fill, wave

CONFIG = {"shapes": 5, "drop": 0.0}
SEQUENCES = [wave(3, 2, 4, 3), wave(4, 2, 4, 3), wave(5, 2, 4, 3)]
"""Text, sound and face: two utterances of four steps, 3 wide."""


def module(folder: Path, name: str, package: str) -> types.ModuleType:
    """Import one file without its package's `__init__`, which imports what is not needed here."""
    parent = types.ModuleType(package)
    parent.__path__ = [str(folder)]
    sys.modules[package] = parent
    spec = importlib.util.spec_from_file_location(f"{package}.{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


def show(name: str, found: Tensor) -> None:
    """Print a tensor as a list that can be pasted."""
    print(f"{name} = {[round(value, 6) for value in found.flatten().tolist()]}")


def vectors() -> list[Tensor]:
    """Sound, face and text of two utterances."""
    return [wave(3, 2, 3), wave(4, 2, 2), wave(5, 2, 4)]


def tensor_models(models: Path) -> None:
    """TFN and LMF, from their vectors on."""
    audio, video, text = vectors()
    sys.modules["peer"] = types.ModuleType("peer")
    sys.modules["peer"].__path__ = [str(models)]
    args = SimpleNamespace(
        feature_dims=(4, 3, 2), hidden_dims=(8, 3, 2), text_out=4, post_fusion_dim=5, dropouts=(0, 0, 0, 0),
        num_classes=3, train_mode="classification", rank=2,
    )  # fmt: skip
    for name in ("TFN", "LMF"):
        model = getattr(module(models / "singleTask", name, "peer.singleTask"), name)(args).eval()
        model.audio_subnet = model.video_subnet = model.text_subnet = nn.Identity()
        if name == "TFN":
            fill(10, model.post_fusion_layer_1, model.post_fusion_layer_2, model.post_fusion_layer_3)
        else:
            factors = (model.audio_factor, model.video_factor, model.text_factor, model.fusion_weights)
            for number, parameter in enumerate((*factors, model.fusion_bias), 10):
                parameter.data = wave(number, *parameter.shape)
        show(name, model(text, audio, video)["M"])


def recurrent_models(models: Path) -> None:
    """EF-LSTM, MFN and Graph-MFN."""
    args = SimpleNamespace(
        feature_dims=(3, 3, 3), hidden_dims=(4, 4, 4), seq_lens=4, num_layers=1, dropout=0.0, num_classes=3,
        train_mode="classification", memsize=6, windowsize=2, NN1Config=CONFIG, NN2Config=CONFIG, NNConfig=CONFIG,
        gamma1Config=CONFIG, gamma2Config=CONFIG, outConfig=CONFIG, inner_node_dim=5, device="cpu",
    )  # fmt: skip
    early = module(models / "singleTask", "EF_LSTM", "peer.singleTask").EF_LSTM(
        SimpleNamespace(**{**vars(args), "hidden_dims": 4})
    )
    early.norm = nn.Identity()
    fill(10, early.lstm, early.linear, early.out)
    show("EF_LSTM", early(*SEQUENCES)["M"])
    for name in ("MFN", "Graph_MFN"):
        model = getattr(module(models / "singleTask", name, "peer.singleTask"), name)(args).eval()
        number = fill(26, model.lstm_l, model.lstm_a, model.lstm_v)
        if name == "MFN":
            number = fill(number, model.att1_fc1, model.att1_fc2)
        else:
            number = fill(number, model.l_transform, model.a_transform, model.v_transform)
            graph = model.graph_mfn
            number = fill(
                number, *(graph.networks[key] for key in graph.powerset[3:]), graph.efficacy_model, graph.t_network
            )
        pairs = ("att2_fc1", "att2_fc2", "gamma1_fc1", "gamma1_fc2", "gamma2_fc1", "gamma2_fc2", "out_fc1", "out_fc2")
        fill(number, *(getattr(model, pair) for pair in pairs))
        show(name, model(*SEQUENCES)["M"])


def others(models: Path, tools: Path) -> None:
    """Attention fusion, MISA's two losses, and a cross-modal attention of MulT with its residual."""
    sys.modules["bench"] = types.ModuleType("bench")
    sys.modules["bench"].__path__ = [str(tools)]
    args = SimpleNamespace(
        text_dim=4, audio_dim=4, video_dim=4, hidden_dim=4, output_dim1=3, output_dim2=1, dropout=0.0, grad_clip=-1,
        feat_type="utt",
    )  # fmt: skip
    model = module(tools, "attention", "bench").Attention(args).eval()
    number = fill(10, model.audio_encoder, model.text_encoder, model.video_encoder)
    fill(number, model.attention_mlp, model.fc_att)
    batch = {"audios": wave(3, 2, 4), "texts": wave(4, 2, 4), "videos": wave(5, 2, 4)}
    torch.Tensor.cuda = lambda self, *_: self  # its forward asks for a GPU to put a zero on
    show("ATTENTION", model(batch)[0])
    misa = module(tools, "misa", "bench")
    show("MISA_CMD", misa.CMD()(wave(3, 6, 4), wave(4, 6, 4), 5))
    show("MISA_DIFF", misa.DiffLoss()(wave(3, 6, 4), wave(4, 6, 4)))
    layer = module(models / "subNets" / "transformers_encoder", "transformer", "peer.subNets.transformers_encoder")
    block = layer.TransformerEncoderLayer(8, 2, 0.0, 0.0, 0.0).eval()
    fill(10, block.layer_norms[0])
    attention = block.self_attn
    for number, parameter in enumerate(
        (attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight, attention.out_proj.bias), 12
    ):
        parameter.data = wave(number, *parameter.shape)
    for parameter in (*block.fc1.parameters(), *block.fc2.parameters()):
        parameter.data.zero_()
    x, memory = wave(3, 2, 3, 8).transpose(0, 1), wave(4, 2, 5, 8).transpose(0, 1)
    show("MULT_CROSS", block(x, memory, memory).transpose(0, 1))


if __name__ == "__main__":
    mmsa, mertools = (Path(argument) for argument in sys.argv[1:3])
    with torch.no_grad():
        tensor_models(mmsa / "src" / "MMSA" / "models")
        recurrent_models(mmsa / "src" / "MMSA" / "models")
        others(mmsa / "src" / "MMSA" / "models", mertools / "MER2024" / "toolkit" / "models")
