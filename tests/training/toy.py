"""The toy corpus: classes, sets and numbers to learn, in ragged features of two modalities."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mer.cache import FeatureSpec
from mer.pipeline.training.run import train
from mer.pipeline.training.run_folder import Run
from mer.pipeline.training.settings import build_options
from mer.stages.interfaces import LabelSpec
from mer.stages.utterance import Utterance

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CLASSES = ("angry", "happy", "sad")


def toy_utterances(count: int = 120) -> list[Utterance]:
    """Five sessions of two speakers, dialogues of six turns; official splits by session."""
    made = []
    for i in range(count):
        session, dialogue, turn = i % 5 + 1, i // 30, i // 5 % 6
        code = (i * 7 + i // 11) % 3
        made.append(
            Utterance(
                key=f"s{session}/d{dialogue}_u{i}",
                text=f"words {i}",
                speaker=f"s{session}{'ab'[turn % 2]}",
                dialogue=f"s{session}/d{dialogue}",
                turn=turn,
                session=f"Ses{session}",
                split=("train", "train", "train", "val", "test")[session - 1],
                labels={
                    "emotion": CLASSES[code] if i % 40 != 39 else None,
                    "tags": tuple(name for name, on in (("loud", code == 0), ("fast", code != 2)) if on),
                    "valence": (-1.5, 2.0, 0.0)[code] + 0.1 * turn,
                },
            )
        )
    return made


TARGETS = {
    "emotion": LabelSpec("class", CLASSES),
    "tags": LabelSpec("multi", ("loud", "fast")),
    "valence": LabelSpec("real"),
}


def toy_spec(modality: str, dim: int, name: str = "toy", dtype: str = "float32") -> FeatureSpec:
    return FeatureSpec(modality, name, {"checkpoint": f"local/{name}"}, dim, dtype=dtype)


def toy_features(utterances: list[Utterance], dim: int, longest: int, seed: int, strength: float = 1.5) -> list[Any]:
    """Noise around a direction of the class, 1 to `longest` steps; large offsets and scales per dimension."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(len(CLASSES), dim))
    offset, scale = rng.normal(0, 20, dim), rng.uniform(0.5, 10, dim)
    arrays = []
    for utterance in utterances:
        code = CLASSES.index(str(utterance.labels.get("emotion") or CLASSES[0]))
        values = strength * means[code] + rng.normal(size=(int(rng.integers(1, longest + 1)), dim))
        arrays.append((values * scale + offset).astype(np.float32))
    return arrays


def load_benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write_toy(
    path: Path,
    write_cache: Callable[..., Path],
    utterances: list[Utterance] | None = None,
    missing_audio: tuple[int, ...] = (),
    missing_text: tuple[int, ...] = (),
    audio_name: str = "toy",
    longest: int = 9,
    targets: dict[str, LabelSpec] | None = None,
    corpus: str = "toy",
) -> Path:
    """Write the toy corpus with text and audio features."""
    utterances = toy_utterances() if utterances is None else utterances
    text = toy_features(utterances, 6, min(5, longest), 1)
    audio = toy_features(utterances, 4, longest, 2)
    for row in missing_audio:
        audio[row] = None
    for row in missing_text:
        text[row] = None
    features = [(toy_spec("text", 6), text), (toy_spec("audio", 4, audio_name, "float16"), audio)]
    return write_cache(path, utterances, targets or TARGETS, features, corpus)


PLAIN = {"head.input_dropout": 0.0, "head.modality_dropout": 0.0}
"""No random draws in the head, so that runs in different company can be compared."""


def without_draws(head: str) -> dict[str, Any]:
    """Settings under which a small head draws nothing at random."""
    settings: dict[str, Any] = dict(PLAIN)
    if head != "linear":
        settings |= {"head.dim": 8, "head.dropout": 0.0, "head.hide_tokens": 0.0, "head.hide_spans": 0.0}
    # what else a head draws at random: a second dropout
    return settings | ({"head.fusion_dropout": 0.0} if head in ("drkf", "fdrl") else {})


def fit(features: Path, out: Path, quick: dict[str, Any], **more: Any) -> Run:
    """Train with dotted settings; keywords have `__` for the dot."""
    dotted = {key.replace("__", "."): value for key, value in more.items()}
    return train(build_options({**quick, "features": features, "out": out, **dotted})).run


def parts_of_trials(folder: Path) -> list[set[str]]:
    """Which parts the trials of a sweep predicted, also by their records."""
    found = []
    for path in sorted(folder.glob("*/run.json")):
        run = Run.open(path.parent)
        assert run.facts["metrics"] == {}
        assert all("test" not in member for member in run.members)
        found.append({part for m in run.members for part in run.predictions(m["name"]).split.tolist()})
    return found
