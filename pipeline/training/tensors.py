"""Features on the device: ragged values are moved there once, and a batch is a gather of row ranges with a mask.

When the features do not fit into the memory allowed, the values of a few batches' utterances are brought in at a time
(`Source.window`); the batches and their numbers are the same either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mer.cache import FeatureBlock, FeatureStore, MerError
from mer.stages.heads.base import ALL_STEPS, Batch

from .pooling import Ragged, RowIndices, as_tensor, kept_steps, pieces, pool_steps

SMALLEST_STD = 1e-6
SUMMED_AT_ONCE = 1024
"""Steps; so few that their sums run in the processor's cache."""


@dataclass(frozen=True)
class Normaliser:
    """Statistics that make a modality's dimensions zero-mean and unit-variance."""

    mean: Tensor
    """Shape (D,), or (R, D) for runs side by side; float32."""
    scale: Tensor
    """Same shape: one over the standard deviation; 1 for a dimension that does not vary."""

    def to(self, device: torch.device) -> Normaliser:
        """Return a copy on the device."""
        return Normaliser(self.mean.to(device), self.scale.to(device))


@dataclass(frozen=True)
class Flat:
    """One modality's values of some utterances, end to end on one device."""

    values: Tensor
    """Shape (ΣT, D), the stored dtype."""
    valid: Tensor
    """Shape (ΣT,), bool."""
    starts: Tensor
    """Shape (n,), int64."""
    lengths: Tensor
    """Shape (n,), int64; 0 where the utterance has no usable features."""
    gaps: bool = False
    """Whether NaN stands for a value that is not there; a batch has the training mean in its place."""

    @classmethod
    def of(
        cls, block: FeatureBlock, lengths: RowIndices, most: int, window: int, device: torch.device, gaps: bool = False
    ) -> Flat:
        """Bring the features of a block onto a device, `window` steps averaged into one (see `pool_steps`)."""
        if window > 1:
            steps = pool_steps(block, lengths, most, window, gaps)
        else:
            starts = np.ascontiguousarray(block.offsets[:-1], dtype=np.int64)
            steps = Ragged(np.ascontiguousarray(block.values), np.asarray(block.valid, np.bool_), starts, lengths)
        values, valid = steps.values, steps.valid
        if not len(values):  # a gather needs one row to point its masked positions at
            values, valid = np.zeros((1, values.shape[1]), dtype=values.dtype), np.zeros(1, dtype=np.bool_)
        parts = (as_tensor(values), as_tensor(valid), torch.from_numpy(steps.starts), torch.from_numpy(steps.lengths))
        moved = [part.to(device) for part in parts]
        return cls(moved[0], moved[1], moved[2], moved[3], gaps)

    def gather(self, local: Tensor, steps: int, normaliser: Normaliser | None) -> tuple[Tensor, Tensor]:
        """Gather padded, normalised float32 values (..., steps, D) and their mask (..., steps).

        An utterance longer than `steps` is thinned by a uniform stride over its whole length.

        Parameters
        ----------
        local : Tensor (...)
            Positions of the utterances in this object; with a normaliser of shape (R, D) the first axis has length R.
        steps : int
            Longest length in the result, at least 1.
        """
        start, length = self.starts[local], self.lengths[local]
        kept = length.clamp(max=steps)
        ramp = torch.arange(steps, device=local.device)
        inside = ramp < kept[..., None]
        offset = torch.div(ramp * length[..., None], kept.clamp(min=1)[..., None], rounding_mode="floor")
        index = torch.where(inside, start[..., None] + offset, 0)
        mask = self.valid[index] & inside
        values = self.values.index_select(0, index.reshape(-1)).view(*index.shape, -1).float()
        if normaliser is not None:
            extra = (1,) * (index.dim() - normaliser.mean.dim() + 1)
            shape = (*normaliser.mean.shape[:-1], *extra, normaliser.mean.shape[-1])
            # In place on the fresh copy: memory traffic is what a batch costs.
            values.sub_(normaliser.mean.view(shape)).mul_(normaliser.scale.view(shape))
        if self.gaps:
            if normaliser is None:
                raise MerError("the features have gaps, which take the training mean; set train.normalise = true")
            values.nan_to_num_(nan=0.0)
        return values.masked_fill_(~mask[..., None], 0.0), mask


