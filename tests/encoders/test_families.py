"""Families beyond the first ones: exact in batches, equal to the library's own, and unlisted ones without padding."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from more_checkpoints import LISTED, UNLISTED

from mer.cache import MerError
from mer.stages.encoders.catalog import make_encoder
from mer.stages.encoders.face import PictureRecipe
from mer.stages.encoders.testing import MAKERS, EncoderTests, make_faces, make_waveforms
from mer.stages.encoders.unlisted import equal_lengths
from mer.stages.interfaces import Encoder, EncoderInput, FaceCrops

EVERY = [(modality, name) for table in (LISTED, UNLISTED) for modality, makers in table.items() for name in makers]
TEXT = "Well, she said that the report is ready."


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Any:
    """Build a resolved encoder on a tiny checkpoint of a family."""
    home = tmp_path_factory.mktemp("more")
    makers = {name: make for table in (LISTED, UNLISTED) for part in table.values() for name, make in part.items()}

    def make(modality: str, family: str, **options: Any) -> Any:
        if not (home / family).is_dir():
            makers[family](home / family)
        return make_encoder(modality, str(home / family), **options).resolve()

    return make


@pytest.mark.parametrize(("modality", "family"), EVERY, ids=[family for _, family in EVERY])
class TestMoreFamilies(EncoderTests):
    @pytest.fixture
    def encoder(self, small: Any, modality: str, family: str) -> Encoder:
        return small(modality, family)

    @pytest.fixture
    def items(self, modality: str) -> list[EncoderInput]:
        """Without the longest ones, to save time."""
        return MAKERS[modality]()[: 4 if modality == "text" else 5]


def stock(encoder: Any) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(encoder.found.folder).eval()


def states(model: Any, inputs: Any) -> list[np.ndarray]:
    """The library's hidden states of one item, the last one as the model gives it."""
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    return [state[0].numpy() for state in (*output.hidden_states[:-1], output.last_hidden_state)]


