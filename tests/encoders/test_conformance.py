"""Every family through the conformance suite."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_checkpoints import EVERY

from mer.stages.encoders.catalog import make_encoder
from mer.stages.encoders.testing import MAKERS, EncoderTests
from mer.stages.interfaces import Encoder, EncoderInput


@pytest.mark.parametrize(("modality", "family"), EVERY, ids=[family for _, family in EVERY])
class TestEveryFamily(EncoderTests):
    @pytest.fixture
    def encoder(self, tiny: Any, modality: str, family: str) -> Encoder:
        return tiny(modality, family)

    @pytest.fixture
    def items(self, modality: str) -> list[EncoderInput]:
        """Without the longest waveform, which test_real_inputs has, to save time."""
        return MAKERS[modality]()[:5]


@pytest.mark.parametrize("modality", ["text", "audio", "face"])
class TestDemoEncoders(EncoderTests):
    @pytest.fixture
    def encoder(self, modality: str) -> Encoder:
        return make_encoder(modality, f"demo-{modality}").resolve()
