"""Settings of the heads. This module imports no torch, so that listing heads and their settings stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mer.cache import MerError

CONTEXTS = ("none", "bigru", "transformer")
"""Kinds of dialogue context."""


def one_of(field: str, value: str, choices: tuple[str, ...], section: str = "head") -> None:
    """Refuse a setting outside its choices."""
    if value not in choices:
        raise MerError(f"{section}.{field} is {value!r}; choose one of {', '.join(choices)}")


def fractions(config: object, *fields: str, section: str = "head") -> None:
    """Refuse probabilities outside [0, 1)."""
    for field in fields:
        if not 0 <= getattr(config, field) < 1:
            raise MerError(f"{section}.{field} is {getattr(config, field)}; it must be at least 0 and below 1")


def positive(config: object, *fields: str, section: str = "head") -> None:
    """Refuse sizes below 1."""
    for field in fields:
        if getattr(config, field) < 1:
            raise MerError(f"{section}.{field} is {getattr(config, field)}; it must be at least 1")


def not_negative(config: object, *fields: str, section: str = "head") -> None:
    """Refuse numbers below 0."""
    for field in fields:
        if not getattr(config, field) >= 0:
            raise MerError(f"{section}.{field} is {getattr(config, field)}; it must be at least 0")


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
    """Cached audio steps averaged into one (50 Hz features become 12.5 Hz)."""
    face_stride: int = 1
    """Cached face steps averaged into one."""
    dropout: float = 0.1
    """Dropout inside the head."""
    input_dropout: float = 0.1
    """Share of the cached features dropped in training, at all steps of an utterance alike."""
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
    stack: str = "mix"
    """Layers kept side by side (`--layers all`): a learned `mix`, or a choice of them as `--layers` has it."""

    def __post_init__(self) -> None:
        fractions(self, "dropout", "input_dropout", "hide_tokens", "hide_spans", "modality_dropout")
        positive(self, "dim", "audio_stride", "face_stride", "span")
        not_negative(self, "noise")

    @property
    def pooling(self) -> dict[str, int]:
        """Modality to the cached steps averaged into one before the head sees them."""
        return {"audio": self.audio_stride, "face": self.face_stride}


AS_RELEASED: dict[str, float] = {
    "adapter_layers": 0, "fusion_layers": 2, "dropout": 0.1,
    "ed": 0.2, "intra": 0.2, "cross": 0.2, "mse": 0.2, "kl": 1.0, "unimodal": 0.2,
}  # fmt: skip
"""What `drkf` takes for a setting that is not given, with `fusion=steps` and with `variant=faithful`."""
OVER_VECTORS: dict[str, float] = {
    "adapter_layers": 1, "fusion_layers": 1, "dropout": 0.2,
    "ed": 1.0, "intra": 0.0, "cross": 0.0, "mse": 0.0, "kl": 0.0, "unimodal": 0.0,
}  # fmt: skip
"""What it takes with `fusion=vectors`: terms that showed no effect are off."""


@dataclass(frozen=True)
class DrkfConfig(SequenceConfig):
    """Settings of `drkf`. Several defaults depend on `fusion`; what is listed goes with `vectors`."""

    earlier: ClassVar[dict[str, Any]] = {"fusion": "steps"}
    """Values of the settings that a run's record may not have yet."""

    variant: str = "corrected"
    """`corrected`, or `faithful` to the released training script (then `fusion=steps`)."""
    fusion: str = "vectors"
    """What the fusion encoder attends over: one vector per modality (`vectors`), or all `steps` as released."""
    dropout: float = None  # type: ignore[assignment]
    """Dropout inside the head (steps: 0.1)."""
    fusion_dropout: float = 0.3
    """Dropout on the fused vector (vectors)."""
    adapter_layers: int = None  # type: ignore[assignment]
    """Transformer layers in each modality's adapter, after its projection (steps: 0)."""
    fusion_layers: int = None  # type: ignore[assignment]
    """Layers of the fusion encoder (steps: 2; released: 6)."""
    heads: int = 4
    """Attention heads (released: 8)."""
    expand: int = 2
    """Feed-forward width over `dim` (released: 4)."""
    readout: str = "cls"
    """With `steps`, what the fusion encoder hands on: the state at `cls` as released, or the `mean` (corrected)."""
    blocks: int = 5
    """Steps of the residual augmentation cascade."""
    ed: float = None  # type: ignore[assignment]
    """Weight of emotion discrimination; 0 switches it off (steps: 0.2)."""
    ed_size: int = 32
    """Numbers of an emotion vector, which emotion discrimination compares (vectors)."""
    ed_rounds: int = 1
    """Shuffled sequences per utterance and step, half with matching and half with other emotions (steps)."""
    ed_limit: int = 256
    """Cap on the shuffled sequences of a step where all pairs of the batch are used (faithful)."""
    intra: float = None  # type: ignore[assignment]
    """Weight of NT-Xent between a modality's raw and augmented view, per modality (steps: 0.2)."""
    cross: float = None  # type: ignore[assignment]
    """Weight of InfoNCE between modalities, averaged over pairs (steps: 0.2)."""
    mse: float = None  # type: ignore[assignment]
    """Weight of the augmentation's reconstruction error, per modality (steps: 0.2)."""
    kl: float = None  # type: ignore[assignment]
    """Weight of the divergence between the raw and the augmented view's prediction, per modality (steps: 1)."""
    kl_target: str = "raw"
    """What the augmented view's prediction is pulled to: `raw` (stopped gradient) or `label` (corrected)."""
    unimodal: float = None  # type: ignore[assignment]
    """Weight of the unimodal classifiers' own loss on the raw view, per modality (corrected; steps: 0.2)."""

    def __post_init__(self) -> None:
        one_of("variant", self.variant, ("corrected", "faithful"))
        one_of("fusion", self.fusion, ("vectors", "steps"))
        if self.variant == "faithful":
            object.__setattr__(self, "fusion", "steps")
        for name, value in (AS_RELEASED if self.fusion == "steps" else OVER_VECTORS).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        super().__post_init__()
        one_of("readout", self.readout, ("cls", "mean"))
        one_of("kl_target", self.kl_target, ("raw", "label"))
        fractions(self, "fusion_dropout")
        positive(self, "fusion_layers", "expand", "blocks", "ed_size", "ed_rounds", "ed_limit")
        not_negative(self, "adapter_layers", "ed", "intra", "cross", "mse", "kl", "unimodal")
        divides(self.heads, self.dim)


