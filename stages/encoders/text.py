"""Text encoders: RoBERTa, BERT, DeBERTa-v3, XLM-R, ModernBERT, sentence-transformers' checkpoints; Llama and Qwen.

Decoders are padded on the right as the others are: a token sees only those before it, so that what follows a text
cannot reach it, and positions count from its first token. Padding on the left, which generation needs, gives the same.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mer.cache import FeatureSequence, MerError

from ..interfaces import EncoderInput
from .batching import CPU_BUDGETS, cut_batches, run_halving
from .loading import LayerTap, exact_math, load_model, settle, to_device, to_host
from .pretrained import TextEncoder
from .windows import Window, cut_windows


class LiveText:
    """A text model on a device."""

    side_by_side = True

    def __init__(self, encoder: TextEncoder, device: str) -> None:
        self.encoder = encoder
        self.device = device
        self.budget = CPU_BUDGETS["text"]
        self.choice, depth, self.width = encoder.choice()
        checkpoint = encoder.found
        self.tokenizer = _load_tokenizer(encoder)
        self.prefix, self.suffix = _special_tokens(self.tokenizer)
        self.pad = int(self.tokenizer.pad_token_id or 0)
        self._tokenizing = threading.Lock()  # a tokenizer refuses to be borrowed twice
        self.pieces = lru_cache(maxsize=4096)(self._pieces)  # asked for the cost of a text, and to encode it
        self.model: Any = self._load(depth)
        self.prefix += self._pieces(encoder.instruction) if encoder.instruction else []
        self.room = encoder.window() - len(self.prefix) - len(self.suffix)
        self._check_vocabulary([*self.prefix, *self.suffix])
        if self.room < 8:
            raise MerError(f"the instruction leaves {self.room} tokens of {checkpoint.label}'s window; shorten it")

    def _load(self, depth: int) -> Any:
        """Load the model and prepare for taking the chosen layers out of it."""
        encoder = self.encoder
        model: Any = load_model(encoder.found, self.device, encoder.precision, encoder.trust_remote_code)
        if encoder.family.causal:
            model.config.use_cache = False
        self.tap = LayerTap(model, depth, self.choice, lambda hidden: hidden, encoder.found.label)
        return model

    def _hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Chosen layers of all positions, shape (B, T, width); `mask` is 0 at padding."""
        return self.tap.collect(self.model(input_ids=ids, attention_mask=mask).last_hidden_state)

    def _cut(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        """Cut windows into batches, by their lengths."""
        return cut_batches(lengths, budget)

    def _pieces(self, text: str) -> list[int]:
        """Word pieces of a text, without special tokens."""
        with self._tokenizing:
            ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        self._check_vocabulary(ids)
        return ids

    def _check_vocabulary(self, ids: list[int]) -> None:
        known = int(self.model.get_input_embeddings().num_embeddings)
        if max(ids, default=0) >= known:
            raise MerError(
                f"the tokenizer of {self.encoder.found.label} knows tokens that its model, with {known}, does not; "
                "do tokenizer and weights belong together?"
            )

    def cost(self, item: EncoderInput) -> int:
        """Tokens, special ones included; a long text counts as one window, since windows are batched apart."""
        length = len(self.pieces(_checked(item)))
        return min(length, self.room) + len(self.prefix) + len(self.suffix)

    def encode(self, batch: Sequence[EncoderInput]) -> list[FeatureSequence]:
        """See `mer.stages.interfaces.LoadedEncoder`."""
        texts = [self.pieces(_checked(item)) for item in batch]
        cuts = [cut_windows(len(ids), self.room, int(self.room * self.encoder.overlap)) for ids in texts]
        windows = [(index, window) for index, cut in enumerate(cuts) for window in cut]
        rows: dict[int, npt.NDArray[np.float32]] = {}
        lengths = [window.stop - window.start for _, window in windows]
        budget = max(self.budget, len(batch) * max(lengths, default=1))

        def run(places: Sequence[int]) -> None:
            rows.update(zip(places, self._run(texts, [windows[place] for place in places]), strict=True))

        for places in self._cut(lengths, budget):
            run_halving(places, run)
        parts: list[list[npt.NDArray[np.float32]]] = [[] for _ in batch]
        for place, (index, _) in enumerate(windows):
            parts[index].append(rows[place])
        return [self._sequence(part, len(cut)) for part, cut in zip(parts, cuts, strict=True)]

    def _run(self, texts: list[list[int]], chosen: list[tuple[int, Window]]) -> list[npt.NDArray[np.float32]]:
        longest = max(window.stop - window.start for _, window in chosen) + len(self.prefix) + len(self.suffix)
        ids = np.full((len(chosen), longest), self.pad, np.int64)
        mask = np.zeros((len(chosen), longest), np.int64)
        keep = np.zeros((len(chosen), longest), np.bool_)
        for row, (index, window) in enumerate(chosen):
            line = [*self.prefix, *texts[index][window.start : window.stop], *self.suffix]
            ids[row, : len(line)] = line
            mask[row, : len(line)] = 1
            if self.encoder.pool == "last":
                keep[row, len(line) - 1] = window.stop == len(texts[index])  # of several windows, the last one's
                continue
            first = len(self.prefix) - window.start
            keep[row, first + window.keep_start : first + window.keep_stop] = True
        with exact_math(self.device, self.encoder.precision):
            hidden = self._hidden(to_device(ids, self.device), to_device(mask, self.device))
            values = to_host(hidden[to_device(keep, self.device)])
        return np.split(values, np.cumsum(keep.sum(axis=1))[:-1])

    def _sequence(self, parts: list[npt.NDArray[np.float32]], windows: int) -> FeatureSequence:
        empty = np.zeros((0, self.width * self.choice.width), np.float32)
        values = np.concatenate(parts) if parts else empty
        if self.encoder.pool == "mean" and len(values):
            values = values.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
        times = (np.arange(len(values)) + 0.5) / max(1, len(values))
        return FeatureSequence.of(values, times, {"text_windows": windows} if windows > 1 else {})

    def probe(self, count: int) -> int:
        """Encode `count` texts of the greatest length and return their cost."""
        filler = [0] * self.room  # a token that every vocabulary has
        window = Window(0, self.room, 0, self.room)
        self._run([filler] * count, [(index, window) for index in range(count)])
        settle(self.device)
        return count * self.encoder.window()


def _checked(item: EncoderInput) -> str:
    if not isinstance(item, str):
        raise MerError(f"a text encoder takes a transcript, not {type(item).__name__}")
    return item


def _load_tokenizer(encoder: TextEncoder) -> Any:
    from transformers import AutoTokenizer

    checkpoint = encoder.found
    try:
        return AutoTokenizer.from_pretrained(
            checkpoint.folder, local_files_only=True, trust_remote_code=encoder.trust_remote_code
        )
    except Exception as error:  # tokenizers raise errors of many libraries
        reason = " ".join(str(error).split())[:300]
        raise MerError(
            f"the tokenizer of {checkpoint.label} cannot be loaded from {checkpoint.folder}: {reason}"
        ) from error


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokens that the tokenizer puts before and after one text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return list(full[:start]), list(full[start + len(plain) :])
    raise MerError("the tokenizer does not keep a text in one piece between its special tokens")
