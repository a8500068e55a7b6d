"""One clip alone must give what the library's own model and processor give, a long one window by window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_checkpoints import AUDIO, FACE, TEXT

from mer.cache import MerError
from mer.stages.encoders.face import PictureRecipe
from mer.stages.encoders.testing import make_faces, make_waveforms
from mer.stages.interfaces import FaceCrops

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


@pytest.mark.parametrize("layers", ["last", "1,2"])
def test_whisper_on_its_whole_window_equals_the_library(tiny: Any, layers: str) -> None:
    from transformers import WhisperFeatureExtractor

    encoder = tiny("audio", "whisper", layers=layers, window="30s")
    waves: Any = [make_waveforms()[number] for number in (2, 4)]
    features = WhisperFeatureExtractor()(waves, sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        output = stock(encoder).encoder(features, output_hidden_states=True)
    chosen = [output.last_hidden_state] if layers == "last" else [output.hidden_states[1], output.hidden_states[2]]
    expected = torch.stack(chosen).mean(0).numpy()
    found = encoder.load("cpu").encode(waves)
    assert [len(one) for one in found] == [25, 117]  # the frames that 0.5 s and 2.34 s reach
    for one, whole in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.values, whole[: len(one)], atol=5e-4)
    plain = tiny("audio", "whisper", layers=layers)
    assert "window" not in plain.spec({}).encoder  # so that features made before keep their name
    assert encoder.spec({}).encoder["window"] == "30s"
    with pytest.raises(MerError, match="is not Whisper; leave out window=30s"):
        tiny("audio", "hubert-base", window="30s")


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


def test_three_frames_are_stretched_to_a_window_and_averaged_back(tiny: Any) -> None:
    encoder = tiny("face", "videomae")
    loaded: Any = encoder.load("cpu")
    clip = make_faces()[4]
    assert isinstance(clip, FaceCrops)
    shown = clip.crops[[0, 0, 0, 1, 1, 1, 2, 2]]
    with torch.no_grad():
        hidden = stock(encoder)(loaded.recipe.apply(torch.from_numpy(shown))[None]).last_hidden_state[0]
    a, b, c, d = hidden.reshape(4, 4, 32).mean(1).numpy()  # what positions 0-1, 2-3, 4-5 and 6-7 get
    found = loaded.encode([FaceCrops(clip.crops[:3], clip.times[:3], clip.valid[:3])])[0]
    np.testing.assert_allclose(found.values, [(a + a + b) / 3, (b + c + c) / 3, d], atol=1e-5)
    assert found.note["frames_stretched_from"] == 3


def test_a_long_transcript_equals_the_library_window_by_window(tiny: Any) -> None:
    encoder = tiny("text", "bert")
    loaded: Any = encoder.load("cpu")
    text = " ".join("abcdefghijklmnopqrstuvwxyz0123456789"[place * place % 36] for place in range(170))
    ids = loaded.pieces(text)
    assert len(ids) == 170
    model = stock(encoder)
    expected = []
    # Windows of 62 pieces beside two special tokens, a quarter (15) shared at least: four, evenly spread, the seams
    # in the middle of [36, 62), [72, 98) and [108, 134).
    for start, kept in ((0, range(49)), (36, range(49, 85)), (72, range(85, 121)), (108, range(121, 170))):
        line = [*loaded.prefix, *ids[start : start + 62], *loaded.suffix]
        with torch.no_grad():
            states = model(torch.tensor([line])).last_hidden_state[0].numpy()
        expected.extend(states[1 + place - start] for place in kept)
    found = loaded.encode(["a b c", text])[1]
    np.testing.assert_allclose(found.values, expected, atol=2e-5)
    np.testing.assert_allclose(found.times, (np.arange(170) + 0.5) / 170, rtol=1e-6)
    assert found.note == {"text_windows": 4}


def test_a_long_clip_equals_the_library_chunk_by_chunk(tiny: Any) -> None:
    encoder = tiny("audio", "wav2vec2-group", max_seconds=1.0, overlap_seconds=0.2)
    wave = np.asarray(make_waveforms()[5])[:44_800]
    normal = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
    model = stock(encoder)
    expected = []
    # 2.8 s are 139 frames; a chunk has 49 of them (48 strides of 320 samples and a field of 400), 10 shared at least.
    for start, kept in ((0, range(39)), (30, range(39, 69)), (60, range(69, 99)), (90, range(99, 139))):
        piece = torch.from_numpy(normal[start * 320 : start * 320 + 48 * 320 + 400])
        with torch.no_grad():
            states = model(piece[None]).last_hidden_state[0].numpy()
        assert len(states) == 49
        expected.extend(states[place - start] for place in kept)
    found = encoder.load("cpu").encode([wave])[0]
    np.testing.assert_allclose(found.values, expected, atol=1e-4)
    np.testing.assert_allclose(found.times, 0.0125 + 0.02 * np.arange(139), atol=1e-6)
    assert found.note == {"audio_chunks": 4}


def test_whisper_chunks_lie_where_they_were_cut_and_the_last_one_ends_with_the_clip(tiny: Any) -> None:
    loaded: Any = tiny("audio", "whisper", max_seconds=1.0, overlap_seconds=0.2).load("cpu")
    wave = np.asarray(make_waveforms()[5])[:39_900]  # 125 frames of 320 samples, the last one not filled
    expected = []
    for start, kept in ((0, range(43)), (37, range(43, 81)), (75, range(81, 125))):
        states = loaded.encode([wave[start * 320 : start * 320 + 16_000]])[0].values
        assert len(states) == 50
        expected.extend(states[place - start] for place in kept)
    found = loaded.encode([wave])[0]
    np.testing.assert_allclose(found.values, expected, atol=1e-4)
    # A frame is centred on the sample it starts from: 0, 20 ms, ..., 2.48 s of 2.494 s.
    np.testing.assert_allclose(found.times, 0.02 * np.arange(125), atol=1e-6)
    assert found.note == {"audio_chunks": 3}


def test_a_long_video_equals_the_library_window_by_window(tiny: Any) -> None:
    encoder = tiny("face", "videomae")
    loaded: Any = encoder.load("cpu")
    clip = make_faces()[3]  # 19 faces in 24 frames
    assert isinstance(clip, FaceCrops)
    pictures = loaded.recipe.apply(torch.from_numpy(clip.crops))
    model = stock(encoder)
    expected = []
    # Windows of 8 faces that share 4 at least; the tubelets are counted from the start of each window.
    for start, kept in ((0, range(5)), (3, range(5, 9)), (7, range(9, 13)), (11, range(13, 19))):
        with torch.no_grad():
            hidden = model(pictures[None, start : start + 8]).last_hidden_state[0]
        tubelets = hidden.reshape(4, 4, 32).mean(1).numpy()
        expected.extend(tubelets[(place - start) // 2] for place in kept)
    found = loaded.encode([clip])[0]
    np.testing.assert_allclose(found.values[clip.valid], expected, atol=1e-5)
    assert not found.values[~clip.valid].any()
    np.testing.assert_array_equal(found.times, clip.times)
    np.testing.assert_array_equal(found.valid, clip.valid)
    assert found.note == {"made": "up", "video_windows": 4}
