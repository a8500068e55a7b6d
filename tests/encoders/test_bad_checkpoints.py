"""Checkpoints and names that cannot be used: one line each that says what to do, before anything is decoded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import MAKERS, roberta, wav2vec2_layer, wav2vec2_msp_dim

from mer.cache import MerError
from mer.stages.encoders.catalog import ENCODERS, PRESETS, make_encoder
from mer.stages.encoders.hub import files_needed


def told(modality: str, name: str | Path, **options: Any) -> str:
    """Resolve and load an encoder that must be refused; return the refusal."""
    with pytest.raises(MerError) as caught:
        make_encoder(modality, str(name), **options).resolve().load(options.pop("device", "cpu"))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return roberta(tmp_path / "mine")


def test_a_misspelt_name_gets_the_nearest_one() -> None:
    assert "did you mean 'roberta-base'" in told("text", "roberta-bsae")
    assert "did you mean 'wav2vec2-base'" in told("audio", "wav2vec-base")


def test_a_name_of_another_modality_is_refused() -> None:
    assert "is a text encoder; give it as --text-encoder" in told("audio", "roberta-base")


def test_a_folder_that_does_not_exist() -> None:
    assert "does not exist" in told("text", "./nowhere/at/all")


def test_a_folder_without_configuration_or_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    message = told("text", folder)
    assert "has no weights" in message
    assert str(folder) in message
    (folder / "config.json").unlink()
    assert "has no config.json" in told("text", folder)


def test_truncated_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    message = told("text", folder)
    assert "truncated" in message
    assert str(weights) in message
    weights.write_bytes(whole[:100])
    assert "not a readable safetensors file" in told("text", folder)
    weights.write_bytes(b"")
    assert "safetensors" in told("text", folder)


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = wav2vec2_msp_dim(tmp_path / "sharded")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[0].unlink()
    assert f"lacks the weight file {shards[0].name}" in told("audio", folder)


def test_an_index_that_points_outside_its_folder(tmp_path: Path) -> None:
    folder = wav2vec2_msp_dim(tmp_path / "sharded")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["evil"] = "../../evil.safetensors"
    index.write_text(json.dumps(content))
    assert "do not use this checkpoint" in told("audio", folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_with_nan(folder: Path, dtype: torch.dtype) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    name = "roberta.encoder.layer.1.output.dense.weight"
    weights[name][3, 4] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert f"hold NaN or infinity in {name}" in told("text", folder)


def test_pickled_weights_with_nan_and_with_code(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    bad = {**weights, "roberta.encoder.layer.1.output.dense.weight": torch.full((32, 48), float("inf"))}
    torch.save(bad, folder / "pytorch_model.bin")
    assert "hold NaN or infinity in encoder.layer.1.output.dense.weight" in told("text", folder)
    torch.save({**weights, "boom": Boom(tmp_path / "harmed")}, folder / "pytorch_model.bin")
    assert "cannot be loaded" in told("text", folder)
    assert not (tmp_path / "harmed").exists()


class Boom:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_weights_of_another_size_and_missing_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    gone = {name: tensor for name, tensor in weights.items() if "layer.2.attention" not in name}
    save_file(gone, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lacks" in told("text", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "cannot be loaded" in told("text", folder)


def test_a_text_model_named_as_audio_encoder(folder: Path) -> None:
    assert "is a text model (roberta) and cannot encode audio; give it as --text-encoder" in told("audio", folder)


def test_a_model_of_an_unknown_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of"}))
    assert "'unheard-of', which the installed transformers does not know" in told("text", folder)
    (folder / "config.json").write_text("{broken")
    assert "cannot be read" in told("text", folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused_unless_trusted(folder: Path, file: str) -> None:
    content = json.loads((folder / file).read_text())
    entry = {"AutoModel": "modeling.Mine"} if file == "config.json" else {"AutoTokenizer": ["tokenization.Mine", None]}
    (folder / file).write_text(json.dumps({**content, "auto_map": entry}))
    assert "--trust-remote-code" in told("text", folder)


def test_tokenizer_and_weights_of_different_models(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    shifted = {token: number + 500 if token == "</s>" else number for token, number in vocabulary.items()}
    (folder / "vocab.json").write_text(json.dumps(shifted))
    assert "do tokenizer and weights belong together" in told("text", folder)


def test_layers_precision_pool_and_chunks_that_do_not_exist(folder: Path, tmp_path: Path) -> None:
    assert "layers 0 to 3" in told("text", folder, layers="7")
    assert "precision 'int4'" in told("text", folder, precision="int4")
    assert "face pool 'max'" in told("face", folder, pool="max")
    audio = wav2vec2_layer(tmp_path / "audio")
    assert "too short" in told("audio", audio, max_seconds=4.0)
    assert "has no option 'speed'" in told("audio", audio, speed=2)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "tpu"])
def test_a_device_that_is_not_there(folder: Path, device: str) -> None:
    if torch.cuda.is_available() and device == "cuda":
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(MerError, match=r"--device cpu|use cpu, cuda"):
        make_encoder("text", str(folder)).resolve().load(device)


def test_sound_at_another_rate_is_refused(tmp_path: Path) -> None:
    folder = wav2vec2_layer(tmp_path / "fast")
    (folder / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 48000}))
    assert "48000 Hz" in told("audio", folder)


@pytest.mark.parametrize(
    ("modality", "family", "auto"),
    [
        ("audio", "wavlm-base", "AutoFeatureExtractor"),
        ("face", "clip", "AutoImageProcessor"),
        ("face", "videomae", "AutoImageProcessor"),
    ],
)
def test_settings_of_sound_and_pictures_are_not_guessed(modality: str, family: str, auto: str, tmp_path: Path) -> None:
    folder = MAKERS[modality][family](tmp_path / family)
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Mine"}))  # as transformers 4 has it
    with pytest.raises(MerError, match="has no preprocessor_config") as caught:
        make_encoder(modality, str(folder)).resolve()
    assert f"{auto}.from_pretrained(ID).save_pretrained('{folder}')" in str(caught.value)


def test_whisper_needs_no_settings(tmp_path: Path) -> None:
    folder = MAKERS["audio"]["whisper"](tmp_path / "whisper")
    (folder / "preprocessor_config.json").unlink()
    make_encoder("audio", str(folder)).resolve()


@pytest.mark.parametrize(
    ("modality", "family", "file", "part"),
    [
        ("audio", "wavlm-base", "processor_config.json", "feature_extractor"),
        ("face", "clip", "processor_config.json", "image_processor"),
        ("face", "videomae", "processor_config.json", "video_processor"),
        ("face", "videomae", "video_preprocessor_config.json", ""),
    ],
)
def test_settings_are_found_where_transformers_5_saves_them(
    modality: str, family: str, file: str, part: str, tmp_path: Path
) -> None:
    folder = MAKERS[modality][family](tmp_path / family)
    usual: Any = make_encoder(modality, str(folder)).resolve().load("cpu")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / file).write_text(json.dumps({part: settings} if part else settings))
    encoder: Any = make_encoder(modality, str(folder)).resolve()
    if modality == "audio":
        assert not encoder.normalises()
    else:
        assert encoder.load("cpu").recipe == usual.recipe
    assert encoder.spec({}).fingerprint != usual.encoder.spec({}).fingerprint


def test_without_a_network_the_way_to_download_ahead_is_told(tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads its settings when it is imported."""
    program = (
        "from mer.stages.encoders.catalog import make_encoder\n"
        "from mer.cache import MerError\n"
        "try:\n    make_encoder('text', 'someone/something').resolve()\n"
        "except MerError as error:\n    print(error)\n"
    )
    settings = {
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # the discard port: nothing answers
        "MER_CACHE": str(tmp_path / "mer"),
        "PATH": "/usr/bin",
    }
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=settings, timeout=120)
    assert "hf download someone/something --local-dir DIR" in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1


