"""What a pack is asked to be: terms, choices and form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from .errors import MerError
from .store import FeatureStore

COMPRESSIONS = ("none", "zstd")
SMALLEST_PART = 1 << 20
SMALLEST_SALT = 8


@dataclass(frozen=True)
class PackOptions:
    """What goes into a pack and under which terms.

    Raises
    ------
    MerError
        If an option is impossible.
    """

    license: str
    """SPDX id of the licence of the features, or `LicenseRef-...` with `terms`."""
    terms: str = ""
    """Conditions in words; needed where the licence has no SPDX id."""
    citation: str = ""
    """What to cite; empty takes the corpus' own."""
    contact: str = ""
    title: str = ""
    description: str = ""
    gaps: tuple[str, ...] = ()
    """Known gaps, one sentence each, beside those that are counted."""
    sets: tuple[str, ...] = ()
    """Set names, encoder names or modalities; empty takes all."""
    splits: tuple[str, ...] = ()
    """Splits to keep; empty takes all."""
    dtype: str | None = None
    """`float16` or `float32`; None keeps each set's own."""
    compression: str = "none"
    strip_text: bool | None = None
    """Leave the transcripts out; None does so for a gated corpus."""
    salt: str | None = None
    """When given, ids, speakers, dialogues and sessions are replaced by salted hashes and media paths left out."""
    may_share: bool = False
    """Whoever packs a gated corpus says so."""
    max_bytes: int | None = None
    """Split the features into files of at most this size; None makes one file."""

    def __post_init__(self) -> None:
        if not _is_spdx(self.license):
            raise MerError(f"licence {self.license!r} is not an SPDX id such as CC-BY-4.0, or LicenseRef-NAME")
        if "licenseref-" in self.license.lower() and not self.terms:
            raise MerError(f"licence {self.license!r} says nothing by itself; give the conditions with --terms")
        if self.compression not in COMPRESSIONS:
            raise MerError(f"compression {self.compression!r} is not one of {', '.join(COMPRESSIONS)}")
        if self.dtype not in (None, "float16", "float32"):
            raise MerError(f"dtype {self.dtype!r} is not one of float16, float32")
        if self.salt is not None and len(self.salt) < SMALLEST_SALT:
            raise MerError(f"a salt of {len(self.salt)} characters can be guessed; give at least {SMALLEST_SALT}")
        if self.max_bytes is not None and self.max_bytes < SMALLEST_PART:
            raise MerError(f"parts of {self.max_bytes:,} bytes are too small; give at least {SMALLEST_PART:,}")
        if self.max_bytes is not None and self.compression != "none":
            raise MerError("compressed parts are not supported; leave out --max-bytes or --compression")


def _is_spdx(license_id: str) -> bool:
    """Whether SPDX knows a licence, or it is a `LicenseRef-NAME`."""
    try:
        canonicalize_license_expression(license_id)
    except InvalidLicenseExpression:
        return False
    return True


def chosen_sets(store: FeatureStore, wanted: Sequence[str]) -> list[str]:
    if not wanted:
        return list(store.sets)
    chosen: dict[str, None] = {}
    for word in wanted:
        found = [n for n, made in store.sets.items() if word in (n, made.spec.name, made.spec.modality)]
        if not found:
            raise MerError(f"{store.location} has no feature set {word!r}; it has: {', '.join(store.sets) or 'none'}")
        chosen |= dict.fromkeys(found)
    return [name for name in store.sets if name in chosen]
