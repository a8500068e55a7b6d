"""The planted sets hold what they say, and DRKF turns down the modality that is at odds with the others."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from mer.stages.heads.base import Batch, HeadInputs, ModalityShape
from mer.stages.heads.configs import DrkfConfig
from mer.stages.heads.drkf import DrkfHead
from mer.stages.heads.losses import prediction_loss

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made  # dataclasses look their module up
    spec.loader.exec_module(made)
    return made


sets = load("planted_sets")
SMALL = (600, 60, 600)


def told(planted: object, modality: str, what: np.ndarray) -> float:
    """Share of test utterances whose nearest class mean, of the training means over steps, is right."""
    x = planted.values[modality].mean(1)
    train, test = planted.rows("train"), planted.rows("test")
    means = np.stack([x[train][what[train] == k].mean(0) for k in range(4)])
    found = ((x[test][:, None] - means) ** 2).sum(-1).argmin(1)
    return float((found == what[test]).mean())


def test_no_modality_of_xor_knows_the_class_but_its_own_factor() -> None:
    xor = sets.make_set("xor", SMALL)
    assert all(told(xor, m, xor.labels) < 0.35 for m in sets.MODALITIES)
    assert told(xor, "text", xor.factors["first"]) > 0.85
    assert told(xor, "audio", (xor.labels - xor.factors["first"]) % 4) > 0.85


def test_one_modality_of_conflict_is_wrong() -> None:
    conflict = sets.make_set("conflict", SMALL)
    right = {i: conflict.factors["liar"] != i for i in range(3)}
    for index, modality in enumerate(sets.MODALITIES):
        assert 0.5 < told(conflict, modality, conflict.labels) < 0.75
        assert right[index].mean() == pytest.approx(2 / 3, abs=0.05)


def test_private_factors_and_strange_speakers() -> None:
    parts = sets.make_set("parts", SMALL)
    assert told(parts, "audio", parts.labels) > 0.6
    assert told(parts, "audio", parts.factors["audio"]) > 0.8 > 0.35 > told(parts, "audio", parts.factors["face"])
    speakers = sets.make_set("speakers", SMALL)
    known, strange = (set(speakers.speaker[speakers.rows(part)]) for part in ("train", "test"))
    assert not known & strange
    again = sets.make_set("speakers", SMALL)
    assert np.array_equal(again.values["face"], speakers.values["face"])
    with pytest.raises(KeyError):
        sets.make_set("nothing")


def test_drkf_turns_down_the_modality_that_disagrees() -> None:
    """Strong signals, a small head and a few epochs: the weight of the liar falls behind that of the others."""
    planted = sets.conflict(sets.Maker((640, 40, 200), 0, noise=1.0))
    torch.manual_seed(0)
    inputs = HeadInputs({m: ModalityShape(sets.DIM) for m in sets.MODALITIES}, "class", ("a", "b", "c", "d"))
    head = DrkfHead(inputs, DrkfConfig(dim=32, adapter_layers=0, audio_stride=1)).train()
    optimiser = torch.optim.AdamW(head.parameters(), 3e-3)

    def batch(rows: np.ndarray) -> Batch:
        values = {m: torch.from_numpy(x[rows]) for m, x in planted.values.items()}
        here = {m: torch.ones(len(rows), dtype=torch.bool) for m in values}
        valid = {m: torch.ones(x.shape[:2], dtype=torch.bool) for m, x in values.items()}
        return Batch(values, valid, here, torch.from_numpy(planted.labels[rows]))

    for epoch in range(6):
        for rows in np.random.default_rng(epoch).permutation(640).reshape(-1, 64):
            given = batch(rows)
            fused = head.fuse(given)
            assert given.labels is not None
            task = prediction_loss(head.classify(fused.vector), given.labels, "class")
            optimiser.zero_grad()
            (task + head.auxiliary(given, fused, 0.5)["ed"]).backward()
            optimiser.step()
    test = planted.rows("test")
    with torch.no_grad():
        fused = head.eval().fuse(batch(test))
        weights = head.agreement.weights(fused.parts["emotions"], fused.parts["present"]).numpy()
    liar = planted.factors["liar"][test]
    assert (weights.argmin(1) == liar).mean() > 0.7
    assert (head.classify(fused.vector).argmax(-1).numpy() == planted.labels[test]).mean() > 0.85
