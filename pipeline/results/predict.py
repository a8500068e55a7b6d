"""`mer predict`: new clips through the encoders and the models of a run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import (
    Catalogue,
    FeatureSpec,
    FeatureStore,
    MerError,
    UtteranceTable,
    shard_folder,
    write_catalogue,
)
from mer.stages.device import resolve_device

from ..extraction.decoding import TaskSettings
from ..extraction.jobs import Job
from ..extraction.known_shards import index_set
from ..extraction.restore import check_sound, restore_encoder, restore_finder
from ..extraction.tasks import EncodingSet, ShardTask, run_task
from ..training.run_folder import Run
from .forward import flat_of, outputs_of


@dataclass(frozen=True)
class Asked:
    """One thing to predict: a clip, its words, or both."""

    clip: Path | None
    text: str | None

    @property
    def problem(self) -> str:
        """Why there is no clip where one was named, or empty."""
        if self.clip is None or self.clip.is_file():
            return ""
        return "is a folder without media files" if self.clip.is_dir() else "no such file; name a clip"


@dataclass(frozen=True)
class Answer:
    """What a run says of one clip."""

    asked: Asked
    output: npt.NDArray[np.float64]
    """Shape (C,), probabilities averaged over the models, or (1,), a number."""
    spread: npt.NDArray[np.float64]
    """Same shape: standard deviation over the models; zero for a single one."""
    used: tuple[str, ...]
    """Modalities that were there."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Modality to the reason why it was left out."""

    @property
    def failed(self) -> bool:
        """Whether the clip is not there, or has nothing that the run goes by, so that the prior answers."""
        return bool(self.asked.problem) or not self.used

    def record(self, run: Run) -> dict[str, Any]:
        """Everything as JSON-able facts."""
        facts: dict[str, Any] = {
            "clip": None if self.asked.clip is None else str(self.asked.clip),
            "text": self.asked.text,
            "used": list(self.used),
            "missing": dict(self.missing),
            "failed": self.failed,
        }
        if run.kind == "real":
            return {**facts, "value": float(self.output[0]), "std_over_models": float(self.spread[0])}
        shares = {name: float(share) for name, share in zip(run.classes, self.output, strict=True)}
        spread = {name: float(share) for name, share in zip(run.classes, self.spread, strict=True)}
        return {**facts, "prediction": self.prediction(run), "probabilities": shares, "std_over_models": spread}

    def prediction(self, run: Run) -> str | list[str]:
        """The most likely class, or every class of a set with a probability of at least a half."""
        if run.kind == "multi":
            return [name for name, share in zip(run.classes, self.output, strict=True) if share >= 0.5]
        return run.classes[int(self.output.argmax())]


def predict_clips(
    run: Run,
    asked: Sequence[Asked],
    encoders: Mapping[str, str] | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    face_detector: Path | None = None,
) -> list[Answer]:
    """Predict clips with every model of a run, and average.

    The clips go through the encoders, face finder and media settings that made the run's features; a modality that a
    clip does not have is masked. A run with dialogue context takes the clips as consecutive turns of one dialogue,
    which is cut into windows as in training where it is long.

    Parameters
    ----------
    run
        A finished run.
    asked
        Clips with their words, at least one.
    encoders
        Modality to the encoder name or folder to use in place of the one the run names; it has to be the same one.
    device
        Where the encoders run.
    trust_remote_code
        As for `mer extract`.
    face_detector
        Where the face detector's file lies, when the run's features were made with a file of the user's.

    Raises
    ------
    MerError
        If no clip is there, an encoder or detector is not the run's, or no clip has any modality of the run.
    """
    problems = [one.problem for one in asked]
    if all(problems):
        raise MerError(f"{asked[0].clip}: {problems[0]}")
    with tempfile.TemporaryDirectory(prefix="mer-predict-") as folder:
        store = _encode(
            run.specs,
            asked,
            Path(folder),
            dict(encoders or {}),
            resolve_device(device),
            trust_remote_code,
            face_detector,
        )
        pooling = run.pooling()
        flats = {m: flat_of(run, store.load(spec.set_name), m, pooling) for m, spec in run.specs.items()}
        fates = {m: store.sets[spec.set_name] for m, spec in run.specs.items()}
    present = {m: np.asarray((flat.lengths > 0).numpy()) for m, flat in flats.items()}
    if not np.any(list(present.values())):
        why = "; ".join(f"{m}: {_reason(asked[0], m, fates[m].reasons[0])}" for m in run.specs)
        raise MerError(f"nothing to go by: no clip has any modality of the run ({why})")
    outputs = np.stack([outputs_of(run, run.load_model(m["name"]), flats, present) for m in run.members])
    answers = []
    for row, one in enumerate(asked):
        missing = {m: _reason(one, m, fates[m].reasons[row]) for m in run.specs if not present[m][row]}
        used = tuple(m for m in run.specs if present[m][row])
        answers.append(Answer(one, outputs[:, row].mean(0), outputs[:, row].std(0), used, missing))
    return answers


def _encode(
    specs: Mapping[str, FeatureSpec],
    asked: Sequence[Asked],
    folder: Path,
    encoders: Mapping[str, str],
    device: str,
    trust_remote_code: bool,
    face_detector: Path | None,
) -> FeatureStore:
    """Make a small cache of the clips, with the very steps that made the run's."""
    catalogue = folder / "clips.h5"
    sets: dict[str, EncodingSet] = {}
    for modality, spec in specs.items():
        if modality == "audio":
            check_sound(spec)
        encoder = restore_encoder(spec, encoders.get(modality), trust_remote_code)
        sets[modality] = EncodingSet(spec.set_name, encoder, spec, str(shard_folder(catalogue, spec.set_name)))
    finder = restore_finder(specs["face"], face_detector) if "face" in specs else None
    fps = float(str(specs["face"].inputs["fps"])) if "face" in specs else 0.0
    jobs = tuple(_job(number, one) for number, one in enumerate(asked))
    shards: dict[str, str] = {}
    # Sets of one run may have been extracted with different mixes to mono; each mix is a pass of its own.
    channels = {modality: str(spec.inputs.get("channel", "mean")) for modality, spec in specs.items()}
    for channel in dict.fromkeys(channels.values()):
        here = tuple(made for modality, made in sets.items() if channels[modality] == channel)
        settings = TaskSettings(channel=channel, face_fps=fps, finder=finder, device=device, decode_threads=1)
        shards |= {name: info.name for name, info in run_task(ShardTask(jobs, here), settings).shards}
    keys = [(job.key, job.text_source) for job in jobs]
    nothing_known = np.full(len(jobs), np.nan)
    indexes = {
        made.name: index_set(made.spec, Path(made.folder), [shards[made.name]], keys, nothing_known)
        for made in sets.values()
    }
    table = UtteranceTable.of([key for key, _ in keys])
    write_catalogue(catalogue, Catalogue({"name": "clips"}, table, indexes, {}))
    return FeatureStore.open(catalogue)


def _job(number: int, asked: Asked) -> Job:
    source = number.to_bytes(16, "little")  # only tells the clips of this call apart
    return Job(
        key=f"clip-{number}",
        text=asked.text,
        picture=None if asked.clip is None or asked.problem else str(asked.clip.resolve()),
        sound=None,
        start_seconds=None,
        end_seconds=None,
        face_region=None,
        known_bad="",
        text_source=source,
        media_source=source,
    )


def _reason(asked: Asked, modality: str, stored: str) -> str:
    if modality == "text" and "no transcript" in stored:
        return "no words were given; add --text"
    return (asked.problem if modality != "text" else "") or stored or "no usable features"