@dataclass(frozen=True)
class Window:
    """Values of all modalities for some utterances, or all of them, on one device."""

    flats: Mapping[str, Flat]
    local: Tensor | None
    """Shape (N,): position of each utterance of the corpus in this window; None when it holds all, in order."""

    def positions(self, rows: Tensor) -> Tensor:
        """Translate row numbers of the corpus."""
        return rows if self.local is None else self.local[rows]


@dataclass
class Source:
    """The features a run uses: where they are, which utterances have them, and how long they are."""

    store: FeatureStore
    sets: Mapping[str, str]
    """Modality to feature set, in the order of the fusion sequence."""
    dims: Mapping[str, int]
    most_steps: Mapping[str, int]
    """Modality to the bound on stored steps; 0 is none."""
    pooling: Mapping[str, int]
    """Modality to the steps averaged into one; 1, or left out, is none."""
    present: dict[str, npt.NDArray[np.bool_]]
    """Modality to shape (N,): features exist, are finite and have a valid step."""
    lengths: dict[str, RowIndices]
    """Modality to shape (N,): stored steps; 0 where not present."""
    bytes_per_step: Mapping[str, int]
    unusable: dict[str, int]
    """Modality to the number of utterances whose stored features hold NaN or infinity."""
    streamed: bool = False
    blocks: dict[str, FeatureBlock] = field(default_factory=dict, repr=False)
    """Held in memory unless streamed."""

    @classmethod
    def open(
        cls,
        store: FeatureStore,
        sets: Mapping[str, str],
        most_steps: Mapping[str, int],
        pooling: Mapping[str, int],
        budget_bytes: float | None = None,
    ) -> Source:
        """Find out what each modality has, reading every value once and comparing it with its checksum.

        Parameters
        ----------
        store : FeatureStore
        sets : mapping
            Modality to feature set.
        most_steps : mapping
            Modality to the bound on stored steps; longer utterances are thinned.
        pooling : mapping
            Modality to the steps averaged into one, as the head asks for (`Head.pooling`).
        budget_bytes : float, optional
            Stored values beyond this are not held in memory but streamed.

        Raises
        ------
        MerError
            If a modality has no usable features at all, or features do not match their checksum.
        """
        specs = {m: store.sets[name].spec for m, name in sets.items()}
        sizes = {m: specs[m].dim * np.dtype(specs[m].dtype).itemsize for m in sets}
        total = sum(int(store.sets[sets[m]].length.sum()) * sizes[m] for m in sets)
        dims = {m: specs[m].dim for m in sets}
        streamed = budget_bytes is not None and total > budget_bytes
        source = cls(store, dict(sets), dims, dict(most_steps), dict(pooling), {}, {}, sizes, {}, streamed)
        for modality in sets:
            source._examine(modality)
        return source

    def _examine(self, modality: str) -> None:
        rows = len(self.store.utterances)
        if not self.streamed:
            self.blocks[modality] = self.store.load(self.sets[modality], verify=True)
        present, lengths = np.zeros(rows, dtype=np.bool_), np.zeros(rows, dtype=np.int64)
        spoilt = 0
        for part, block in self._pieces(modality):
            count = np.diff(block.offsets)
            some = _any_per_row(np.asarray(block.valid, dtype=np.bool_), block.offsets)
            spoilt_step = np.isinf(block.values).any(1) if self.gaps(modality) else ~np.isfinite(block.values).all(1)
            broken = _any_per_row(spoilt_step, block.offsets)
            spoilt += int((some & broken).sum())
            present[part] = some & ~broken
            lengths[part] = np.where(present[part], count, 0)
        if not present.any():
            why = f"; those of {spoilt} utterances hold NaN or infinity" if spoilt else ""
            raise MerError(
                f"{self.store.path}: no utterance has usable {modality} features in {self.sets[modality]}{why}; "
                "extract them again or choose other --modalities"
            )
        self.present[modality], self.lengths[modality], self.unusable[modality] = present, lengths, spoilt

    def _pieces(self, modality: str, rows: RowIndices | None = None) -> Iterator[tuple[RowIndices, FeatureBlock]]:
        """Yield row numbers and their features, about `CHUNK_BYTES` at a time, in order."""
        index = self.store.sets[self.sets[modality]]
        rows = np.arange(len(self.store.utterances)) if rows is None else rows
        cost = index.length[rows].astype(np.int64) * self.bytes_per_step[modality]
        for part in pieces(rows, cost):
            yield part, self._block(modality, part)

    def _block(self, modality: str, rows: RowIndices) -> FeatureBlock:
        if modality in self.blocks:
            return take(self.blocks[modality], rows)
        # Streamed values are compared with their checksums the first time only, when `open` reads them all.
        return self.store.load(self.sets[modality], rows, verify=modality not in self.present)

    def gaps(self, modality: str) -> bool:
        """Whether NaN in a modality's features stands for a value that is not there."""
        return self.store.sets[self.sets[modality]].spec.has_gaps

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modality names in order."""
        return tuple(self.sets)

    @property
    def any_present(self) -> npt.NDArray[np.bool_]:
        """Shape (N,): the utterance has at least one modality."""
        return np.asarray(np.any(np.stack([self.present[m] for m in self.sets]), axis=0))

    def kept_steps(self, modality: str) -> RowIndices:
        """Shape (N,): steps per utterance after thinning and averaging."""
        return kept_steps(self.lengths[modality], self.most_steps.get(modality, 0), self.pooling.get(modality, 1))

    @property
    def cost(self) -> RowIndices:
        """Shape (N,): steps of all modalities together, by which batches are bucketed."""
        return np.asarray(np.sum([self.kept_steps(m) for m in self.sets], axis=0), dtype=np.int64)

    def statistics(self, folds: Sequence[RowIndices]) -> dict[str, list[Normaliser]]:
        """Mean and scale per modality and fold over the valid steps of the given training rows.

        Where a head is given one mean of each utterance, the statistics are of these means: they vary far less than
        steps do, and what a probe sees should have a variance of one. Sums run in float64 around a provisional centre,
        so neither size nor offset costs accuracy.
        """
        return {m: self._fold_statistics(m, folds) for m in self.sets}

    def _fold_statistics(self, modality: str, folds: Sequence[RowIndices]) -> list[Normaliser]:
        chosen = np.zeros((len(folds), len(self.store.utterances)))
        for fold, rows in enumerate(folds):
            chosen[fold, rows] = 1.0
        chosen *= self.present[modality]
        gaps = self.gaps(modality)
        count = torch.zeros(len(folds), self.dims[modality] if gaps else 1, dtype=torch.float64)
        first, second = torch.zeros(2, len(folds), self.dims[modality], dtype=torch.float64)
        centre: Tensor | None = None
        for rows, block in self._pieces(modality, np.flatnonzero(chosen.any(axis=0))):
            values, valid, lengths = self._as_seen(modality, rows, block)
            weights = torch.from_numpy(chosen[:, np.repeat(rows, lengths)] * valid)
            if centre is None:
                centre = values[int(valid.argmax())].double().nan_to_num(nan=0.0)
            for at in range(0, len(values), SUMMED_AT_ONCE):
                weight, deviation = weights[:, at : at + SUMMED_AT_ONCE], values[at : at + SUMMED_AT_ONCE].double()
                deviation -= centre
                if gaps:
                    count += weight @ (~deviation.isnan()).double()
                    deviation.nan_to_num_(nan=0.0)
                else:
                    count += weight.sum(1, keepdim=True)
                first += weight @ deviation
                second += weight @ deviation.square_()
        return [self._normaliser(modality, centre, *sums) for sums in zip(count, first, second, strict=True)]

    def _as_seen(
        self, modality: str, rows: RowIndices, block: FeatureBlock
    ) -> tuple[Tensor, npt.NDArray[np.bool_], RowIndices]:
        """Values (ΣT, D), which are valid, and steps per utterance: as stored, or one mean of each utterance."""
        count = np.diff(block.offsets)
        if self.pooling.get(modality, 1) < ALL_STEPS:
            return as_tensor(block.values), np.asarray(block.valid, dtype=np.bool_), count
        lengths = np.where(self.present[modality][rows], count, 0)
        means = pool_steps(block, lengths, self.most_steps.get(modality, 0), ALL_STEPS)
        return as_tensor(means.values), means.valid, means.lengths

    def _normaliser(
        self,
        modality: str,
        centre: Tensor | None,
        count: Tensor,
        first: Tensor,
        second: Tensor,
    ) -> Normaliser:
        if centre is None or not count.any():
            raise MerError(
                f"no training utterance has usable {modality} features; leave {modality} out with --modalities or use "
                "another --protocol"
            )
        count = count.clamp(min=1)  # of a dimension without a single value
        shift = first / count
        std = (second / count - shift**2).clamp(min=0.0).sqrt()
        scale = torch.where(std > SMALLEST_STD, 1.0 / std.clamp(min=SMALLEST_STD), 1.0)
        return Normaliser((centre + shift).float(), scale.float())

    def window(self, device: torch.device, rows: RowIndices | None = None) -> Window:
        """Bring the values of some rows, or of all, onto the device.

        Once all are there, averaged, the stored ones are let go; they are read again if need be.
        """
        if rows is None:
            everything = np.arange(len(self.store.utterances))
            return Window({m: self._flat(m, everything, device) for m in self.sets}, None)
        rows = np.unique(rows)
        local = torch.zeros(len(self.store.utterances), dtype=torch.int64)
        local[torch.from_numpy(rows)] = torch.arange(len(rows))
        return Window({m: self._flat(m, rows, device) for m in self.sets}, local.to(device))

    def _flat(self, modality: str, rows: RowIndices, device: torch.device) -> Flat:
        window = self.pooling.get(modality, 1)
        whole = modality in self.blocks and len(rows) == len(self.store.utterances)
        block = self.blocks[modality] if whole else self._block(modality, rows)
        lengths = np.where(self.present[modality][rows], np.diff(block.offsets), 0)
        flat = Flat.of(block, lengths, self.most_steps.get(modality, 0), window, device, self.gaps(modality))
        if whole and window > 1:
            del self.blocks[modality]
        return flat

    def bytes_of(self, rows: RowIndices) -> int:
        """Bytes that these utterances' values take on the device, over all modalities."""
        total = 0
        for modality in self.sets:
            pooled = self.pooling.get(modality, 1) > 1
            steps = (self.kept_steps(modality) if pooled else self.lengths[modality])[rows]
            total += int(steps.sum()) * (4 * self.dims[modality] if pooled else self.bytes_per_step[modality])
        return total


