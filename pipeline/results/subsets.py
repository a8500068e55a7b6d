"""What a run says when it is given only some of its modalities, on the utterances it was tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mer.cache import FeatureStore, MerError
from mer.stages.device import resolve_device

from ..scores.metrics import score
from ..training.model import DialogueLayout, Parts
from ..training.prepare import memory_budget
from ..training.run_folder import LoadedModel, Run
from ..training.scoring import predict
from ..training.shared import SeedRun, TrainingData
from ..training.stacked import SingleModel
from ..training.tensors import Source
from .evaluate import data_for, is_own_corpus, matching_label, matching_sets, rows_to_score

Subset = frozenset[str]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
DRAWS = 20


@dataclass(frozen=True)
class SubsetAnswers:
    """Answers of the models of one seed, every fold's on its own test rows."""

    run: Run
    seed: int
    modalities: tuple[str, ...]
    keys: npt.NDArray[np.str_]
    """Shape (n,)."""
    labels: npt.NDArray[Any]
    outputs: Mapping[Subset, npt.NDArray[np.float32]]
    """Every subset of the modalities but the empty one, shape (n, C); the prior where an utterance has none of it."""
    present: Mapping[str, npt.NDArray[np.bool_]]
    """Modality to shape (n,): the utterance has it."""
    prior: npt.NDArray[np.float32]
    """Shape (n, C), the training prior of each row's fold."""

    def scores(self, subset: Subset) -> dict[str, float]:
        """Metrics of one subset; of the prior alone for the empty one."""
        outputs = self.outputs[subset] if subset else self.prior
        return score(self.run.kind, self.labels, outputs, self.run.scale)

    def scores_without(self, modality: str, share: float, metric: str, seed: int = 0) -> float:
        """Mean of a metric when a random share of the utterances lacks a modality, over some draws."""
        whole = self.outputs[frozenset(self.modalities)]
        rest = frozenset(self.modalities) - {modality}
        left = self.outputs[rest] if rest else self.prior
        rng = np.random.default_rng(seed)
        found = []
        for _ in range(1 if share in (0.0, 1.0) else DRAWS):
            lacking = np.zeros(len(whole), np.bool_)
            lacking[rng.permutation(len(whole))[: round(share * len(whole))]] = True
            mixed = np.where(lacking[:, None], left, whole)
            found.append(score(self.run.kind, self.labels, mixed, self.run.scale)[metric])
        return float(np.mean(found))


def ask_subsets(run: Run, device: str = "auto") -> SubsetAnswers:
    """Ask the models of a run's first seed with every subset of its modalities.

    Raises
    ------
    MerError
        If the feature file is not where the run found it, is no longer the one it was trained on, or a model gives
        no number when modalities are missing.
    """
    where = Path(str(run.facts["features"]["path"]))
    if not where.exists():
        raise MerError(f"{where.name} is not where the run found it")
    store = FeatureStore.open(where)
    sets, label = matching_sets(run, store), matching_label(run, store)
    if not is_own_corpus(run, store, label):
        raise MerError(f"{where.name} holds another corpus now")
    steps = {modality: run.recipe.steps(modality) for modality in sets}
    chosen = torch.device(resolve_device(device))
    source = Source.open(store, sets, steps, run.pooling(), memory_budget(chosen, None))
    rows, _ = rows_to_score(run, store, label)
    data = data_for(run, store, source, label, chosen)
    names = tuple(sets)
    subsets = [frozenset(some) for count in range(1, len(names) + 1) for some in combinations(names, count)]
    outputs: dict[Subset, list[npt.NDArray[np.float32]]] = {subset: [] for subset in subsets}
    order, priors = [], []
    seed = run.members[0]["seed"]
    for facts in run.members:
        if facts["seed"] != seed or not len(rows[facts["fold"]]):
            continue
        member, mine = run.load_model(facts["name"]), rows[facts["fold"]]
        order.append(mine)
        priors.append(np.repeat(member.prior[None], len(mine), axis=0))
        for subset in subsets:
            outputs[subset].append(_answers(data, member, mine, subset))
    every = np.concatenate(order)
    return SubsetAnswers(
        run,
        seed,
        names,
        np.array([store.utterances.keys[row] for row in every], np.str_),
        data.labels[every],
        {subset: np.concatenate(parts) for subset, parts in outputs.items()},
        {m: np.asarray(source.present[m][every]) for m in names},
        np.concatenate(priors),
    )


def _answers(
    data: TrainingData, member: LoadedModel, rows: npt.NDArray[np.int64], subset: Subset
) -> npt.NDArray[np.float32]:
    """Answers of one model to some rows, given a subset of the modalities; shape (n, C)."""
    own = replace(data, normalisers={m: [n] for m, n in member.normalisers.items()}, priors=member.prior[None])
    nothing = np.zeros(0, dtype=np.int64)
    one = SeedRun(0, member.facts["fold"], member.facts["seed"], nothing, nothing, rows, nothing)
    model = _Deprived(member, own.device, subset)
    outputs, _ = predict(own, model, own.gatherer([one], stacked=False), [one], [rows])[0]
    there = np.any(np.stack([data.source.present[m][rows] for m in subset]), axis=0)
    outputs = np.where(there[:, None], outputs, member.prior[None])
    if not np.isfinite(outputs).all():
        raise MerError(f"the head {member.facts.get('head', '')} gives no number when modalities are missing")
    return outputs


class _Deprived(SingleModel):
    """A model from which some modalities are hidden."""

    def __init__(self, member: LoadedModel, device: torch.device, kept: Subset) -> None:
        super().__init__(member.model, device)
        self._kept = kept

    def outputs(self, parts: Parts, layout: DialogueLayout | None) -> tuple[Tensor, Tensor]:
        """Return outputs (1, B, C) and vectors (1, B, width)."""
        values, valid, present, labels = parts
        hidden = [m for m in values if m not in self._kept]
        values = values | {m: torch.zeros_like(values[m]) for m in hidden}
        valid = valid | {m: torch.zeros_like(valid[m]) for m in hidden}
        present = present | {m: torch.zeros_like(present[m]) for m in hidden}
        return super().outputs((values, valid, present, labels), layout)
