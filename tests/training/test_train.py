"""`mer train`, `evaluate`, `compare` and `--sweep` through the command line and the Python entry."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from mer.cache import DamagedError, Fate, FeatureStore, MerError, SpecMismatchError, write_catalogue
from mer.pipeline.cli import app
from mer.pipeline.results.compare import compare, verdict
from mer.pipeline.results.evaluate import evaluate
from mer.pipeline.training.run import prepare_run, train
from mer.pipeline.training.run_folder import Predictions, Run, recorded_settings
from mer.pipeline.training.settings import TrainOptions, build_options
from mer.pipeline.training.sweep import best_point, points, read_sweep, run_sweep, write_trials
from mer.stages.heads.catalog import config_of
from mer.stages.interfaces import LabelSpec
from mer.stages.utterance import Utterance

from .toy import BENCHMARKS, TARGETS, fit, parts_of_trials, toy_features, toy_spec, toy_utterances

FAST = ["--seeds", "1", "--epochs", "2", "--batch-size", "16", "--head", "linear", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _quiet_log() -> Iterator[None]:
    """Take back what the commands do to the log."""
    yield
    logger = logging.getLogger("mer")
    logger.handlers.clear()
    logger.propagate = True


def cli(*arguments: Any) -> str:
    outcome = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


@pytest.fixture
def run(toy: Path, tmp_path: Path, quick: dict[str, Any]) -> Run:
    given = {**quick, "features": toy, "out": tmp_path / "run", "seeds": 2, "protocol": "session-folds"}
    return train(build_options(given)).run


def test_train_prints_scores_and_leaves_a_run(toy: Path, tmp_path: Path) -> None:
    shown = cli("train", "-f", toy, "-o", tmp_path / "run", *FAST)
    for words in ("linear on toy (text, audio)", "weighted F1", "95 % interval", "prior alone", "angry", "official"):
        assert words in shown
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["status"] == "done"
    assert facts["classes"] == ["angry", "happy", "sad"]
    assert set(facts["features"]["sets"]) == {"text", "audio"}
    assert {p.suffix for p in (tmp_path / "run").rglob("*") if p.is_file()} == {".json", ".npz", ".safetensors"}


def test_what_is_to_be_noted_is_told_once(toy: Path, tmp_path: Path) -> None:
    asked = ["train", "-f", toy, "-o", tmp_path / "run", "--protocol", "speaker-folds", *FAST]
    said = CliRunner().invoke(app, [str(a) for a in asked], catch_exceptions=False).output
    notes = json.loads((tmp_path / "run" / "run.json").read_text())["notes"]
    assert notes
    assert [said.count(note) for note in notes] == [1] * len(notes)


def test_json_is_the_record(toy: Path, tmp_path: Path) -> None:
    facts = json.loads(cli("train", "-f", toy, "-o", tmp_path / "run", "--json", "--protocol", "kfold", *FAST))
    assert len(facts["members"]) == 5
    assert set(facts["metrics"]) == {"war", "uar", "wf1", "macro_f1", "confusion"}
    assert np.sum(facts["metrics"]["confusion"]) == 117  # every labelled utterance once


def test_the_record_adds_up(run: Run) -> None:
    facts = run.facts
    grid = [m["test"]["war"] for m in run.members]
    assert facts["metrics"]["war"]["mean"] == pytest.approx(np.mean(grid))
    assert facts["metrics"]["war"]["std"] == pytest.approx(np.std(grid, ddof=1))
    pooled = []
    for seed in (0, 1):
        parts = [run.predictions(m["name"]).part("test") for m in run.members if m["seed"] == seed]
        right = np.concatenate([p.outputs.argmax(1) == p.labels for p in parts])
        assert len(right) == 117
        pooled.append(right.mean())
    assert facts["metrics"]["war"]["pooled"] == pytest.approx(np.mean(pooled))
    assert facts["metrics"]["war"]["pooled_std"] == pytest.approx(abs(pooled[0] - pooled[1]) / 2**0.5)
    splits = run.splits()
    wanted = {u.key: u.labels["emotion"] for u in toy_utterances()}
    usual, right = set(), []
    for parts in splits.values():
        most = Counter(wanted[key] for key in parts["train"]).most_common(1)[0][0]
        usual.add(most)
        right += [wanted[key] == most for key in parts["test"]]
    assert len(usual) > 1
    assert facts["metrics"]["war"]["majority"] == pytest.approx(np.mean(right))
    assert sorted(key for parts in splits.values() for key in parts["test"]) == sorted(
        u.key for u in toy_utterances() if u.labels["emotion"]
    )


def test_a_run_is_opened_by_a_path_in_words_too(run: Run) -> None:
    assert Run.open(str(run.path)).facts == Run.open(run.path).facts


def test_predictions_stand_beside_their_keys(run: Run) -> None:
    wanted = {u.key: u.labels["emotion"] for u in toy_utterances()}
    found = run.predictions(run.members[0]["name"])
    assert set(found.split) == {"val", "test"}
    assert [run.classes[code] for code in found.labels] == [wanted[key] for key in found.keys]
    np.testing.assert_allclose(found.outputs.sum(1), 1, atol=1e-5)
    assert found.vectors.shape == (len(found.keys), 10)


def test_an_utterance_without_any_modality_is_answered_by_the_prior(
    make_toy: Callable[..., Path], tmp_path: Path, quick: dict[str, Any]
) -> None:
    """Rows 4 (test), 3 (validation) and 0 (training) have nothing; 9 (test) lacks only audio."""
    cache = make_toy(missing_audio=(0, 3, 4, 9), missing_text=(0, 3, 4))
    found = train(build_options({**quick, "features": cache, "out": tmp_path / "run"})).run
    assert found.facts["utterances"]["without_any_modality"] == 3
    assert found.facts["utterances"]["without"] == {"text": 3, "audio": 4}
    assert any("1 training utterances have no modality at all" in note for note in found.facts["notes"])
    assert any("1 test utterances have no modality; the training prior answers" in n for n in found.facts["notes"])
    assert found.facts["notes"][-1] == "1 of 114 utterances have no usable audio features; it is masked there"
    predictions = found.predictions("official-seed0")
    prior = found.load_model("official-seed0").prior
    bare = predictions.by_prior
    assert sorted(predictions.keys[bare]) == ["s4/d0_u3", "s5/d0_u4"]
    np.testing.assert_array_equal(predictions.outputs[bare], np.repeat(prior[None], 2, axis=0))
    assert np.isnan(predictions.vectors[bare].astype(float)).all()
    assert not np.isnan(predictions.vectors[~bare].astype(float)).any()
    assert len(predictions.part("test").keys) == 24 - 3  # unlabelled ones are not scored; bare ones are


@pytest.mark.parametrize("target", ["emotion", "tags", "valence"])
def test_every_fold_has_a_prior_of_its_own(
    make_toy: Callable[..., Path], tmp_path: Path, quick: dict[str, Any], target: str
) -> None:
    """Two sessions against three: the training rows with features say what a test row without any is answered."""
    bare = [0, 1, 2, 3, 4, 17]
    cache = make_toy(missing_audio=tuple(bare), missing_text=tuple(bare))
    run = fit(cache, tmp_path / "run", quick, target=target, protocol="session-folds", folds=2, train__epochs=1)
    table = FeatureStore.open(cache).utterances
    number, values = {key: row for row, key in enumerate(table.keys)}, table.labels[target].values
    answered = {}
    for member in run.members:
        rows = [number[key] for key in run.splits()[member["fold"]]["train"] if number[key] not in bare]
        learned = {
            "emotion": lambda rows: np.bincount(values[rows], minlength=3) / len(rows),
            "tags": lambda rows: values[rows].mean(0),
            "valence": lambda rows: [np.median(values[rows])],
        }[target](rows)
        found = run.predictions(member["name"]).part("test")
        alone = found.outputs[found.by_prior]
        np.testing.assert_allclose(alone, np.broadcast_to(learned, alone.shape), rtol=1e-6)
        answered |= dict.fromkeys(found.keys[found.by_prior], tuple(learned))
    assert sorted(answered) == sorted(table.keys[row] for row in bare)
    assert len(set(answered.values())) == 2


def test_a_finished_run_is_not_overwritten_and_an_unfinished_one_only_by_the_same_options(
    toy: Path, tmp_path: Path, quick: dict[str, Any]
) -> None:
    given = {**quick, "features": toy, "out": tmp_path / "run"}
    made = train(build_options(given)).run
    with pytest.raises(MerError, match="holds a finished run; choose another --out, or replace it with --overwrite"):
        train(build_options(given))
    made.facts["status"] = "running"
    made.write()
    with pytest.raises(MerError, match="holds an unfinished run with other options"):
        train(build_options({**given, "train.lr": 0.5}))
    assert train(build_options(given)).run.facts["status"] == "done"
    assert train(build_options({**given, "overwrite": True, "train.lr": 0.5})).run.facts["recipe"]["lr"] == 0.5
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("keep me")
    with pytest.raises(MerError, match="exists and is no run"):
        train(build_options({**given, "out": tmp_path / "letters", "overwrite": True}))


@pytest.mark.parametrize("changed", ["labels", "features", "turns"])
def test_a_run_is_of_its_data(
    make_toy: Callable[..., Path], quick: dict[str, Any], tmp_path: Path, changed: str
) -> None:
    """A run is taken or gone on with as long as the rows it is about are the same, wherever they lie."""
    given = {**quick, "out": tmp_path / "run", "reuse": True, "train.epochs": 1}
    made = train(build_options({**given, "features": make_toy()})).run
    more = [*toy_utterances(), replace(toy_utterances()[0], key="new", labels={})]
    grown = build_options({**given, "features": make_toy("grown.h5", utterances=more)})
    assert train(grown).run.facts["features"] == made.facts["features"]  # the run that was there
    other = make_toy("other.h5", longest=8 if changed == "features" else 9)
    catalogue = FeatureStore.open(other).catalogue
    if changed == "labels":
        catalogue.utterances.labels["emotion"].values[[0, 1]] = catalogue.utterances.labels["emotion"].values[[1, 0]]
    elif changed == "turns":
        catalogue.utterances.turn[0] += 100
    write_catalogue(other, catalogue)
    with pytest.raises(MerError, match=r"holds a finished run on other data .*; choose another --out"):
        train(build_options({**given, "features": other}))
    made.facts["status"] = "running"
    made.write()
    with pytest.raises(MerError, match="holds an unfinished run on other data"):
        train(build_options({**given, "features": other}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target": "emotoin"}, "has no target 'emotoin'; did you mean 'emotion'"),
        ({"modalities": ["text", "face"]}, "has no face features; it has audio, text"),
        ({"sets": {"audio": "hubert"}}, "has no audio features 'hubert'"),
        ({"head": "dkrf"}, "unknown head 'dkrf'; did you mean 'drkf'"),
        ({"head": "drkf", "head.dmi": 4}, "unknown setting 'head.dmi'; did you mean 'dim'"),
        ({"head.input_dropout": "much"}, "head.input_dropout = 'much' is not of the type float"),
        ({"train.epochs": float("inf")}, "train.epochs = inf is not of the type int"),
        ({"sets": "audio"}, "sets = 'audio' is not a table"),
        ({"train.epoch": 4}, "unknown setting 'train.epoch'; did you mean 'epochs'"),
        ({"epoch": 4}, "unknown setting 'epoch'"),
        ({"context.layers": 2}, r"settings of \[context\] are given but no context is chosen"),
        ({"context": "lstm"}, "context.kind = 'lstm' is not possible; use one of none, bigru, transformer"),
        ({"train.select": "mae"}, "metric 'mae' is not defined for a target of kind 'class'"),
        ({"target": "valence", "train.class_weights": "balanced"}, "needs a target of classes"),
        ({"protocol": "speaker-folds", "folds": 40}, "40 folds were asked for but there are 10 speakers"),
        ({"device": "cuda:99"}, "device 'cuda:99'"),
        ({"seeds": 0}, "seeds = 0 is too small"),
        ({"first_seed": -1}, "first_seed = -1 is too small; it must be at least 0"),
        ({"train.clip": -1}, "train.clip = -1.0 is too small"),
        ({"train.patience": -1}, "train.patience = -1 is too small"),
        ({"train.weight_decay": -1}, "train.weight_decay = -1.0 is too small"),
        ({"train.text_steps": -3}, "train.text_steps = -3 is too small"),
        ({"train.label_smoothing": 3}, "train.label_smoothing is 3.0; it must be at least 0 and below 1"),
        ({"train.hide_turns": 0.5}, "train.hide_turns hides turns from a context; add --context"),
        ({"target": "valence", "train.label_smoothing": 0.1}, "train.label_smoothing needs a target of classes"),
        ({"train.real_loss": "mse"}, "train.real_loss needs a target of numbers"),
        ({"memory_gb": 0}, "memory_gb = 0.0 leaves no room"),
        ({"context": "bigru", "parallel": "stacked"}, "cannot be stacked; use --parallel auto or sequential"),
        ({"folds": 3}, "protocol 'official' has one fold; leave --folds out"),
        ({"head": "drkf", "head.ed_rounds": 0}, "head.ed_rounds is 0; it must be at least 1"),
        ({"head": "drkf", "head.fusion_layers": 0}, "head.fusion_layers is 0; it must be at least 1"),
        ({"head": "drkf", "head.noise": -1}, "head.noise is -1.0; it must be at least 0"),
        ({"head": "drkf", "head.ed": -1}, "head.ed is -1.0; it must be at least 0"),
        ({"head": "concat", "head.hidden": 0}, "head.hidden is 0; it must be at least 1"),
        ({"head": "late", "head.unimodal": -1}, "head.unimodal is -1.0"),
        ({"head": "misa", "head.layers": -1}, "head.layers is -1; it must be at least 0"),
        ({"head": "mult", "head.layers": 0}, "head.layers is 0; it must be at least 1"),
        ({"head": "fdrl", "head.bins": 0}, "head.bins is 0; it must be at least 1"),
        ({"head": "fdrl", "head.temperature": 0}, "head.temperature is 0.0; it must be above 0"),
        ({"train.val_fraction": 0.6}, r"train.val_fraction within \(0, 0.5\]"),
    ],
)
def test_wrong_requests_are_told_in_one_line(
    toy: Path, tmp_path: Path, quick: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(MerError, match=told) as caught:
        train(build_options({**quick, "features": toy, "out": tmp_path / "run", **changes}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["audio", "audio=", "=toy"])
def test_a_feature_set_is_named_with_its_modality(toy: Path, given: str) -> None:
    with pytest.raises(MerError, match="--set-of wants MODALITY=NAME"):
        cli("train", "-f", toy, "--set-of", given, *FAST)


def test_clips_without_their_file_are_no_copies(toy: Path, quick: dict[str, Any]) -> None:
    """Rows 0 (training) and 4 (test) have the same words and the same digest of their media."""
    catalogue = FeatureStore.open(toy).catalogue
    audio = next(index for index in catalogue.sets.values() if index.spec.modality == "audio")
    for index in catalogue.sets.values():
        index.sources[[0, 4]] = 7
    write_catalogue(toy, catalogue)
    with pytest.raises(MerError, match="leak in fold official: 1 x identical text and media"):
        prepare_run(build_options({**quick, "features": toy}))
    audio.fates[[0, 4]], audio.length[[0, 4]] = Fate.MISSING, 0
    write_catalogue(toy, catalogue)
    assert prepare_run(build_options({**quick, "features": toy})).splits.notes == ()


def test_a_class_without_features_in_training_is_told(make_toy: Callable[..., Path], quick: dict[str, Any]) -> None:
    alike = [replace(u, labels={"emotion": "happy" if i else "sad"}) for i, u in enumerate(toy_utterances())]
    cache = make_toy(utterances=alike, targets={"emotion": TARGETS["emotion"]}, missing_audio=(0,), missing_text=(0,))
    with pytest.raises(MerError, match="all training utterances are 'happy'; a head needs at least two classes"):
        prepare_run(build_options({**quick, "features": cache}))


@pytest.mark.parametrize(
    ("labels", "target", "told"),
    [
        ({"valence": 0.1}, "valence", "all training utterances have the same number; there is nothing to learn"),
        ({"tags": ()}, "tags", "all training utterances have the same set of labels; there is nothing to learn"),
    ],
)
def test_a_target_that_does_not_vary_is_told(
    make_toy: Callable[..., Path], quick: dict[str, Any], labels: dict[str, Any], target: str, told: str
) -> None:
    alike = [replace(u, labels={**u.labels, **labels}) for u in toy_utterances()]
    with pytest.raises(MerError, match=f"fold official: {told}"):
        prepare_run(build_options({**quick, "features": make_toy(utterances=alike), "target": target}))


def test_a_label_of_a_set_that_is_tested_but_never_trained_is_told(
    make_toy: Callable[..., Path], quick: dict[str, Any]
) -> None:
    rare = [
        replace(u, labels={**u.labels, "tags": ("loud",) if i % 2 else ()}) if u.split == "train" else u
        for i, u in enumerate(toy_utterances())
    ]
    with pytest.raises(MerError, match="class 'fast' is tested but absent from its training part"):
        prepare_run(build_options({**quick, "features": make_toy(utterances=rare), "target": "tags"}))


def test_a_metric_of_sentiment_cannot_select_on_a_scale_without_negative_numbers(
    make_toy: Callable[..., Path], quick: dict[str, Any]
) -> None:
    rated = [replace(u, labels={**u.labels, "valence": 3 + u.labels["valence"]}) for u in toy_utterances()]  # type: ignore[operator]
    asked = {**quick, "features": make_toy(utterances=rated), "target": "valence"}
    told = r"metric 'acc2' says nothing on the scale of 'valence'; select it by mae, ccc, pearson$"
    with pytest.raises(MerError, match=told):
        prepare_run(build_options({**asked, "train.select": "acc2"}))
    assert prepare_run(build_options({**asked, "train.select": "pearson"})).label.kind == "real"


def test_what_is_undefined_is_null_in_every_record(
    make_toy: Callable[..., Path], tmp_path: Path, quick: dict[str, Any]
) -> None:
    """JSON knows no NaN: validation numbers that are all alike correlate with nothing."""
    alike = [replace(u, labels={**u.labels, "valence": 1.0}) if u.split == "val" else u for u in toy_utterances()]
    run = fit(make_toy(utterances=alike), tmp_path / "run", quick, target="valence", train__select="pearson")
    assert run.members[0]["best_score"] is None
    assert np.isnan(run.history("official-seed0")[0]["val_pearson"])

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    for file in sorted(run.path.rglob("*.json")):
        json.loads(file.read_text(), parse_constant=refuse)


def test_labels_absent_are_told(make_toy: Callable[..., Path], quick: dict[str, Any]) -> None:
    bare = [replace(u, labels={}) for u in toy_utterances()]
    with pytest.raises(MerError, match="no utterance has a label for 'emotion'"):
        train(build_options({**quick, "features": make_toy("bare.h5", utterances=bare)}))
    cache = make_toy("none.h5", utterances=bare, targets={"mood": LabelSpec("class", ("x", "y"))})
    with pytest.raises(MerError, match="no utterance has a label for 'mood'"):
        train(build_options({**quick, "features": cache}))


def test_settings_come_from_a_file_and_the_command_line_wins(toy: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        f'features = "{toy}"\nseeds = 1\nprotocol = "kfold"\n[train]\nlr = 1e-4\nepochs = 1\n'
        '[head]\nname = "concat"\ndim = 8\n[context]\nkind = "bigru"\n'
    )
    options = build_options(
        {"seeds": 2, "train.lr": 2e-4}, config, ["head.dim=16", "train.clip=2", "context.causal=true"]
    )
    assert (options.head, options.context, options.protocol, options.seeds) == ("concat", "bigru", "kfold", 2)
    assert dict(options.head_settings) == {"dim": 16}
    assert dict(options.context_settings) == {"causal": True}
    assert (options.recipe.lr, options.recipe.clip, options.recipe.epochs) == (2e-4, 2.0, 1)
    options = build_options({"head": "mlp", "context": "none"}, config, ["head.name=drkf", "context=transformer"])
    assert (options.head, options.context) == ("drkf", "transformer")
    config.write_text("seeds = ")
    with pytest.raises(MerError, match="is not TOML"):
        build_options({}, config)
    with pytest.raises(MerError, match="cannot be read"):
        build_options({}, tmp_path / "absent.toml")
    with pytest.raises(MerError, match="is not an assignment"):
        build_options({"features": toy}, settings=["head.dim"])
    with pytest.raises(MerError, match="no features named"):
        build_options({})


@pytest.mark.parametrize("head", ["drkf", "fdrl"])
def test_every_ablation_is_a_settings_file_that_differs_from_the_whole(toy: Path, head: str) -> None:
    found = {}
    for file in sorted((BENCHMARKS / "ablations" / head).glob("*.toml")):
        options = build_options({"features": toy}, file)
        assert options.head == head
        found[file.stem] = config_of(head)(**options.head_settings)
    assert len(found) > 10
    assert found["full"] == config_of(head)()
    assert len(set(found.values())) == len(found)


def test_the_shared_sweep_can_be_read() -> None:
    assert list(points(read_sweep(BENCHMARKS / "sweeps" / "shared.toml")))


def test_lists_may_have_blanks(toy: Path) -> None:
    assert build_options({"features": toy, "modalities": "text, audio"}).modalities == ("text", "audio")


def test_identity_leaves_out_place_and_pace(toy: Path) -> None:
    one = TrainOptions(toy, out=Path("a"), memory_gb=1.0, checkpoint_seconds=1.0)
    assert one.identity() == TrainOptions(toy, out=Path("b")).identity()
    assert one.identity() != TrainOptions(toy, seeds=2).identity()


@pytest.mark.parametrize("context", ["bigru", "transformer"])
def test_context_trains_and_evaluates(toy: Path, tmp_path: Path, quick: dict[str, Any], context: str) -> None:
    given = {**quick, "features": toy, "out": tmp_path / "run", "context": context, "context.hidden": 8}
    found = train(build_options(given)).run
    assert found.facts["engine"]["stack"] == 1
    assert evaluate(found.path).same is True


def test_a_causal_context_does_not_see_later_turns(toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    """Take the last turns of the test dialogues away: earlier answers stay only where context is causal."""
    early = {u.key for u in toy_utterances() if u.turn < 3}
    for causal in (True, False):
        given = {**quick, "features": toy, "out": tmp_path / f"run-{causal}", "context": "bigru", "context.hidden": 8}
        found = train(build_options({**given, "context.causal": causal})).run
        whole = found.predictions("official-seed0").part("test")
        splits = found.splits()
        splits["official"]["test"] = [key for key in splits["official"]["test"] if key in early]
        found.save_splits(splits)
        cut = evaluate(found.path).parts["official-seed0"]
        place = [whole.keys.tolist().index(key) for key in cut.keys]
        gap = np.abs(whole.outputs[place] - cut.outputs).max()
        assert bool(gap < 1e-5) is causal


def test_evaluate_repeats_the_recorded_scores(run: Run) -> None:
    found = evaluate(run.path)
    assert found.same is True
    assert found.metrics == run.facts["metrics"]
    assert "the recorded predictions came out again" in cli("evaluate", run.path)
    assert json.loads(cli("evaluate", run.path, "--json"))["same_as_recorded"] is True


def test_evaluate_refuses_features_of_other_encoders(run: Run, make_toy: Callable[..., Path]) -> None:
    other = make_toy("other.h5", audio_name="another")
    with pytest.raises(
        SpecMismatchError, match=r"has audio-another-.* was trained on audio-toy-.* train anew"
    ) as caught:
        evaluate(run.path, other)
    assert "\n" not in str(caught.value)


def test_evaluate_on_another_corpus_scores_its_test_split(run: Run, make_toy: Callable[..., Path]) -> None:
    found = evaluate(run.path, make_toy("other.h5", corpus="elsewhere"))
    assert found.same is None
    assert any("another corpus" in note for note in found.notes)
    assert {len(p.keys) for p in found.parts.values()} == {21}
    whole = make_toy("whole.h5", corpus="elsewhere", utterances=[replace(u, split="") for u in toy_utterances()])
    assert {len(p.keys) for p in evaluate(run.path, whole).parts.values()} == {117}


def test_evaluate_knows_a_corpus_by_its_content(run: Run, make_toy: Callable[..., Path]) -> None:
    """Every folder of clips is a corpus of one name: other keys, or these for other clips, are another corpus."""
    renamed = [replace(u, key=f"other-{u.key}") for u in toy_utterances()]
    turned = dict(zip(run.classes, run.classes[1:] + run.classes[:1], strict=True))
    relabelled = [
        replace(u, labels={**u.labels, "emotion": turned.get(str(u.labels["emotion"]))}) for u in toy_utterances()
    ]
    for name, utterances in (("renamed.h5", renamed), ("relabelled.h5", relabelled)):
        found = evaluate(run.path, make_toy(name, utterances=utterances))
        assert any("another corpus" in note for note in found.notes)
        assert {len(p.keys) for p in found.parts.values()} == {21}
    corrected = [
        replace(u, labels={**u.labels, "emotion": "sad"}) if i < 5 else u for i, u in enumerate(toy_utterances())
    ]
    found = evaluate(run.path, make_toy("corrected.h5", utterances=corrected))
    assert found.notes == []
    assert sum(len(p.keys) for p in found.parts.values()) == 2 * 117


def test_evaluate_knows_classes_by_name(run: Run, make_toy: Callable[..., Path]) -> None:
    """In another file the classes stand in another order, and one is new there: its rows count as unlabelled."""
    targets = {**TARGETS, "emotion": LabelSpec("class", ("sad", "blue", "happy", "angry"))}
    same = evaluate(run.path, make_toy("turned.h5", targets=targets))
    assert same.same is True
    assert same.metrics == run.facts["metrics"]
    blue = make_toy("blue.h5", targets=targets)
    catalogue = FeatureStore.open(blue).catalogue
    catalogue.utterances.labels["emotion"].values[:5] = 1
    write_catalogue(blue, catalogue)
    found = evaluate(run.path, blue)
    for name, part in same.parts.items():
        kept = ~np.isin(part.keys, catalogue.utterances.keys[:5])
        assert found.parts[name].keys.tolist() == part.keys[kept].tolist()
        np.testing.assert_array_equal(found.parts[name].labels, part.labels[kept])
    assert sum(len(part.keys) for part in found.parts.values()) == 2 * 112
    assert len(found.notes) == 5
    assert all(note.endswith(f": 1 test utterances are not in {blue}, or without a label") for note in found.notes)


def test_evaluate_reads_the_features_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, reads = FeatureStore.load, []

    def load(self: FeatureStore, name: str, *rest: Any, **more: Any) -> Any:
        reads.append(name)
        return honest(self, name, *rest, **more)

    monkeypatch.setattr(FeatureStore, "load", load)
    assert evaluate(run.path).same is True
    assert len(run.members) == 10
    assert len(reads) == 2


def test_evaluate_asks_where_the_features_are_now(run: Run, toy: Path) -> None:
    toy.rename(toy.with_name("moved.h5"))
    with pytest.raises(MerError, match=r"toy\.h5 does not exist; .* --features"):
        evaluate(run.path)


def test_evaluate_says_what_is_no_run(run: Run, toy: Path, tmp_path: Path) -> None:
    with pytest.raises(MerError, match="is no run"):
        evaluate(tmp_path)
    model = run.model_path(run.members[0]["name"])
    model.write_bytes(model.read_bytes()[:50])
    with pytest.raises(MerError, match="safetensors: is damaged or missing"):
        evaluate(run.path)
    bare = '{"format": "mer-run", "version": 1}'
    for content, told in (("{", "is damaged"), (bare, "is damaged .it lacks classes, context")):
        (run.path / "run.json").write_text(content)
        with pytest.raises(MerError, match=rf"run\.json: .*{told}"):
            evaluate(run.path)


def test_damaged_predictions_are_told(run: Run) -> None:
    file = run.path / "predictions" / f"{run.members[0]['name']}.npz"
    whole = file.read_bytes()
    turned = bytearray(whole)
    turned[len(whole) // 2] ^= 255
    for content in (b"", whole[:100], whole[:-100], bytes(turned)):
        file.write_bytes(content)
        with pytest.raises(DamagedError, match=r"seed0\.npz: is damaged or missing .*; train the run again"):
            compare([run.path, run.path])


def test_compare_finds_a_difference_and_no_difference(toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    given = {**quick, "features": toy, "protocol": "session-folds", "train.lr": 0.02}
    good = train(build_options({**given, "out": tmp_path / "good", "train.epochs": 15})).run
    bad = train(build_options({**given, "out": tmp_path / "bad", "train.epochs": 1, "train.lr": 1e-6})).run
    pair = compare([bad.path, good.path])[0]
    assert pair.difference == pytest.approx(
        good.facts["metrics"]["war"]["pooled"] - bad.facts["metrics"]["war"]["pooled"]
    )
    assert pair.p < 0.01
    assert pair.groups == 20
    assert pair.utterances == 117
    assert pair.only_second > pair.only_first  # type: ignore[operator]
    same = compare([good.path, good.path])[0]
    assert (same.difference, same.p, same.p_mcnemar) == (0.0, 1.0, 1.0)
    shown = cli("compare", bad.path, good.path)
    assert f"{good.path} is better" in " ".join(shown.split())
    assert "swaps the two runs' answers" in " ".join(shown.split())
    assert f"only {good.path} is right on {pair.only_second}, only {bad.path} on {pair.only_first}" in shown
    assert "permutation test over 20 dialogues" in shown
    assert f"WAR (accuracy), folds pooled, differs by {100 * pair.difference:+.1f} points" in shown
    assert "The table shows means over folds" in shown
    assert pair.note == ""
    assert json.loads(cli("compare", bad.path, good.path, "--json"))[0]["groups"] == 20
    with pytest.raises(MerError, match="at least two runs"):
        compare([good.path])


def test_compare_of_runs_that_tested_partly_the_same(toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    """On 24 shared utterances of 12 dialogues the first run is right, the second on a quarter of them."""
    made = fit(toy, tmp_path / "first", quick)
    found = made.predictions("official-seed0").part("test")
    keys = [f"u{number:02}" for number in range(30)]
    paths = [made.path]
    for name, rows, wrong in (("first", range(4, 28), ()), ("second", range(29, -1, -1), range(10, 28))):
        path = tmp_path / name
        if path != made.path:
            shutil.copytree(made.path, path)
            paths.append(path)
        labels = np.array([row % 3 for row in rows])
        guess = np.where(np.isin(rows, wrong), (labels + 1) % 3, labels)
        answered = {name: np.resize(value, (len(labels), *value.shape[1:])) for name, value in vars(found).items()}
        answered |= {"keys": np.array(keys)[rows], "group": np.array([f"d{row // 2}" for row in rows])}
        answered |= {"labels": labels, "outputs": np.eye(3, dtype=np.float32)[guess]}
        Run.open(path).save_predictions("official-seed0", Predictions(**answered))
    pairs = compare([*paths, paths[1]])
    for pair in pairs:
        assert (pair.utterances, pair.groups, pair.unit) == (24, 12, "dialogues")
        assert (pair.only_first, pair.only_second) == (18, 0)
        assert pair.difference == pytest.approx(-0.75)
        assert pair.p < 0.02  # nine dialogues differ, and all the same way: 2 of 512 draws are as far
        assert pair.p_holm == pytest.approx(2 * pair.p)
    assert compare(paths[::-1])[0].difference == pytest.approx(0.75)


def test_compare_refuses_other_targets(run: Run, toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    other = train(build_options({**quick, "features": toy, "target": "valence", "out": tmp_path / "v"})).run
    with pytest.raises(MerError, match="not comparable"):
        compare([run.path, other.path])
    again = train(build_options({**quick, "features": toy, "target": "valence", "out": tmp_path / "w", "seeds": 2})).run
    assert compare([other.path, again.path])[0].metric == "mae"


def test_compare_refuses_other_labels(
    run: Run, make_toy: Callable[..., Path], tmp_path: Path, quick: dict[str, Any]
) -> None:
    turned = dict(zip(run.classes, run.classes[1:] + run.classes[:1], strict=True))
    utterances = [
        replace(u, labels={**u.labels, "emotion": turned.get(str(u.labels["emotion"]))}) for u in toy_utterances()
    ]
    other = fit(make_toy("turned.h5", utterances=utterances), tmp_path / "turned", quick)
    with pytest.raises(MerError, match=r"21 of 21 shared test utterances have other labels in .*turned than in .*run:"):
        compare([run.path, other.path])


def test_compare_names_classes_that_differ(
    run: Run, make_toy: Callable[..., Path], tmp_path: Path, quick: dict[str, Any]
) -> None:
    targets = {**TARGETS, "emotion": LabelSpec("class", ("angry", "blue", "happy", "sad"))}
    other = fit(make_toy("blue.h5", targets=targets), tmp_path / "blue", quick)
    told = r"different classes of emotion \(only .*blue has blue\): not comparable"
    with pytest.raises(MerError, match=told):
        compare([run.path, other.path])


ROWS = "they were trained on different rows"


def test_compare_tells_other_protocols_and_groups_without_dialogues(
    make_toy: Callable[..., Path], tmp_path: Path, quick: dict[str, Any]
) -> None:
    alone = make_toy("alone.h5", utterances=[replace(u, dialogue="") for u in toy_utterances()])
    paths = [fit(alone, tmp_path / name, quick, protocol=name).path for name in ("kfold", "session-folds")]
    pair = compare(paths)[0]
    assert (pair.groups, pair.unit) == (pair.utterances, "utterances")
    shown = cli("compare", *paths)
    assert f"note: {paths[0]} is of protocol kfold (5 folds), {paths[1]} of session-folds (5 folds)" in shown
    other = fit(alone, tmp_path / "drawn", quick, protocol="kfold", split_seed=1).path
    assert compare([paths[0], other])[0].note.endswith("have different folds of protocol kfold (5 folds): " + ROWS)


def test_a_context_without_dialogues_is_refused(
    make_toy: Callable[..., Path], tmp_path: Path, quick: dict[str, Any]
) -> None:
    for name, dialogues in (("none", [""] * 120), ("single", [str(i) for i in range(120)])):
        told = {"none": "no utterance names one", "single": "no two utterances share one"}[name]
        utterances = [replace(u, dialogue=d) for u, d in zip(toy_utterances(), dialogues, strict=True)]
        cache = make_toy(f"{name}.h5", utterances=utterances)
        with pytest.raises(MerError, match=f"a context needs dialogues, and {told}; leave --context out"):
            fit(cache, tmp_path / name, quick, context="bigru")


def test_an_undefined_metric_gives_no_verdict(toy: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    """A run that always answers the same number correlates with nothing."""
    runs = [fit(toy, tmp_path / name, quick, target="valence") for name in ("one", "constant")]
    found = runs[1].predictions("official-seed0")
    runs[1].save_predictions("official-seed0", replace(found, outputs=np.zeros_like(found.outputs)))
    pair = compare([run.path for run in runs], "pearson")[0]
    assert np.isnan([pair.difference, pair.p, pair.p_holm]).all()
    assert verdict(pair).startswith("undefined")
    assert "differs by – on" in cli("compare", runs[0].path, runs[1].path, "--metric", "pearson")
    shown = json.loads(cli("compare", runs[0].path, runs[1].path, "--metric", "pearson", "--json"))[0]
    assert (shown["difference"], shown["p"], shown["p_holm"]) == (None, None, None)


def test_a_sweep_tunes_on_validation_and_goes_on(
    toy: Path, tmp_path: Path, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text('method = "grid"\n[space]\n"train.lr" = [1e-6, 0.03]\n"head.input_dropout" = [0.0]\n')
    options = build_options({**quick, "features": toy, "out": tmp_path / "best", "train.epochs": 8})
    import mer.pipeline.training.sweep as module

    calls = []

    def counted(options: TrainOptions, *rest: Any) -> Any:
        calls.append(options)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(options, *rest)

    monkeypatch.setattr(module, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(options, file)
    done = list((tmp_path / "best-trials").glob("*/models/*.safetensors"))
    stamp = done[0].stat().st_mtime_ns
    summary = run_sweep(options, file)
    assert done[0].stat().st_mtime_ns == stamp
    assert summary.run.facts["recipe"]["lr"] == 0.03
    assert summary.run.facts["metrics"]["wf1"]["mean"] > 0.4
    trials = json.loads((tmp_path / "best-trials" / "trials.json").read_text())
    assert [t["settings"]["train.lr"] for t in trials] == [0.03, 1e-6]
    assert parts_of_trials(tmp_path / "best-trials") == [{"val"}] * 2


@pytest.mark.parametrize("target", ["emotion", "valence"])
def test_of_equal_trials_the_first_is_the_best(tmp_path: Path, target: str) -> None:
    metric, better, worse = ("mae", 0.4, 0.5) if target == "valence" else ("wf1", 0.5, 0.4)
    nan = float("nan")
    results = [({"n": n}, value) for n, value in enumerate([nan, worse, better, worse, better, nan])]
    assert best_point(results, metric) == {"n": 2}
    write_trials(tmp_path / "trials.json", metric, results)
    listed = json.loads((tmp_path / "trials.json").read_text())
    assert [trial["settings"]["n"] for trial in listed] == [2, 4, 1, 3, 0, 5]
    assert [trial[f"val_{metric}"] for trial in listed] == [better, better, worse, worse, None, None]


def test_a_trial_that_diverges_has_no_score_and_the_sweep_goes_on(
    toy: Path, tmp_path: Path, quick: dict[str, Any]
) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text('method = "grid"\n[space]\n"train.lr" = [1e38, 0.01]\n')
    options = build_options({**quick, "features": toy, "out": tmp_path / "best", "train.epochs": 1})
    assert run_sweep(options, file).run.facts["recipe"]["lr"] == 0.01
    trials = json.loads((tmp_path / "best-trials" / "trials.json").read_text())
    assert [(t["settings"]["train.lr"], t["val_wf1"] is None) for t in trials] == [(0.01, False), (1e38, True)]
    file.write_text('method = "grid"\n[space]\n"train.lr" = [1e38]\n')
    with pytest.raises(MerError, match="no trial of the sweep has a validation score"):
        run_sweep(replace(options, out=tmp_path / "none"), file)


def test_a_sweep_goes_on_in_its_last_training_and_can_be_done_anew(
    toy: Path, tmp_path: Path, quick: dict[str, Any]
) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text('method = "grid"\n[space]\n"train.lr" = [0.01, 0.02]\n')
    options = build_options({**quick, "features": toy, "out": tmp_path / "best", "train.epochs": 1})
    made = run_sweep(options, file).run
    with pytest.raises(MerError, match="best: holds a finished run; choose another --out"):
        run_sweep(options, file)
    made.facts["status"] = "running"
    made.write()
    assert run_sweep(options, file).run.facts["status"] == "done"
    trials = tmp_path / "best-trials"
    stamps = {path: path.stat().st_mtime_ns for path in trials.glob("*/run.json")}
    shutil.rmtree(tmp_path / "best")
    run_sweep(replace(options, first_seed=5), file)  # trials of other options stand beside the first
    assert len(list(trials.glob("*/run.json"))) == 4
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    run_sweep(replace(options, overwrite=True), file)
    assert stamps.keys() == set(trials.glob("*/run.json"))
    assert all(path.stat().st_mtime_ns != stamp for path, stamp in stamps.items())


def test_random_sweeps_draw_within_their_ranges(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        'trials = 30\n[space]\n"train.lr" = { low = 1e-5, high = 1e-1, log = true }\n'
        '"head.dim" = { low = 4, high = 9, int = true }\n"head.pool" = ["mean", "attention"]\n'
    )
    drawn = list(points(read_sweep(file)))
    assert drawn == list(points(read_sweep(file)))
    assert all(1e-5 <= p["train.lr"] <= 1e-1 and 4 <= p["head.dim"] <= 9 for p in drawn)
    assert sum(p["train.lr"] < 1e-3 for p in drawn) in range(5, 26)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("trials = 3\n", "names nothing to try"),
        ('method = "bayes"\n[space]\n"train.lr" = [1]\n', "method 'bayes' is not known"),
        ('[space]\n"lr" = [1]\n', "'lr' cannot be tuned"),
        ('method = "grid"\n[space]\n"train.lr" = { low = 1, high = 2 }\n', "a grid needs lists"),
        ('[space]\n"train.lr" = { low = 2, high = 1 }\n', "is empty"),
        ('[space]\n"train.lr" = 3\n', "needs a list of values"),
        ('triels = 3\n[space]\n"train.lr" = [1]\n', "unknown setting 'triels'; did you mean 'trials'"),
        ("space = 3\n", "space = 3 is not a table"),
        ('trials = 0\n[space]\n"train.lr" = [1]\n', "trials = 0 is too small"),
        ('seed = -1\n[space]\n"train.lr" = [1]\n', "seed = -1 is too small"),
        ('[space]\n"train.lr" = { low = "a", high = "b" }\n', "are 'a' and 'b'; give two numbers"),
        ('[space]\n"train.lr" = { low = 0, high = 1, log = true }\n', "starts at 0; with log = true it must"),
        ('[space]\n"head.dim" = { low = 0.5, high = 4, int = true }\n', "from 0.5 to 4; with int = true give whole"),
        ('[space]\n"train.select" = ["uar", "war"]\n', "'train.select' cannot be tuned: .* under one metric"),
        ('[space]\n"head.name" = ["linear", "mlp"]\n', "'head.name' cannot be tuned: .* under one head"),
    ],
)
def test_wrong_sweeps_are_told(toy: Path, tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(content)
    with pytest.raises(MerError, match=f"sweep.toml: .*{told}") as caught:
        run_sweep(TrainOptions(toy, out=tmp_path / "run"), file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ('"head.input_dropout" = [0.1, 1.5]', "head.input_dropout is 1.5"),
        ('"head.foo" = [1]', "unknown setting 'head.foo'"),
        ('"train.lrr" = [1]', "unknown setting 'train.lrr'; did you mean 'lr'"),
        ('"train.lr" = [1e-3, "fast"]', "train.lr = 'fast' is not of the type float"),
        ('"train.class_weights" = ["none", "all"]', "train.class_weights = 'all' is not possible"),
    ],
)
def test_a_wrong_trial_is_told_before_the_first_one_runs(
    toy: Path, tmp_path: Path, quick: dict[str, Any], choices: str, told: str
) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(f'method = "grid"\n[space]\n{choices}\n')
    with pytest.raises(MerError, match=told):
        run_sweep(build_options({**quick, "features": toy, "out": tmp_path / "run"}), file)
    assert not (tmp_path / "run-trials").exists()


def shifted(toy_corpus: list[Utterance], split: str) -> tuple[list[Utterance], list[Any], list[Any]]:
    """The toy corpus with other labels and far larger features in one split."""
    text, audio = toy_features(toy_corpus, 6, 5, 1), toy_features(toy_corpus, 4, 9, 2)
    changed = []
    for row, one in enumerate(toy_corpus):
        if one.split != split:
            changed.append(one)
            continue
        changed.append(replace(one, labels={**one.labels, "emotion": "angry"}))
        text[row], audio[row] = text[row] + 1e3, audio[row] + 1e3
    return changed, text, audio


@pytest.mark.parametrize("split", ["test", "val"])
def test_nothing_learned_depends_on_test_rows_and_no_statistic_on_validation(
    toy: Path, tmp_path: Path, write_cache: Callable[..., Path], quick: dict[str, Any], split: str
) -> None:
    utterances, text, audio = shifted(toy_utterances(), split)
    features = [(toy_spec("text", 6), text), (toy_spec("audio", 4, "toy", "float16"), audio)]
    other = write_cache(tmp_path / "other.h5", utterances, TARGETS, features, "toy")
    asked = {**quick, "train.class_weights": "sqrt", "protocol": "official"}
    learned = []
    for cache in (toy, other):
        run = train(build_options({**asked, "features": cache, "out": tmp_path / f"run-{cache.stem}"})).run
        learned.append(load_file(run.model_path(run.members[0]["name"])))
    before, after = learned
    assert any(name.startswith("normalise/") for name in before)
    for name in before:
        if split == "test" or not name.startswith("model/"):  # validation picks the epoch, and with it the weights
            torch.testing.assert_close(before[name], after[name], rtol=0, atol=0, msg=name)


def test_a_best_epoch_that_is_the_last_is_told(toy: Path, tmp_path: Path) -> None:
    """At a rate of 1e-5 every epoch is better than the one before; at none, the first is as good as the last."""
    slow = cli("train", "-f", toy, "-o", tmp_path / "slow", *FAST, "--target", "valence", "--lr", "1e-5")
    assert "1 of 1 models are best at the last of 2 epochs" in slow
    assert json.loads((tmp_path / "slow" / "run.json").read_text())["best_at_last_epoch"] == ["official-seed0"]
    still = cli("train", "-f", toy, "-o", tmp_path / "still", *FAST, "--target", "valence", "--lr", "1e-30")
    assert "best at the last" not in still
    assert json.loads((tmp_path / "still" / "run.json").read_text())["best_at_last_epoch"] == []


def test_a_head_has_a_recipe_of_its_own_that_settings_win_over(toy: Path) -> None:
    usual, own = build_options({"features": toy, "head": "misa"}).recipe, config_of("linear").recipe
    assert own
    found = build_options({"features": toy, "head": "linear"}).recipe
    assert {name: getattr(found, name) for name in own} == own
    assert replace(found, **{name: getattr(usual, name) for name in own}) == usual
    assert build_options({"features": toy, "head": "linear", "train.lr": 0.5}).recipe == replace(found, lr=0.5)


def test_a_probe_of_an_earlier_version_mixes_its_layers() -> None:
    """Records had no `stack` when a probe of a stack was always a mix."""
    facts = {"head_config": {"input_dropout": 0.25}, "head_settings": {}}
    assert recorded_settings(config_of("linear"), facts) == {"stack": "mix", "input_dropout": 0.25}
    facts["head_config"]["stack"] = "concat"
    assert recorded_settings(config_of("linear"), facts)["stack"] == "concat"