@dataclass(frozen=True)
class PooledConfig(SequenceConfig):
    """Settings of the heads that see each modality as one vector."""

    pool: str = "mean"
    """How steps become one vector: masked `mean`, `attention`, or `statistics` (attentive mean and deviation)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("pool", self.pool, ("mean", "attention", "statistics"))


@dataclass(frozen=True)
class ConcatConfig(PooledConfig):
    """Settings of `concat`."""

    dropout: float = 0.3
    """Dropout before the classifier."""
    hidden: int = 128
    """Width of the layer after concatenation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "hidden")


@dataclass(frozen=True)
class LateConfig(PooledConfig):
    """Settings of `late`."""

    dropout: float = 0.3
    """Dropout before the classifiers."""
    unimodal: float = 1.0
    """Weight of the mean of the unimodal losses."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "unimodal")


@dataclass(frozen=True)
class GatedConfig(PooledConfig):
    """Settings of `gated`."""

    dropout: float = 0.3
    """Dropout before the classifier."""


@dataclass(frozen=True)
class AttentionConfig(PooledConfig):
    """Settings of `attention`."""

    dropout: float = 0.3
    """Dropout before each encoder."""


@dataclass(frozen=True)
class TfnConfig(PooledConfig):
    """Settings of `tfn`."""

    dropout: float = 0.3
    """Dropout on the outer product."""
    subspace: int = 16
    """Numbers of each modality that enter the outer product, which has (subspace + 1) ** modalities."""
    hidden: int = 128
    """Width of the two layers after it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "subspace", "hidden")


@dataclass(frozen=True)
class LmfConfig(PooledConfig):
    """Settings of `lmf`."""

    dropout: float = 0.3
    """Dropout before the classifier."""
    rank: int = 4
    """Factors per modality."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "rank")


@dataclass(frozen=True)
class RecurrentConfig(SequenceConfig):
    """Settings of the heads that read all modalities step by step."""

    dim: int = 64
    """Width of an adapted step."""
    dropout: float = 0.3
    """Dropout inside the head."""
    segments: int = 8
    """Equal parts of an utterance, each averaged, that stand in for aligned words."""
    hidden: int = 64
    """Width of an LSTM."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "segments", "hidden")


@dataclass(frozen=True)
class EfLstmConfig(RecurrentConfig):
    """Settings of `ef-lstm`."""


@dataclass(frozen=True)
class MfnConfig(RecurrentConfig):
    """Settings of `mfn`."""

    memory: int = 64
    """Width of the memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "memory")


@dataclass(frozen=True)
class GraphMfnConfig(MfnConfig):
    """Settings of `graph-mfn`."""

    node: int = 64
    """Width of a node of the graph."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "node")


@dataclass(frozen=True)
class LinearConfig:
    """Settings of `linear`."""

    earlier: ClassVar[dict[str, Any]] = {"stack": "mix"}
    """Values of the settings that a run's record may not have yet."""
    recipe: ClassVar[dict[str, Any]] = {"lr": 1e-3, "weight_decay": 1.0, "patience": 20}
    """Defaults of `[train]` that are this head's own; found on validation (docs/results.md)."""

    stack: str = "concat"
    """Layers kept side by side (`--layers all`): all as inputs (`concat`), a learned `mix`, or a choice of them as
    `--layers` has it."""
    input_dropout: float = 0.0
    """Dropout on the pooled features."""
    modality_dropout: float = 0.0
    """Probability of dropping a modality of an utterance in training; never all of them."""

    def __post_init__(self) -> None:
        fractions(self, "input_dropout", "modality_dropout")


