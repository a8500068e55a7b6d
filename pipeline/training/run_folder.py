"""The folder a training run leaves: request, models, predictions, scores (layout: docs/training.md)."""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mer.cache import DamagedError, FeatureSpec, FormatError, MerError, atomic_write
from mer.stages.heads.base import HeadInputs, ModalityShape
from mer.stages.registry import find

from ..scores.metrics import metric_names
from .model import Blueprint, Model
from .settings import Recipe, settings_of
from .tensor_file import load_tensors, save_tensors
from .tensors import Normaliser

RUN_FORMAT = "mer-run"
RUN_VERSION = 1
NEEDED = {"status", "features", "kind", "classes", "head", "recipe", "context", "protocol", "members", "metrics"}
"""Part of what `run.json` says, without which a run is of no use."""


@dataclass(frozen=True)
class Predictions:
    """What one member of a run said about its validation and test utterances."""

    keys: npt.NDArray[np.str_]
    """Shape (n,)."""
    split: npt.NDArray[np.str_]
    """Shape (n,), `val` or `test`."""
    labels: npt.NDArray[Any]
    """Shape (n,), or (n, C) for sets of classes."""
    outputs: npt.NDArray[np.float32]
    """Shape (n, C) probabilities; (n, 1) numbers."""
    vectors: npt.NDArray[np.float16]
    """Shape (n, width), the fused vectors; NaN where the utterance had no modality."""
    by_prior: npt.NDArray[np.bool_]
    """Shape (n,): no modality was there, so the training prior answered."""
    group: npt.NDArray[np.str_]
    """Shape (n,): the dialogue, or the key where there is none; what belongs together in a test of significance."""

    def part(self, split: str) -> Predictions:
        """Return the rows of one split."""
        chosen = self.split == split
        return Predictions(**{name: value[chosen] for name, value in vars(self).items()})


@dataclass(frozen=True)
class LoadedModel:
    """One trained model, ready to use."""

    name: str
    model: Model
    normalisers: dict[str, Normaliser | None]
    prior: npt.NDArray[np.float32]
    facts: dict[str, Any]


