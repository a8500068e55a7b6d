"""`mer predict --windows`: what a run says of every person in every window of a video."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import Fate, FeatureBlock, FeatureSequence, FeatureSpec, MerError
from mer.cache.shard import SOURCE_BYTES, ShardRow, prepare_row
from mer.stages.device import resolve_device
from mer.stages.interfaces import EncoderInput, FaceCrops

from ..extraction.decoding import TaskSettings, loaded_finder
from ..extraction.restore import check_sound, restore_encoder, restore_finder
from ..extraction.tasks import EncodingSet, encoding_threads, loaded_encoder
from ..training.run_folder import Run
from ..training.shared import WINDOW_TURNS
from .crop_memo import CropMemo
from .forward import flat_of, outputs_of
from .moments import Moment, VideoPass, Watched
from .timeline import Prediction
from .windows import Windows

ROWS_AT_ONCE = 16
"""Windows times people that are encoded together: more holds more face crops in memory."""


class VideoPredictor:
    """The encoders, the face finder and the models of a run, ready for videos.

    Parameters
    ----------
    run
        A finished run. One with dialogue context takes `WINDOW_TURNS` windows at a time as the turns of a dialogue.
    encoders, device, trust_remote_code, face_detector
        As for `predict_clips`.
    transcribe
        Whisper checkpoint that writes down what is said in each window without words; None listens to none.

    Raises
    ------
    MerError
        If an encoder or the face detector is not at hand or not the run's, or its sound was mixed in several ways.
    """

    def __init__(
        self,
        run: Run,
        encoders: Mapping[str, str] | None = None,
        device: str = "auto",
        trust_remote_code: bool = False,
        face_detector: Path | None = None,
        transcribe: str | None = None,
    ) -> None:
        self.run = run
        self._specs = run.specs
        self._transcribe = transcribe
        named = dict(encoders or {})
        self._sets = {m: _encoding_set(spec, named.get(m), trust_remote_code) for m, spec in self._specs.items()}
        channels = {str(spec.inputs.get("channel", "mean")) for m, spec in self._specs.items() if m != "text"}
        if len(channels) > 1:
            raise MerError(f"{run.path}: its features hear sound mixed in several ways; predict whole clips with it")
        self._channel = next(iter(channels), "mean")
        face = self._specs.get("face")
        self._finder = None if face is None else restore_finder(face, face_detector)
        self._fps = 5.0 if face is None else float(str(face.inputs["fps"]))
        self._settings = TaskSettings(self._channel, self._fps, self._finder, device=resolve_device(device))
        self._models = [run.load_model(member["name"]) for member in run.members]
        self._pooling = run.pooling()
        self._crops = CropMemo()
        self._most = WINDOW_TURNS if run.facts["context"] != "none" else ROWS_AT_ONCE

    def watch(
        self,
        video: Path,
        windows: Windows,
        on_rows: Callable[[list[Prediction]], None],
        on_time: Callable[[float], None] = lambda _: None,
        known: int = 0,
    ) -> Watched:
        """Predict a video in one pass.

        Parameters
        ----------
        video
            Path of the video.
        windows
            Which stretches.
        on_rows
            Called with the predictions of whole windows, in their order.
        on_time
            Called with the seconds read so far.
        known
            So many first windows were predicted before: they are watched, so that people keep their numbers, and
            not encoded again.

        Raises
        ------
        MerError
            If the video cannot be read.
        """
        waiting: list[Moment] = []
        self._crops = CropMemo()  # numbers of crops are of one video

        def take(moments: list[Moment]) -> None:
            if moments[0].window.index < known:
                return
            waiting.extend(moments)
            if len(waiting) >= self._most:
                on_rows(self.predict(waiting))
                waiting.clear()

        finder = None if self._finder is None else loaded_finder(self._finder)
        watched = VideoPass(video, windows, finder, self._fps, self._channel, take, on_time).run()
        if waiting:
            on_rows(self.predict(waiting))
        return watched

    def predict(self, moments: Sequence[Moment]) -> list[Prediction]:
        """Encode moments and ask every model, all modalities together and each alone."""
        texts = self._texts(moments)
        flats, reasons = {}, {}
        for modality in self._specs:
            sequences, reasons[modality] = self._encode(modality, moments, texts)
            flats[modality] = flat_of(self.run, _block(self._specs[modality], sequences), modality, self._pooling)
        present = {m: np.asarray((flat.lengths > 0).numpy()) for m, flat in flats.items()}
        together = np.stack([outputs_of(self.run, model, flats, present) for model in self._models])
        alone: dict[str, npt.NDArray[np.float64]] = {}
        for modality in present if len(present) > 1 else ():
            only = {m: there if m == modality else np.zeros_like(there) for m, there in present.items()}
            alone[modality] = np.mean([outputs_of(self.run, model, flats, only) for model in self._models], axis=0)
        rows = []
        for row, moment in enumerate(moments):
            used = tuple(m for m in present if present[m][row])
            missing = {m: moment.missing.get(m) or reasons[m][row] for m in present if not present[m][row]}
            single = {m: alone[m][row] for m in used if m in alone}
            rows.append(
                Prediction(
                    window=moment.window.index,
                    start_seconds=moment.window.start_seconds,
                    end_seconds=moment.window.end_seconds,
                    person=moment.person,
                    leads=moment.leads,
                    why=moment.why,
                    text=texts[row],
                    output=together[:, row].mean(0),
                    spread=together[:, row].std(0),
                    used=used,
                    missing=missing,
                    alone=single,
                    agreement=agreement(self.run.kind, list(single.values())),
                )
            )
        return rows

    def _texts(self, moments: Sequence[Moment]) -> list[str | None]:
        texts = [moment.text for moment in moments]
        if self._transcribe is None or "text" not in self._specs:
            return texts
        from mer.stages.speech.transcribe import transcribe

        heard = {
            row: moment.waveform
            for row, moment in enumerate(moments)
            if moment.leads and moment.text is None and moment.waveform is not None
        }
        written = transcribe(list(heard.values()), self._transcribe, self._settings.device)
        for row, text in zip(heard, written, strict=True):
            texts[row] = text
        return texts

    def _encode(
        self, modality: str, moments: Sequence[Moment], texts: Sequence[str | None]
    ) -> tuple[list[FeatureSequence | None], list[str]]:
        """Features of one modality, or why there are none."""
        inputs: dict[int, EncoderInput] = {}
        reasons = ["nothing was found"] * len(moments)
        for row, (moment, text) in enumerate(zip(moments, texts, strict=True)):
            given = text if modality == "text" else moment.waveform if modality == "audio" else moment.faces
            if given is None:
                reasons[row] = "no words were given; add --subtitles or --transcribe" if modality == "text" else ""
            elif isinstance(given, str) and not given.strip():
                reasons[row] = "no words here"
            else:
                inputs[row] = given
        sequences: list[FeatureSequence | None] = [None] * len(moments)
        if not inputs:
            return sequences, reasons
        from mer.stages.encoders.batching import Encoding

        made = self._sets[modality]
        loaded, budget = loaded_encoder(made, self._settings)

        def encode(items: Sequence[EncoderInput]) -> dict[int, FeatureSequence | MerError]:
            return dict(Encoding(loaded, items, budget, encoding_threads(loaded, self._settings)).finished())

        if modality == "face" and getattr(loaded, "per_crop", False):
            found = self._crops.encode(
                {row: face for row, face in inputs.items() if isinstance(face, FaceCrops)}, encode
            )
        else:
            rows = list(inputs)
            found = {rows[place]: result for place, result in encode(list(inputs.values())).items()}
        for row, result in found.items():
            if isinstance(result, FeatureSequence):
                stored = prepare_row(made.spec, ShardRow("window", bytes(SOURCE_BYTES), Fate.OK, sequence=result))
                sequences[row], reasons[row] = stored.sequence, stored.reason
            else:
                reasons[row] = f"encoding failed: {result}"
        return sequences, reasons


def _encoding_set(spec: FeatureSpec, name: str | None, trust_remote_code: bool) -> EncodingSet:
    if spec.modality == "audio":
        check_sound(spec)
    return EncodingSet(spec.set_name, restore_encoder(spec, name, trust_remote_code), spec, "")


def _block(spec: FeatureSpec, sequences: Sequence[FeatureSequence | None]) -> FeatureBlock:
    """Features one after the other, as a cache would give them back."""
    there = [one for one in sequences if one is not None]
    lengths = [0 if one is None else len(one) for one in sequences]
    return FeatureBlock(
        values=np.concatenate([one.values for one in there]) if there else np.zeros((0, spec.dim), spec.dtype),
        times=np.concatenate([one.times for one in there]) if there else np.zeros(0, np.float32),
        valid=np.concatenate([one.valid for one in there]) if there else np.zeros(0, np.bool_),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        fates=np.array([Fate.MISSING if one is None else Fate.OK for one in sequences], np.uint8),
    )


def agreement(kind: str, outputs: Sequence[npt.NDArray[np.float64]]) -> float | None:
    """How far the modalities agree, each asked alone: 1 where all say the same, 0 where no class is shared.

    One minus the mean, over pairs of modalities, of the total variation distance of their probabilities; for sets of
    classes, of the mean absolute difference. None for numbers and where fewer than two modalities are there.
    """
    if kind == "real" or len(outputs) < 2:
        return None
    each: Any = np.sum if kind == "class" else np.mean
    apart = [float(each(np.abs(a - b))) * (0.5 if kind == "class" else 1.0) for a, b in combinations(outputs, 2)]
    return 1.0 - float(np.mean(apart))
