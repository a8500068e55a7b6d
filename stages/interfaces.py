"""The three things a user can add: a corpus, an encoder, a head (`mer.stages.heads.base`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from mer.cache import FeatureSequence, FeatureSpec

from .utterance import Utterance

MODALITIES = ("text", "audio", "face")
"""What an encoder can be of, in the order in which they are listed and fused."""

SAMPLE_RATE_HZ = 16_000
"""Rate of every waveform handed to an audio encoder."""


@dataclass(frozen=True)
class LabelSpec:
    """One target of a corpus."""

    kind: str
    """`class` (one of `classes`), `multi` (any of `classes`) or `real` (a number)."""
    classes: tuple[str, ...] = ()
    """Class names in the order of their indices; empty for `real`."""


@dataclass(frozen=True)
class CorpusInfo:
    """Facts about a corpus for listings, datasheets and the catalogue."""

    name: str
    title: str
    languages: tuple[str, ...]
    license: str
    """Terms of the data, in a few words."""
    gated: bool
    """True when the terms forbid redistribution, so that packs of it ask for confirmation and drop the text."""
    url: str
    """Where to ask for the data."""
    citation: str
    labels: Mapping[str, LabelSpec] = field(default_factory=dict)
    protocols: tuple[str, ...] = ("official",)
    """Names accepted by `mer train --protocol`, the default first."""
    channel: str = "mean"
    """How this corpus' multichannel sound is mixed to mono: `center`, `mean` or `first`."""
    known_copies: tuple[tuple[str, str], ...] = ()
    """Pairs of keys, training side first, that the published splits hold twice; the leak check lets them through."""


@runtime_checkable
class Corpus(Protocol):
    """A corpus adapter: a frozen dataclass whose fields are its options, `root` first."""

    root: Path

    def info(self) -> CorpusInfo:
        """Return the facts about this corpus, with the label sets the options select."""
        ...

    def utterances(self) -> Sequence[Utterance]:
        """Read the annotation and list every utterance in a fixed order, without opening media.

        Raises
        ------
        MerError
            If the folder or an annotation file is missing or malformed; the message names the file and line.
        """
        ...


@dataclass(frozen=True)
class FaceCrops:
    """Face pictures of one person over one utterance.

    `crops` holds only the valid steps, in order, so its first axis equals `valid.sum()`.
    """

    crops: npt.NDArray[np.uint8]
    """Shape (V, S, S, 3), RGB."""
    times: npt.NDArray[np.float32]
    """Shape (T,), seconds from the start of the utterance of every sampled frame, with or without a face."""
    valid: npt.NDArray[np.bool_]
    """Shape (T,), True where the followed person's face was found."""
    note: Mapping[str, Any] = field(default_factory=dict)
    """Tracks, boxes, scores and the choice made, JSON-able."""


Waveform: TypeAlias = npt.NDArray[np.float32]
"""Shape (n,), mono, `SAMPLE_RATE_HZ`, in [-1, 1]."""

EncoderInput: TypeAlias = str | Waveform | FaceCrops
"""Text encoders take `str`, audio encoders `Waveform`, face encoders `FaceCrops`."""


class LoadedEncoder(Protocol):
    """An encoder whose weights are on a device.

    One with the attributes `side_by_side = True` and `device` may have `encode` called by several threads at once, on
    a GPU each with a stream of its own. One that does not pad the items of a batch to the longest says so with
    `padded = False`.
    """

    def cost(self, item: EncoderInput) -> int:
        """Size of one item in the units a batch budget is counted in: audio samples, tokens or face crops."""
        ...

    def encode(self, batch: Sequence[EncoderInput]) -> list[FeatureSequence]:
        """Encode several items at once; the result equals encoding each alone (float32: within 1e-4).

        Values are float32 of shape (T, spec.dim), times are seconds from the start of the utterance.
        """
        ...


@runtime_checkable
class Encoder(Protocol):
    """A frozen dataclass whose fields are the encoder's identity. Building and resolving it never imports torch."""

    @property
    def modality(self) -> str:
        """`text`, `audio` or `face`."""
        ...

    def resolve(self) -> Encoder:
        """Find the checkpoint (download if it is a hub id), pin its revision and weight hash, and check its files.

        Raises
        ------
        MerError
            If the checkpoint is missing, truncated, of another modality or asks for remote code.
        """
        ...

    def spec(self, inputs: Mapping[str, Any], dtype: str) -> FeatureSpec:
        """Spec of the features this resolved encoder makes from inputs prepared as `inputs` describes."""
        ...

    def load(self, device: str) -> LoadedEncoder:
        """Load the weights of this resolved encoder onto `cpu`, `cuda` or `cuda:i`."""
        ...