def test_a_plug_in_that_is_no_encoder() -> None:
    assert "is not an encoder" in told("audio", "collections:OrderedDict")
    assert "cannot be loaded" in told("audio", "no.such.module:Thing")


def test_files_chosen_from_a_repository() -> None:
    names = ["config.json", "README.md", "pytorch_model.bin", "model.safetensors", "tf_model.h5", "modeling_x.py"]
    assert files_needed([*names, "vocab.json"]) == ["config.json", "vocab.json", "model.safetensors"]
    assert files_needed(names, with_code=True)[-1] == "modeling_x.py"
    assert files_needed(["config.json", "pytorch_model.bin"]) == ["config.json", "pytorch_model.bin"]
    shards = ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"]
    assert files_needed([*shards, "model-00002-of-00002.safetensors"]) == [
        *shards,
        "model-00002-of-00002.safetensors",
    ]
    assert files_needed(["config.json", "tf_model.h5", "rust_model.ot"]) == []


def test_identity_follows_the_files_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    here = make_encoder("text", str(folder)).resolve().spec({}, "float16")
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)
    assert make_encoder("text", str(copy)).resolve().spec({}, "float16").fingerprint == here.fingerprint
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "transformers_version": "9", "_name_or_path": "x"}))
    assert make_encoder("text", str(copy)).resolve().spec({}, "float16").fingerprint == here.fingerprint
    (copy / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    changed = make_encoder("text", str(copy)).resolve().spec({}, "float16")
    assert changed.fingerprint != here.fingerprint
    (copy / "config.json").write_text(json.dumps(config))
    weights = load_file(copy / "model.safetensors")
    weights["roberta.embeddings.LayerNorm.weight"] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert make_encoder("text", str(copy)).resolve().spec({}, "float16").fingerprint != here.fingerprint


def test_options_that_change_numbers_change_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    audio = wav2vec2_layer(tmp_path / "audio")
    prints = [
        make_encoder("text", str(folder), **options).resolve().spec({}, "float16").fingerprint
        for options in ({}, {"layers": "-2:"}, {"layers": "all"}, {"precision": "bf16"}, {"overlap": 0.5})
    ] + [
        make_encoder("audio", str(audio), **options).resolve().spec({}, "float16").fingerprint
        for options in ({}, {"max_seconds": 20.0}, {"overlap_seconds": 2.0})
    ]
    assert len(set(prints)) == len(prints)
    by_number = make_encoder("text", str(folder), layers="3").resolve().spec({}, "float16").fingerprint
    assert by_number == prints[0]


def test_presets_name_known_encoders() -> None:
    for preset in PRESETS.values():
        for modality in ("text", "audio", "face"):
            assert ENCODERS[preset.encoder(modality)].modality == modality
    assert "CC BY-NC-SA 4.0" in PRESETS["drkf"].note


def test_naming_and_resolving_never_import_torch(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from mer.stages.encoders.catalog import make_encoder\n"
        "for modality in ('text', 'audio', 'face'):\n"
        "    make_encoder(modality, f'demo-{modality}').resolve().spec({}, 'float16')\n"
        "heavy = {'torch', 'transformers', 'librosa', 'huggingface_hub', 'cv2'} & set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    settings = {"MER_CACHE": str(tmp_path), "PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=settings, timeout=120)
    assert done.stdout == "[]\n", done.stderr


def test_the_demo_weights_are_the_same_bytes_on_every_machine(own_cache: Path) -> None:
    found = {kind: make_encoder(kind, f"demo-{kind}").resolve() for kind in ("text", "audio", "face")}
    assert {kind: encoder.found.weights[:16] for kind, encoder in found.items()} == {  # type: ignore[attr-defined]
        "text": "ca3475cf0b6dad8f",
        "audio": "d2ba1a9bbe5f642e",
        "face": "b4f88ed47257da03",
    }
    readme = Path(found["text"].found.folder) / "README.md"  # type: ignore[attr-defined]
    assert "untrained" in readme.read_text()


def test_the_demo_features_tell_tones_words_and_pictures_apart() -> None:
    """Random features are no encoders, but what differs must stay different in them."""
    encoder = make_encoder("audio", "demo-audio").resolve().load("cpu")
    clock = np.arange(16000) / 16000

    def mean(pitch: float, seed: int) -> Any:
        noise = 0.02 * np.random.default_rng(seed).standard_normal(len(clock))
        voice = np.sign(np.sin(2 * np.pi * pitch * clock)) * 0.1 + noise
        return encoder.encode([voice.astype(np.float32)])[0].values.mean(axis=0)

    low, again, high = mean(110, 1), mean(112, 2), mean(260, 3)
    assert np.linalg.norm(low - high) > 2 * np.linalg.norm(low - again)
