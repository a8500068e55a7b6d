"""What `mer evaluate` takes away from a run's test features: whole modalities, a share of them, or their clearness."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mer.cache import MerError
from mer.stages.heads.base import Batch

from ..training.pooling import RowIndices
from ..training.tensors import Gatherer, Source, Window

FILLS = ("absent", "zeros")


@dataclass(frozen=True)
class Disturbance:
    """How the features are disturbed."""

    without: tuple[str, ...] = ()
    """Modalities taken away from every utterance."""
    missing: float = 0.0
    """Probability of taking away each modality of each utterance, but never all that it has."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on the features as the head gets them (normalised ones have 1)."""
    seed: int = 0
    fill: str = "absent"
    """`absent` tells the head what is missing; `zeros` gives it zeros for features, as in MMIN's comparison."""

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return bool(self.without or self.missing or self.noise)

    def check(self, modalities: Sequence[str]) -> None:
        """Refuse what cannot be done to a run of these modalities.

        Raises
        ------
        MerError
            If a modality is not the run's, none would be left, or a number is out of range.
        """
        unknown = [name for name in self.without if name not in modalities]
        if unknown:
            raise MerError(f"--without {unknown[0]}: the run has {', '.join(modalities)}")
        if set(self.without) == set(modalities):
            raise MerError(f"--without {','.join(self.without)}: leaves the run nothing; name fewer")
        if not 0 <= self.missing < 1:
            raise MerError(f"--missing {self.missing:g}: must be at least 0 and below 1")
        if not (self.noise >= 0 and np.isfinite(self.noise)):
            raise MerError(f"--noise {self.noise:g}: must be a number of at least 0")
        if self.fill not in FILLS:
            raise MerError(f"--fill {self.fill}: use one of {', '.join(FILLS)}")

    def hidden(
        self, keys: Sequence[str], present: Mapping[str, npt.NDArray[np.bool_]]
    ) -> dict[str, npt.NDArray[np.bool_]]:
        """Modality to shape (N,): what is taken away of what is there.

        The draw depends on the seed, the key and the modality alone, so it is the same for every run on these clips.
        """
        names = [name for name in present if name not in self.without]
        kept_by_draw = np.stack([_draws(keys, name, self.seed) >= self.missing for name in names])
        here = np.stack([present[name] for name in names])
        lost = here & ~kept_by_draw
        spared = np.stack([_draws(keys, f"{name}/spared", self.seed) for name in names])
        last = np.where(here, spared, -1).argmax(0)
        nothing = lost.any(0) & ~(here & ~lost).any(0)
        lost[last[nothing], np.flatnonzero(nothing)] = False
        taken = dict(zip(names, lost, strict=True))
        return {name: present[name].copy() if name in self.without else taken[name] for name in present}

    def apply(self, source: Source) -> tuple[dict[str, npt.NDArray[np.bool_]], list[str]]:
        """Take modalities away from a source that was just opened; say what was done, a line each.

        With `fill=zeros` the source is left as it is and what is hidden is for `DisturbedGatherer`.
        """
        hidden = self.hidden(list(source.store.utterances.keys), source.present)
        notes = [f"without {name}" for name in self.without]
        if self.missing:
            count = ", ".join(f"{name} {int(hidden[name].sum())}" for name in hidden if name not in self.without)
            notes.append(f"modalities missing with probability {self.missing:g}, never all (seed {self.seed}): {count}")
        if self.fill == "zeros" and (self.without or self.missing):
            notes.append("zeros stand in for what is missing")
        elif self.fill == "absent":
            for name, rows in hidden.items():
                source.present[name] = source.present[name] & ~rows
                source.lengths[name] = np.where(rows, 0, source.lengths[name])
        if self.noise:
            notes.append(f"Gaussian noise of {self.noise:g} on the features as the head gets them (seed {self.seed})")
        return hidden, notes


UNDISTURBED = Disturbance()


def _draws(keys: Sequence[str], name: str, seed: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), shape (N,), from names alone."""
    digests = b"".join(hashlib.blake2b(f"{seed}/{name}/{key}".encode(), digest_size=8).digest() for key in keys)
    return np.asarray(np.frombuffer(digests, dtype="<u8") / 2.0**64)


@dataclass(frozen=True)
class DisturbedGatherer(Gatherer):
    """Gathers batches with zeros and noise put in."""

    disturbance: Disturbance
    hidden: Mapping[str, npt.NDArray[np.bool_]]

    def batch(self, window: Window, rows: RowIndices, on_device: torch.Tensor | None = None) -> Batch:
        """Gather, then disturb; the noise depends on the seed and the rows of the batch."""
        made = super().batch(window, rows, on_device)
        asked = self.disturbance
        entropy = np.random.SeedSequence([asked.seed, *map(int, rows.flat)])
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1)[0]))
        for name, values in made.values.items():
            if asked.fill == "zeros":
                lost = torch.from_numpy(self.hidden[name][rows]).to(values.device)
                values.masked_fill_(lost[..., None, None], 0.0)
            if asked.noise:
                noise = asked.noise * torch.randn(values.shape, generator=generator).to(values.device)
                values.add_(noise * made.valid[name].unsqueeze(-1))
        return made


def disturbed(
    gatherer: Gatherer, disturbance: Disturbance, hidden: Mapping[str, npt.NDArray[np.bool_]]
) -> DisturbedGatherer:
    """Let a gatherer disturb what it gathers."""
    return DisturbedGatherer(
        gatherer.source, gatherer.present, gatherer.labels, gatherer.normalisers, disturbance, hidden
    )
