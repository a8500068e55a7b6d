"""Feature sets without weights: conformance, and numbers that can be worked out by hand."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from mer.cache import MerError
from mer.stages.encoders.catalog import make_encoder
from mer.stages.encoders.signal import MEASURES
from mer.stages.encoders.testing import EncoderTests, make_waveforms
from mer.stages.interfaces import Encoder, EncoderInput

LIBROSA = [name for name, measure in MEASURES.items() if measure.library == "librosa"]


@pytest.mark.parametrize("name", LIBROSA)
class TestLibrosa(EncoderTests):
    @pytest.fixture
    def items(self) -> list[EncoderInput]:
        return make_waveforms()[:5]

    @pytest.fixture
    def encoder(self, name: str) -> Encoder:
        return make_encoder("audio", name).resolve()


@pytest.mark.skipif(
    importlib.util.find_spec("opensmile") is None, reason="the extra mer-toolkit[opensmile] is not installed"
)
@pytest.mark.parametrize("name", ["egemaps", "egemaps-lld", "compare", "compare-lld"])
class TestOpenSmile(EncoderTests):
    @pytest.fixture
    def items(self) -> list[EncoderInput]:
        return make_waveforms()[:5]

    @pytest.fixture
    def encoder(self, name: str) -> Encoder:
        return make_encoder("audio", name).resolve()


def test_the_pitch_of_a_tone_is_found() -> None:
    clock = np.arange(16000) / 16000
    tone = (0.1 * np.sin(2 * np.pi * 220 * clock)).astype(np.float32)
    found = make_encoder("audio", "librosa-prosody").resolve().load("cpu").encode([tone])[0]
    middle = found.values[10:40]
    np.testing.assert_allclose(middle[:, 0], 2.0, atol=0.02)  # 220 Hz is two octaves above 55 Hz
    np.testing.assert_allclose(middle[:, 1], 20 * np.log10(0.1 / np.sqrt(2)), atol=4.5)  # a Hann window takes 4.3 dB
    np.testing.assert_allclose(found.times[:3], [0.0, 0.02, 0.04], atol=1e-6)


def test_options_that_mean_nothing_are_refused() -> None:
    with pytest.raises(MerError, match="has no layers"):
        make_encoder("audio", "librosa-mfcc", layers="all")
    with pytest.raises(MerError, match="no option 'max_seconds'"):
        make_encoder("audio", "librosa-mfcc", max_seconds=3.0)


def test_a_missing_extra_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MerError, match=r"pip install 'mer-toolkit\[opensmile\]'"):
        make_encoder("audio", "egemaps").resolve()
