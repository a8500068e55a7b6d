"""Utterances with whole feature sequences as a torch data set, and padded batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mer.cache import FeatureStore, LabelColumn

Item = dict[str, Any]


class UtteranceDataset(Dataset[Item]):
    """Labelled utterances of a store, in the order of its table; safe to hand to worker processes.

    An item has `key`, `label`, and per feature set, under the name it was asked for, a tensor of shape (T, D) float32
    with its valid steps; T is 0 where the utterance has no such features.
    """

    def __init__(
        self, store: FeatureStore, names: Mapping[str, str], label: LabelColumn, rows: npt.NDArray[np.int64]
    ) -> None:
        self.store = store
        self.names = dict(names)
        """Name in an item to the feature set."""
        self.classes = label.classes
        """Class names in the order of their codes; empty for numbers."""
        self.keys = [store.utterances.keys[row] for row in rows.tolist()]
        dtype = torch.int64 if label.kind == "class" else torch.float32
        self.labels = torch.as_tensor(label.values[rows]).to(dtype)
        """Shape (n,) int64 codes or float32 numbers, or (n, C) float32 for sets of classes."""
        self._rows = rows

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, at: int) -> Item:
        item: Item = {"key": self.keys[at], "label": self.labels[at]}
        for name, feature_set in self.names.items():
            values, _, valid = self.store.raw(feature_set, int(self._rows[at]))
            item[name] = torch.from_numpy(values[valid != 0].astype(np.float32))
        return item

    def collate(self, items: Sequence[Item]) -> Item:
        """Pad items to the longest: for `DataLoader(dataset, collate_fn=dataset.collate)`.

        Returns
        -------
        dict
            `keys`, a list of B; `label`, shape (B,) or (B, C); and per feature set NAME a tensor of shape (B, T, D)
            float32 with zeros as padding, and `NAME_mask` of shape (B, T), True where a step is there. An utterance
            without such features has no True. T is at least 1.
        """
        batch: Item = {"keys": [item["key"] for item in items], "label": torch.stack([item["label"] for item in items])}
        for name in self.names:
            batch[name], batch[f"{name}_mask"] = padded([item[name] for item in items])
        return batch


def padded(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack sequences of shape (T_i, D) into (B, T, D) with zeros, and a mask (B, T) of what is there."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    longest = max(1, int(lengths.max()))
    values = sequences[0].new_zeros((len(sequences), longest, sequences[0].shape[1]))
    for row, sequence in enumerate(sequences):
        values[row, : len(sequence)] = sequence
    return values, torch.arange(longest)[None, :] < lengths[:, None]
