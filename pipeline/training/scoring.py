"""Predictions of trained runs: batches of rows in, probabilities beside their keys out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import FeatureStore, MerError

from .batches import fill, in_order
from .model import DialogueLayout, parts_of, probabilities
from .pooling import RowIndices
from .run_folder import Predictions
from .shared import SeedRun, TrainingData, context_dialogues
from .stacked import StackedModels
from .tensors import Gatherer

EVAL_FACTOR = 2
"""Batches for scoring are this many times larger than those for training."""


def predict(
    data: TrainingData, stack: Any, gatherer: Gatherer, seed_runs: Sequence[SeedRun], rows: Sequence[RowIndices]
) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Probabilities (n, outputs) and fused vectors (n, width) of each run's rows, in their order.

    A row without any modality gets the training prior and a NaN vector.
    """
    have = [r[data.source.any_present[r]] for r in rows]
    found = _predict_in_context(data, stack, gatherer, seed_runs[0], have[0]) if data.in_context else None
    if found is None:
        found = _predict_batches(data, stack, gatherer, have)
    results = []
    for index, (seed_run, wanted) in enumerate(zip(seed_runs, rows, strict=True)):
        outputs, vectors = found[index]
        place = np.searchsorted(have[index], wanted).clip(max=max(len(have[index]) - 1, 0))
        present = data.source.any_present[wanted]
        full = np.repeat(data.priors[seed_run.fold][None], len(wanted), axis=0)
        spread = np.full((len(wanted), vectors.shape[1]), np.nan, dtype=np.float32)
        if present.any():
            full[present], spread[present] = outputs[place[present]], vectors[place[present]]
        results.append((full, spread))
    return results


def _predict_batches(
    data: TrainingData, stack: Any, gatherer: Gatherer, rows: Sequence[RowIndices]
) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Predict sorted rows without context; the runs of a stack go through side by side, short ones padded."""
    cost = data.source.cost
    size = EVAL_FACTOR * data.recipe.batch_size
    longest = max(len(r) for r in rows)
    outputs = [np.zeros((len(r), data.priors.shape[1]), dtype=np.float32) for r in rows]
    vectors = [np.zeros((len(r), 1), dtype=np.float32) for r in rows]
    if not longest:
        return list(zip(outputs, vectors, strict=True))
    filled = [np.resize(r, longest) if len(r) else np.zeros(longest, dtype=np.int64) for r in rows]
    ordered = [np.concatenate(list(in_order(r, cost, size))) for r in filled]
    batches = [np.stack([o[i : i + size] for o in ordered]) for i in range(0, longest, size)]
    stacked = isinstance(stack, StackedModels)
    for window, start, stop in data.windows([b.reshape(-1) for b in batches]):
        for batch in batches[start:stop]:
            gathered = gatherer.batch(window, batch if stacked else batch[0])
            with data.autocast():
                raw, fused = stack.outputs(parts_of(gathered), None)
            made = probabilities(data.kind, raw).cpu().numpy()
            width = fused.float().cpu().numpy()
            for run, mine in enumerate(rows):
                inside = np.isin(batch[run], mine)
                place = np.searchsorted(mine, batch[run][inside])
                if vectors[run].shape[1] != width.shape[-1]:
                    vectors[run] = np.zeros((len(mine), width.shape[-1]), dtype=np.float32)
                outputs[run][place], vectors[run][place] = made[run][inside], width[run][inside]
    return list(zip(outputs, vectors, strict=True))


def _predict_in_context(
    data: TrainingData, stack: Any, gatherer: Gatherer, seed_run: SeedRun, rows: RowIndices
) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Predict sorted rows dialogue by dialogue."""
    batches = list(fill(context_dialogues(data, seed_run, rows), EVAL_FACTOR * data.recipe.batch_size))
    outputs = np.zeros((len(rows), data.priors.shape[1]), dtype=np.float32)
    vectors = np.zeros((len(rows), 1), dtype=np.float32)
    for window, start, stop in data.windows([b.rows for b in batches]):
        for batch in batches[start:stop]:
            gathered = gatherer.batch(window, batch.rows)
            with data.autocast():
                raw, fused = stack.outputs(parts_of(gathered), DialogueLayout.of(batch, data.device))
            inside = np.isin(batch.rows, rows)
            place = np.searchsorted(rows, batch.rows[inside])
            if vectors.shape[1] != fused.shape[-1]:
                vectors = np.zeros((len(rows), fused.shape[-1]), dtype=np.float32)
            outputs[place] = probabilities(data.kind, raw).cpu().numpy()[0][inside]
            vectors[place] = fused.float().cpu().numpy()[0][inside]
    return [(outputs, vectors)]


def predictions_of(
    store: FeatureStore,
    data: TrainingData,
    split: str,
    rows: npt.NDArray[np.int64],
    outputs: npt.NDArray[np.float32],
    vectors: npt.NDArray[np.float32],
) -> Predictions:
    """Put the predictions of some rows beside their keys, labels and dialogues.

    Raises
    ------
    MerError
        If a prediction is not finite, which no score would show: the first class wins among NaN.
    """
    broken = rows[~np.isfinite(outputs).all(1)]
    if len(broken):
        raise MerError(
            f"{store.path}: the answers for {len(broken)} {split} utterances are not finite, e.g. "
            f"{store.utterances.keys[broken[0]]}; look for features far from the training rows'"
        )
    keys = np.array([store.utterances.keys[row] for row in rows], dtype=np.str_)
    groups = [store.utterances.dialogue[row] or store.utterances.keys[row] for row in rows]
    return Predictions(
        keys=keys,
        split=np.full(len(rows), split),
        labels=data.labels[rows],
        outputs=outputs,
        vectors=vectors.astype(np.float16),
        by_prior=~data.source.any_present[rows],
        group=np.array(groups, dtype=np.str_),
    )


def join(pieces: Sequence[Predictions]) -> Predictions:
    """Put predictions one after the other."""
    return Predictions(**{name: np.concatenate([vars(p)[name] for p in pieces]) for name in vars(pieces[0])})


def clean(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Scores fit for JSON: None instead of NaN."""
    return {name: None if np.isnan(value) else float(value) for name, value in scores.items()}
