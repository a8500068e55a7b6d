"""Training, saved runs and their comparison, as Python programs use them; the commands stand on the same functions."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer.cache import FeatureStore, MerError

from ..training.run_folder import Run
from ..training.settings import Recipe, build_options
from .store import import_pandas

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from ..results.predict import Answer, Asked

Clip = str | Path | tuple[str | Path | None, str | None]
"""A clip to predict: its path, or its path with what is said in it; either of the two may be None."""


class TrainedRun:
    """A finished run: its scores, its predictions, and its models to predict new clips with."""

    def __init__(self, run: Run) -> None:
        self.run = run
        """The run folder, with everything that it holds."""

    @property
    def path(self) -> Path:
        """The run folder's path."""
        return self.run.path

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the outputs; empty for numbers."""
        return self.run.classes

    @property
    def scores(self) -> dict[str, dict[str, float | None]]:
        """Metric to its test scores: `mean` and `std` over runs, the interval `low` to `high`, and the like."""
        found = self.run.facts["metrics"]
        return {name: dict(found[name]) for name in self.run.metric_names if name in found}

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """Return what every model of the run said of its rows.

        Parameters
        ----------
        split
            `test` or `val`.

        Returns
        -------
        DataFrame
            One row per utterance and model: `key`, `fold`, `seed`, `label`, `prediction`, and the probability of each
            class as `p CLASS` (not for numbers). Sets of classes are tuples.

        Raises
        ------
        MerError
            If pandas is not installed, or the run has no such predictions.
        """
        pd = import_pandas()
        frames = []
        for member in self.run.members:
            found = self.run.predictions(member["name"]).part(split)
            said = {"key": found.keys, "fold": member["fold"], "seed": member["seed"]}
            frames.append(pd.DataFrame(said | self._columns(found.labels, found.outputs)))
        frame = pd.concat(frames, ignore_index=True)
        if frame.empty:
            raise MerError(f"{self.path}: has no predictions of {split!r}; use test or val")
        return frame

    def _columns(self, labels: Any, outputs: Any) -> dict[str, Any]:
        if self.run.kind == "real":
            return {"label": labels, "prediction": outputs[:, 0]}
        shares = {f"p {name}": outputs[:, at] for at, name in enumerate(self.classes)}
        if self.run.kind == "class":
            named = {"label": labels, "prediction": outputs.argmax(axis=1)}
            return {column: [self.classes[code] for code in codes] for column, codes in named.items()} | shares
        chosen = {"label": labels > 0, "prediction": outputs >= 0.5}
        return {
            column: [tuple(c for c, inside in zip(self.classes, row, strict=True) if inside) for row in rows]
            for column, rows in chosen.items()
        } | shares

    def predict(self, clips: Sequence[Clip], **options: Any) -> pd.DataFrame:
        """Predict new clips with the encoders, face finder and models of the run.

        Parameters
        ----------
        clips
            Paths, or pairs of a path and what is said in it: `[("a.mp4", "Well, hello")]`.
        **options
            As for `mer predict`: `device`, `encoders` (modality to a name or folder), `trust_remote_code`,
            `face_detector`.

        Returns
        -------
        DataFrame
            One row per clip: `clip`, `text`, `prediction`, the probability of each class as `p CLASS` (not for
            numbers), and `used`, the modalities that were there.

        Raises
        ------
        MerError
            If pandas is not installed, no clip is there, or an encoder is not the run's.
        """
        from ..results.predict import predict_clips

        pd = import_pandas()
        asked = list(map(_asked, clips))
        if not asked:
            raise MerError("nothing to predict; name one or more clips")
        return pd.DataFrame([self._row(answer) for answer in predict_clips(self.run, asked, **options)])

    def _row(self, answer: Answer) -> dict[str, Any]:
        record = answer.record(self.run)
        shares = {f"p {name}": share for name, share in record.get("probabilities", {}).items()}
        said = record["value"] if "value" in record else record["prediction"]
        return {
            "clip": record["clip"],
            "text": record["text"],
            "prediction": tuple(said) if isinstance(said, list) else said,
            **shares,
            "used": tuple(record["used"]),
        }

    def __repr__(self) -> str:
        facts = self.run.facts
        return f"TrainedRun({str(self.path)!r}, {facts['head']} on {facts['corpus']}, {len(self.run.members)} models)"

    def _repr_html_(self) -> str:
        """What a notebook shows: what was trained on what, and the test scores."""
        facts = self.run.facts
        title = f"{facts['head']} on {facts['corpus']}, target {facts['target']}, {len(self.run.members)} models"
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{_shown(score.get('mean'))}</td><td>{_shown(score.get('std'))}</td></tr>"
            for name, score in self.scores.items()
        )
        head = "<tr><th>metric</th><th>mean</th><th>std</th></tr>"
        return f"<b>{html.escape(title)}</b> <code>{html.escape(str(self.path))}</code><table>{head}{rows}</table>"


def train(features: str | Path | FeatureStore, head: str = "drkf", **settings: Any) -> TrainedRun:
    """Train a head on cached features over seeds and folds, and score the test rows once.

    Parameters
    ----------
    features
        A store, or the path or URL of a cache or pack.
    head
        Name of a head (`mer heads` lists them) or `module:Attr`.
    **settings
        The options of `mer train` with `_` for `-` (`seeds=3`, `target="emotion"`, `protocol="speaker-folds"`,
        `modalities="text,audio"`, `out="runs/mine"`, `overwrite=True`), any setting of the recipe (`epochs=20`,
        `lr=1e-3`, `batch_size=32`), and `set={"head.dim": 256}` for the rest.

    Returns
    -------
    TrainedRun
        An interrupted run goes on when the same is asked for again.

    Raises
    ------
    MerError
        If a setting is unknown, or the cache, the settings and the protocol do not fit together.
    """
    location = features.location if isinstance(features, FeatureStore) else str(features)
    more: Mapping[str, Any] = settings.pop("set", {})
    recipe = {field.name for field in dataclasses.fields(Recipe)}
    given = {f"train.{name}" if name in recipe else name: value for name, value in settings.items()}
    return train_with({"features": location, "head": head, **given, **more})


def train_with(
    given: Mapping[str, Any],
    config: Path | None = None,
    assignments: Sequence[str] = (),
    sweep: Path | None = None,
    console: Console | None = None,
    command: Sequence[str] = (),
) -> TrainedRun:
    """Train as `given`, a settings file and assignments say; later ones win. `mer train` is this function.

    Parameters
    ----------
    given
        Settings by their dotted name.
    sweep
        TOML file of a search on validation that comes first.
    console
        Where the live table goes; None is silent.
    command
        Recorded in the run.
    """
    options = build_options(given, config, assignments)
    if sweep is not None:
        from ..training.sweep import run_sweep

        return TrainedRun(run_sweep(options, sweep, console, command).run)
    from ..training.run import train as train_runs

    return TrainedRun(train_runs(options, console, command).run)


def load_run(path: str | Path) -> TrainedRun:
    """Open a folder that `mer train` or `mer.train` wrote, or fetch a run by its URL.

    Raises
    ------
    MerError
        If the folder is no run, is of a newer version, or was not trained to its end.
    """
    from ..results.shared_runs import open_run

    return TrainedRun(open_run(str(path)))


def compare(*runs: str | Path | TrainedRun, metric: str = "auto") -> pd.DataFrame:
    """Compare each run with the first, with a paired test of significance.

    Parameters
    ----------
    *runs
        Two or more runs, or their folders.
    metric
        Metric that is tested; `auto` is war, macro_f1 or mae.

    Returns
    -------
    DataFrame
        One row per pair: `first`, `second`, `metric`, `difference` (second minus first), `p` of a permutation test,
        `p_holm`, `p_mcnemar`, and what they rest on.

    Raises
    ------
    MerError
        If pandas is not installed, fewer than two runs are named, or they cannot be compared.
    """
    from ..results.compare import compare as pairs_of

    pd = import_pandas()
    paths = [run.path if isinstance(run, TrainedRun) else Path(run) for run in runs]
    return pd.DataFrame([dataclasses.asdict(pair) for pair in pairs_of(paths, metric)])


def _asked(clip: Clip) -> Asked:
    from ..results.predict import Asked

    path, text = clip if isinstance(clip, tuple) else (clip, None)
    return Asked(None if path is None else Path(path), text)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
