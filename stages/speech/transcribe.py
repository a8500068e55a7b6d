"""Transcripts for clips that have none, by a Whisper checkpoint through transformers.

A recogniser writes sentences for silence, noise and music too. So a clip in which nobody can be heard is not given to
it; what it writes is scored; and what repeats itself, is longer than anybody could have said, or is written without
confidence, is tried once more by beam search and then refused. Nothing is drawn at random, so that equal sound gives
equal text on one machine. The text is a machine's: callers mark it so.
"""

from __future__ import annotations

import copy
import functools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mer.cache import MerError

from ..interfaces import SAMPLE_RATE_HZ, Waveform
from .activity import Span, find_speech, method

WINDOW_SECONDS = 30.0
"""Whisper hears this much at once."""
SEARCH_SECONDS = 5.0
"""Longer sound is cut at the quietest place in the last seconds of a window."""
HUSH_SECONDS = 0.1
PIECES_AT_ONCE = 8

MOST_NO_SPEECH, LEAST_LOG_PROBABILITY, MOST_COMPRESSION = 0.6, -1.0, 2.4
"""Limits that Whisper's authors use: probability that nobody speaks, mean log probability of a token, and how much
shorter zlib makes the text."""
MOST_CHARACTERS_A_SECOND = 30.0
"""Of speech heard; the fastest speakers stay below 25."""
FREE_CHARACTERS = 20
"""A short cry may be written as a word or two."""
TOKENS_A_SECOND, FREE_TOKENS = 12, 24
"""Bound on what may be written, in tokens: of speech heard, and for marks around it."""
NOTHING = "no speech heard"


@dataclass(frozen=True)
class Heard:
    """What was heard in a clip."""

    text: str
    """Empty where nothing was heard, or nothing that can be trusted."""
    segments: tuple[tuple[float, float, str], ...] = ()
    """Start and end in seconds, and words."""
    note: dict[str, Any] = field(default_factory=dict)
    """Scores, language, and why a text was refused."""


@dataclass(frozen=True)
class _Piece:
    """A stretch of a clip that fits the recogniser's window."""

    row: int
    start_seconds: float
    waveform: Waveform
    speech_seconds: float

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return len(self.waveform) / SAMPLE_RATE_HZ


@dataclass(frozen=True)
class _Attempt:
    """One way to write a piece down, and how far it can be trusted."""

    text: str
    segments: tuple[tuple[float, float, str], ...]
    no_speech: float
    log_probability: float
    finished: bool

    @property
    def compression(self) -> float:
        """How many times shorter zlib makes the text; that of repetitions is high."""
        content = self.text.encode()
        return len(content) / len(zlib.compress(content)) if content else 0.0

    def fault(self, speech_seconds: float) -> str:
        """Why this text is not to be trusted, or the empty string."""
        if not self.finished or len(self.text) > FREE_CHARACTERS + MOST_CHARACTERS_A_SECOND * speech_seconds:
            return "longer than what was said can be"
        if self.compression > MOST_COMPRESSION:
            return "repeats itself"
        if self.no_speech > MOST_NO_SPEECH and self.log_probability < LEAST_LOG_PROBABILITY:
            return "nobody seems to speak"
        return "written without confidence" if self.log_probability < LEAST_LOG_PROBABILITY else ""


def transcribe(waveforms: Sequence[Waveform], model: str, device: str, language: str | None = None) -> list[str]:
    """Write down what is said in each clip; the empty text where nothing is heard. See `listen`."""
    return [heard.text for heard in listen(waveforms, model, device, language)]


