"""The training loop: it learns, resumes exactly, and side by side is the same as one after the other."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mer.cache import DamagedError, MerError
from mer.pipeline.results.evaluate import evaluate
from mer.pipeline.training.engine import Trainer, rate_at
from mer.pipeline.training.model import Blueprint, Model, class_weights
from mer.pipeline.training.run import train
from mer.pipeline.training.run_folder import Run
from mer.pipeline.training.settings import Recipe, build_options
from mer.pipeline.training.stacked import Optimiser, stack_models
from mer.stages.heads.base import HeadInputs, ModalityShape
from mer.stages.heads.probe import LinearHead
from training.killing import in_a_process

from .toy import (
    PLAIN,
    TARGETS,
    fit,
    load_benchmark,
    toy_features,
    toy_spec,
    toy_utterances,
    without_draws,
    write_toy,
)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {
        f"{m['name']}/{key}": tensor
        for m in run.members
        for key, tensor in run.load_model(m["name"]).model.state_dict().items()
    }


def assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=tolerance, atol=tolerance, msg=name)


def test_it_learns(toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    run = fit(toy, tmp_path / "run", quick, train__epochs=30, train__lr=0.02)
    metrics = run.facts["metrics"]
    assert metrics["uar"]["mean"] > 0.85
    assert metrics["uar"]["majority"] == pytest.approx(1 / 3)
    history = run.history("official-seed0")
    assert history[-1]["task"] < 0.5 * history[0]["task"]


@pytest.mark.parametrize("head", ["linear", "concat", "drkf", "fdrl"])
def test_side_by_side_is_one_after_the_other(toy: Path, tmp_path: Path, quick: dict[str, Any], head: str) -> None:
    """Same batches, same initial weights, same updates; only where the sums are done differs."""
    settings = {**quick, "head": head, "seeds": 2, "protocol": "session-folds", "folds": 2, "train.epochs": 2}
    settings |= without_draws(head)
    runs = [fit(toy, tmp_path / mode, settings, parallel=mode) for mode in ("stacked", "sequential")]
    assert [run.facts["engine"]["stack"] for run in runs] == [4, 1]
    assert_equal(weights(runs[0]), weights(runs[1]), tolerance=2e-4)
    for member in runs[0].members:
        one, two = (run.predictions(member["name"]).outputs for run in runs)
        np.testing.assert_allclose(one, two, atol=2e-3)


def test_streaming_changes_nothing(toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    whole = fit(toy, tmp_path / "whole", quick)
    blocks = fit(toy, tmp_path / "blocks", quick, memory_gb=2e-6)
    assert blocks.facts["engine"]["streamed"]
    assert not whole.facts["engine"]["streamed"]
    assert_equal(weights(whole), weights(blocks))


def test_the_same_options_give_the_same_run(toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    runs = [fit(toy, tmp_path / name, quick, head="drkf", head__dim=8, seeds=2) for name in ("a", "b")]
    assert_equal(weights(runs[0]), weights(runs[1]))
    one, two = (weights(runs[0])[f"official-seed{seed}/head.classifier.weight"] for seed in (0, 1))
    assert not torch.equal(one, two)


@pytest.fixture(scope="module", params=["sequential", "stacked"])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run with early stopping, and where it was trained without a disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed")
    cache = write_toy(folder / "toy.h5", load_benchmark("caches").write_cache)
    given = {"features": cache, "head": "drkf", "head.dim": 8, "head.blocks": 1, "seeds": 2, "device": "cpu"}
    given |= {"train.epochs": 4, "train.patience": 2, "train.batch_size": 24, "train.deterministic": True}
    given |= {"parallel": request.param, "checkpoint_seconds": 0.0}
    assert in_a_process({**given, "out": folder / "run"}) == 0
    return given


@pytest.mark.parametrize("while_saving", [False, True])
def test_a_killed_run_ends_as_an_undisturbed_one(
    undisturbed: dict[str, Any], tmp_path: Path, while_saving: bool
) -> None:
    disturbed = {**undisturbed, "out": tmp_path / "run"}
    draw = random.Random(f"{undisturbed['parallel']}{while_saving}")
    assert in_a_process(disturbed, draw.randrange(1, 8), while_saving) == -9
    assert in_a_process(disturbed) == 0
    one, two = Run.open(undisturbed["features"].parent / "run"), Run.open(tmp_path / "run")
    assert_equal(weights(one), weights(two))
    assert one.facts["metrics"] == two.facts["metrics"]
    assert [one.history(m["name"]) for m in one.members] == [two.history(m["name"]) for m in two.members]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_truncated_checkpoint_is_told(toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    given = {**quick, "features": toy, "out": tmp_path / "run", "checkpoint_seconds": 0.0}
    assert in_a_process(given, 6) == -9
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(DamagedError, match=r"team-0.safetensors: is damaged or missing .* delete it"):
        train(build_options(given))


@pytest.mark.parametrize("stacked_first", [True, False])
def test_a_run_goes_on_where_another_number_is_stacked(
    toy: Path,
    tmp_path: Path,
    quick: dict[str, Any],
    stacked_first: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As when a run is moved to a machine with another device: what does not fit there starts anew."""
    honest, steps = Trainer.train_step, 0

    def step(self: Trainer, *arguments: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise KeyboardInterrupt
        honest(self, *arguments)

    largest = "mer.pipeline.training.fit.CPU_STACK_PARAMETERS"
    sizes = {True: 10**6, False: 0}
    given = {**quick, "seeds": 3, "checkpoint_seconds": 0.0}
    with monkeypatch.context() as patch:
        patch.setattr(largest, sizes[stacked_first])
        patch.setattr(Trainer, "train_step", step)
        with pytest.raises(KeyboardInterrupt):
            fit(toy, tmp_path / "run", given)
    monkeypatch.setattr(largest, sizes[not stacked_first])
    with caplog.at_level(logging.INFO, "mer.train"):
        run = fit(toy, tmp_path / "run", given)
    assert "team-0.safetensors: is of other runs side by side; these start anew: official-seed0" in caplog.text
    assert run.facts["engine"]["stack"] == (1 if stacked_first else 3)
    assert_equal(weights(run), weights(fit(toy, tmp_path / "fresh", given)))


@pytest.mark.parametrize(
    ("error", "why", "told"),
    [
        (torch.OutOfMemoryError("CUDA"), "do not fit the device", "do not fit the memory of cpu; use --par"),
        (RuntimeError("no batching rule"), "cannot be stacked", r"cannot be stacked \(no batching rule\)"),
    ],
)
def test_why_runs_are_not_stacked_is_told(
    toy: Path,
    tmp_path: Path,
    quick: dict[str, Any],
    error: Exception,
    why: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def probe(*_: Any) -> Any:
        raise error

    monkeypatch.setattr("mer.pipeline.training.fit.probe", probe)
    run = fit(toy, tmp_path / "auto", quick, seeds=2)
    assert run.facts["engine"]["stack"] == 1
    assert why in run.facts["engine"]["why"]
    with pytest.raises(MerError, match=told):
        fit(toy, tmp_path / "stacked", quick, seeds=2, parallel="stacked")


def test_early_stopping_keeps_the_best_epoch(toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    run = fit(toy, tmp_path / "run", quick, train__epochs=60, train__lr=0.3, train__patience=3)
    member, history = run.members[0], run.history("official-seed0")
    scores = [entry["val_wf1"] for entry in history]
    assert len(history) < 60
    ties = [entry for entry in history if entry["val_wf1"] == max(scores)]
    assert member["best_epoch"] == min(ties, key=lambda entry: entry["val_loss"])["epoch"]
    assert member["best_score"] == max(scores)
    assert member["val"]["wf1"] == pytest.approx(max(scores))
    assert len(history) == member["best_epoch"] + 3


def test_diverging_is_told(toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    with pytest.raises(MerError, match=r"official-seed0 diverged in epoch 1 .* lower --lr \(now 1e\+30\)"):
        fit(toy, tmp_path / "run", quick, train__lr=1e30, target="valence")


@pytest.mark.parametrize("target", ["emotion", "valence"])
def test_diverging_in_the_very_last_step_is_told(toy: Path, tmp_path: Path, quick: dict[str, Any], target: str) -> None:
    """Then no loss is taken any more of the weights that are not finite."""
    one_step = {"train.batch_size": 1000, "train.epochs": 1, "train.lr": 1e38}
    with pytest.raises(MerError, match=r"official-seed0 diverged in epoch 1 .* validation answer is not finite"):
        fit(toy, tmp_path / "run", {**quick, **one_step}, head="mlp", target=target)


def test_an_answer_that_is_not_finite_is_told(
    tmp_path: Path, write_cache: Callable[..., Path], quick: dict[str, Any]
) -> None:
    utterances = toy_utterances()
    text = toy_features(utterances, 6, 5, 1)
    text[4] = text[4] * np.float32(1e30)  # a test utterance
    cache = write_cache(tmp_path / "far.h5", utterances, TARGETS, [(toy_spec("text", 6), text)])
    with pytest.raises(MerError, match=r"answers for 1 test utterances are not finite, e\.g\. s5/d0_u4; look for"):
        fit(cache, tmp_path / "run", quick, head="mlp")


def test_learning_rate_rises_and_falls() -> None:
    assert rate_at(0.0, 0.1) < 0.02
    assert rate_at(0.1, 0.1) == pytest.approx(1.0)
    assert rate_at(0.55, 0.1) == pytest.approx(0.5)
    assert rate_at(0.9999, 0.1) == pytest.approx(0.0, abs=1e-4)
    assert rate_at(0.0, 0.0) == 1.0


def test_every_step_has_its_own_share_of_the_rate(
    toy: Path, tmp_path: Path, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten steps: up to a quarter of them, then half a cosine whose last step is not yet zero."""
    honest, rates = Optimiser.step, []

    def step(self: Optimiser, rate: float) -> None:
        rates.append(rate)
        honest(self, rate)

    monkeypatch.setattr(Optimiser, "step", step)
    fit(toy, tmp_path / "run", quick, train__epochs=2, train__warmup=0.25)
    falling = [(1 + math.cos(math.pi * angle / 15)) / 2 for angle in (1, 3, 5, 7, 9, 11, 13)]
    assert rates == pytest.approx([0.001 / 0.251, 0.101 / 0.251, 0.201 / 0.251, *falling])


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize(("head", "settings"), [("drkf", {}), ("fdrl", {"align": "adversary"})])
def test_weight_decay_spares_norms_biases_and_temperatures(head: str, settings: dict[str, Any], runs: int) -> None:
    inputs = HeadInputs({"text": ModalityShape(3, 2), "audio": ModalityShape(2)}, "class", ("a", "b"))
    plan = Blueprint(head, {"dim": 8, **settings}, "transformer", {"hidden": 4}, inputs, Recipe())
    models = [plan.build(seed) for seed in range(runs)]
    matrices = {f"{name}.weight" for name, part in models[0].named_modules() if isinstance(part, torch.nn.Linear)}
    tables = {name for name, _ in models[0].named_parameters() if name.endswith((".kind", ".missing", ".into", ".out"))}
    stack = stack_models(models, torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in stack.parameters.items()}
    for parameter in stack.parameters.values():
        parameter.data += 1.0
        parameter.grad = torch.zeros_like(parameter)
    Optimiser(stack, lr=0.2, weight_decay=0.5).step(0.5)
    for name, tensor in before.items():
        share = 0.95 if name in matrices | tables else 1.0
        torch.testing.assert_close(stack.parameters[name].detach(), share * (tensor + 1.0), msg=name)
    assert any(name.endswith((".log_scale", ".scale")) for name in before)


def model(kind: str, recipe: Recipe, weight: torch.Tensor | None = None) -> Model:
    inputs = HeadInputs({"text": ModalityShape(2)}, kind, () if kind == "real" else ("a", "b", "c"))
    return Model(LinearHead(inputs, LinearHead.Config()), None, recipe, weight)


def test_task_losses_by_hand() -> None:
    logits, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, -1, 1])
    known = labels >= 0
    expected = torch.nn.functional.cross_entropy(logits[known], labels[known])
    torch.testing.assert_close(model("class", Recipe()).task_loss(logits, labels), expected)
    weight = torch.tensor([1.0, 2.0, 0.5])
    expected = torch.nn.functional.cross_entropy(logits[known], labels[known], weight)
    torch.testing.assert_close(model("class", Recipe(), weight).task_loss(logits, labels), expected)
    expected = torch.nn.functional.cross_entropy(logits[known], labels[known], label_smoothing=0.2)
    torch.testing.assert_close(model("class", Recipe(label_smoothing=0.2)).task_loss(logits, labels), expected)
    numbers = torch.tensor([1.0, float("nan")])
    assert model("real", Recipe()).task_loss(torch.tensor([[3.0], [9.0]]), numbers).item() == 2.0
    assert model("real", Recipe(real_loss="mse")).task_loss(torch.tensor([[3.0], [9.0]]), numbers).item() == 4.0
    sets = torch.tensor([[1.0, 0.0, 1.0], [float("nan")] * 3])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:1], sets[:1])
    torch.testing.assert_close(model("multi", Recipe()).task_loss(logits[:2], sets), expected)
    assert model("class", Recipe()).task_loss(logits, torch.full((4,), -1)).item() == 0.0


def test_class_weights_average_to_one() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2])
    weight = class_weights(labels, 4, "balanced")
    assert weight is not None
    np.testing.assert_allclose(weight.numpy(), [10 / 18, 10 / 9, 10 / 3, 1], rtol=1e-6)
    assert class_weights(labels, 4, "none") is None
    weight = class_weights(np.array([0] * 4 + [1] * 9 + [3]), 4, "sqrt")
    assert weight is not None  # one over 2, 3 and 1, times 14 rows over 4 / 2 + 9 / 3 + 1 / 1
    np.testing.assert_allclose(weight.numpy(), [7 / 6, 7 / 9, 1, 7 / 3], rtol=1e-6)


@pytest.mark.parametrize("runs", [1, 2])
def test_a_run_is_clipped_by_the_norm_of_its_own_gradient(runs: int) -> None:
    """Gradients of 3 and 4 in two places have a norm of 5; those of the second run a tenth of it."""
    stack = stack_models([model("class", Recipe()) for _ in range(runs)], torch.device("cpu"))
    for parameter, number in zip(stack.parameters.values(), (3.0, 4.0), strict=True):
        parameter.grad = torch.zeros_like(parameter)
        for run in range(runs):
            (parameter.grad[run] if runs > 1 else parameter.grad).view(-1)[0] = number / 10**run
    stack.clip(1.0)
    for parameter, number in zip(stack.parameters.values(), (0.6, 0.8), strict=True):
        assert parameter.grad is not None
        sums = parameter.grad.view(runs, -1).sum(1).tolist()
        assert sums == pytest.approx([number, number / 2][:runs], rel=1e-4)


def test_a_clip_bounds_what_is_learned(toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    """Gradients far below AdamW's epsilon leave the initial weights; a clip of 0 bounds nothing."""
    name, moved = "official-seed0/head.classifier.weight", {}
    for clip in (1e-14, 0.0):
        run = fit(toy, tmp_path / f"clip-{clip}", quick, train__clip=clip, train__weight_decay=0.0)
        first = run.blueprint().build(0).state_dict()["head.classifier.weight"]
        moved[clip] = (weights(run)[name] - first).abs().max().item()
        losses = [entry["task"] for entry in run.history("official-seed0")]
        assert max(losses) < 2 * math.log(3)  # the mean of an epoch's steps, not their sum
    assert moved[1e-14] < 1e-7
    assert moved[0.0] > 1e-3


def test_finished_runs_leave_a_stack(toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    """With patience 1 runs stop at different epochs; every one still ends with the weights of its own best epoch."""
    settings = {**quick, "seeds": 4, "train.epochs": 12, "train.patience": 1, "train.lr": 0.5, **PLAIN}
    settings["target"] = "valence"  # its validation error is no step function of the weights
    runs = [fit(toy, tmp_path / mode, settings, parallel=mode) for mode in ("stacked", "sequential")]
    lengths = [[len(run.history(m["name"])) for m in run.members] for run in runs]
    assert lengths[0] == lengths[1]
    assert len(set(lengths[0])) > 1
    assert_equal(weights(runs[0]), weights(runs[1]), tolerance=1e-3)


@pytest.mark.parametrize("method", ["train_step", "save"])
def test_a_thinned_stack_goes_on(
    toy: Path, tmp_path: Path, quick: dict[str, Any], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its first step after runs have left, or before a checkpoint says that they have."""
    settings = {**quick, "head": "mlp", "head.dim": 8, "seeds": 2, "protocol": "session-folds", "folds": 2}
    settings |= {"train.epochs": 12, "train.patience": 1, "train.lr": 0.1, "target": "valence", "parallel": "stacked"}
    settings["checkpoint_seconds"] = 0.0
    honest = getattr(Trainer, method)

    def stop(self: Trainer, *arguments: Any) -> None:
        if len(self.seed_runs) < 4:
            raise KeyboardInterrupt
        honest(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, method, stop)
        with pytest.raises(KeyboardInterrupt):
            fit(toy, tmp_path / "run", settings)
    done = len(list((tmp_path / "run" / "models").iterdir()))
    assert 0 < done < 4
    resumed, whole = (fit(toy, tmp_path / name, settings) for name in ("run", "whole"))
    assert_equal(weights(resumed), weights(whole))
    for member in whole.members:
        assert resumed.history(member["name"]) == whole.history(member["name"])
    assert resumed.facts["metrics"] == whole.facts["metrics"]


@pytest.mark.parametrize("context", ["none", "bigru"])
def test_numbers_are_learned_alike_in_any_unit(
    make_toy: Callable[..., Path], tmp_path: Path, quick: dict[str, Any], context: str
) -> None:
    """Valence from -1.5 to 2.5 and the same on a scale around 500: the answers are the same ones, on that scale."""
    wide = [replace(u, labels={**u.labels, "valence": 500 + 100 * u.labels["valence"]}) for u in toy_utterances()]  # type: ignore[operator]
    asked = {**quick, "target": "valence", "head": "drkf", "head.dim": 8, "train.lr": 3e-3, "context": context}
    runs = [
        fit(make_toy(f"{name}.h5", utterances=utterances), tmp_path / name, asked)
        for name, utterances in (("narrow", toy_utterances()), ("wide", wide))
    ]
    scores = runs[1].facts["metrics"]
    assert set(scores) == {"mae", "ccc", "pearson"}
    assert scores["mae"]["mean"] == pytest.approx(100 * runs[0].facts["metrics"]["mae"]["mean"], rel=1e-2)
    for member in runs[0].members:
        narrow, other = (run.predictions(member["name"]).outputs for run in runs)
        assert np.ptp(narrow) > 0.5
        np.testing.assert_allclose(500 + 100 * narrow, other, atol=0.2)
    assert evaluate(runs[1].path).same is True


def test_every_kind_of_target_trains(make_toy: Callable[..., Path], tmp_path: Path, quick: dict[str, Any]) -> None:
    cache = make_toy()
    numbers = fit(cache, tmp_path / "real", quick, target="valence", train__epochs=15, train__lr=0.1)
    assert numbers.facts["metrics"]["pearson"]["mean"] > 0.7
    assert numbers.facts["metric"] == "mae"
    sets = fit(cache, tmp_path / "multi", quick, target="tags", train__epochs=15, train__lr=0.1)
    assert sets.facts["metrics"]["macro_f1"]["mean"] > 0.8
