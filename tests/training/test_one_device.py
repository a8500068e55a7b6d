"""A training step makes nothing on another device and reads nothing back; `meta`, without values, stands for a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mer.pipeline.training.batches import DialogueBatch
from mer.pipeline.training.engine import Trainer
from mer.pipeline.training.model import DialogueLayout, parts_of
from mer.pipeline.training.prepare import make_training_data
from mer.pipeline.training.progress import Silent
from mer.pipeline.training.run import prepare_run
from mer.pipeline.training.settings import build_options
from mer.stages.heads.testing import OneDevice

MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def trainer_of(toy: Path, tmp_path: Path, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> MakeTrainer:
    """Build a trainer on `meta` for one run or several."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # does not know `meta`
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)  # its fused kernel does not know it either

    def build(runs: int, **given: Any) -> Trainer:
        prepared = prepare_run(
            build_options({**quick, "features": toy, "out": tmp_path / "run", "seeds": runs, **given})
        )
        data = replace(make_training_data(prepared), device=torch.device("meta"))
        models = [prepared.blueprint.build(member.seed) for member in prepared.seed_runs]
        return Trainer(data, prepared.seed_runs, models, lambda finished: None, Silent())

    return build


@pytest.mark.parametrize("head", ["linear", "concat", "drkf", "fdrl"])
@pytest.mark.parametrize("runs", [1, 3])
def test_a_training_step_stays_on_its_device(trainer_of: MakeTrainer, head: str, runs: int) -> None:
    trainer = trainer_of(runs, head=head)
    batches, window = trainer.epoch_rows(), trainer.data.whole()
    rows = torch.from_numpy(np.stack([batch for batch in batches if isinstance(batch, np.ndarray)])).to("meta")
    with OneDevice():
        trainer.train_step(window, batches[0], rows[0], 0.5)
    assert trainer.sums["task"].shape == (runs,)


@pytest.mark.parametrize("context", ["bigru", "transformer"])
def test_dialogue_context_stays_on_its_device(trainer_of: MakeTrainer, context: str) -> None:
    trainer = trainer_of(1, head="concat", context=context)
    batch = trainer.epoch_rows()[0]
    assert isinstance(batch, DialogueBatch)
    layout = DialogueLayout.of(batch, trainer.data.device)
    parts = parts_of(trainer.gatherer.batch(trainer.data.whole(), batch.rows))
    with OneDevice():
        torch.stack(list(trainer.stack.losses(parts, layout, 0.5).values())).sum().backward()
        trainer.stack.clip(1.0)