def listen(waveforms: Sequence[Waveform], model: str, device: str, language: str | None = None) -> list[Heard]:
    """Write down what is said in each clip, in the language it is said in.

    Parameters
    ----------
    waveforms
        Mono sound at 16 kHz; any length, sound of no samples gives the empty text.
    model
        Hub id such as `openai/whisper-small`, or a local folder.
    device
        `cpu`, `cuda` or `cuda:i`.
    language
        What is spoken, as a code such as `de`; None lets the model find out, clip by clip.

    Raises
    ------
    MerError
        If the checkpoint is missing, damaged or not a Whisper one, knows no such language, or the device is not there.
    """
    listener = _load(model, device)
    listener.check(language)
    pieces = [piece for row, waveform in enumerate(waveforms) for piece in _spoken_pieces(row, waveform)]
    found: list[list[tuple[_Piece, _Attempt, dict[str, Any]]]] = [[] for _ in waveforms]
    for start in range(0, len(pieces), PIECES_AT_ONCE):
        batch = pieces[start : start + PIECES_AT_ONCE]
        for piece, (attempt, note) in zip(batch, listener.listen(batch, language), strict=True):
            found[piece.row].append((piece, attempt, note))
    return [_together(of_clip) for of_clip in found]


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


def _spoken_pieces(row: int, waveform: Waveform) -> list[_Piece]:
    """Pieces of a clip in which somebody may be speaking."""
    spans = find_speech(waveform)
    pieces, start = [], 0
    for part in split_quietly(waveform):
        first, last = start / SAMPLE_RATE_HZ, (start + len(part)) / SAMPLE_RATE_HZ
        seconds = sum(_overlap(span, (first, last)) for span in spans)
        if seconds > 0:
            pieces.append(_Piece(row, first, part, seconds))
        start += len(part)
    return pieces


def _overlap(one: Span, other: Span) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def _together(parts: Sequence[tuple[_Piece, _Attempt, dict[str, Any]]]) -> Heard:
    """Join what was heard in the pieces of one clip."""
    if not parts:
        return Heard("", note={"activity": method(), "speech_seconds": 0.0})
    trusted = [(piece, attempt) for piece, attempt, note in parts if "refused" not in note]
    segments = tuple(
        (round(piece.start_seconds + start, 2), round(piece.start_seconds + min(stop, piece.seconds), 2), text)
        for piece, attempt in trusted
        for start, stop, text in attempt.segments
        if start < piece.seconds
    )
    note: dict[str, Any] = {
        "activity": method(),
        "speech_seconds": round(sum(one[0].speech_seconds for one in parts), 2),
    }
    worst = max(parts, key=lambda part: ("refused" in part[2], -part[1].log_probability))
    return Heard(" ".join(attempt.text for _, attempt in trusted if attempt.text), segments, note | worst[2])


