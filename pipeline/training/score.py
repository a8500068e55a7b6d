"""Step 5 of training: every selected model on its validation and test rows, once."""

from __future__ import annotations

from typing import Any

from ..scores.metrics import score
from .aggregate import aggregate_scores
from .prepare import Prepared
from .run_folder import Run
from .scoring import clean, join, predict, predictions_of
from .shared import TrainingData
from .stacked import stack_models


def score_seed_runs(prepared: Prepared, run: Run, data: TrainingData) -> None:
    """Predict validation and, unless told otherwise, test rows with every selected model, once."""
    entries = []
    for seed_run in prepared.seed_runs:
        loaded = run.load_model(seed_run.name)
        parts = {"val": seed_run.val} | ({"test": seed_run.test} if prepared.options.score_test else {})
        stack = stack_models([loaded.model], data.device)
        gatherer = data.gatherer([seed_run], stacked=False)
        pieces = []
        entry = dict(loaded.facts)
        for split, rows in parts.items():
            outputs, vectors = predict(data, stack, gatherer, [seed_run], [rows])[0]
            pieces.append(predictions_of(prepared.store, data, split, rows, outputs, vectors))
            entry[split] = clean(score(data.kind, data.labels[rows], outputs, data.scale))
        run.save_predictions(seed_run.name, join(pieces))
        entries.append(entry)
    run.facts["members"] = entries


def summarise_run(run: Run) -> dict[str, Any]:
    """Scores of a run's saved test predictions over its members."""
    names = [m["name"] for m in run.members]
    parts = {name: run.predictions(name).part("test") for name in names}
    priors = {name: run.load_model(name).prior for name in names}
    return aggregate_scores(run, run.members, parts, priors)