@dataclass(frozen=True)
class Gatherer:
    """Makes batches out of a window for one fold, or for several side by side."""

    source: Source
    present: Mapping[str, Tensor]
    """Modality to shape (N,), bool, on the device."""
    labels: Tensor
    """Shape (N, ...), on the device."""
    normalisers: Mapping[str, Normaliser | None]

    @classmethod
    def of(
        cls, source: Source, labels: Tensor, normalisers: Mapping[str, Normaliser | None], device: torch.device
    ) -> Gatherer:
        """Move the small tables to the device."""
        return cls(
            source,
            {m: torch.from_numpy(source.present[m]).to(device) for m in source.sets},
            labels.to(device),
            {m: n.to(device) if n is not None else None for m, n in normalisers.items()},
        )

    def batch(self, window: Window, rows: RowIndices, on_device: Tensor | None = None) -> Batch:
        """Gather the utterances `rows` of shape (B,), or (R, B) for runs side by side.

        Parameters
        ----------
        window : Window
        rows : array
            On the host, to know the longest length without waiting for the device.
        on_device : Tensor, optional
            The same numbers on the device, where they are there already.
        """
        device = self.labels.device
        wanted = torch.from_numpy(np.ascontiguousarray(rows)).to(device) if on_device is None else on_device
        local = window.positions(wanted)
        values, valid = {}, {}
        for modality, flat in window.flats.items():
            steps = max(1, int(self.source.kept_steps(modality)[rows].max(initial=1)))
            values[modality], valid[modality] = flat.gather(local, steps, self.normalisers[modality])
        present = {m: self.present[m][wanted] for m in window.flats}
        return Batch(values, valid, present, self.labels[wanted])


def take(block: FeatureBlock, rows: RowIndices) -> FeatureBlock:
    """Return the part of a block that belongs to `rows`; a view when they are consecutive."""
    offsets = np.asarray(block.offsets, dtype=np.int64)
    lengths = (offsets[1:] - offsets[:-1])[rows]
    made = np.concatenate([[0], np.cumsum(lengths)])
    if len(rows) and (np.diff(rows) == 1).all():
        index: Any = slice(int(offsets[rows[0]]), int(offsets[rows[-1] + 1]))
    else:
        index = np.repeat(offsets[rows] - made[:-1], lengths) + np.arange(made[-1])
    return FeatureBlock(
        values=block.values[index],
        times=block.times[index],
        valid=block.valid[index],
        offsets=made,
        fates=np.asarray(block.fates)[rows],
    )


def _any_per_row(flags: npt.NDArray[np.bool_], offsets: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether any step of each utterance is flagged; shape (n,)."""
    sums = np.concatenate([[0], np.cumsum(flags)])
    return np.asarray(sums[offsets[1:]] > sums[offsets[:-1]])
