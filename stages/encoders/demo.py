"""The demo preset's checkpoints: tiny untrained models of the real classes, the same bytes on every machine.

They are written once into the user's cache, in the files a hub checkpoint has, so that everything downstream treats
them like any other checkpoint. Their weights are random: they carry words, pitch and shapes into the features only as
random projections do, and nothing about emotion. The numbers come from a bit generator by exact arithmetic alone, so
no maths library can make them differ.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mer.cache.user_cache import user_cache

Shapes: TypeAlias = Iterator[tuple[str, tuple[int, ...]]]

DEMO_NAMES = ("demo-text", "demo-audio", "demo-face")

VERSION = "3"
"""Raised when a change below changes a byte of what is written."""

WIDTH = 64
INNER = 128
HEADS = 4
DEPTH = 2

LABEL = "An untrained demonstration model: its weights are random numbers. It is of no use beyond `mer demo`."

TEXT = """
I am so happy today, this is wonderful news and I love it! What a great day, thank you so much, that is amazing.
I am really sad about this, it is terrible and I miss you. I feel lonely, I want to cry, I am so sorry for your loss.
I am angry, this makes me furious! How dare you, stop it right now, I hate this, leave me alone, get out of here.
I am scared, please help me, something is wrong, I am afraid of the dark, what was that noise, do not go in there.
Oh my god, what a surprise, I did not expect that at all! No way, are you serious, I cannot believe it, really?
That is disgusting, take it away, it smells awful and looks gross, I feel sick, how could anyone eat that.
It is a table, the meeting is at nine, the train leaves on time, please put the book on the shelf near the window.
We are going home now, they will call you later, she said the report is ready and he has the key to the office.
Yes, okay, well, maybe, there is nothing to say about the weather, it was a normal day at work as usual.
"""
"""English from which the tokenizer's merges are learned."""

TEXT_CONFIG: Mapping[str, Any] = {
    "architectures": ["RobertaModel"],
    "model_type": "roberta",
    "vocab_size": 0,
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": 258,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}

CONVOLUTIONS = {"conv_dim": [64] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2]}

AUDIO_CONFIG: Mapping[str, Any] = {
    "architectures": ["Wav2Vec2Model"],
    "model_type": "wav2vec2",
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "num_feat_extract_layers": 7,
    **CONVOLUTIONS,
    "conv_bias": True,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 4,
    "do_stable_layer_norm": False,
    "vocab_size": 32,
}

FACE_CONFIG: Mapping[str, Any] = {
    "architectures": ["ViTModel"],
    "model_type": "vit",
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 96,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
}


def demo_folder(name: str) -> Path:
    """Folder of one of `DEMO_NAMES`, built on first use."""
    folder = user_cache("demo-checkpoints", VERSION)
    if not (folder / name / "config.json").is_file():
        build_demo_checkpoints(folder)
    return folder / name


def build_demo_checkpoints(folder: Path) -> dict[str, Path]:
    """Write the demo checkpoints `demo-text`, `demo-audio` and `demo-face` below a folder, each whole or not at all.

    Returns
    -------
    dict
        Modality to checkpoint folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_merges(TEXT, 400)
    vocabulary = _vocabulary(merges)
    text_config = {**TEXT_CONFIG, "vocab_size": len(vocabulary)}
    files: dict[str, dict[str, str]] = {
        "text": {
            "config.json": _pretty(text_config),
            "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
            "merges.txt": "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges),
            "tokenizer_config.json": _pretty({"tokenizer_class": "RobertaTokenizer", "model_max_length": 256}),
        },
        "audio": {
            "config.json": _pretty(AUDIO_CONFIG),
            "preprocessor_config.json": _pretty(
                {
                    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
                    "do_normalize": True,
                    "sampling_rate": 16000,
                    "feature_size": 1,
                    "padding_value": 0.0,
                    "return_attention_mask": False,
                }
            ),
        },
        "face": {
            "config.json": _pretty(FACE_CONFIG),
            "preprocessor_config.json": _pretty(
                {
                    "image_processor_type": "ViTImageProcessor",
                    "do_resize": True,
                    "size": {"height": 96, "width": 96},
                    "resample": 2,
                    "do_rescale": True,
                    "rescale_factor": 1 / 255,
                    "do_normalize": True,
                    "image_mean": [0.5, 0.5, 0.5],
                    "image_std": [0.5, 0.5, 0.5],
                }
            ),
        },
    }
    shapes = {"text": _roberta(text_config), "audio": _wav2vec2(), "face": _vit()}
    made = {}
    for seed, kind in enumerate(("text", "audio", "face")):
        made[kind] = folder / f"demo-{kind}"
        _write_whole(made[kind], files[kind], random_weights(shapes[kind], seed))
    return made


def _write_whole(target: Path, files: Mapping[str, str], weights: dict[str, npt.NDArray[np.float32]]) -> None:
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name, content in {**files, "README.md": f"# {target.name}\n\n{LABEL}\n"}.items():
            (part / name).write_text(content, encoding="utf-8")
        (part / "model.safetensors").write_bytes(_as_safetensors(weights))
        try:
            os.replace(part, target)
        except OSError:  # another process was faster: what it wrote is the same
            if not (target / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _as_safetensors(weights: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """Bytes of a safetensors file; written here because the library's order of tensors may change with its version."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in sorted(weights.items()):
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(array.astype("<f4").tobytes() for _, array in sorted(weights.items()))
    return len(text).to_bytes(8, "little") + text + body


