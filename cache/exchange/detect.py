"""Tells the format of a file or folder from what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import MerError
from .pack import SPLITS

TABLES = (".csv", ".tsv", ".arff")


def detect(source: Path) -> str:
    """Name of the format that reads `source`.

    Raises
    ------
    MerError
        If it does not exist, or is of no kind that is read.
    """
    if not source.exists():
        raise MerError(f"{source} does not exist")
    return _folder(source) if source.is_dir() else _file(source)


def _folder(source: Path) -> str:
    def has(pattern: str) -> bool:
        return next(iter(source.glob(pattern)), None) is not None

    if has("*.csd"):
        return "csd"
    if has("label*.npz"):
        return "merbench"
    if has("*.jsonl.gz") or has("*.jsonl"):
        return "lhotse"
    if has("*.lengths"):
        return "emotion2vec"
    if has("data/*.parquet") or has("*.parquet"):
        return "parquet"
    stems = {path.stem.lower() for path in source.iterdir() if path.is_file()}
    return "arrays" if {"train", "test"} <= stems and stems & set(SPLITS) else "clips"


def _file(source: Path) -> str:
    suffix = source.suffix.lower()
    if suffix in TABLES:
        return "csv"
    if suffix == ".csd":
        return "csd"
    from .named import kind_of

    kind = kind_of(source)
    if kind == "npy":
        return "emotion2vec" if source.with_suffix(".lengths").exists() else "arrays"
    if kind == "pickle":
        return _pickle(source)
    if kind == "npz":
        return "npz"  # the name of these files from the first version on, which is in the identity of their features
    if kind == "parquet":
        from .hub_read import is_ours

        return "parquet" if is_ours(source) else "arrays"
    return "arrays"


def _pickle(source: Path) -> str:
    """The published layouts are told from their parts; any other pickle is arrays by name."""
    from .safe_pickle import load

    content = load(source)
    if isinstance(content, Mapping):
        splits = [part for part in content.values() if isinstance(part, Mapping)]
        known = {"text", "audio", "vision"}
        if any("id" in part and known & set(part) and {"raw_text", "regression_labels"} & set(part) for part in splits):
            return "mmsa"
    if isinstance(content, (tuple, list)) and len(content) in (9, 10, 11):
        dicts = sum(isinstance(part, Mapping) for part in content)
        if dicts >= 5:
            return "dialoguernn"
    return "arrays"
