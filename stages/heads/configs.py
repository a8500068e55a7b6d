"""Settings of the heads. This module imports no torch, so that listing heads and their settings stays quick."""

from __future__ import annotations

from dataclasses import dataclass

from mer.cache import MerError


def one_of(field: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a setting outside its choices."""
    if value not in choices:
        raise MerError(f"head.{field} is {value!r}; choose one of {', '.join(choices)}")


def divides(heads: int, dim: int) -> None:
    """Refuse an attention width that its heads do not divide."""
    if heads < 1 or dim < 1 or dim % heads:
        raise MerError(f"head.dim is {dim}, which {heads} attention heads do not divide; change head.dim or head.heads")


@dataclass(frozen=True)
class SequenceConfig:
    """Settings every head shares: how one modality's steps enter."""

    dim: int = 128
    """Width of the head."""
    audio_stride: int = 4
    """Audio steps averaged into one (50 Hz features become 12.5 Hz)."""
    face_stride: int = 1
    """Face steps averaged into one."""
    dropout: float = 0.1
    """Dropout inside the head."""
    input_dropout: float = 0.1
    """Dropout on the cached features."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on the normalised features in training."""
    hide_tokens: float = 0.05
    """Probability of hiding a token in training."""
    hide_spans: float = 0.05
    """Share of audio and face steps zeroed in spans in training."""
    span: int = 10
    """Length of such a span in cached steps."""
    modality_dropout: float = 0.1
    """Probability of dropping a modality of an utterance in training; never all of them."""

    def __post_init__(self) -> None:
        for name in ("dropout", "input_dropout", "hide_tokens", "hide_spans", "modality_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise MerError(f"head.{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        for name in ("dim", "audio_stride", "face_stride", "span"):
            if getattr(self, name) < 1:
                raise MerError(f"head.{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class DrkfConfig(SequenceConfig):
    """Settings of `drkf`."""

    variant: str = "corrected"
    """`corrected`, or `faithful` to the released training script."""
    adapter_layers: int = 0
    """Transformer layers in each modality's adapter, after its projection."""
    fusion_layers: int = 2
    """Layers of the fusion encoder (released: 6)."""
    heads: int = 4
    """Attention heads (released: 8)."""
    expand: int = 2
    """Feed-forward width over `dim` (released: 4)."""
    blocks: int = 5
    """Steps of the residual augmentation cascade."""
    ed: float = 0.2
    """Weight of emotion discrimination; 0 switches it off."""
    ed_rounds: int = 1
    """Shuffled sequences per utterance and step, half with matching and half with other emotions (corrected)."""
    ed_limit: int = 256
    """Cap on the shuffled sequences of a step where all pairs of the batch are used (faithful)."""
    intra: float = 0.2
    """Weight of NT-Xent between a modality's raw and augmented view, per modality."""
    cross: float = 0.2
    """Weight of InfoNCE between modalities, averaged over pairs."""
    mse: float = 0.2
    """Weight of the augmentation's reconstruction error, per modality."""
    kl: float = 1.0
    """Weight of the divergence between the raw and the augmented view's prediction, per modality."""
    kl_target: str = "raw"
    """What the augmented view's prediction is pulled to: `raw` (stopped gradient) or `label` (corrected)."""
    unimodal: float = 0.2
    """Weight of the unimodal classifiers' own loss on the raw view, per modality (corrected)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("variant", self.variant, ("corrected", "faithful"))
        one_of("kl_target", self.kl_target, ("raw", "label"))
        divides(self.heads, self.dim)


@dataclass(frozen=True)
class ConcatConfig(SequenceConfig):
    """Settings of `concat`."""

    hidden: int = 128
    """Width of the layer after concatenation."""
    pool: str = "mean"
    """How steps become one vector: masked `mean` or `attention`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("pool", self.pool, ("mean", "attention"))