def _pretty(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


# --- weights --------------------------------------------------------------------------------------------------------


def random_weights(shapes: Shapes, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Draw every tensor: norms are the identity, matrices have unit gain.

    Convolutions over the waveform are drawn smooth in time, three quarters of a kernel's variance being a constant, and
    with biases: white kernels pass mostly what lies above the voice, and the demo's voices sounded alike to them.
    """
    bits = np.random.PCG64(seed)
    weights = {}
    for name, shape in shapes:
        if name.endswith("conv_layers.0.layer_norm.bias"):
            weights[name] = _uniform(bits, shape, 1.0)
        elif name.endswith("bias"):
            weights[name] = _uniform(bits, shape, 0.3 if "conv_layers" in name else 0.0)
        elif "norm" in name.lower():
            weights[name] = np.ones(shape, np.float32)
        else:
            weights[name] = _uniform(bits, shape, _spread_of(name, shape))
            if "conv_layers" in name:
                weights[name] = weights[name] * np.float32(0.5) + _uniform(
                    bits, (*shape[:2], 1), 0.875 * _spread_of(name, shape)
                )
    return weights


def _uniform(bits: np.random.PCG64, shape: tuple[int, ...], spread: float) -> npt.NDArray[np.float32]:
    """Draw uniform numbers in [-spread, spread) from 24 bits each; every step is exact or rounded once."""
    raw = bits.random_raw(int(np.prod(shape))) >> np.uint64(40)
    unit = raw.astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)
    return (unit * np.float32(spread)).reshape(shape)


def _spread_of(name: str, shape: tuple[int, ...]) -> float:
    """Half the width of the distribution: variance 2 / inputs for convolutions, 1 / inputs for other matrices."""
    if "embeddings.weight" in name or name.endswith(("_token", "spec_embed")):
        return 1.0 if "word" in name else 0.25
    if name.endswith("position_embeddings"):
        return 0.5
    if name.endswith("original0"):
        return 1.0
    inputs = int(np.prod(shape[1:]))
    gain = 6.0 if "conv_layers" in name else 3.0
    return math.sqrt(gain / inputs)


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _roberta(config: Mapping[str, Any]) -> Shapes:
    yield "embeddings.word_embeddings.weight", (config["vocab_size"], WIDTH)
    yield "embeddings.position_embeddings.weight", (config["max_position_embeddings"], WIDTH)
    yield "embeddings.token_type_embeddings.weight", (1, WIDTH)
    yield from _norm("embeddings.LayerNorm", WIDTH)
    for block in range(DEPTH):
        name = f"encoder.layer.{block}"
        for part in ("query", "key", "value"):
            yield from _linear(f"{name}.attention.self.{part}", WIDTH, WIDTH)
        yield from _linear(f"{name}.attention.output.dense", WIDTH, WIDTH)
        yield from _norm(f"{name}.attention.output.LayerNorm", WIDTH)
        yield from _linear(f"{name}.intermediate.dense", WIDTH, INNER)
        yield from _linear(f"{name}.output.dense", INNER, WIDTH)
        yield from _norm(f"{name}.output.LayerNorm", WIDTH)
    yield from _linear("pooler.dense", WIDTH, WIDTH)


def _wav2vec2() -> Shapes:
    before = 1
    for layer, (channels, kernel) in enumerate(zip(CONVOLUTIONS["conv_dim"], CONVOLUTIONS["conv_kernel"], strict=True)):
        yield f"feature_extractor.conv_layers.{layer}.conv.weight", (channels, before, kernel)
        yield f"feature_extractor.conv_layers.{layer}.conv.bias", (channels,)
        before = channels
    yield from _norm("feature_extractor.conv_layers.0.layer_norm", before)
    yield from _norm("feature_projection.layer_norm", before)
    yield from _linear("feature_projection.projection", before, WIDTH)
    yield "masked_spec_embed", (WIDTH,)
    position = "encoder.pos_conv_embed.conv"
    kernel, groups = AUDIO_CONFIG["num_conv_pos_embeddings"], AUDIO_CONFIG["num_conv_pos_embedding_groups"]
    yield f"{position}.parametrizations.weight.original0", (1, 1, kernel)
    yield f"{position}.parametrizations.weight.original1", (WIDTH, WIDTH // groups, kernel)
    yield f"{position}.bias", (WIDTH,)
    yield from _norm("encoder.layer_norm", WIDTH)
    for block in range(DEPTH):
        name = f"encoder.layers.{block}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{name}.attention.{part}", WIDTH, WIDTH)
        yield from _norm(f"{name}.layer_norm", WIDTH)
        yield from _linear(f"{name}.feed_forward.intermediate_dense", WIDTH, INNER)
        yield from _linear(f"{name}.feed_forward.output_dense", INNER, WIDTH)
        yield from _norm(f"{name}.final_layer_norm", WIDTH)


def _vit() -> Shapes:
    patch, size = FACE_CONFIG["patch_size"], FACE_CONFIG["image_size"]
    yield "embeddings.cls_token", (1, 1, WIDTH)
    yield "embeddings.position_embeddings", (1, 1 + (size // patch) ** 2, WIDTH)
    yield "embeddings.patch_embeddings.projection.weight", (WIDTH, 3, patch, patch)
    yield "embeddings.patch_embeddings.projection.bias", (WIDTH,)
    for block in range(DEPTH):
        name = f"encoder.layer.{block}"
        for part in ("query", "key", "value"):
            yield from _linear(f"{name}.attention.attention.{part}", WIDTH, WIDTH)
        yield from _linear(f"{name}.attention.output.dense", WIDTH, WIDTH)
        yield from _linear(f"{name}.intermediate.dense", WIDTH, INNER)
        yield from _linear(f"{name}.output.dense", INNER, WIDTH)
        yield from _norm(f"{name}.layernorm_before", WIDTH)
        yield from _norm(f"{name}.layernorm_after", WIDTH)
    yield from _norm("layernorm", WIDTH)
    yield from _linear("pooler.dense", WIDTH, WIDTH)


# --- tokenizer ------------------------------------------------------------------------------------------------------


def byte_letters() -> dict[int, str]:
    """Letter that stands for each byte in a byte-level vocabulary: itself where printable, else one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + len(letters) - len(printable))
    return letters


def learn_merges(text: str, count: int) -> list[tuple[str, str]]:
    """Learn byte-pair merges: the most frequent neighbours first, ties by alphabet, the same in every run."""
    letters = byte_letters()
    spaced = text.replace("\n", " ")
    for mark in ",.!?":
        spaced = spaced.replace(mark, f"\n{mark}\n")
    words: Counter[tuple[str, ...]] = Counter()
    for stretch in spaced.split("\n"):
        for word in stretch.split():
            lead = " " if word not in ",.!?" else ""
            for form in (lead + word, word):
                words[tuple(letters[byte] for byte in form.encode())] += 1
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for letters_of, times in words.items():
            for pair in pairwise(letters_of):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({_merged(word, best): times for word, times in words.items()})
    return merges


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    position = 0
    while position < len(word):
        if word[position : position + 2] == pair:
            out.append(pair[0] + pair[1])
            position += 2
        else:
            out.append(word[position])
            position += 1
    return tuple(out)


def _vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    letters = byte_letters()
    tokens = ["<s>", "<pad>", "</s>", "<unk>"]
    tokens += [letters[byte] for byte in range(256)]
    tokens += [left + right for left, right in merges]
    tokens.append("<mask>")
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}