@pytest.mark.parametrize("family", ["modernbert", "llama", "qwen3", "albert", "gpt2", "t5"])
@pytest.mark.parametrize("layers", ["last", "1,2", "all"])
def test_text_equals_the_library(small: Any, family: str, layers: str) -> None:
    from transformers import AutoTokenizer

    encoder = small("text", family, layers=layers)
    tokens = AutoTokenizer.from_pretrained(encoder.found.folder)(TEXT, return_tensors="pt")
    model = stock(encoder).encoder if family == "t5" else stock(encoder)
    rows = states(model, {"input_ids": tokens["input_ids"]})
    kept = {"modernbert": slice(1, -1), "albert": slice(1, -1), "t5": slice(0, -1)}.get(family, slice(None))
    chosen = [rows[number][kept] for number in {"last": [3], "1,2": [1, 2], "all": [0, 1, 2, 3]}[layers]]
    expected = np.concatenate(chosen, axis=1) if layers == "all" else np.mean(chosen, axis=0)
    found = encoder.load("cpu").encode([TEXT, "Short."])[0]
    np.testing.assert_allclose(found.values, expected, atol=5e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_decoder_gives_what_padding_on_the_left_gives(small: Any, family: str) -> None:
    """The way of sentence-embedding recipes: pad left, number positions from the first token, take the last column."""
    from transformers import AutoTokenizer

    encoder = small("text", family, pool="last")
    tokenizer = AutoTokenizer.from_pretrained(encoder.found.folder, padding_side="left")
    texts = [TEXT, "Short.", "We went home and talked about the weather."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    places = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        last = stock(encoder)(batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=places)
    found = encoder.load("cpu").encode(texts)
    assert [len(sequence) for sequence in found] == [1, 1, 1]
    assert [sequence.times.tolist() for sequence in found] == [[0.5]] * 3
    values = np.concatenate([sequence.values for sequence in found])
    np.testing.assert_allclose(values, last.last_hidden_state[:, -1].numpy(), atol=5e-5)


def test_pools_and_instruction_of_a_decoder(small: Any) -> None:
    plain, mean = small("text", "qwen3"), small("text", "qwen3", pool="mean")
    tokens, averaged = (one.load("cpu").encode([TEXT])[0] for one in (plain, mean))
    np.testing.assert_allclose(averaged.values, tokens.values.mean(axis=0, keepdims=True), atol=1e-6)
    told = small("text", "qwen3", instruction="How does the speaker feel?\n")
    found = told.load("cpu").encode([TEXT])[0]
    assert found.values.shape == tokens.values.shape
    assert np.abs(found.values - tokens.values).max() > 0.01
    assert len({one.spec({}).fingerprint for one in (plain, mean, told)}) == 3
    assert not {"pool", "instruction"} & set(plain.spec({}).encoder)  # so that features made before keep their name
    with pytest.raises(MerError, match=r"leaves .* tokens"):
        small("text", "qwen3", instruction=TEXT * 20).load("cpu")
    with pytest.raises(MerError, match="tokens, last, mean"):
        small("text", "qwen3", pool="max")


@pytest.mark.parametrize("family", ["wav2vec2-bert", "wav2vec2-conformer", "unispeech-sat", "sew", "ast", "clap"])
def test_sound_equals_the_library(small: Any, family: str) -> None:
    from transformers import AutoFeatureExtractor

    encoder = small("audio", family)
    wave: Any = make_waveforms()[4]
    sound, rate = wave, encoder.rate_hz()
    if family == "clap":
        import soxr

        sound = soxr.resample(wave, 16_000, rate, quality="HQ").astype(np.float32)
    inputs = AutoFeatureExtractor.from_pretrained(encoder.found.folder)(sound, sampling_rate=rate, return_tensors="pt")
    inputs.pop("attention_mask", None)
    model = stock(encoder)
    with torch.no_grad():
        hidden = (model.audio_model if family == "clap" else model)(**inputs).last_hidden_state
    if family == "clap":
        hidden = hidden.mean(dim=2).transpose(1, 2)
    if family == "ast":  # class token, distillation token, then 2 rows of 16 patches
        hidden = hidden[:, 2:].reshape(1, 2, 16, -1).mean(1)
    found = encoder.load("cpu").encode([wave])[0]
    np.testing.assert_allclose(found.values, hidden[0, : len(found)].numpy(), atol=1e-4)
    # 2.34 s: 116 steps of 20 ms (the last sample of the last one reaches 2.325 s), 14 of 160 ms, 8 of 312.5 ms.
    steps, first, apart = {"ast": (14, 0.0875, 0.16), "clap": (8, 0.15625, 0.3125)}.get(family, (116, 0.0125, 0.02))
    if family == "wav2vec2-bert":
        first = 0.0175  # two windows of 25 ms, 10 ms apart
    np.testing.assert_allclose(found.times, np.minimum(first + apart * np.arange(steps), len(wave) / 16_000), atol=1e-6)


def test_steps_of_an_unlisted_sound_model_are_spread_over_the_clip(small: Any) -> None:
    wave: Any = make_waveforms()[3]
    found = small("audio", "sew-d").load("cpu").encode([wave])[0]
    np.testing.assert_allclose(found.times, (np.arange(49) + 0.5) / 49, atol=1e-6)


@pytest.mark.parametrize("family", ["siglip", "siglip2", "swin", "convnext", "resnet"])
def test_faces_equal_the_library(small: Any, family: str) -> None:
    encoder = small("face", family)
    loaded: Any = encoder.load("cpu")
    clip = make_faces()[1]
    assert isinstance(clip, FaceCrops)
    pictures = loaded.recipe.apply(torch.from_numpy(clip.crops))
    model = stock(encoder)
    inputs: dict[str, Any] = {"pixel_values": pictures}
    if family == "siglip2":
        rows = [
            [picture[:, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16] for y in range(3) for x in range(3)]
            for picture in pictures
        ]
        patches = torch.stack([torch.stack([one.permute(1, 2, 0).flatten() for one in row]) for row in rows])
        inputs = {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(len(patches), 9, dtype=torch.long),
            "spatial_shapes": torch.tensor([[3, 3]] * len(patches)),
        }
    with torch.no_grad():
        pooled = (model.vision_model if "siglip" in family else model)(**inputs).pooler_output.flatten(1)
    found = loaded.encode([clip])[0]
    np.testing.assert_allclose(found.values[clip.valid], pooled.numpy(), atol=1e-4)
    if "siglip" not in family:
        with pytest.raises(MerError, match="differ in width; use layers last"):
            small("face", family, layers="-2:")
        return
    assert encoder.spec({}).encoder["pool"] == "pooled"
    assert small("face", family, layers="-2:").spec({}).encoder["pool"] == "mean"
    with pytest.raises(MerError, match="of its last layer; use pool=mean"):
        small("face", family, layers="-2:", pool="pooled").spec({})


def test_the_picture_of_convnext_is_enlarged_and_cropped() -> None:
    settings = {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}
    recipe = PictureRecipe.of(settings, 224)
    assert (recipe.resize, recipe.crop) == (256, 224)
    large = PictureRecipe.of({**settings, "size": {"shortest_edge": 384}}, 224)
    assert (large.resize, large.crop) == (384, 384)


def test_an_unlisted_family_says_that_it_is_slower(small: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mer.encoders"):
        small("text", "albert").load("cpu")
    assert "albert is of type albert, for which mer has no way of padding" in caplog.text


def test_equal_lengths_form_batches_under_the_budget() -> None:
    assert equal_lengths([5, 3, 5, 5, 9], 10) == [[4], [0, 2], [3], [1]]


def test_a_face_model_of_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip(
        "timm", reason="timm's face models are an extra: pip install 'mer-toolkit[timm]'", exc_type=ImportError
    )
    from PIL import Image
    from safetensors.torch import save_file
    from timm.data import create_transform, resolve_data_config

    model = timm.create_model("resnet10t", pretrained=False, num_classes=7).eval()
    told = {key: model.pretrained_cfg[key] for key in ("mean", "std", "input_size", "interpolation", "crop_pct")}
    config = {"architecture": "resnet10t", "num_classes": 7, "num_features": model.num_features, "pretrained_cfg": told}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors"
    )
    loaded: Any = make_encoder("face", str(tmp_path)).resolve().load("cpu")
    clip: Any = make_faces()[1]
    prepare = create_transform(**resolve_data_config({}, model=model))
    pictures = torch.stack([prepare(Image.fromarray(crop)) for crop in clip.crops])
    assert (pictures - loaded.recipe.apply(torch.from_numpy(clip.crops))).abs().mean() < 1e-3
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(pictures), pre_logits=True)
    np.testing.assert_allclose(loaded.encode([clip])[0].values[clip.valid], expected.numpy(), atol=0.02)
