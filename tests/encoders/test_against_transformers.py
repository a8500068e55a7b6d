"""One clip alone must give what the library's own model and processor give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_checkpoints import AUDIO, FACE, TEXT

from mer.stages.encoders.face import PictureRecipe
from mer.stages.encoders.testing import make_faces, make_waveforms
from mer.stages.protocols import FaceCrops

WAVES = [name for name in AUDIO if name not in ("whisper", "emotion2vec")]
PICTURES = [name for name in FACE if name != "videomae"]


def stock(encoder: Any) -> Any:
    """Return the library's model on the same folder."""
    from transformers import AutoModel, CLIPVisionModel

    auto = CLIPVisionModel if encoder.found.config["model_type"] == "clip" else AutoModel
    return auto.from_pretrained(encoder.found.folder).eval()


@pytest.mark.parametrize("family", TEXT)
@pytest.mark.parametrize("layers", ["last", "1,2", "all"])
def test_text_equals_the_library(tiny: Any, family: str, layers: str) -> None:
    from transformers import AutoTokenizer

    encoder = tiny("text", family, layers=layers)
    text = "Well, she said that the report is ready."
    with torch.no_grad():
        tokens = AutoTokenizer.from_pretrained(encoder.found.folder)(text, return_tensors="pt")
        tokens.pop("token_type_ids", None)
        states = stock(encoder)(**tokens, output_hidden_states=True).hidden_states
    chosen = {"last": [3], "1,2": [1, 2], "all": [0, 1, 2, 3]}[layers]
    rows = [states[number][0, 1:-1].numpy() for number in chosen]
    expected = np.concatenate(rows, axis=1) if layers == "all" else np.mean(rows, axis=0)
    found = encoder.load("cpu").encode([text])[0]
    np.testing.assert_allclose(found.values, expected, atol=2e-5)
    assert found.values.shape[1] == encoder.spec({}).dim
    steps = len(expected)
    np.testing.assert_allclose(found.times, (np.arange(steps) + 0.5) / steps, rtol=1e-6)


@pytest.mark.parametrize("family", WAVES)
@pytest.mark.parametrize("layers", ["last", "-2:"])
def test_audio_equals_the_library(tiny: Any, family: str, layers: str) -> None:
    encoder = tiny("audio", family, layers=layers)
    wave = make_waveforms()[4]
    assert isinstance(wave, np.ndarray)
    sound = wave
    if encoder.normalises():
        sound = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
    with torch.no_grad():
        output = stock(encoder)(torch.from_numpy(sound)[None], output_hidden_states=True)
    expected = output.last_hidden_state[0].numpy()
    if layers == "-2:":
        expected = (expected + output.hidden_states[2][0].numpy()) / 2
    found = encoder.load("cpu").encode([wave])[0]
    np.testing.assert_allclose(found.values, expected, atol=1e-4)
    # 400 samples per frame, 320 between frames: the first frame is centred on 12.5 ms.
    np.testing.assert_allclose(found.times, 0.0125 + 0.02 * np.arange(len(expected)), atol=1e-6)


@pytest.mark.parametrize(("family", "least"), [("wav2vec2-group", 0.05), ("data2vec-audio", 1e-3)])
def test_the_library_alone_lets_padding_in(tiny: Any, family: str, least: float) -> None:
    """Why this is not left to the library: its padded batches differ from its singles, masked or not."""
    encoder = tiny("audio", family)
    model = stock(encoder)
    short, long = (torch.from_numpy(np.asarray(make_waveforms()[number])) for number in (3, 5))
    padded = torch.zeros(2, len(long))
    padded[0, : len(short)], padded[1] = short, long
    mask = torch.zeros(2, len(long), dtype=torch.long)
    mask[0, : len(short)] = mask[1] = 1
    with torch.no_grad():
        single = model(short[None]).last_hidden_state[0]
        batched = model(padded, attention_mask=mask).last_hidden_state[0, : len(single)]
    assert (single - batched).abs().max() > least


