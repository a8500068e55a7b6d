"""Checkpoints of families that are not listed by name: whatever transformers' auto classes load.

Nothing is known of how such a model treats padding, so nothing is padded: items of equal length form a batch, which is
exact by construction and slower. Inputs are prepared by the checkpoint's own tokenizer, feature extractor or image
settings, and layers are the hidden states that the model hands out.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
import torch
from torch import Tensor, nn

from mer.cache import FeatureSequence, MerError

from ..interfaces import SAMPLE_RATE_HZ, EncoderInput, Waveform
from .audio import as_waveform, at_least
from .batching import CPU_BUDGETS, run_halving
from .face import LiveFace
from .families import model_type_of
from .layers import LayerChoice
from .loading import exact_math, load_model, settle, to_device, to_host
from .pretrained import AudioEncoder, PretrainedEncoder
from .spectrogram import load_extractor
from .text import LiveText
from .windows import Window, cut_windows

LEAST_SECONDS = 0.1
"""Shorter sound is followed by silence up to this."""

log = logging.getLogger("mer.encoders")


def load_tower(encoder: PretrainedEncoder, device: str) -> Any:
    """Load the encoder of a checkpoint: the whole model, its part for this modality, or the first half of a pair."""
    model: Any = load_model(encoder.found, device, encoder.precision, encoder.trust_remote_code)
    log.warning(
        "%s is of type %s, for which mer has no way of padding: items of equal length are encoded together, which is "
        "exact and slower",
        encoder.found.label,
        model_type_of(encoder.found.config),
    )
    part = getattr(model.config, encoder.family.part, None)
    if part is not None:
        towers = [one for one in model.modules() if isinstance(getattr(one, "config", None), type(part))]
        if not towers:
            raise MerError(f"checkpoint {encoder.found.label} has no part of its own for {encoder.modality}")
        return towers[0]
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder()
    return model


def accepted(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Keep of some inputs those that a model takes, without masks: nothing is padded."""
    known = inspect.signature(model.forward).parameters
    return {name: value for name, value in inputs.items() if name in known and "mask" not in name}


class HiddenStates:
    """Takes the chosen layers out of a model's output."""

    def __init__(self, choice: LayerChoice, depth: int, width: int, label: str) -> None:
        self.choice, self.depth, self.width, self.label = choice, depth, width, label

    @property
    def wanted(self) -> bool:
        """Whether inner layers are asked for."""
        return self.choice.layers != (self.depth,)

    def take(self, output: Any) -> Tensor:
        """Combine the chosen layers, shape (B, T, width), float32.

        Raises
        ------
        MerError
            If the model hands out other layers than its configuration says.
        """
        last = as_steps(output.last_hidden_state)
        states = [as_steps(state) for state in (getattr(output, "hidden_states", None) or ())] if self.wanted else []
        if self.wanted and (len(states) != self.depth + 1 or any(state.shape != last.shape for state in states)):
            raise MerError(f"checkpoint {self.label} does not hand out its {self.depth} layers; use layers last")
        if last.shape[-1] != self.width:
            raise MerError(
                f"checkpoint {self.label} gives {last.shape[-1]} numbers a step where its config.json says {self.width}"
            )
        chosen = [last if number == self.depth else states[number] for number in self.choice.layers]
        if self.choice.stack:
            return torch.cat([state.float() for state in chosen], dim=-1)
        return torch.stack([state.float() for state in chosen]).mean(dim=0)


def as_steps(hidden: Tensor) -> Tensor:
    """Lay the positions of a feature map, (B, C, H, W), behind each other, (B, H x W, C); leave (B, T, C) as it is."""
    return hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden


