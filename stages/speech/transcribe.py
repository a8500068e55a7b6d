"""Transcripts for clips that have none, by a Whisper checkpoint through transformers.

Greedy decoding, so equal sound gives equal text on one machine. The text is a machine's: callers mark it so.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from mer.cache import MerError

from ..interfaces import SAMPLE_RATE_HZ, Waveform

WINDOW_SECONDS = 30.0
"""Whisper hears this much at once."""
SEARCH_SECONDS = 5.0
"""Longer sound is cut at the quietest place in the last seconds of a window."""
HUSH_SECONDS = 0.1
PIECES_AT_ONCE = 8


def transcribe(waveforms: Sequence[Waveform], model: str, device: str) -> list[str]:
    """Write down what is said in each clip, in the language it is said in.

    Parameters
    ----------
    waveforms
        Mono sound at 16 kHz; any length, sound of no samples gives the empty text.
    model
        Hub id such as `openai/whisper-small`, or a local folder.
    device
        `cpu`, `cuda` or `cuda:i`.

    Raises
    ------
    MerError
        If the checkpoint is missing, damaged or not a Whisper one, or the device is not there.
    """
    listener = _load(model, device)
    pieces = [(row, piece) for row, waveform in enumerate(waveforms) for piece in split_quietly(waveform)]
    texts: list[list[str]] = [[] for _ in waveforms]
    for start in range(0, len(pieces), PIECES_AT_ONCE):
        batch = pieces[start : start + PIECES_AT_ONCE]
        for (row, _), text in zip(batch, listener.listen([piece for _, piece in batch]), strict=True):
            texts[row].append(text)
    return [" ".join(text for text in parts if text) for parts in texts]


def split_quietly(waveform: Waveform) -> list[Waveform]:
    """Cut sound into pieces of at most 30 s, each cut in the middle of the quietest 0.1 s of the window's last 5 s."""
    window, search, hush = (
        round(seconds * SAMPLE_RATE_HZ) for seconds in (WINDOW_SECONDS, SEARCH_SECONDS, HUSH_SECONDS)
    )
    pieces = []
    rest = waveform
    while len(rest) > window:
        energy = np.concatenate([[0.0], np.cumsum(np.square(rest[window - search : window], dtype=np.float64))])
        quietest = int(np.argmin(energy[hush:] - energy[:-hush]))
        cut = window - search + quietest + hush // 2
        pieces.append(rest[:cut])
        rest = rest[cut:]
    return [*pieces, rest] if len(rest) else pieces


class _Listener:
    """A loaded checkpoint."""

    def __init__(self, model: Any, processor: Any, device: str) -> None:
        self._model = model
        self._processor = processor
        self._device = device

    def listen(self, pieces: Sequence[Waveform]) -> list[str]:
        """Transcribe pieces of at most 30 s together."""
        import torch

        heard = self._processor(
            [np.asarray(piece) for piece in pieces],
            sampling_rate=SAMPLE_RATE_HZ,
            return_tensors="pt",
            return_attention_mask=True,
        )
        settings = {"task": "transcribe"} if getattr(self._model.generation_config, "is_multilingual", False) else {}
        with torch.inference_mode():
            tokens = self._model.generate(
                heard.input_features.to(self._device),
                attention_mask=heard.attention_mask.to(self._device),
                do_sample=False,
                num_beams=1,
                **settings,
            )
        return [text.strip() for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]


@functools.lru_cache(maxsize=1)
def _load(model: str, device: str) -> _Listener:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    from ..encoders.checkpoint import find_checkpoint
    from ..encoders.loading import check_device, load_model

    check_device(device)
    checkpoint = find_checkpoint(model)
    kind = checkpoint.config.get("model_type")
    if kind != "whisper":
        raise MerError(f"checkpoint {model} is a {kind} model; --transcribe needs a Whisper one")
    if checkpoint.revision and not checkpoint.read("generation_config.json"):
        _fetch_generation_settings(checkpoint.label, checkpoint.revision)
    network = load_model(checkpoint, device, "float32", False, auto=WhisperForConditionalGeneration)
    try:
        processor = WhisperProcessor.from_pretrained(checkpoint.folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise MerError(f"checkpoint {model} has no usable tokenizer or feature extractor ({error})") from error
    return _Listener(network, processor, device)


def _fetch_generation_settings(repository: str, revision: str) -> None:
    """Fetch the file that says which tokens name languages and tasks; it lands beside the weights."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        hf_hub_download(repository, "generation_config.json", revision=revision)
    except LocalEntryNotFoundError as error:
        raise MerError(f"generation_config.json of {repository} cannot be fetched; is the hub reachable?") from error
    except EntryNotFoundError:
        return  # an old checkpoint: transformers takes the settings from its configuration
