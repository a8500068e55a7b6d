"""The feature store: format, writing, reading, verification."""

from .errors import DamagedError, FormatError, MerError, SpecMismatchError
from .sequence import FeatureSequence
from .spec import FeatureSpec, canonical_json

__all__ = [
    "DamagedError",
    "FeatureSequence",
    "FeatureSpec",
    "FormatError",
    "MerError",
    "SpecMismatchError",
    "canonical_json",
]