@dataclass(frozen=True)
class MlpConfig(LinearConfig):
    """Settings of `mlp`."""

    recipe: ClassVar[dict[str, Any]] = {"lr": 1e-3}
    """Defaults of `[train]` that are this head's own; found on validation (docs/results.md)."""
    dim: int = 128
    """Width of the hidden layers."""
    layers: int = 1
    """Hidden layers."""
    dropout: float = 0.3
    """Dropout after each hidden layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fractions(self, "dropout")
        positive(self, "dim", "layers")


@dataclass(frozen=True)
class MisaConfig(SequenceConfig):
    """Settings of `misa`."""

    dropout: float = 0.3
    """Dropout inside the head (published: 0.5)."""
    layers: int = 1
    """Transformer layers over audio and face steps, in place of the published LSTMs."""
    heads: int = 2
    """Attention heads."""
    similarity: float = 1.0
    """Weight of the central moment discrepancy of the shared vectors."""
    difference: float = 0.3
    """Weight of the soft orthogonality."""
    reconstruction: float = 1.0
    """Weight of the reconstruction error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(self, "layers", "similarity", "difference", "reconstruction")
        divides(self.heads, self.dim)


@dataclass(frozen=True)
class MultConfig(SequenceConfig):
    """Settings of `mult`."""

    dim: int = 64
    """Width of a cross-modal stream (published: 30 to 40)."""
    layers: int = 2
    """Layers of each cross-modal transformer (published: 4 to 5)."""
    memory_layers: int = 1
    """Self-attention layers over the joined streams of a modality."""
    heads: int = 4
    """Attention heads."""
    expand: int = 4
    """Feed-forward width over the stream's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "layers", "expand")
        not_negative(self, "memory_layers")
        divides(self.heads, self.dim)


@dataclass(frozen=True)
class FdrlConfig(SequenceConfig):
    """Settings of `fdrl`."""

    dropout: float = 0.2
    """Dropout inside the encoders."""
    fusion_dropout: float = 0.3
    """Dropout before the classifier."""
    layers: int = 1
    """Transformer layers of each modality's sequence encoder."""
    heads: int = 4
    """Attention heads."""
    expand: int = 4
    """Feed-forward width over `dim`."""
    split: bool = True
    """Shared and private subspaces; without, the pooled modalities are fused directly and no term is added."""
    predictor: str = "both"
    """Which vectors must still tell the label: `both`, `shared`, `private` or `none`."""
    predict_weight: float = 0.5
    """Weight of the predictor."""
    align: str = "lmmd"
    """Alignment of the shared vectors: `lmmd`, `adversary`, `contrastive` or `none`."""
    align_scope: str = "class"
    """`class` for fine-grained, `global` for coarse alignment."""
    align_weight: float = 0.5
    """Weight of the alignment."""
    temperature: float = 0.1
    """Temperature of the contrastive alignment."""
    disparity: str = "cka"
    """Disparity of the private vectors: `cka`, `hsic`, `misa`, `classify` or `none`."""
    disparity_scope: str = "class"
    """`class` for redundancy within classes, `global` for all rows together."""
    disparity_pairs: str = "all"
    """`all`, or `private` to leave out the (shared, private) pairs."""
    disparity_weight: float = 0.1
    """Weight of the disparity."""
    ramp: bool = True
    """Let alignment and disparity grow from 0 over training."""
    bins: int = 5
    """Quantile groups that stand in for classes when the target is a number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("predictor", self.predictor, ("both", "shared", "private", "none"))
        one_of("align", self.align, ("lmmd", "adversary", "contrastive", "none"))
        one_of("align_scope", self.align_scope, ("class", "global"))
        one_of("disparity", self.disparity, ("cka", "hsic", "misa", "classify", "none"))
        one_of("disparity_scope", self.disparity_scope, ("class", "global"))
        one_of("disparity_pairs", self.disparity_pairs, ("all", "private"))
        fractions(self, "fusion_dropout")
        positive(self, "expand", "bins")
        not_negative(self, "layers", "predict_weight", "align_weight", "disparity_weight")
        if not self.temperature > 0:
            raise MerError(f"head.temperature is {self.temperature}; it must be above 0")
        divides(self.heads, self.dim)


@dataclass(frozen=True)
class ContextConfig:
    """Settings of a dialogue context."""

    hidden: int = 128
    """Width of the layer (per direction of a GRU)."""
    layers: int = 1
    """Number of layers."""
    heads: int = 4
    """Attention heads (transformer)."""
    dropout: float = 0.3
    """Dropout on the vectors and the states."""
    causal: bool = False
    """See no later turn."""

    def __post_init__(self) -> None:
        fractions(self, "dropout", section="context")
        positive(self, "hidden", "layers", "heads", section="context")
        if self.hidden % self.heads:
            raise MerError(f"context.hidden is {self.hidden}, which {self.heads} attention heads do not divide")
