"""Whether `mer` became slower than a measurement before, beyond what two measurements differ by anyway."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import MerError

LEAST_CHANGE = 0.1
"""A share of the limit that falls by less is not told, however steady the turns were."""


def read_baseline(path: Path) -> Mapping[str, Any]:
    """Read what `mer bench --json` printed.

    Raises
    ------
    MerError
        If it is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not any(list(_entries(found))):
            raise ValueError("it holds no rates")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise MerError(f"{path} is no output of `mer bench --json` ({error}); make one with it") from error
    return found


def regressions(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Sentences about what became slower; empty when nothing did.

    The bare forward passes (c), or where there are none the usual loop (b), run in turn with `mer` (a) in the same
    process, so a slow machine slows both: their ratio is compared. It counts as lower when it fell by more than a tenth
    and by more than the turns of either measurement spread.
    """
    then = dict(_entries(before))
    told = []
    for name, shares in _entries(now):
        if name not in then:
            continue
        old, new = float(np.median(then[name])), float(np.median(shares))
        noise = max(LEAST_CHANGE, _spread(shares), _spread(then[name]))
        if new < old * (1 - noise):
            told.append(f"{name}: {new:.2f} of the limit, {old:.2f} before; turns differ by up to {noise:.0%}")
    return told


def _spread(shares: npt.NDArray[np.float64]) -> float:
    return float((shares.max() - shares.min()) / max(float(np.median(shares)), 1e-9))


def _entries(found: Mapping[str, Any]) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """Name and, per turn, the share of the limit that each rate reaches."""
    for part, rates in found.items():
        for rate in rates:
            seconds = rate.get("seconds", {})
            limit = "c" if "c" in seconds else "b"
            if "a" in seconds and limit in seconds:
                shares = np.divide(np.atleast_1d(seconds[limit]), np.atleast_1d(seconds["a"]))
                name = " ".join([part, *(str(rate[key]) for key in ("modality", "head") if rate.get(key))])
                yield name, np.asarray(shares, np.float64)
