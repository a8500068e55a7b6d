"""A feature cache as Python programs know their data: a table, sequences by name, arrays, a torch data set."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mer.cache import Fate, FeatureSequence, FeatureSpec, FeatureStore, LabelColumn, MerError
from mer.cache.release import install_line
from mer.stages.registry import suggest

if TYPE_CHECKING:
    import pandas as pd

    from .torch_data import UtteranceDataset

POOLS = ("mean", "max")


class Features(Mapping[str, FeatureSequence]):
    """One feature set as a mapping from the utterance's key to its sequence.

    Keys are those of the utterances that have features, in the order of the table. A sequence has `values` of shape
    (T, D) in the stored dtype, `times` of shape (T,) in seconds from the start, and `valid` of shape (T,),
    False where a step had nothing to encode (a frame without a face).
    """

    def __init__(self, store: FeatureStore, name: str) -> None:
        self.store = store
        self.name = name
        """Name of the feature set."""

    @property
    def spec(self) -> FeatureSpec:
        """What the features are."""
        return self.store.index(self.name).spec

    @property
    def dim(self) -> int:
        """Width D of a step."""
        return self.spec.dim

    @property
    def fates(self) -> dict[str, str]:
        """Key of every utterance to `ok`, `missing`, `failed` or `pending`."""
        fates = self.store.index(self.name).fates
        return {key: Fate(fate).name.lower() for key, fate in zip(self.store.utterances.keys, fates, strict=True)}

    def __getitem__(self, key: str) -> FeatureSequence:
        if key not in self.store.utterances:
            raise KeyError(key)
        return self.store.read(self.name, key)

    def __contains__(self, key: object) -> bool:
        table = self.store.utterances
        return isinstance(key, str) and key in table and bool(self.store.index(self.name).ok[table.rows([key])[0]])

    def __iter__(self) -> Iterator[str]:
        keys = self.store.utterances.keys
        return (keys[row] for row in np.flatnonzero(self.store.index(self.name).ok).tolist())

    def __len__(self) -> int:
        return int(self.store.index(self.name).ok.sum())

    def __repr__(self) -> str:
        return f"Features({self.name!r}, {len(self)} utterances, D = {self.dim})"


class Store(FeatureStore):
    """A feature cache or pack, as `mer.open` returns it.

    `len` counts utterances, iteration gives their keys, `store["audio"]` a feature set. It holds paths, not handles: it
    can be pickled, forked and spawned; `with` and `close` let go of the files of this process.
    """

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[str]:
        return iter(self.utterances.keys)

    def __contains__(self, key: object) -> bool:
        return key in self.utterances

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files that this process has open; they are opened again when something is read."""
        for pack in self._packs.values():
            pack.close()
        self._packs.clear()
        self._files.clear()

    @property
    def modalities(self) -> list[str]:
        """Modalities there are features of, in the order they were made."""
        return list(dict.fromkeys(index.spec.modality for index in self.sets.values()))

    def __getitem__(self, name: str) -> Features:
        """Return the feature set of this name, the newest of a modality, or the newest of an encoder.

        Raises
        ------
        MerError
            If there is none; the message lists what there is.
        """
        return Features(self, self.set_name(name))

    def set_name(self, name: str) -> str:
        """Name of the feature set that a set, a modality or an encoder names, the newest where several fit."""
        fitting = [s for s, index in self.sets.items() if name in (s, index.spec.modality, index.spec.name)]
        if not fitting:
            known = [*self.modalities, *self.sets]
            raise MerError(f"{self.location} has no features {name!r}; {suggest(name, known)}")
        return name if name in fitting else fitting[-1]

    def target(self, name: str | None = None) -> tuple[str, LabelColumn]:
        """Return a label column: the one named, else `emotion`, else the only one.

        Raises
        ------
        MerError
            If there is none, or several and none is called `emotion`.
        """
        labels = self.utterances.labels
        chosen = name or ("emotion" if "emotion" in labels else next(iter(labels)) if len(labels) == 1 else "")
        if chosen in labels:
            return chosen, labels[chosen]
        if not labels:
            raise MerError(f"{self.location} has no labels")
        why = suggest(chosen, list(labels)) if chosen else f"name one of {', '.join(labels)}"
        raise MerError(f"{self.location} has no target {chosen or 'emotion'!r}; {why}")

    def rows(self, split: str | None = None) -> npt.NDArray[np.int64]:
        """Row numbers of the utterances of a split, or of all, shape (n,).

        Raises
        ------
        MerError
            If there is no such split.
        """
        if split is None:
            return np.arange(len(self))
        found = np.flatnonzero(np.array(self.utterances.split, dtype=np.str_) == split)
        if not len(found):
            known = ", ".join(sorted({s for s in self.utterances.split if s})) or "none"
            raise MerError(f"{self.location} has no split {split!r}; its splits: {known}")
        return found

    def table(self) -> pd.DataFrame:
        """Return one row per utterance, indexed by its key.

        Columns are those of the utterance table (`text`, `speaker`, `split`, `duration_seconds` and so on), one for
        each target (classes as a categorical in the order of their codes, sets of classes as tuples, numbers as
        float64), and for each feature set `fate NAME`: `ok`, `missing`, `failed` or `pending`.

        Raises
        ------
        MerError
            If pandas is not installed.
        """
        pd = import_pandas()
        table = self.utterances
        columns: dict[str, Any] = {
            name: getattr(table, name) for name in ("text", "speaker", "dialogue", "turn", "split", "session", "media")
        }
        columns |= {n: getattr(table, n) for n in ("start_seconds", "end_seconds", "duration_seconds", "machine_text")}
        for name, label in table.labels.items():
            if label.kind == "class":
                columns[name] = pd.Categorical.from_codes(label.values, categories=list(label.classes))
            else:
                columns[name] = label.values if label.kind == "real" else _sets(label)
        for name in self.sets:
            columns[f"fate {name}"] = list(Features(self, name).fates.values())
        return pd.DataFrame(columns, index=pd.Index(table.keys, name="key"))

    def arrays(
        self,
        features: str | Sequence[str],
        *,
        split: str | None = None,
        pool: str = "mean",
        target: str | None = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        """Return features and labels as scikit-learn takes them: one row per utterance that has both.

        Parameters
        ----------
        features
            A modality, a feature set or an encoder; of several, the vectors stand side by side.
        split
            `train`, `val` or `test`; None takes every utterance.
        pool
            `mean` or `max` over the valid steps of an utterance.
        target
            Label column; None takes `emotion`, or the only one.

        Returns
        -------
        X : (n, D) float32
            D is the sum of the widths of the feature sets.
        y : (n,) str, (n,) float64 or (n, C) int64
            Class names, numbers, or for sets of classes 1 where a class is in the set.

        Raises
        ------
        MerError
            If the features, the split or the target are not there, or no utterance has all of them.
        """
        if pool not in POOLS:
            raise MerError(f"pool {pool!r} is not known; use {' or '.join(POOLS)}")
        names = [self.set_name(name) for name in ([features] if isinstance(features, str) else features)]
        title, label = self.target(target)
        rows = self.rows(split)
        rows = rows[labelled(label)[rows]]
        parts = [_pooled(self, name, rows, pool) for name in names]
        whole = ~np.any([np.isnan(part).any(axis=1) for part in parts], axis=0)
        if not whole.any():
            where = f" of split {split!r}" if split else ""
            raise MerError(f"{self.location}: no utterance{where} has {', '.join(names)} and a label for {title!r}")
        return np.concatenate(parts, axis=1)[whole], _target_values(label, rows[whole])

    def torch_dataset(
        self, split: str | None = None, *, features: Sequence[str] | None = None, target: str | None = None
    ) -> UtteranceDataset:
        """Return a `torch.utils.data.Dataset` of whole sequences; its `collate` makes padded batches with masks.

        Parameters
        ----------
        split
            `train`, `val` or `test`; None takes every utterance.
        features
            Modalities, feature sets or encoders; None takes the newest set of every modality.
        target
            Label column; None takes `emotion`, or the only one. Utterances without the label are left out.
        """
        from .torch_data import UtteranceDataset

        names = {name: self.set_name(name) for name in (features or self.modalities)}
        _, label = self.target(target)
        rows = self.rows(split)
        return UtteranceDataset(self, names, label, rows[labelled(label)[rows]])

    def _repr_html_(self) -> str:
        """What a notebook shows: the corpus, its splits, its feature sets and fates."""
        splits = {name: self.utterances.split.count(name) for name in dict.fromkeys(self.utterances.split)}
        told = ", ".join(f"{name or 'no split'} {count:,}" for name, count in splits.items())
        title = self.corpus.get("title") or self.corpus.get("name", "")
        lines = [
            f"<b>{html.escape(str(title))}</b> <code>{html.escape(self.location)}</code><br>",
            f"{len(self):,} utterances ({html.escape(told)})",
            "<table><tr><th>feature set</th><th>width</th><th>ok</th><th>missing</th><th>failed</th></tr>",
        ]
        for name, index in self.sets.items():
            counts = [int((index.fates == fate).sum()) for fate in (Fate.OK, Fate.MISSING, Fate.FAILED)]
            cells = "".join(f"<td>{count:,}</td>" for count in (index.spec.dim, *counts))
            lines.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
        targets = ", ".join(
            f"{name} ({len(label.classes) or 'number'})" for name, label in self.utterances.labels.items()
        )
        return "".join([*lines, f"</table>targets: {html.escape(targets or 'none')}"])


def open_store(location: str | Path) -> Store:
    """Open a feature cache or pack, by path or URL; a URL is read in place.

    Parameters
    ----------
    location
        What `mer extract` or `mer pack` wrote, or the URL of a pack (`https://`, `hf://`, `s3://` and so on).

    Raises
    ------
    MerError
        If it is not there, is no file of `mer`, or its metadata are damaged.
    """
    opened: Store = Store.open(location)  # type: ignore[assignment]
    return opened


def import_pandas() -> Any:
    """Import pandas, which is an extra.

    Raises
    ------
    MerError
        If it is not installed; the message has the pip line.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MerError(f"tables need pandas: {install_line('pandas')}") from error
    return pd


def labelled(label: LabelColumn) -> npt.NDArray[np.bool_]:
    """Whether each utterance has the label, shape (N,)."""
    if label.kind == "class":
        return np.asarray(label.values >= 0)
    missing = np.isnan(label.values)
    return np.asarray(~(missing.any(axis=1) if label.kind == "multi" else missing))


def _sets(label: LabelColumn) -> list[tuple[str, ...] | None]:
    there = labelled(label)
    return [
        tuple(name for name, inside in zip(label.classes, row, strict=True) if inside) if known else None
        for row, known in zip(label.values > 0, there, strict=True)
    ]


def _target_values(label: LabelColumn, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    values = label.values[rows]
    if label.kind == "class":
        return np.asarray(np.array(label.classes, dtype=np.str_)[values])
    return np.asarray(values.astype(np.int64) if label.kind == "multi" else values)


def _pooled(store: Store, name: str, rows: npt.NDArray[np.int64], pool: str) -> npt.NDArray[np.float32]:
    """One vector per row, shape (n, D) float32; NaN rows where there are no valid steps."""
    if pool == "mean":
        return store.vectors(name)[rows]
    found = np.full((len(rows), store.index(name).spec.dim), np.nan, np.float32)
    block = store.load(name, rows)
    for at in range(len(rows)):
        steps = slice(block.offsets[at], block.offsets[at + 1])
        values = block.values[steps][block.valid[steps]]
        if len(values):
            found[at] = values.max(axis=0)
    return found
