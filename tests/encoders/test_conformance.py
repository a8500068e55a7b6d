"""Every family through the conformance suite."""

from __future__ import annotations

import pytest
from tiny_checkpoints import EVERY

from mer.stages.encoders.catalog import make_encoder
from mer.stages.encoders.testing import EncoderTests
from mer.stages.protocols import Encoder


@pytest.mark.parametrize(("modality", "family"), EVERY, ids=[family for _, family in EVERY])
class TestEveryFamily(EncoderTests):
    @pytest.fixture
    def encoder(self, tiny, modality: str, family: str) -> Encoder:
        return tiny(modality, family)


@pytest.mark.parametrize("modality", ["text", "audio", "face"])
class TestDemoEncoders(EncoderTests):
    @pytest.fixture
    def encoder(self, modality: str) -> Encoder:
        return make_encoder(modality, f"demo-{modality}").resolve()
