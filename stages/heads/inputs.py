"""The modalities' way into a head, built alike for all heads."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from .base import Batch, HeadInputs
from .configs import SequenceConfig
from .layers import Adapter, SequenceEncoder, check_stack, presence


class ModalityEncoders(nn.Module):
    """One `SequenceEncoder` per modality, fed with masks that hide absent and dropped modalities.

    Tokens are hidden singly and frames in spans.

    Parameters
    ----------
    inputs
        The modalities.
    config
        Widths and noise.
    layers, heads, expand
        Transformer of each modality; `layers=0` leaves the adapter alone.
    plain
        Modalities without transformer layers.
    input_norm
        Normalise each feature row first.
    """

    def __init__(
        self,
        inputs: HeadInputs,
        config: SequenceConfig,
        *,
        layers: int = 0,
        heads: int = 4,
        expand: int = 2,
        plain: Collection[str] = (),
        input_norm: bool = False,
    ) -> None:
        super().__init__()
        check_stack(config.stack, inputs.modalities.values())
        self.drop = config.modality_dropout
        self.each = nn.ModuleDict()
        for name, shape in inputs.modalities.items():
            text = name == "text"
            adapter = Adapter(
                shape,
                config.dim,
                dropout=config.input_dropout,
                noise=config.noise,
                hide_steps=config.hide_tokens if text else 0.0,
                hide_spans=0.0 if text else config.hide_spans,
                span=max(1, round(config.span / config.pooling.get(name, 1))),
                input_norm=input_norm,
                stack=config.stack,
            )
            self.each[name] = SequenceEncoder(
                adapter, 0 if name in plain else layers, config.dim, heads, expand=expand, dropout=config.dropout
            )

    def forward(self, batch: Batch) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Encode a batch.

        Returns
        -------
        tuple
            Per modality the steps (B, T, dim) and which are valid (B, T); and the presence (B, M) that training's
            modality dropout left.
        """
        present = presence(batch, list(self.each), self.drop, self.training)
        steps, valid = [], []
        for index, (name, encode) in enumerate(self.each.items()):
            x, mask = encode(batch.values[name], batch.valid[name] & present[:, index : index + 1])
            steps.append(x)
            valid.append(mask)
        return steps, valid, present
