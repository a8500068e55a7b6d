"""What a set of features is: the facts that decide its numbers, as canonical JSON with a fingerprint.

Equal specs mean equal features. A knob that can change a number belongs here (checkpoint and weight hash, layers,
precision, face rate, channel); a knob that cannot (device, workers, batch budget) must never enter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from .errors import FormatError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

STORED_DTYPES = ("float16", "float32")


def canonical_json(value: Any) -> str:
    """Serialise to the one JSON text that equal values share: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class FeatureSpec:
    """Identity of one feature set."""

    modality: str
    """`text`, `audio` or `face`."""
    name: str
    """Short human name of the encoder, e.g. `wav2vec2-base`; used in feature-set names."""
    encoder: Mapping[str, Json]
    """Identity of the encoder: type, checkpoint, revision, weight hash, layers, precision, algorithm version."""
    dim: int
    """Width of one row of `values`; with `stack` layers kept, `stack` times the width of one layer."""
    inputs: Mapping[str, Json] = field(default_factory=dict)
    """How the encoder's input was made from the media: sample rate, channel, face rate, detector, policy."""
    stack: int = 1
    """Number of layers laid side by side in a row; more than 1 only for `--layers all`."""
    dtype: str = "float16"
    """Stored dtype of `values`: `float16` or `float32`."""

    def __post_init__(self) -> None:
        if self.dtype not in STORED_DTYPES:
            raise FormatError(f"feature dtype {self.dtype!r} is not supported; use one of {', '.join(STORED_DTYPES)}")
        if self.dim < 1 or self.stack < 1 or self.dim % self.stack:
            raise FormatError(f"feature dim {self.dim} with a stack of {self.stack} layers is impossible")

    def to_json(self) -> str:
        """Canonical JSON of every field."""
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> FeatureSpec:
        """Parse what `to_json` wrote.

        Raises
        ------
        FormatError
            If the text is not the JSON of a spec. Unknown fields are refused: they could change the numbers.
        """
        try:
            fields = json.loads(text)
            return cls(**fields)
        except (TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"feature spec cannot be read ({error}); was it written by a newer mer?") from error

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @property
    def has_gaps(self) -> bool:
        """Whether NaN in `values` stands for a value the source does not have; only imported features say so."""
        return self.encoder.get("gaps") == "nan"

    @property
    def set_name(self) -> str:
        """Name of the feature set in a catalogue and of its shard folder: modality, encoder, fingerprint."""
        safe = "".join(c if c.isalnum() or c in "._" else "-" for c in self.name).strip("-.") or "encoder"
        return f"{self.modality}-{safe[:60]}-{self.fingerprint[:8]}"