class _Listener:
    """A loaded checkpoint."""

    def __init__(self, model: Any, processor: Any, device: str) -> None:
        self._model = model
        self._processor = processor
        self._device = device
        self._settings = copy.deepcopy(model.generation_config)
        self._settings.max_length = None
        self._timed = getattr(self._settings, "no_timestamps_token_id", None)
        self._languages: dict[str, int] = dict(getattr(self._settings, "lang_to_id", None) or {})

    def check(self, language: str | None) -> None:
        """Refuse a language that the checkpoint does not know."""
        if language is not None and f"<|{language}|>" not in self._languages:
            known = ", ".join(sorted(name.strip("<|>") for name in self._languages)) or "one language alone"
            raise MerError(f"--language {language!r} is not one the recogniser knows; it knows {known}")

    def listen(self, pieces: Sequence[_Piece], language: str | None) -> list[tuple[_Attempt, dict[str, Any]]]:
        """Transcribe pieces of at most 30 s together; those that are not trusted once more by beam search."""
        import torch

        from ..encoders.loading import quiet_transformers

        heard = self._processor(
            [np.asarray(piece.waveform) for piece in pieces], sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt"
        )
        with torch.inference_mode(), quiet_transformers():
            seen = self._model.get_encoder()(heard.input_features.to(self._device)).last_hidden_state
            silent, languages = self._first_token(seen, language)
            written = []
            for row, piece in enumerate(pieces):
                states = seen[row : row + 1]
                attempt = self._write(states, piece, silent[row], languages[row], beams=1)
                note: dict[str, Any] = {}
                if attempt.fault(piece.speech_seconds):
                    attempt, note = self._write(states, piece, silent[row], languages[row], beams=5), {"tries": 2}
                if fault := attempt.fault(piece.speech_seconds):
                    note |= {"refused": fault, "refused_text": attempt.text[:200]}
                written.append((attempt, note | _scores(attempt, languages[row])))
        return written

    def _first_token(self, seen: Any, language: str | None) -> tuple[list[float], list[str | None]]:
        """Probability that nobody speaks, and the language, of each row: what the model says before the first word."""
        import torch

        start = torch.full((len(seen), 1), self._settings.decoder_start_token_id, device=self._device)
        logits = self._model(encoder_outputs=(seen,), decoder_input_ids=start).logits[:, 0].float()
        silent = [0.0] * len(seen)
        if self._timed is not None:  # the token before that of "no times" stands for no speech
            silent = logits.softmax(-1)[:, self._timed - 1].tolist()
        if language is not None or not self._languages:
            return silent, [language] * len(seen)
        names = list(self._languages)
        best = logits[:, [self._languages[name] for name in names]].argmax(-1).tolist()
        return silent, [names[place].strip("<|>") for place in best]

    def _write(self, states: Any, piece: _Piece, silent: float, language: str | None, beams: int) -> _Attempt:
        from transformers.modeling_outputs import BaseModelOutput

        settings = copy.deepcopy(self._settings)
        room = int(self._model.config.max_target_positions) - 8
        settings.max_new_tokens = min(room, FREE_TOKENS + math.ceil(TOKENS_A_SECOND * piece.speech_seconds))
        settings.do_sample, settings.num_beams = False, beams
        if beams > 1:
            settings.no_repeat_ngram_size = 4
        spoken = {"task": "transcribe", "language": language} if getattr(settings, "is_multilingual", False) else {}
        tokens = self._model.generate(
            encoder_outputs=BaseModelOutput(states),
            generation_config=settings,
            return_timestamps=self._timed is not None,
            **spoken,
        )[0].tolist()
        end = settings.eos_token_id
        finished = tokens[-1:] == [end] or len(tokens) < settings.max_new_tokens
        tokens = [token for token in tokens if token != end]
        text = self._text(tokens)
        return _Attempt(text, self._segments(tokens), silent, self._likelihood(states, tokens, language), finished)

    def _likelihood(self, states: Any, tokens: list[int], language: str | None) -> float:
        """Mean log probability of the tokens that were written, the end included."""
        import torch

        settings = self._settings
        before = [settings.decoder_start_token_id]
        if getattr(settings, "is_multilingual", False):
            before += [self._languages[f"<|{language}|>"], settings.task_to_id["transcribe"]]
        line = [*before, *tokens, settings.eos_token_id]
        ids = torch.tensor([line[:-1]], device=self._device)
        logits = self._model(encoder_outputs=(states,), decoder_input_ids=ids).logits[0].float().log_softmax(-1)
        wanted = torch.tensor(line[len(before) :], device=self._device)
        return float(logits[len(before) - 1 :].gather(1, wanted[:, None]).mean())

    def _text(self, tokens: list[int]) -> str:
        plain = [token for token in tokens if self._timed is None or token <= self._timed]
        return str(self._processor.decode(plain, skip_special_tokens=True)).strip()

    def _segments(self, tokens: list[int]) -> tuple[tuple[float, float, str], ...]:
        """Stretches between two times; a last one without an end is left out."""
        if self._timed is None:
            return ()
        segments, start, words = [], 0.0, list[int]()
        for token in tokens:
            if token <= self._timed:
                words.append(token)
                continue
            seconds = (token - self._timed - 1) * 0.02
            if words:
                segments.append((round(start, 2), round(seconds, 2), self._text(words)))
            start, words = seconds, []
        return tuple(segments)


def _scores(attempt: _Attempt, language: str | None) -> dict[str, Any]:
    """What is noted of an attempt."""
    scores: dict[str, Any] = {
        "no_speech_probability": round(attempt.no_speech, 4),
        "mean_log_probability": round(attempt.log_probability, 4),
        "compression_ratio": round(attempt.compression, 3),
    }
    return scores | ({"language": language} if language else {})


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
