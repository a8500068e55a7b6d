"""The user's cache folder: what `mer` can make again and need not make twice."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(*parts: str) -> Path:
    """Return `$MER_CACHE`, else `$XDG_CACHE_HOME/mer`, else `~/.cache/mer`, with `parts` below it. Makes nothing."""
    if chosen := os.environ.get("MER_CACHE"):
        return Path(chosen).expanduser().joinpath(*parts)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().joinpath("mer", *parts)
