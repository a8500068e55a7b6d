"""`mer encoders` tells what can be named and what it needs."""

from __future__ import annotations

import importlib.util
import json

import pytest

from mer.cache import MerError
from mer.pipeline.commands.encoders import encoders
from mer.stages.encoders.catalog import ENCODERS, PRESETS


def test_the_list_for_programs_holds_every_encoder_and_preset(capsys: pytest.CaptureFixture[str]) -> None:
    encoders(as_json=True)
    shown = json.loads(capsys.readouterr().out)
    facts = {fact["name"]: fact for fact in shown["encoders"]}
    assert set(ENCODERS) <= set(facts)
    assert facts["roberta-base"]["dim"] == 768
    assert facts["wav2vec2-msp-dim"]["license"].startswith("CC BY-NC-SA 4.0")
    assert {preset["name"] for preset in shown["presets"]} == set(PRESETS)


def test_a_missing_extra_shows_its_pip_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    encoders(modality="audio", as_json=True)
    facts = {fact["name"]: fact for fact in json.loads(capsys.readouterr().out)["encoders"]}
    assert facts["egemaps"]["installed"] is False
    assert facts["egemaps"]["install"] == "pip install 'mer-toolkit[opensmile]'"
    assert facts["hubert-base"]["installed"] is True
    assert "roberta-base" not in facts


def test_an_unknown_modality_is_refused() -> None:
    with pytest.raises(MerError, match="use text, audio, face"):
        encoders(modality="video")
