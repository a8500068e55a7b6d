"""Every head of ours passes the conformance suite."""

from typing import Any, ClassVar

import pytest

from mer.stages.heads.drkf import DrkfHead
from mer.stages.heads.fdrl import FdrlHead
from mer.stages.heads.misa import MisaHead
from mer.stages.heads.mult import MultHead
from mer.stages.heads.probe import LinearHead, MlpHead
from mer.stages.heads.simple import ConcatHead, GatedHead, LateHead
from mer.stages.heads.testing import HeadTests

SMALL = {"dim": 32}


class TestDrkf(HeadTests):
    head = DrkfHead
    settings = SMALL


class TestDrkfFaithful(HeadTests):
    """The released script attends to padding, and trains one unimodal classifier only."""

    head = DrkfHead
    settings: ClassVar[dict[str, Any]] = {**SMALL, "variant": "faithful", "ed_limit": 64}
    padding_invariant = False
    idle = ("unimodal",)


class TestFdrl(HeadTests):
    head = FdrlHead
    settings = SMALL


class TestLinear(HeadTests):
    head = LinearHead
    learning_rate = 3e-2

    @pytest.mark.skip(reason="64 random utterances are not linearly separable")
    def test_overfits_64_utterances(self) -> None: ...


class TestMlp(HeadTests):
    head = MlpHead


class TestConcat(HeadTests):
    head = ConcatHead
    settings = SMALL


class TestLate(HeadTests):
    """With attentive pooling, so that both poolings of the simple heads are covered."""

    head = LateHead
    settings: ClassVar[dict[str, Any]] = {**SMALL, "pool": "attention"}


class TestGated(HeadTests):
    head = GatedHead
    settings = SMALL


class TestMisa(HeadTests):
    """The difference loss grows with batch size over width, so the width stays near the published one."""

    head = MisaHead
    settings: ClassVar[dict[str, Any]] = {"dim": 96}
    learning_rate = 1e-3


class TestMult(HeadTests):
    head = MultHead
    settings: ClassVar[dict[str, Any]] = {"dim": 16, "layers": 1}