def equal_lengths(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut items into batches of one length each, none over the budget but a single item, the longest first."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        if batches and lengths[batches[-1][0]] == lengths[place] and lengths[place] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


class LiveAnyText(LiveText):
    """A text model of an unlisted family on a device."""

    padded = False

    def _load(self, depth: int) -> Any:
        model = load_tower(self.encoder, self.device)
        if hasattr(model.config, "use_cache"):
            model.config.use_cache = False
        self.states = HiddenStates(self.choice, depth, self.width, self.encoder.found.label)
        return model

    def _hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.states.take(self.model(input_ids=ids, output_hidden_states=self.states.wanted))

    def _cut(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        return equal_lengths(lengths, budget)


class LiveAnyFace(LiveFace):
    """An image model of an unlisted family on a device. A vector is the mean over all positions, or what it pools."""

    def _load(self, depth: int) -> Any:
        model = load_tower(self.encoder, self.device)
        self.states = HiddenStates(self.choice, depth, self.width, self.encoder.found.label)
        return model

    def _vectors(self, pictures: Tensor) -> Tensor:
        if self.pool == "pooled":
            pooled = getattr(self.model(pictures), "pooler_output", None)
            if pooled is None or pooled.flatten(1).shape[1] != self.width:
                raise MerError(f"checkpoint {self.encoder.found.label} has no pooled output; use pool=mean")
            return pooled.flatten(1)  # type: ignore[no-any-return]
        return self.states.take(self.model(pictures, output_hidden_states=self.states.wanted)).mean(dim=1)


class LiveAnyAudio:
    """A sound model of an unlisted family on a device.

    The steps of a clip are spread evenly over the sound that the feature extractor saw, each told by its centre.
    """

    side_by_side = True
    padded = False

    def __init__(self, encoder: AudioEncoder, device: str) -> None:
        self.encoder = encoder
        self.device = device
        self.budget = CPU_BUDGETS["audio"]
        self.choice, depth, self.width = encoder.choice()
        self.extractor = load_extractor(encoder)
        self.rate = encoder.rate_hz()
        self.model: Any = load_tower(encoder, device)
        self.states = HiddenStates(self.choice, depth, self.width, encoder.found.label)
        self.longest = int(encoder.max_seconds * SAMPLE_RATE_HZ)
        self.overlap = int(encoder.overlap_seconds * SAMPLE_RATE_HZ)
        self.seen = self._window_samples()

    def _window_samples(self) -> int:
        """Samples that the model always sees, the rest being silence; 0 where its steps follow the clip's length."""
        one, two = (self._run([np.zeros(seconds * SAMPLE_RATE_HZ, np.float32)])[0] for seconds in (1, 2))
        if len(one) != len(two):
            return 0
        window = getattr(self.extractor, "n_samples", None) or getattr(self.extractor, "nb_max_samples", None)
        if not window:
            raise MerError(
                f"checkpoint {self.encoder.found.label} gives as many steps for two seconds as for one, and its "
                "feature extractor does not say of how much sound; write an encoder of your own (module:Class)"
            )
        samples = int(window) * SAMPLE_RATE_HZ // self.rate
        self.longest = min(self.longest, samples)
        self.overlap = min(self.overlap, self.longest // 2)
        return samples

    def cost(self, item: EncoderInput) -> int:
        """Samples; a long clip counts as one chunk."""
        return max(1, min(len(as_waveform(item)), self.longest))

    def encode(self, batch: Sequence[EncoderInput]) -> list[FeatureSequence]:
        """See `mer.stages.interfaces.LoadedEncoder`."""
        waves = [at_least(as_waveform(item), int(LEAST_SECONDS * SAMPLE_RATE_HZ)) for item in batch]
        cuts = [cut_windows(len(wave), self.longest, self.overlap) for wave in waves]
        chunks = [(index, window) for index, cut in enumerate(cuts) for window in cut]
        found: dict[int, npt.NDArray[np.float32]] = {}

        def run(places: Sequence[int]) -> None:
            pieces = [waves[chunks[place][0]][chunks[place][1].start : chunks[place][1].stop] for place in places]
            found.update(zip(places, self._run(pieces), strict=True))

        for places in equal_lengths([window.stop - window.start for _, window in chunks], self.budget):
            run_halving(places, run)
        parts: list[list[tuple[Window, npt.NDArray[np.float32]]]] = [[] for _ in batch]
        for place, (index, window) in enumerate(chunks):
            parts[index].append((window, found[place]))
        return [self._sequence(part, len(as_waveform(item))) for part, item in zip(parts, batch, strict=True)]

    def _run(self, pieces: list[Waveform]) -> list[npt.NDArray[np.float32]]:
        """Features of chunks of one length."""
        made = [self._prepared(piece) for piece in pieces]
        inputs = {name: to_device(np.concatenate([one[name] for one in made]), self.device) for name in made[0]}
        dtype = next(self.model.parameters()).dtype
        cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        with exact_math(self.device, self.encoder.precision):
            output = self.model(**accepted(self.model, cast), output_hidden_states=self.states.wanted)
            return list(to_host(self.states.take(output)))

    def _prepared(self, piece: Waveform) -> dict[str, npt.NDArray[Any]]:
        sound = piece if self.rate == SAMPLE_RATE_HZ else soxr.resample(piece, SAMPLE_RATE_HZ, self.rate, quality="HQ")
        return dict(self.extractor(sound.astype(np.float32), sampling_rate=self.rate, return_tensors="np"))

    def _sequence(self, parts: list[tuple[Window, npt.NDArray[np.float32]]], heard: int) -> FeatureSequence:
        values, times = [np.zeros((0, self.width * self.choice.width), np.float32)], [np.zeros(0)]
        for window, rows in parts:
            samples = window.start + (np.arange(len(rows)) + 0.5) / len(rows) * (
                self.seen or window.stop - window.start
            )
            if heard < window.stop:  # a clip that silence was put behind
                samples = (np.arange(len(rows)) + 0.5) / len(rows) * heard
            kept = (samples >= window.keep_start) & (samples < window.keep_stop)
            values.append(rows[kept])
            times.append(samples[kept] / SAMPLE_RATE_HZ)
        note = {"audio_chunks": len(parts)} if len(parts) > 1 else {}
        return FeatureSequence.of(np.concatenate(values), np.concatenate(times), note)

    def probe(self, count: int) -> int:
        """Encode `count` chunks of the greatest length and return their cost."""
        self._run([np.zeros(self.longest, np.float32)] * count)
        settle(self.device)
        return count * self.longest
