"""mer: multimodal emotion recognition on frozen features, from Python.

    import mer

    store = mer.open("cache/meld.h5")                      # or mer.extract(corpus="meld"), or the URL of a pack
    store.table()                                          # pandas: one row per utterance
    X, y = store.arrays("audio", split="train", target="emotion")
    run = mer.train(store, head="drkf", seeds=3)
    run.scores, run.predictions(), run.predict(["clip.mp4"])

Nothing heavy is imported until a name is used. This folder is installed as the package `mer`; the rooms `mer.cache`,
`mer.stages` and `mer.pipeline` are packages beside it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mer.cache import MerError
    from mer.pipeline.library.extraction import extract
    from mer.pipeline.library.runs import TrainedRun, compare, load_run, train
    from mer.pipeline.library.store import Features, Store
    from mer.pipeline.library.store import open_store as open

    __version__: str

_PLACES = {
    "MerError": "mer.cache:MerError",
    "open": "mer.pipeline.library.store:open_store",
    "Store": "mer.pipeline.library.store:Store",
    "Features": "mer.pipeline.library.store:Features",
    "extract": "mer.pipeline.library.extraction:extract",
    "train": "mer.pipeline.library.runs:train",
    "load_run": "mer.pipeline.library.runs:load_run",
    "compare": "mer.pipeline.library.runs:compare",
    "TrainedRun": "mer.pipeline.library.runs:TrainedRun",
}

__all__ = [
    "Features",
    "MerError",
    "Store",
    "TrainedRun",
    "__version__",
    "compare",
    "extract",
    "load_run",
    "open",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from mer.cache.release import program_version

        return program_version()
    if name not in _PLACES:
        raise AttributeError(f"module 'mer' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    globals()[name] = found = getattr(importlib.import_module(module), attribute)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
