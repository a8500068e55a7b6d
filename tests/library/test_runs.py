"""Training, runs and comparison from Python, on the functions that the commands use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from folder_clips import manifest_rows, write_manifest
from synthetic import write_clip
from training.toy import CLASSES, load_benchmark, write_toy

import mer
from mer.cache import MerError
from mer.pipeline.cli import main

QUICK = {"seeds": 2, "epochs": 3, "batch_size": 16, "device": "cpu"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_toy(folder / "toy.h5", load_benchmark("caches").write_cache)
    return folder


@pytest.fixture(scope="module")
def run(home: Path) -> mer.TrainedRun:
    return mer.train(mer.open(home / "toy.h5"), head="linear", out=home / "linear", **QUICK)


def test_scores_are_those_of_the_run(run: mer.TrainedRun) -> None:
    facts = json.loads((run.path / "run.json").read_text())
    assert run.scores["wf1"]["mean"] == facts["metrics"]["wf1"]["mean"]
    assert set(run.scores) <= set(facts["metrics"])
    assert f"<td>{run.scores['war']['mean']:.4f}</td>" in run._repr_html_()
    assert "linear on" in repr(run)


def test_predictions_are_a_table(run: mer.TrainedRun) -> None:
    pytest.importorskip("pandas")
    frame = run.predictions()
    assert sorted(set(frame["seed"])) == [0, 1]
    shares = frame[[f"p {name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert list(frame["prediction"]) == [CLASSES[code] for code in shares.argmax(axis=1)]
    right = (frame["prediction"] == frame["label"]).groupby(frame["seed"]).mean()
    assert run.scores["war"]["mean"] == pytest.approx(right.mean())
    with pytest.raises(MerError, match="has no predictions of 'train'"):
        run.predictions("train")


def test_the_command_and_the_function_are_one(
    home: Path, run: mer.TrainedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "train",
        "-f",
        str(home / "toy.h5"),
        "--head",
        "linear",
        "--seeds",
        "2",
        "--epochs",
        "3",
        "--batch-size",
        "16",
    ]
    with pytest.raises(SystemExit) as left:
        main([*words, "--device", "cpu", "--out", str(home / "command"), "--json"])
    assert left.value.code == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == json.loads((run.path / "run.json").read_text())["metrics"]
    assert mer.load_run(home / "command").scores == run.scores


def test_runs_are_compared(home: Path, run: mer.TrainedRun) -> None:
    pytest.importorskip("pandas")
    other = mer.train(home / "toy.h5", head="mlp", out=home / "mlp", set={"train.patience": 2}, **QUICK)
    frame = mer.compare(run, home / "mlp", metric="wf1")
    assert list(frame["metric"]) == ["wf1"]
    assert frame["difference"][0] == pytest.approx(
        other.scores["wf1"]["pooled"] - run.scores["wf1"]["pooled"]  # type: ignore[operator]
    )


def test_wrong_words_are_told(home: Path) -> None:
    with pytest.raises(MerError, match="unknown setting 'sedes'; did you mean 'seeds'"):
        mer.train(home / "toy.h5", sedes=3)
    with pytest.raises(MerError, match="is no run"):
        mer.load_run(home)
    with pytest.raises(MerError, match="extract has no option 'presett'; did you mean 'preset'"):
        mer.extract("demo", presett="base")


def test_a_folder_of_clips_to_a_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "user"))
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(8):
        write_clip(clips / f"clip{number}.mp4", 0.4)
    write_manifest(clips, manifest_rows(8))
    store = mer.extract("./clips", preset="demo", device="cpu", face_encoder="none")
    assert store.path == Path("cache/clips.h5")
    assert len(store["text"]) == 8
    run = mer.train(store, head="linear", protocol="kfold", folds=2, out="runs/clips", **{**QUICK, "seeds": 1})
    frame = run.predict([(clips / "clip0.mp4", "words of clip number 0"), clips / "clip1.mp4"])
    assert list(frame["used"]) == [("text", "audio"), ("audio",)]
    np.testing.assert_allclose(frame[["p anger", "p joy"]].sum(axis=1), 1, atol=1e-5)
