"""One utterance's features in one modality: values over time, with a mask for the steps that hold nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import FormatError


@dataclass(frozen=True)
class FeatureSequence:
    """Features of one utterance.

    Times are seconds from the start of the utterance. A step whose `valid` is False had nothing to encode (a frame
    without a face); its row is zero and must not be read as data.
    """

    values: npt.NDArray[np.floating[Any]]
    """Shape (T, D), float32 from an encoder, the spec's dtype from a store."""
    times: npt.NDArray[np.float32]
    """Shape (T,), centre of each step in seconds."""
    valid: npt.NDArray[np.bool_]
    """Shape (T,)."""
    note: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able facts about this utterance, such as face tracks or the number of text windows."""

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise FormatError(f"feature values must have shape (T, D), got {self.values.shape = }")
        steps = self.values.shape[0]
        if self.times.shape != (steps,) or self.valid.shape != (steps,):
            raise FormatError(
                f"times and valid need one entry per step ({steps}), got {self.times.shape} and {self.valid.shape}"
            )

    @classmethod
    def of(
        cls, values: npt.NDArray[Any], times: npt.NDArray[Any], note: Mapping[str, Any] | None = None
    ) -> FeatureSequence:
        """Build a sequence whose steps are all valid."""
        return cls(values, times.astype(np.float32), np.ones(len(values), dtype=np.bool_), note or {})

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def __repr__(self) -> str:
        steps, dim = self.values.shape
        return f"FeatureSequence({steps} steps x {dim}, {self.values.dtype}, {int(self.valid.sum())} valid)"

    @property
    def coverage(self) -> float:
        """Share of steps that are valid, in [0, 1]; 0 for an empty sequence."""
        return float(self.valid.mean()) if len(self) else 0.0
