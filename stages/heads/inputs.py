"""The modalities' way into a head, built alike for all heads."""

from __future__ import annotations

from torch import nn

from .base import HeadInputs
from .configs import SequenceConfig
from .layers import Adapter, SequenceEncoder


def sequence_encoders(
    inputs: HeadInputs,
    config: SequenceConfig,
    *,
    layers: int = 0,
    heads: int = 4,
    expand: int = 2,
    input_norm: bool = False,
) -> nn.ModuleDict:
    """One `SequenceEncoder` per modality: tokens are hidden singly, frames in spans; audio and face may be pooled."""
    encoders = nn.ModuleDict()
    for name, shape in inputs.modalities.items():
        text = name == "text"
        adapter = Adapter(
            shape,
            config.dim,
            stride={"audio": config.audio_stride, "face": config.face_stride}.get(name, 1),
            dropout=config.input_dropout,
            noise=config.noise,
            hide_steps=config.hide_tokens if text else 0.0,
            hide_spans=0.0 if text else config.hide_spans,
            span=config.span,
            input_norm=input_norm,
        )
        encoders[name] = SequenceEncoder(adapter, layers, config.dim, heads, expand=expand, dropout=config.dropout)
    return encoders
