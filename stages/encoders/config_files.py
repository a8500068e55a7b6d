"""The settings files of a checkpoint folder: which there are, and reading them. Below all that finds checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mer.cache import MerError

from .funasr_config import read_funasr_config

SETTINGS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spm.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""Files beside the weights that decide what an encoder computes."""

FUNASR_SETTINGS = ("config.yaml",)
"""The same in a repository of FunASR's layout, which has no config.json."""


def read_config(folder: Path) -> dict[str, Any]:
    """Configuration of a checkpoint folder.

    Raises
    ------
    MerError
        If there is none or it cannot be read.
    """
    if (folder / "config.json").is_file():
        return read_json(folder / "config.json")
    if (folder / "config.yaml").is_file():
        return read_funasr_config(folder / "config.yaml")
    raise MerError(f"checkpoint folder {folder} has no config.json; name the folder that holds config.json and weights")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    MerError
        If the file is not one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise MerError(f"{path} cannot be read ({error}); fetch the checkpoint again") from error
    return content