class Run:
    """A run folder."""

    def __init__(self, path: Path, facts: dict[str, Any], trust_remote_code: bool = True) -> None:
        self.path = path
        self.facts = facts
        self.trust_remote_code = trust_remote_code
        """Whether a head that is named as `module:Attr` may be imported; a run that was trained here names its own."""

    @classmethod
    def open(cls, path: Path | str, unfinished: bool = False, trust_remote_code: bool = False) -> Run:
        """Read `run.json`.

        A head that is named as `module:Attr` is imported only with `trust_remote_code`: whoever made the run could
        name any module of this machine.

        Raises
        ------
        MerError
            If the folder is no run, is of a newer version, or (unless `unfinished`) was not trained to its end.
        """
        path = Path(path)
        file = path / "run.json"
        if not file.is_file():
            raise MerError(f"{path}: is no run (it has no run.json); name a folder that mer train wrote")
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            if facts["format"] != RUN_FORMAT:
                raise KeyError("format")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(f"{file}: is damaged ({error}); train again") from error
        if facts["version"] > RUN_VERSION:
            raise FormatError(
                f"{path}: is a run of format {facts['version']} and this mer reads {RUN_VERSION}; update mer"
            )
        if absent := sorted(NEEDED - facts.keys()):
            raise DamagedError(f"{file}: is damaged (it lacks {', '.join(absent)}); train again")
        if facts["status"] != "done" and not unfinished:
            raise MerError(f"{path}: was not trained to its end; give mer train the same options again to go on")
        return cls(path, facts, trust_remote_code)

    def write(self) -> None:
        """Write `run.json` atomically."""
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path / "run.json") as temporary:
            temporary.write_text(json.dumps(self.facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @property
    def members(self) -> list[dict[str, Any]]:
        """Name, fold, seed, scores of every model, in order."""
        return cast("list[dict[str, Any]]", self.facts["members"])

    @property
    def kind(self) -> str:
        """`class`, `multi` or `real`."""
        return str(self.facts["kind"])

    @property
    def scale(self) -> float:
        """How far from 0 the target's numbers reach (`metrics.scale_of`); runs that do not say were scored as if 3."""
        return float(self.facts.get("scale", 3.0))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Metrics that say something about the target, as far as the run has them."""
        return tuple(name for name in metric_names(self.kind, self.scale) if name in self.members[0]["val"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return tuple(self.facts["classes"])

    @property
    def specs(self) -> dict[str, FeatureSpec]:
        """Modality to the spec of the features the run was trained on, in the order of fusion."""
        return {
            m: FeatureSpec.from_json(json.dumps(entry["spec"])) for m, entry in self.facts["features"]["sets"].items()
        }

    def model_path(self, name: str) -> Path:
        """File of one member's weights."""
        return self.path / "models" / f"{name}.safetensors"

    def save_model(
        self,
        name: str,
        state: Mapping[str, Tensor],
        normalisers: Mapping[str, Normaliser | None],
        labels: Mapping[str, npt.NDArray[np.float32]],
        facts: Mapping[str, Any],
    ) -> None:
        """Write one trained model with what it needs to be used: `labels` has the rest, such as `prior`."""
        tensors = {f"model/{key}": tensor for key, tensor in state.items()}
        for modality, found in normalisers.items():
            if found is not None:
                tensors |= {f"normalise/{modality}/mean": found.mean, f"normalise/{modality}/scale": found.scale}
        tensors |= {key: torch.from_numpy(value) for key, value in labels.items()}
        save_tensors(self.model_path(name), tensors, facts)

    def load_model(self, name: str) -> LoadedModel:
        """Build one member's model and load its weights, in evaluation mode on the CPU.

        Raises
        ------
        MerError
            If the file is damaged or belongs to another head or other settings.
        """
        path = self.model_path(name)
        tensors, facts = load_tensors(path, "train the run again")
        state = {key[len("model/") :]: t for key, t in tensors.items() if key.startswith("model/")}
        model = self.blueprint().build(0, unit=tensors.get("unit"))
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise DamagedError(f"{path}: does not fit head {self.facts['head']!r} of this mer; train again") from error
        normalisers: dict[str, Normaliser | None] = {
            m: Normaliser(tensors[f"normalise/{m}/mean"], tensors[f"normalise/{m}/scale"])
            if f"normalise/{m}/mean" in tensors
            else None
            for m in self.specs
        }
        return LoadedModel(name, model.eval(), normalisers, tensors["prior"].numpy(), facts)

    def pooling(self) -> Mapping[str, int]:
        """Modality to the cached steps that this run's head is given the average of (`Head.pooling`)."""
        return self.blueprint().build(0).head.pooling

    def blueprint(self) -> Blueprint:
        """How this run's models are built: with every setting as recorded, whatever the defaults are by now."""
        facts = self.facts
        if ":" in str(facts["head"]) and not self.trust_remote_code:
            raise MerError(
                f"{self.path}: its head asks to run Python code, {facts['head']}; read that code, and if you trust it "
                "add --trust-remote-code, or register it under the entry points mer.heads by a plain name"
            )
        return Blueprint(
            facts["head"],
            recorded_settings(find("head", facts["head"]).Config, facts),
            facts["context"],
            facts["context_settings"],
            head_inputs(self.specs, self.kind, self.classes),
            self.recipe,
        )

    @property
    def recipe(self) -> Recipe:
        """How the models were trained."""
        return Recipe(**settings_of(Recipe, self.facts["recipe"], "train."))

    def save_predictions(self, name: str, found: Predictions) -> None:
        """Write one member's predictions as plain arrays."""
        with atomic_write(self.path / "predictions" / f"{name}.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **vars(found))

    def predictions(self, name: str) -> Predictions:
        """Read one member's predictions."""
        path = self.path / "predictions" / f"{name}.npz"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return Predictions(**{key: arrays[key] for key in arrays.files})
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DamagedError(f"{path}: is damaged or missing ({error}); train the run again") from error

    def save_splits(self, splits: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Write the keys of every fold's parts."""
        with atomic_write(self.path / "splits.json") as temporary:
            temporary.write_text(json.dumps(splits, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")

    def splits(self) -> dict[str, dict[str, list[str]]]:
        """Fold to `train`, `val` and `test` keys."""
        return cast("dict[str, dict[str, list[str]]]", self._json("splits.json"))

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DamagedError(f"{self.path / name}: is damaged or missing ({error}); train again") from error

    def save_history(self, name: str, entries: Sequence[Mapping[str, float]]) -> None:
        """Write one member's history, one epoch per entry; an undefined score as `null`, since JSON knows no NaN."""
        listed = [{key: None if math.isnan(value) else value for key, value in entry.items()} for entry in entries]
        with atomic_write(self.path / "history" / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(listed, indent=0) + "\n", encoding="utf-8")

    def history(self, name: str) -> list[dict[str, float]]:
        """Losses and validation scores of one member per epoch; an undefined score is NaN."""
        entries = self._json(f"history/{name}.json")
        return [{key: math.nan if value is None else value for key, value in entry.items()} for entry in entries]


def recorded_settings(config: type[Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run's head: the given ones, and the plain ones of its record that are still known.

    A config's `earlier`, if it has one, says what a setting was before records had it.
    """
    known = {field.name for field in dataclasses.fields(config)}
    recorded = {**getattr(config, "earlier", {}), **facts.get("head_config", {})}
    plain = {name: value for name, value in recorded.items() if isinstance(value, bool | int | float | str)}
    return {name: value for name, value in plain.items() if name in known} | dict(facts["head_settings"])


def head_inputs(specs: Mapping[str, FeatureSpec], kind: str, classes: Sequence[str]) -> HeadInputs:
    """What a head is built for, from the specs of its features."""
    shapes = {m: ModalityShape(spec.dim // spec.stack, spec.stack) for m, spec in specs.items()}
    return HeadInputs(shapes, kind, tuple(classes))
