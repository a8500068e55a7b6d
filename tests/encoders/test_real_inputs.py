"""Batches of real speech, transcripts and faces equal their singles, for every family, in float32 and bfloat16."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import soundfile
from tiny_checkpoints import EVERY

from mer.stages.encoders.testing import difference, encode_all
from mer.stages.interfaces import EncoderInput, FaceCrops
from mer.stages.media.reader import read_media
from mer.stages.media.request import MediaRequest

SECONDS = (0.06, 0.11, 0.4, 1.0, 3.0, 9.0, 30.0)


def real_speech(data: Path) -> list[EncoderInput]:
    """Excerpts of RAVDESS from 0.06 to 30 s, the long ones several utterances in a row."""
    files = sorted((data / "speech" / "ravdess_16k_flac" / "Actor_03").glob("*.flac"))[:10]
    speech = np.concatenate([soundfile.read(file, dtype="float32")[0] for file in files])
    starts = np.linspace(16000, len(speech) - 30 * 16000, len(SECONDS)).astype(int)
    return [
        speech[start : start + round(16000 * seconds)].copy() for start, seconds in zip(starts, SECONDS, strict=True)
    ]


def real_text(data: Path) -> list[EncoderInput]:
    """Utterances of MELD, and a monologue of a hundred of them."""
    with (data / "annotations" / "meld" / "dev_sent_emo.csv").open(encoding="utf-8") as file:
        lines = [row["Utterance"] for row in csv.DictReader(file)]
    return [*lines[:12], max(lines, key=len), " ".join(lines[:100])]


def real_faces(data: Path) -> list[EncoderInput]:
    """The upper middle of GRID's pictures, where the speaker's face is, with a gap in one of them."""
    clips: list[EncoderInput] = []
    for number, name in enumerate(["bbaf2n", "lrwp9a", "sbwe5n"]):
        crops: list[np.ndarray] = []
        times: list[float] = []

        def keep(time: float, frame: np.ndarray, crops: list = crops, times: list = times) -> None:
            crops.append(cv2.resize(frame[40:240, 80:280], (112, 112))[:, :, ::-1].copy())
            times.append(time)

        read_media(data / "clips" / "grid" / f"{name}.mpg", MediaRequest(sound=False, frames_fps=5.0), keep)
        valid = np.ones(len(times), np.bool_)
        valid[2 : 2 + 4 * number] = False
        clips.append(FaceCrops(np.stack(crops)[valid], np.array(times, np.float32), valid))
    return clips


@pytest.fixture(scope="module")
def real(shared_data: Path) -> dict[str, list[EncoderInput]]:
    return {"text": real_text(shared_data), "audio": real_speech(shared_data), "face": real_faces(shared_data)}


@pytest.mark.parametrize(("modality", "family"), EVERY, ids=[family for _, family in EVERY])
def test_batches_of_real_input_equal_singles(tiny: Any, real: Any, modality: str, family: str) -> None:
    loaded = tiny(modality, family).load("cpu")
    items = real[modality]
    singles = [loaded.encode([item])[0] for item in items]
    for sequence, single in zip(loaded.encode(items), singles, strict=True):
        greatest, cosine = difference(sequence, single)
        assert greatest <= 1e-4
        assert cosine >= 0.99999
    few = slice(0, 6)  # without the half minute, to save time
    cut = encode_all(loaded, items[few], budget=3 * loaded.cost(items[1]))
    for sequence, single in zip(cut, singles[few], strict=True):
        assert difference(sequence, single)[0] <= 1e-4


@pytest.mark.parametrize(("modality", "family"), EVERY, ids=[family for _, family in EVERY])
def test_bfloat16_batches_stay_within_its_rounding(tiny: Any, real: Any, modality: str, family: str) -> None:
    """Eight bits of mantissa: neighbouring numbers differ by 1 part in 128 to 256, and each layer rounds again."""
    loaded = tiny(modality, family, precision="bfloat16").load("cpu")
    exact = tiny(modality, family).load("cpu")
    items = real[modality][:5]
    for item, sequence in zip(items, loaded.encode(items), strict=True):
        single = loaded.encode([item])[0]
        truth = exact.encode([item])[0]
        rounding = np.abs(single.values - truth.values).max()
        assert rounding > 0  # it is bfloat16
        greatest, cosine = difference(sequence, single)
        assert greatest <= max(2 * rounding, 2**-6 * np.abs(single.values).max())
        assert cosine >= 0.995
