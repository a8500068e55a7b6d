"""Several batches encoded at once by one loaded model, and rewrites that keep its numbers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tiny_checkpoints import EVERY, FEW
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.utils import parametrizations, parametrize

from mer.cache import FeatureSequence
from mer.stages.encoders.batching import lanes_of
from mer.stages.encoders.convolutions import FramedConvolution, fold_weight_norm
from mer.stages.encoders.loading import exact_math
from mer.stages.encoders.testing import MAKERS, difference, encode_all


@pytest.fixture
def switching() -> Iterator[None]:
    """Let another thread run before every module of a model, so that batches meet in all of them."""
    hook = register_module_forward_pre_hook(lambda module, args: time.sleep(1e-4))
    yield
    hook.remove()


@pytest.mark.parametrize(("modality", "family"), EVERY)
def test_batches_side_by_side_equal_batches_in_turn(tiny: Any, switching: None, modality: str, family: str) -> None:
    loaded: Any = tiny(modality, family, layers="all").load("cpu")
    items = MAKERS[modality]()[: 4 if modality == "text" else 5] * 2  # without the longest, to save time
    in_turn = encode_all(loaded, items, FEW[modality])
    at_once = encode_all(loaded, items, FEW[modality], threads=3)
    for number, (one, other) in enumerate(zip(in_turn, at_once, strict=True)):
        assert isinstance(one, FeatureSequence)
        assert isinstance(other, FeatureSequence), f"item {number}: {other}"
        assert difference(other, one)[0] <= 1e-5


def test_a_bad_item_side_by_side_harms_no_other(tiny: Any) -> None:
    loaded: Any = tiny("audio", "wav2vec2-group").load("cpu")
    items: list[Any] = [*MAKERS["audio"](), "not a waveform"]
    loaded.cost = lambda item: 16_000 if isinstance(item, str) else len(item)
    *good, bad = encode_all(loaded, items, 50_000, threads=3)
    assert all(isinstance(result, FeatureSequence) for result in good)
    assert "takes a mono waveform" in str(bad)


def test_only_what_threads_may_share_runs_side_by_side(tiny: Any) -> None:
    loaded: Any = tiny("text", "roberta").load("cpu")
    assert [lanes_of(loaded, threads) for threads in (0, 1, 2, 64)] == [1, 1, 2, 4]
    loaded.device = "cuda:0"
    assert [lanes_of(loaded, threads) for threads in (0, 8)] == [2, 2]
    loaded.device = "meta"
    assert lanes_of(loaded, 8) == 1
    assert lanes_of(object(), 8) == 1  # type: ignore[arg-type]


def test_tf32_stays_off_until_the_last_thread_is_done() -> None:
    def switch() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    begun, done, seen = threading.Event(), threading.Event(), []

    def encode() -> None:
        with exact_math("cuda:0", "float32"):
            begun.set()
            done.wait(60)
            seen.append(switch())

    before = switch()
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        longer = threading.Thread(target=encode)
        longer.start()
        begun.wait(60)
        with exact_math("cuda:0", "float32"):
            pass
        done.set()
        longer.join()
        assert seen == [(False, False)]
        assert switch() == (True, before[1])
        with exact_math("cuda:0", "bfloat16"), exact_math("cpu", "float32"):
            assert switch() == (True, before[1])
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before[0]


PRECISIONS = """
import sys, torch
from mer.stages.encoders.loading import full_float32
def found():
    backends = torch.backends
    return [switch.fp32_precision for switch in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)]
exec(sys.argv[1])
before = found()
with full_float32("cuda:0"):
    print("tf32" in found())
print(found() == before or (before[0], found()[0]) == ("none", "ieee") and found()[1:] == before[1:])
exec(sys.argv[2])
"""


@pytest.mark.parametrize(
    ("chosen", "after"),
    [
        ("", "assert torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32"),
        ("torch.backends.fp32_precision = 'tf32'", ""),
    ],
    ids=["by default", "by the newer name"],
)
def test_tf32_is_off_inside_however_a_program_chose_it(chosen: str, after: str) -> None:
    """In a process of its own: PyTorch keeps count of which names were written."""
    command = [sys.executable, "-c", PRECISIONS, chosen, after]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert made.stdout.split() == ["False", "True"], made.stderr


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), [(10, 5), (3, 2), (1, 1)])
def test_a_framed_convolution_is_the_convolution(bias: bool, kernel: int, stride: int) -> None:
    convolution = nn.Conv1d(1, 7, kernel, stride, bias=bias)
    sound = torch.randn(3, 1, 533)
    with torch.no_grad():
        torch.testing.assert_close(FramedConvolution(convolution)(sound), convolution(sound), atol=1e-5, rtol=1e-5)


def test_folding_keeps_the_weight_and_ends_the_parametrisation() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv1d(4, 4, 3, groups=2), dim=2), nn.GELU())
    sound = torch.randn(2, 4, 50)
    with torch.no_grad():
        before = model(sound)
        fold_weight_norm(model)
        np.testing.assert_array_equal(model(sound), before)
    assert not parametrize.is_parametrized(model[0])
    assert type(model[0]) is nn.Conv1d
