"""Small data sets in which it is known where the emotion hides: one for each claim of DRKF and FDRL.

Vectors are planted in Gaussian noise over the steps of three modalities. A set has its labels, its speakers and the
planted factors, so that a probe can ask which part of a head holds which factor.

    xor            class = (text factor + audio factor) mod 4: no modality alone says anything   knowledge fusion
    compl          one bit of the class in the text, the other in the sound                      (nothing to conjoin)
    private        the class in the sound alone                                                  private vectors
    conflict       in every utterance one of three modalities carries a wrong class              emotion discrimination
    agree          the same weak signal in all three modalities                                  (nothing conflicts)
    parts          a class factor that all modalities share, and one factor of its own for each  shared and private
    speakers       a weak signal under large offsets of speaker and channel; test speakers new   contrast
    noisy          weak signals, few training utterances, much noise on single steps             augmentation
    rare           classes of 70, 15, 10 and 5 %, each modality with an offset of its own        class-wise alignment
    gaps           as `agree`, to be tested with modalities missing                              modality dropout
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MODALITIES = ("text", "audio", "face")
CLASSES, DIM, STEPS, SPEAKERS = 4, 32, 8, 40
SIZES = (1600, 300, 3000)
"""Utterances for training, validation and test: with 3,000 a test accuracy is known to within 0.9 points."""


@dataclass
class Planted:
    """One set: features of every utterance, labels, and what was planted."""

    name: str
    values: dict[str, npt.NDArray[np.float32]]
    """Modality to (N, steps, dim)."""
    labels: Ints
    """Class of each utterance, shape (N,)."""
    speaker: Ints
    split: npt.NDArray[np.str_]
    """`train`, `val` or `test`, in this order."""
    factors: dict[str, Ints] = field(default_factory=dict)
    """What else was planted, by name, each of shape (N,)."""

    def rows(self, part: str) -> Ints:
        """Rows of a part."""
        return np.flatnonzero(self.split == part)


class Maker:
    """Draws the parts of a set from one generator.

    Parameters
    ----------
    sizes
        Utterances for training, validation and test.
    seed
        Seed of everything drawn.
    noise
        Standard deviation of the noise on every number of every step.
    """

    def __init__(self, sizes: tuple[int, int, int] = SIZES, seed: int = 0, noise: float = 2.5) -> None:
        self.sizes, self.size, self.noise = sizes, sum(sizes), noise
        self.rng = np.random.default_rng(seed)
        self.speaker = np.arange(self.size) % SPEAKERS
        self.y = self.rng.integers(0, CLASSES, self.size)
        self.split = np.repeat(["train", "val", "test"], sizes)

    def codes(self, values: Ints, length: float, kinds: int = CLASSES) -> Floats:
        """Give each kind a random direction of this length; shape (N, dim)."""
        codes = self.rng.standard_normal((kinds, DIM))
        return np.asarray(length * (codes / np.linalg.norm(codes, axis=1, keepdims=True))[values])

    def made(self, name: str, vectors: Mapping[str, Floats | float], **factors: Ints) -> Planted:
        """Put vectors under noise; a modality that is not named is noise alone."""
        values = {}
        for modality in MODALITIES:
            noise = self.noise * self.rng.standard_normal((self.size, STEPS, DIM))
            vector = np.broadcast_to(np.asarray(vectors.get(modality, 0.0)), (self.size, DIM))
            values[modality] = (vector[:, None] + noise).astype(np.float32)
        return Planted(name, values, self.y, self.speaker, self.split, dict(factors))


def xor(make: Maker) -> Planted:
    """Class = (text factor + audio factor) mod 4."""
    first = make.rng.integers(0, CLASSES, make.size)
    second = (make.y - first) % CLASSES
    return make.made("xor", {"text": make.codes(first, 3.0), "audio": make.codes(second, 3.0)}, first=first)


def compl(make: Maker) -> Planted:
    """One bit of the class in the text, the other in the sound."""
    return make.made("compl", {"text": make.codes(make.y // 2, 2.0, 2), "audio": make.codes(make.y % 2, 2.0, 2)})


def private(make: Maker) -> Planted:
    """The class in the sound alone."""
    return make.made("private", {"audio": make.codes(make.y, 1.8)})


def conflict(make: Maker) -> Planted:
    """One of three modalities carries a wrong class."""
    liar = make.rng.integers(0, 3, make.size)
    wrong = (make.y + make.rng.integers(1, CLASSES, make.size)) % CLASSES
    told = {m: make.codes(np.where(liar == i, wrong, make.y), 2.5) for i, m in enumerate(MODALITIES)}
    return make.made("conflict", told, liar=liar)


def agree(make: Maker) -> Planted:
    """The same weak signal in all three modalities."""
    return make.made("agree", {m: make.codes(make.y, 1.2) for m in MODALITIES})


def gaps(make: Maker) -> Planted:
    """As `agree`, each modality strong enough to do alone."""
    return make.made("gaps", {m: make.codes(make.y, 2.5) for m in MODALITIES})


def parts(make: Maker) -> Planted:
    """The class in all modalities, a factor of its own in each; the factors say nothing about the class."""
    own = {m: make.rng.integers(0, CLASSES, make.size) for m in MODALITIES}
    vectors = {m: make.codes(make.y, 1.8) + make.codes(own[m], 3.0) for m in MODALITIES}
    return make.made("parts", vectors, **own)


def speakers(make: Maker) -> Planted:
    """A weak signal under offsets of speaker (all modalities) and channel (one utterance's sound and face)."""
    quarter = SPEAKERS // 4  # the test is on speakers 0 to 9, who are in no other part
    strangers = quarter + make.speaker % (SPEAKERS - quarter)
    make.speaker = np.where(make.split == "test", make.speaker % quarter, strangers)
    vectors = {}
    for modality in MODALITIES:
        channel = 0.0 if modality == "text" else make.rng.standard_normal((make.size, DIM))
        vectors[modality] = make.codes(make.y, 2.0) + make.codes(make.speaker, 6.0, SPEAKERS) + channel
    return make.made("speakers", vectors)


def noisy(make: Maker) -> Planted:
    """Much noise, and a quarter of the training utterances (the others are dropped)."""
    make.noise = 3.5
    made = make.made("noisy", {m: make.codes(make.y, 2.0) for m in MODALITIES})
    kept = np.arange(make.size) >= make.sizes[0] * 3 // 4
    values = {m: x[kept] for m, x in made.values.items()}
    return Planted("noisy", values, made.labels[kept], made.speaker[kept], made.split[kept])


def rare(make: Maker) -> Planted:
    """Unequal classes, and an offset of each modality that says nothing."""
    make.y = make.rng.choice(CLASSES, make.size, p=(0.70, 0.15, 0.10, 0.05))
    offset = {m: 4.0 * make.rng.standard_normal(DIM) for m in MODALITIES}
    return make.made("rare", {m: make.codes(make.y, 1.8) + offset[m] for m in MODALITIES})


SETS: Mapping[str, Callable[[Maker], Planted]] = {
    made.__name__: made for made in (xor, compl, private, conflict, agree, parts, speakers, noisy, rare, gaps)
}


def make_set(name: str, sizes: tuple[int, int, int] = SIZES, seed: int = 0) -> Planted:
    """Make a set by name."""
    return SETS[name](Maker(sizes, seed))


def save(planted: Planted, path: Path) -> Path:
    """Write a set as `.npz`, for `mer import FILE --format npz --map label:emotion=emotion`."""
    arrays: dict[str, Any] = {
        "id": np.array([f"u{row}" for row in range(len(planted.labels))]),
        "split": planted.split,
        "emotion": np.array([f"c{value}" for value in planted.labels]),
        "speaker": np.array([f"s{value}" for value in planted.speaker]),
    }
    np.savez(path, **arrays, **planted.values)
    return path
