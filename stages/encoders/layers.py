"""Which hidden layers become the features.

Layer 0 is what enters the first block, layer k the output of block k, and the deepest layer is the model's own output,
its final normalisation included where it has one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mer.cache import MerError

_LAST_FEW = re.compile(r"-(\d+):")
_LIST = re.compile(r"-?\d+(,-?\d+)*")


@dataclass(frozen=True)
class LayerChoice:
    """Layers of one model, by number."""

    layers: tuple[int, ...]
    """Ascending, each in [0, depth]."""
    stack: bool
    """True when the layers are kept side by side, False when they are averaged."""

    @property
    def width(self) -> int:
        """Number of layers in one feature row."""
        return len(self.layers) if self.stack else 1


def check_layers(text: str) -> str:
    """Check the way a layer choice is written and return it without spaces.

    Raises
    ------
    MerError
        If it is none of `last`, `all`, `-4:` and a list such as `6,9,12`.
    """
    plain = text.replace(" ", "")
    if plain in ("last", "all") or _LIST.fullmatch(plain):
        return plain
    few = _LAST_FEW.fullmatch(plain)
    if few and int(few.group(1)) > 0:
        return plain
    raise MerError(
        f"layers {text!r} is not understood; use last, all, -4: (mean of the last four) or a list like 6,9,12"
    )


def choose_layers(text: str, depth: int) -> LayerChoice:
    """Turn a written choice into layer numbers of a model with `depth` blocks.

    `all` keeps every layer from 0 to `depth`, as SUPERB's weighted sum does; the others are averaged.

    Raises
    ------
    MerError
        If the model has no such layer.
    """
    plain = check_layers(text)
    if plain == "last":
        return LayerChoice((depth,), stack=False)
    if plain == "all":
        return LayerChoice(tuple(range(depth + 1)), stack=True)
    if few := _LAST_FEW.fullmatch(plain):
        numbers = list(range(depth + 1 - int(few.group(1)), depth + 1))
    else:
        numbers = [int(part) + (depth + 1 if int(part) < 0 else 0) for part in plain.split(",")]
    outside = [number for number in numbers if not 0 <= number <= depth]
    if outside:
        raise MerError(f"layers {text!r}: this model has layers 0 to {depth} (0 is the input of its first block)")
    return LayerChoice(tuple(sorted(set(numbers))), stack=False)
