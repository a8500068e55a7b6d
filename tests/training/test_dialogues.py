"""Dialogue context in training: who is seen, who is answered, and who is learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mer.cache import FeatureStore, write_catalogue
from mer.pipeline.training.batches import DialogueBatch
from mer.pipeline.training.engine import Finished, Trainer
from mer.pipeline.training.model import Blueprint, DialogueLayout, Model, Parts
from mer.pipeline.training.prepare import make_training_data
from mer.pipeline.training.progress import Silent
from mer.pipeline.training.run import prepare_run
from mer.pipeline.training.scoring import predict
from mer.pipeline.training.settings import Recipe, build_options
from mer.stages.heads.base import HeadInputs, ModalityShape

from .toy import toy_utterances

CPU = torch.device("cpu")
KINDS = ["bigru", "transformer"]


def model(kind: str, **recipe: float) -> Model:
    inputs = HeadInputs({"text": ModalityShape(3)}, "class", ("a", "b"))
    plan = Blueprint("linear", {}, kind, {"hidden": 8, "dropout": 0.0}, inputs, Recipe(**recipe))  # type: ignore[arg-type]
    return plan.build(0)


def parts(count: int) -> Parts:
    """One step of three random numbers per utterance."""
    yes = torch.ones(count, 1, dtype=torch.bool)
    values = torch.randn(count, 1, 3, generator=torch.Generator().manual_seed(1))
    return {"text": values}, {"text": yes}, {"text": yes[:, 0]}, torch.zeros(count, dtype=torch.int64)


def rows_of(given: Parts, rows: list[int]) -> Parts:
    values, valid, present, labels = given
    return (*({"text": part["text"][rows]} for part in (values, valid, present)), labels[rows])  # type: ignore[return-value]


def layout_of(*lengths: int) -> DialogueLayout:
    return DialogueLayout.of(DialogueBatch.of([np.arange(length) for length in lengths]), CPU)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dialogue_is_answered_as_if_it_were_alone(kind: str) -> None:
    made, given = model(kind).eval(), parts(6)
    together = made(given, layout_of(1, 3, 2))[0]
    alone = [made(rows_of(given, rows), layout_of(len(rows)))[0] for rows in ([0], [1, 2, 3], [4, 5])]
    torch.testing.assert_close(together, torch.cat(alone))
    turned = made(rows_of(given, [0, 3, 2, 1, 4, 5]), layout_of(1, 3, 2))[0]
    assert not torch.allclose(turned[1:4].flip(0), together[1:4], atol=1e-5)  # the order of turns counts


@pytest.mark.parametrize("kind", KINDS)
def test_turns_are_hidden_in_training_alone(kind: str) -> None:
    given, lone = parts(200), layout_of(*[1] * 200)
    hiding, plain = model(kind, hide_turns=0.6), model(kind)
    torch.testing.assert_close(hiding.eval()(given, lone)[0], plain.eval()(given, lone)[0], rtol=0, atol=0)
    torch.manual_seed(0)
    whole, hidden = plain.train()(given, lone)[0], hiding.train()(given, lone)[0]
    own = torch.isclose(whole, hidden).all(1)
    assert 0.3 < own.float().mean() < 0.5
    blank = hidden[~own]  # all that is left of a lone turn is what the layer says of nothing
    torch.testing.assert_close(blank, blank[:1].expand_as(blank))


def trained(cache: Path, quick: dict[str, Any]) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Weights and test answers of the first fold of speakers, learned in dialogues."""
    asked = {"features": cache, "protocol": "speaker-folds", "folds": 5, "context": "transformer", "context.hidden": 8}
    prepared = prepare_run(build_options({**quick, **asked, "train.epochs": 2, "train.lr": 0.01}))
    data, member = make_training_data(prepared), prepared.seed_runs[0]
    finished: list[Finished] = []
    trainer = Trainer(data, [member], [prepared.blueprint.build(0)], finished.append, Silent())
    trainer.fit()
    return finished[0].state, predict(data, trainer.stack, trainer.gatherer, [member], [member.test])[0][0]


def test_companions_are_seen_and_not_learned_from(make_toy: Callable[..., Path], quick: dict[str, Any]) -> None:
    """Folds of speakers leave out a labelled turn without a speaker, and its dialogue still holds it."""
    nameless = [row for row, one in enumerate(toy_utterances()) if one.turn == 2]
    utterances = [replace(u, speaker="" if row in nameless else u.speaker) for row, u in enumerate(toy_utterances())]
    cache, other = (make_toy(name, utterances=utterances) for name in ("one.h5", "other.h5"))
    catalogue = FeatureStore.open(other).catalogue
    labels = catalogue.utterances.labels["emotion"].values
    labels[nameless] = (labels[nameless] + 1) % 3
    write_catalogue(other, catalogue)
    (weights, answers), (same, equal) = trained(cache, quick), trained(other, quick)
    for name, tensor in weights.items():
        torch.testing.assert_close(same[name], tensor, rtol=0, atol=0, msg=name)
    np.testing.assert_array_equal(answers, equal)
    without = make_toy("without.h5", utterances=utterances, missing_text=nameless, missing_audio=nameless)
    weights, changed = trained(without, quick)
    assert any(not torch.allclose(same[name], tensor, atol=1e-4) for name, tensor in weights.items())
    assert np.abs(changed - answers).max() > 1e-3
