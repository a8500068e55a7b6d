"""Plug-in encoders that count, die or cannot be loaded, named as `odd_encoders:NAME`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mer.cache import FeatureSequence, FeatureSpec, MerError


@dataclass(frozen=True)
class Counting:
    """One step per transcript: its number of characters."""

    name = "counting"
    modality = "text"

    def resolve(self) -> Counting:
        return self

    def spec(self, inputs: Mapping[str, Any], dtype: str = "float16") -> FeatureSpec:
        return FeatureSpec(self.modality, self.name, {"type": self.name}, 1, dict(inputs), dtype=dtype)

    def load(self, device: str) -> Counting:
        return self

    def cost(self, item: str) -> int:
        return len(item)

    def encode(self, batch: Sequence[str]) -> list[FeatureSequence]:
        return [FeatureSequence.of(np.array([[len(item)]], np.float32), np.zeros(1)) for item in batch]


@dataclass(frozen=True)
class Picky(Counting):
    """Cannot even tell the cost of the word `strange`."""

    name = "picky"

    def cost(self, item: str) -> int:
        if "strange" in item:
            raise MerError("the tokenizer knows a token that its model does not")
        return super().cost(item)


@dataclass(frozen=True)
class Deadly(Counting):
    """Takes its process along at the word `deadly`."""

    name = "deadly"

    def encode(self, batch: Sequence[str]) -> list[FeatureSequence]:
        if any("deadly" in item for item in batch):
            os._exit(9)
        return super().encode(batch)


@dataclass(frozen=True)
class Endless(Counting):
    """Says that it has begun and comes to no end."""

    name = "endless"

    def encode(self, batch: Sequence[str]) -> list[FeatureSequence]:
        print("encoding", flush=True)
        while True:
            time.sleep(60)


@dataclass(frozen=True)
class Unloadable(Counting):
    """Its weights cannot be loaded."""

    name = "unloadable"

    def load(self, device: str) -> Counting:
        raise MerError("the weights of unloadable are damaged; fetch them again")


@dataclass(frozen=True)
class DeadlyToLoad(Counting):
    """Its weights do not fit the memory."""

    name = "too-large"

    def load(self, device: str) -> Counting:
        os._exit(9)


@dataclass(frozen=True)
class Listening(Counting):
    """One step per clip: its number of samples."""

    name = "listening"
    modality = "audio"


@dataclass(frozen=True)
class HearingTwice(Listening):
    """The same under another name."""

    name = "hearing-twice"
