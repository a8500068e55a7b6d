"""What a decoded picture is, and who takes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..interfaces import Waveform

Picture: TypeAlias = npt.NDArray[np.uint8]
"""Shape (H, W, 3), BGR, upright and with square pixels; or (H, W), grey."""


FrameSink: TypeAlias = Callable[[float, Picture], None]
"""Called with seconds from the start of the span and one picture, which it may keep and must not change."""

SoundSink: TypeAlias = Callable[[Waveform], None]
"""Called with the next piece of the 16 kHz waveform; pieces follow each other without a gap."""
