"""Helpers around a folder corpus of small clips."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mer.pipeline.extraction.options import Execution, ExtractOptions

Extract = Callable[..., ExtractOptions]

HERE = Execution(device="cpu", decode_threads=2)


def write_manifest(root: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a manifest whose columns are those of the first row."""
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def manifest_rows(count: int) -> list[dict[str, object]]:
    """One row per clip, two classes, two dialogues."""
    return [
        {"id": f"u{i}", "path": f"clip{i}.mp4", "text": f"words of clip number {i}", "emotion": ("joy", "anger")[i % 2]}
        for i in range(count)
    ]
