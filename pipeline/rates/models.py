"""Full-size checkpoints with random weights, for measuring speed: the same arithmetic as trained ones, no knowledge."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mer.cache import MerError
from mer.cache.user_cache import user_cache

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
"""Sizes of RoBERTa, wav2vec2 and ViT as published (tiny is the demo's)."""


def bench_checkpoint(modality: str, size: str) -> Path:
    """Folder of a random checkpoint of a modality and size, built on first use in the user's cache.

    Raises
    ------
    MerError
        If the size is not known.
    """
    if size not in SHAPES:
        raise MerError(f"size {size!r} is not known; use {', '.join(SHAPES)}")
    folder = user_cache("bench") / f"random-{modality}-{size}"
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent))
    _build(modality, size, building)
    try:
        os.replace(building, folder)
    except OSError:  # another process was faster
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _build(modality: str, size: str, folder: Path) -> None:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()  # of writing, which is not what is measured
    torch.manual_seed(0)
    shape: dict[str, Any] = dict(SHAPES[size])
    if modality == "text":
        _copy_tokenizer(folder)
        words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = transformers.RobertaConfig(vocab_size=len(words), max_position_embeddings=514, **shape)
        model = transformers.RobertaModel(config, add_pooling_layer=False)
    elif modality == "audio":
        large = (
            {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True} if size == "large" else {}
        )
        model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**shape, **large))
        (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "sampling_rate": 16_000}))
    else:
        model = transformers.ViTModel(transformers.ViTConfig(**shape), add_pooling_layer=False)
        half = [0.5, 0.5, 0.5]
        settings = {"size": {"height": 224, "width": 224}, "image_mean": half, "image_std": half, "do_normalize": True}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    model.save_pretrained(folder)


def _copy_tokenizer(folder: Path) -> None:
    from mer.stages.encoders.catalog import make_encoder

    demo = make_encoder("text", "demo-text").resolve()
    for file in Path(demo.found.folder).iterdir():  # type: ignore[attr-defined]
        if file.name.startswith("tokenizer") or file.name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
            shutil.copy(file, folder / file.name)