def test_whisper_convolutions_equal_the_library_and_long_clips_its_output(tiny: Any) -> None:
    from transformers import WhisperFeatureExtractor

    encoder = tiny("audio", "whisper")
    loaded: Any = encoder.load("cpu")
    wave = make_waveforms()[4]
    assert isinstance(wave, np.ndarray)
    padded = WhisperFeatureExtractor()(wave, sampling_rate=16000, return_tensors="pt").input_features
    own = loaded.log_mel([wave])
    np.testing.assert_allclose(own[0].numpy(), padded[0, :, : own.shape[2]].numpy(), atol=2e-4)
    # A clip that fills Whisper's window has no silence to leave out, so that all of the encoder agrees.
    full = np.tile(wave, 13)[: 30 * 16000]
    features = WhisperFeatureExtractor()(full, sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = stock(encoder).encoder(features).last_hidden_state[0].numpy()
    found = loaded.encode([full])[0]
    assert found.values.shape == expected.shape
    # The last two frames see silence here and the window's edge there.
    np.testing.assert_allclose(found.values[:-2], expected[:-2], atol=0.02)
    assert np.abs(found.values[:-2] - expected[:-2]).mean() < 1e-3


@pytest.mark.parametrize("family", PICTURES)
@pytest.mark.parametrize("layers", ["last", "2,1"])
def test_faces_equal_the_library(tiny: Any, family: str, layers: str) -> None:
    encoder = tiny("face", family, layers=layers)
    loaded: Any = encoder.load("cpu")
    clip = make_faces()[1]
    assert isinstance(clip, FaceCrops)
    pictures = loaded.recipe.apply(torch.from_numpy(clip.crops))
    with torch.no_grad():
        output = stock(encoder)(pictures, output_hidden_states=True)
    patches = slice(3, None) if family == "dinov3" else slice(1, None)
    token = (lambda x: x[:, patches].mean(1)) if encoder.pooling() == "mean" else (lambda x: x[:, 0])
    if layers == "last":
        expected = output.pooler_output if family == "clip" else token(output.last_hidden_state)
    else:
        expected = (token(output.hidden_states[1]) + token(output.hidden_states[2])) / 2
    found = loaded.encode([clip])[0]
    np.testing.assert_allclose(found.values[clip.valid], expected.numpy(), atol=1e-4)
    assert np.array_equal(found.times, clip.times)
    assert found.note == clip.note


def test_pictures_are_resized_cropped_scaled_and_normalised() -> None:
    settings = {
        "size": {"shortest_edge": 6},
        "do_center_crop": True,
        "crop_size": {"height": 4, "width": 4},
        "resample": 3,
        "image_mean": [0.5, 0.25, 0.0],
        "image_std": [0.5, 0.25, 2.0],
    }
    recipe = PictureRecipe.of(settings, 224)
    picture = np.zeros((1, 6, 6, 3), np.uint8)
    picture[0, 1, 1] = (255, 51, 102)
    made = recipe.apply(torch.from_numpy(picture))
    assert made.shape == (1, 3, 4, 4)
    # Red (1 - 0.5) / 0.5, green (0.2 - 0.25) / 0.25, blue 0.4 / 2; black elsewhere.
    np.testing.assert_allclose(made[0, :, 0, 0].numpy(), [1.0, -0.2, 0.2], atol=1e-6)
    np.testing.assert_allclose(made[0, :, 1, 1].numpy(), [-1.0, -1.0, 0.0], atol=1e-6)
    flat = recipe.apply(torch.full((1, 50, 50, 3), 255, dtype=torch.uint8))
    np.testing.assert_allclose(flat[0, 2].numpy(), 0.5, atol=1e-6)


def test_video_frames_get_the_mean_of_their_tubelets(tiny: Any) -> None:
    encoder = tiny("face", "videomae")
    loaded: Any = encoder.load("cpu")
    clip = make_faces()[4]
    assert isinstance(clip, FaceCrops)
    eight = FaceCrops(clip.crops[:8], clip.times[:8], clip.valid[:8])
    with torch.no_grad():
        hidden = stock(encoder)(loaded.recipe.apply(torch.from_numpy(eight.crops))[None]).last_hidden_state[0]
    tubelets = hidden.reshape(4, 4, 32).mean(1).numpy()  # 8 frames in tubelets of 2, 32 pixels in patches of 16
    found = loaded.encode([eight])[0]
    np.testing.assert_allclose(found.values, tubelets.repeat(2, axis=0), atol=1e-5)
    three = FaceCrops(clip.crops[:3], clip.times[:3], clip.valid[:3])
    assert loaded.encode([three])[0].note["frames_stretched_from"] == 3
