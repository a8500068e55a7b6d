"""emotion2vec, read without FunASR, gives what FunASR gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_checkpoints import emotion2vec

from mer.cache import MerError
from mer.stages.encoders.catalog import make_encoder
from mer.stages.encoders.emotion2vec import alibi_slopes
from mer.stages.encoders.funasr_config import parse_convolutions
from mer.stages.encoders.hub import files_needed


def test_features_equal_those_of_funasr(tiny: Any) -> None:
    """The numbers were computed once by FunASR 1.4.16's own model on the same tensors and the same sound."""
    number = np.arange(8000)
    sound = ((number * 37 % 200) / 100 - 1).astype(np.float32) * np.float32(0.1)
    sound += ((number * number % 1009) / 5045).astype(np.float32)
    found = tiny("audio", "emotion2vec").load("cpu").encode([sound])[0].values
    assert found.shape == (24, 24)
    np.testing.assert_allclose(found[0, :4], [-0.5724388, -2.4437053, 0.4284291, 1.0878959], atol=2e-5)
    np.testing.assert_allclose(found[-1, -4:], [-0.6268864, 0.1155655, 2.9354196, 1.1682503], atol=2e-5)
    assert np.abs(found).mean() == pytest.approx(0.8620167, abs=1e-5)


def test_slopes_of_the_attention_bias() -> None:
    assert alibi_slopes(4) == [2**-2, 2**-4, 2**-6, 2**-8]
    assert alibi_slopes(6) == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]


def test_the_front_end_is_read_and_not_evaluated() -> None:
    assert parse_convolutions("[(512, 10, 5)] + [(512, 3, 2)] * 2") == [(512, 10, 5), (512, 3, 2), (512, 3, 2)]
    for text in ("__import__('os').system('true')", "[(1, 2)]", "[(1, 2, 3)] * 10**9", "[]", "[(1, 2, -3)]"):
        with pytest.raises((ValueError, SyntaxError)):
            parse_convolutions(text)


def test_files_of_a_funasr_repository() -> None:
    names = ["README.md", "config.yaml", "configuration.json", "emotion2vec_base.pt", "logo.png", "example/test.wav"]
    assert files_needed(names) == ["config.yaml", "emotion2vec_base.pt"]


def test_what_cannot_be_used_is_told_in_one_line(tmp_path: Any) -> None:
    folder = emotion2vec(tmp_path / "mine")
    weights = torch.load(folder / "emotion2vec_base.pt", weights_only=True)
    del weights["model"]["blocks.1.mlp.fc1.weight"]
    torch.save(weights, folder / "emotion2vec_base.pt")
    with pytest.raises(MerError, match=r"lacks 1 weights of its model \(first: blocks\.2\.up\.weight\)"):
        make_encoder("audio", str(folder)).resolve().load("cpu")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["model_conf"]["layer_norm_first"] = True
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(MerError, match="variant of the blocks"):
        make_encoder("audio", str(folder)).resolve()
    (folder / "config.yaml").write_text("model: Paraformer\n")
    with pytest.raises(MerError, match="only emotion2vec is known"):
        make_encoder("audio", str(folder)).resolve()
