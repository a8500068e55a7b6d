"""The configuration of a FunASR checkpoint (`config.yaml`), as far as emotion2vec needs it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mer.cache import MerError

MOST_LAYERS = 64


def read_funasr_config(path: Path) -> dict[str, Any]:
    """Read `config.yaml` and return it under the names that `config.json` has in other checkpoints.

    Raises
    ------
    MerError
        If it is not the configuration of a supported model.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, Mapping) or str(content.get("model")).lower() != "emotion2vec":
            raise ValueError("its model is not Emotion2vec")
        return _flat(content["model_conf"], content["model_conf"]["modalities"]["audio"])
    except (yaml.YAMLError, OSError, KeyError, TypeError, ValueError, SyntaxError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MerError(f"{path} cannot be used ({reason}); of FunASR's models only emotion2vec is known") from error


def _flat(model: Mapping[str, Any], audio: Mapping[str, Any]) -> dict[str, Any]:
    if model["layer_norm_first"] or audio["extractor_mode"] != "layer_norm" or audio["conv_pos_pre_ln"]:
        raise ValueError("its variant of the blocks or the front end is not supported")
    if not audio["use_alibi_encoder"] or audio["learned_alibi"] or audio["num_alibi_heads"] != model["num_heads"]:
        raise ValueError("its variant of the attention bias is not supported")
    convolutions = parse_convolutions(audio["feature_encoder_spec"])
    return {
        "model_type": "emotion2vec",
        "hidden_size": int(model["embed_dim"]),
        "num_attention_heads": int(model["num_heads"]),
        "num_hidden_layers": int(audio["prenet_depth"]) + int(model["depth"]),
        "prenet_depth": int(audio["prenet_depth"]),
        "mlp_ratio": float(model["mlp_ratio"]),
        "norm_eps": float(model["norm_eps"]),
        "normalize": bool(model["normalize"]),
        "num_extra_tokens": int(audio["num_extra_tokens"]),
        "alibi_scale_per_layer": bool(audio["learned_alibi_scale_per_layer"]),
        "alibi_scale_per_head": bool(audio["learned_alibi_scale_per_head"]),
        "conv_dim": [dim for dim, _, _ in convolutions],
        "conv_kernel": [kernel for _, kernel, _ in convolutions],
        "conv_stride": [stride for _, _, stride in convolutions],
        "conv_pos_width": int(audio["conv_pos_width"]),
        "conv_pos_groups": int(audio["conv_pos_groups"]),
        "conv_pos_depth": int(audio["conv_pos_depth"]),
    }


def parse_convolutions(text: str) -> list[tuple[int, int, int]]:
    """Read a list of (channels, kernel, stride) written as fairseq writes it, with `+` and `*`; nothing is evaluated.

    Raises
    ------
    ValueError
        If the text is anything else.
    """
    layers = _read(ast.parse(text.strip(), mode="eval").body)
    if not isinstance(layers, list) or not 0 < len(layers) <= MOST_LAYERS:
        raise ValueError("feature_encoder_spec is not a list of layers")
    for layer in layers:
        if not isinstance(layer, tuple) or len(layer) != 3 or not all(isinstance(n, int) and n > 0 for n in layer):
            raise ValueError("feature_encoder_spec is not a list of layers")
    return layers


def _read(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Tuple(elts=parts):
            return tuple(_read(part) for part in parts)
        case ast.List(elts=parts):
            return [_read(part) for part in parts]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [*_read(left), *_read(right)]
        case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(times))) if 0 < times <= MOST_LAYERS:
            return list(_read(left)) * times
    raise ValueError("feature_encoder_spec is not a list of layers")
