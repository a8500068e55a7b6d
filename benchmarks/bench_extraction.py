"""`mer extract` beside the usual loop and the bare models, on real speech and clips with MELD's lengths.

    python benchmarks/bench_extraction.py --clips 24 --size base

Text takes 43 times as many clips, since one transcript costs so little. Sound: RAVDESS speech joined and cut to lengths
drawn from the real MELD list. Text: MELD transcripts. Face: the talking clips. All from ../shared/data beside the
checkout. Prints the table of `mer bench`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from mer.pipeline.commands.bench import print_rates
from mer.pipeline.extraction.options import ExtractOptions
from mer.pipeline.rates.extraction import bench_modality
from mer.stages.device import resolve_device

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

TEXTS_PER_CLIP = 43


def meld_lengths_seconds(count: int) -> list[float]:
    """Lengths of MELD clips, drawn from the list without the five longest, which would outweigh a small sample."""
    lines = (DATA / "annotations/emobox/meld/meld.jsonl").read_text().splitlines()
    lengths = sorted(float(json.loads(line)["length"]) for line in lines)[:-5]
    return random.Random(0).sample(lengths, count)


def write_speech(root: Path, count: int) -> None:
    """Join RAVDESS utterances and cut the stream into clips of MELD's lengths, with MELD's transcripts."""
    files = iter(sorted((DATA / "speech/ravdess_16k_flac").rglob("*.flac")) * 4)
    with (DATA / "annotations/meld/train_sent_emo.csv").open(encoding="utf-8") as file:
        texts = [row["Utterance"] for row in csv.DictReader(file)]
    rows, left = [], np.zeros(0, np.float32)
    for number, seconds in enumerate(meld_lengths_seconds(count)):
        samples = int(seconds * 16_000)
        while len(left) < samples:
            left = np.concatenate([left, soundfile.read(next(files), dtype="float32")[0]])
        soundfile.write(root / f"{number}.flac", left[:samples], 16_000)
        left = left[samples:]
        rows.append((f"u{number}", f"{number}.flac", texts[number * len(texts) // count]))
    write_manifest(root, rows)


def write_clips(root: Path) -> None:
    """Copy the real clips that show a face."""
    rows = []
    for path in [*sorted((DATA / "clips/talking").iterdir()), *sorted((DATA / "clips/grid").iterdir())]:
        shutil.copy(path, root / path.name)
        rows.append((path.stem, path.name, ""))
    write_manifest(root, rows)


def write_manifest(root: Path, rows: list[tuple[str, str, str]]) -> None:
    """Write the manifest of a folder corpus."""
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "path", "text"), *rows])


def main() -> None:
    """Measure the modalities asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--size", default="base")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--modality", nargs="*", default=["text", "audio", "face"])
    given = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit("real data not found: ../shared/data is absent")
    os.environ.setdefault("MER_YUNET", str(DATA / "weights/face_detection_yunet_2023mar.onnx"))
    device = resolve_device(given.device)
    rates = []
    for modality in given.modality:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "corpus"
            root.mkdir()
            if modality == "face":
                write_clips(root)
            else:
                write_speech(root, given.clips * (TEXTS_PER_CLIP if modality == "text" else 1))
            clips = ExtractOptions("folder", root=root, precision=given.precision)
            rates.append(bench_modality(modality, clips, given.size, device, Path(folder), given.repeat))
    print_rates(rates, given.size, device)


if __name__ == "__main__":
    main()
