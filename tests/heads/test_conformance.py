"""Every head of ours passes the conformance suite."""

from typing import Any, ClassVar

import torch

from mer.stages.heads.attention_fusion import AttentionHead
from mer.stages.heads.base import HeadInputs, ModalityShape
from mer.stages.heads.drkf import DrkfHead
from mer.stages.heads.ef_lstm import EfLstmHead
from mer.stages.heads.fdrl import FdrlHead
from mer.stages.heads.mfn import GraphMfnHead, MfnHead
from mer.stages.heads.misa import MisaHead
from mer.stages.heads.mult import MultHead
from mer.stages.heads.probe import LinearHead, MlpHead
from mer.stages.heads.simple import ConcatHead, GatedHead, LateHead
from mer.stages.heads.tensor_fusion import LmfHead, TfnHead
from mer.stages.heads.testing import HeadTests, make_batch, total_loss

SMALL: dict[str, Any] = {"dim": 32}
SHALLOW = {**SMALL, "blocks": 2}


class TestDrkf(HeadTests):
    head = DrkfHead
    settings = SHALLOW


class TestDrkfWithAllTerms(HeadTests):
    head = DrkfHead
    settings: ClassVar[dict[str, Any]] = {
        **SHALLOW, "intra": 0.2, "cross": 0.2, "mse": 0.2, "kl": 1.0, "unimodal": 0.2,
    }  # fmt: skip


class TestDrkfOverSteps(HeadTests):
    head = DrkfHead
    settings: ClassVar[dict[str, Any]] = {**SHALLOW, "fusion": "steps"}


class TestDrkfAveraged(HeadTests):
    head = DrkfHead
    settings: ClassVar[dict[str, Any]] = {**SHALLOW, "fusion": "steps", "readout": "mean"}


class TestDrkfFaithful(HeadTests):
    """The released script attends to padding, and trains one unimodal classifier only."""

    head = DrkfHead
    settings: ClassVar[dict[str, Any]] = {**SHALLOW, "variant": "faithful", "ed_limit": 64}
    padding_invariant = False
    idle = ("unimodal",)


class TestFdrl(HeadTests):
    head = FdrlHead
    settings = SMALL


class TestLinear(HeadTests):
    head = LinearHead
    learning_rate = 3e-2

    def test_overfits_64_utterances(self) -> None:
        """With 64 features and more, because a plane must separate the random labels."""
        torch.manual_seed(0)
        inputs = HeadInputs({"text": ModalityShape(80)}, "class", ("no", "yes"))
        batch = make_batch(inputs, 64, missing=False)
        batch.labels = torch.randint(2, (64,))
        head = self.build(inputs).train()
        optimizer = torch.optim.AdamW(head.parameters(), self.learning_rate)
        for _ in range(100):
            optimizer.zero_grad()
            total_loss(head, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert (head.eval()(batch).argmax(-1) == batch.labels).float().mean() > 0.95


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


class TestAttention(HeadTests):
    """With attentive statistics, so that the third pooling of the simple heads is covered."""

    head = AttentionHead
    settings: ClassVar[dict[str, Any]] = {**SMALL, "pool": "statistics"}


class TestTfn(HeadTests):
    head = TfnHead
    settings: ClassVar[dict[str, Any]] = {**SMALL, "subspace": 6, "hidden": 32}


class TestLmf(HeadTests):
    head = LmfHead
    settings = SMALL


RECURRENT: dict[str, Any] = {"dim": 16, "hidden": 16, "segments": 3}


class TestEfLstm(HeadTests):
    head = EfLstmHead
    settings = RECURRENT
    learning_rate = 1e-2


class TestMfn(HeadTests):
    head = MfnHead
    settings: ClassVar[dict[str, Any]] = {**RECURRENT, "memory": 16}
    learning_rate = 1e-2


class TestGraphMfn(HeadTests):
    head = GraphMfnHead
    settings: ClassVar[dict[str, Any]] = {**RECURRENT, "memory": 16, "node": 12}
    learning_rate = 1e-2
