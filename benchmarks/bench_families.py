"""Which families of checkpoints run, by which batch rule, and how far a batch differs from its singles.

python benchmarks/bench_families.py

Every checkpoint is a tiny one with random weights of unit gain, written by transformers' own classes (by the makers of
the tests). The input is that of the conformance suite: texts of one word to several windows, sound of 3 ms to 30 s,
clips of 0 to 40 faces. The difference is the largest absolute one over all items and layers, in float32.
"""

from __future__ import annotations

import importlib.metadata
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

Maker = Callable[[Path], Path]


def families() -> Iterator[tuple[str, str, Maker]]:
    """Modality, name and maker of every family."""
    import more_checkpoints
    import tiny_checkpoints

    for modality in ("text", "audio", "face"):
        tables = (
            tiny_checkpoints.MAKERS,
            more_checkpoints.LISTED,
            more_checkpoints.RELATIVES,
            more_checkpoints.UNLISTED,
        )
        for table in tables:
            yield from ((modality, name, make) for name, make in table.get(modality, {}).items())


def compare(modality: str, name: str, folder: Path) -> str:
    """One row of the table."""
    from mer.cache import MerError
    from mer.stages.encoders.catalog import make_encoder
    from mer.stages.encoders.families import model_type_of
    from mer.stages.encoders.testing import MAKERS, difference

    items = MAKERS[modality]()
    greatest, chosen = 0.0, []
    for layers in ("last", "all"):
        try:
            encoder = make_encoder(modality, str(folder), layers).resolve()
            loaded = encoder.load("cpu")
            singles = [loaded.encode([item])[0] for item in items]
            together = loaded.encode(items)
        except MerError:
            if layers == "last":
                raise
            continue
        chosen.append(layers)
        pairs = zip(singles, together, strict=True)
        greatest = max(greatest, *(difference(single, one)[0] for single, one in pairs))
    family, kind = encoder.family, model_type_of(encoder.found.config)  # type: ignore[attr-defined]
    pool = encoder.settings().get("pool", "each step")  # type: ignore[attr-defined]
    layers = "any" if len(chosen) == 2 else "last"
    return f"| {modality} | {name} | {kind} | {family.batches} | {pool} | {layers} | {greatest:.1e} |"


def main() -> None:
    """Print the table."""
    import transformers

    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers")))
    print("| modality | checkpoint | `model_type` | batch rule | vector | layers | largest difference |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        for modality, name, make in families():
            print(compare(modality, name, make(Path(home) / name)), flush=True)


if __name__ == "__main__":
    main()
