"""Encoders made of a pretrained checkpoint: what identifies them. The live functions are in text, audio and face."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from mer.cache import FeatureSpec, MerError

from ..interfaces import SAMPLE_RATE_HZ, LoadedEncoder
from .checkpoint import Checkpoint, find_checkpoint
from .families import EQUAL, UNLISTED, Family, depth_and_width, family_of, model_type_of, part_of
from .layers import LayerChoice, check_layers, choose_layers
from .preprocessing import USUAL, read_preprocessing

PRECISIONS = {"float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16"}

# Model types whose position numbers start after the padding index, as fairseq numbers them.
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "mpnet"}
_OFFSET_OF_UNLISTED = 2
"""Positions left unused by a model that may be of that kind."""
MOST_DECODER_TOKENS = 4096
"""Decoders allow windows that no transcript needs and no memory holds."""
TEXT_POOLS = ("tokens", "last", "mean")


@dataclass(frozen=True)
class PretrainedEncoder:
    """Base of the encoders made of a checkpoint."""

    checkpoint: str
    """Hub id (with `@revision` where wanted) or local folder."""
    layers: str = "last"
    precision: str = "float32"
    """`float32` or `bfloat16`: what the weights are cast to and the model computes in."""
    trust_remote_code: bool = False
    resolved: Checkpoint | None = None
    MODALITY: ClassVar[str] = ""
    ALGORITHM: ClassVar[int] = 1
    """Version of our own arithmetic around the model; raised when a change of ours changes the numbers."""

    def __post_init__(self) -> None:
        check_layers(self.layers)
        if self.precision not in PRECISIONS:
            raise MerError(f"precision {self.precision!r} is not known; use float32 or bfloat16")
        object.__setattr__(self, "precision", PRECISIONS[self.precision])

    @property
    def modality(self) -> str:
        """`text`, `audio` or `face`."""
        return self.MODALITY

    @property
    def found(self) -> Checkpoint:
        """The resolved checkpoint."""
        if self.resolved is None:
            raise MerError(f"encoder {self.checkpoint} is not resolved; call resolve() first")
        return self.resolved

    @property
    def family(self) -> Family:
        """Family of the resolved checkpoint."""
        return family_of(self.found.config, self.modality, self.found.label)

    def preprocessing(self) -> tuple[str, dict[str, Any]]:
        """How the checkpoint wants its inputs prepared, and the file that says so."""
        return read_preprocessing(Path(self.found.folder), self.found.label, self.family.prepared_by)

    def choice(self) -> tuple[LayerChoice, int, int]:
        """Layers chosen, depth of the model, width of one layer."""
        family = self.family
        depth, width = depth_and_width(self.found.config, family, self.found.label)
        choice = choose_layers(self.layers, depth)
        if family.stages and choice.layers != (depth,):
            raise MerError(f"the layers of checkpoint {self.found.label} differ in width; use layers last")
        return choice, depth, width

    def resolve(self) -> Self:
        """Find the checkpoint, pin and check it; see `mer.stages.interfaces.Encoder`."""
        resolved = replace(self, resolved=self._find())
        resolved.choice()
        resolved.settings()
        return resolved

    def _find(self) -> Checkpoint:
        return find_checkpoint(self.checkpoint, self.trust_remote_code)

    def settings(self) -> dict[str, Any]:
        """Choices of this modality that change the numbers; they enter the spec."""
        return {}

    def spec(self, inputs: Mapping[str, Any], dtype: str = "float16") -> FeatureSpec:
        """Spec of the features this resolved encoder makes from inputs prepared as `inputs` describes."""
        choice, _, width = self.choice()
        identity = {
            "type": f"pretrained-{self.modality}",
            "algorithm": self.ALGORITHM,
            "model_type": model_type_of(self.found.config),
            **self.found.identity(),
            "layers": list(choice.layers),
            "combine": "stack" if choice.stack else "mean",
            "precision": self.precision,
            **self.settings(),
        }
        name = self.found.label.rpartition("/")[2]
        return FeatureSpec(self.modality, name, identity, width * choice.width, dict(inputs), choice.width, dtype)

    def load(self, device: str) -> LoadedEncoder:
        """Load the weights of this resolved encoder onto a device."""
        from .loading import check_device, settle

        check_device(device)
        module, _, attribute = self.family.loader.partition(":")
        live: LoadedEncoder = getattr(importlib.import_module(module), attribute)(self, device)
        settle(device)  # threads with streams of their own will read the weights
        return live


@dataclass(frozen=True)
class TextEncoder(PretrainedEncoder):
    """Word pieces of a transcript, in order. Special tokens take part in the attention but give no step.

    A transcript beyond the model's window is encoded in overlapping windows whose seams are trimmed. Text has no
    clock: `times` is the place of a piece in the transcript as a fraction, (i + 0.5) / T.
    """

    overlap: float = 0.25
    """Share of a window that neighbouring windows have in common."""
    pool: str = "tokens"
    """`tokens` (one step each), `last` (the last token alone, special ones included) or `mean` (of the tokens)."""
    instruction: str = ""
    """Text put before every transcript; its tokens are seen and not kept."""
    MODALITY: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool not in TEXT_POOLS:
            raise MerError(f"text pool {self.pool!r} is not known; use {', '.join(TEXT_POOLS)}")

    def window(self) -> int:
        """Positions of the model, special tokens included."""
        family = self.family
        config = part_of(self.found.config, family)
        positions = int(config.get("max_position_embeddings", config.get("n_positions", 512)))
        if family in UNLISTED.values():
            positions -= _OFFSET_OF_UNLISTED
        elif config["model_type"] in _OFFSET_POSITIONS:
            positions -= int(config.get("pad_token_id") or 1) + 1
        stated = self.found.read("tokenizer_config.json").get("model_max_length")
        if isinstance(stated, int) and 0 < stated < positions and config.get("model_type") not in ("mpnet",):
            positions = stated
        if family.causal:
            positions = min(positions, MOST_DECODER_TOKENS)
        if positions < 8:
            raise MerError(f"checkpoint {self.found.label} has a window of {positions} tokens, which is too short")
        return positions

    def settings(self) -> dict[str, Any]:
        """Window and treatment of special tokens."""
        plain = {
            "window_tokens": self.window(),
            "overlap": self.overlap,
            "special_tokens": "attended, not kept",
            "times": "fraction of the transcript",
        }
        chosen = {"pool": self.pool} if self.pool != "tokens" else {}
        return plain | chosen | ({"instruction": self.instruction} if self.instruction else {})


@dataclass(frozen=True)
class AudioEncoder(PretrainedEncoder):
    """Frames of a waveform, about 50 a second; `times` is the centre of each frame's receptive field.

    Sound longer than `max_seconds` is encoded in overlapping chunks whose seams are trimmed.
    """

    max_seconds: float = 30.0
    overlap_seconds: float = 5.0
    window: str = "clip"
    """What Whisper sees: `clip`, the clip itself, or `30s`, the clip and silence up to 30 s, as it was trained."""
    MODALITY: ClassVar[str] = "audio"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window not in ("clip", "30s"):
            raise MerError(f"audio window {self.window!r} is not known; use clip or 30s")
        if not self.max_seconds >= 2 * self.overlap_seconds > 0:
            raise MerError(
                f"audio chunks of {self.max_seconds:g} s are too short: they overlap by {self.overlap_seconds:g} s; "
                f"use at least {2 * self.overlap_seconds:g} s"
            )

    def normalises(self) -> bool:
        """Tell whether the checkpoint was trained on clips of zero mean and unit variance."""
        stated = self.found.config.get("normalize")  # emotion2vec's configuration says it
        return bool(self.preprocessing()[1].get("do_normalize", True) if stated is None else stated)

    def settings(self) -> dict[str, Any]:
        """Normalisation and chunks."""
        family, rate = self.family, self.rate_hz()
        if family.rates_hz and rate not in family.rates_hz:
            raise MerError(f"checkpoint {self.found.label} wants sound at {rate} Hz; {family.rates_hz[0]} Hz is usual")
        if self.window != "clip" and self.found.config.get("model_type") != "whisper":
            raise MerError(f"checkpoint {self.found.label} is not Whisper; leave out window={self.window}")
        plain = {
            "normalise_clip": self.normalises(),
            "max_seconds": self.max_seconds,
            "overlap_seconds": self.overlap_seconds,
        }
        resampled = {"resampled_to_hz": rate} if rate != SAMPLE_RATE_HZ else {}
        seen = {"window": self.window} if self.window != "clip" else {}
        return plain | resampled | seen | ({"batches": EQUAL} if family.batches == EQUAL else {})

    def rate_hz(self) -> int:
        """Rate of the sound that the model takes."""
        return int(
            self.preprocessing()[1].get(
                "sampling_rate", self.family.rates_hz[0] if self.family.rates_hz else SAMPLE_RATE_HZ
            )
        )


POOLS = ("cls", "mean", "pooled")


@dataclass(frozen=True)
class FaceEncoder(PretrainedEncoder):
    """One vector per face crop; steps without a face are zero and not valid."""

    pool: str = "auto"
    """`cls` (the class token), `mean` (of the patch tokens), `pooled` (the model's own pooled output), or `auto`: what
    the family was trained to be read by."""
    MODALITY: ClassVar[str] = "face"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool not in ("auto", *POOLS):
            raise MerError(f"face pool {self.pool!r} is not known; use auto, {', '.join(POOLS)}")

    def pooling(self) -> str:
        """How the tokens of one picture become one vector."""
        known = self.family.pools
        if self.pool not in ("auto", *known):
            raise MerError(f"checkpoint {self.found.label} has no {self.pool} token; use pool=auto")
        choice, depth, _ = self.choice()
        if choice.layers != (depth,):  # the own pooled output is of the last layer alone
            if self.pool == "pooled":
                raise MerError(f"the pooled output of {self.found.label} is of its last layer; use pool=mean")
            known = tuple(pool for pool in known if pool != "pooled")
        return known[0] if self.pool == "auto" else self.pool

    def settings(self) -> dict[str, Any]:
        """How the tokens of one picture become one vector, and what else than the usual file prepares a picture."""
        file, _ = self.preprocessing()
        return {"pool": self.pooling()} | ({} if file == USUAL else {"preprocessing": file})
