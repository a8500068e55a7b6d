"""Parts of gpu.sh: corpora of MELD's lengths made of the demo's clips, their extraction, and results in one file.

MELD's clips last 3.2 s on average, half of them less than 2.5 s (`meld.jsonl` of EmoBox); lengths are drawn from a
log-normal distribution with that median and mean, between 0.3 and 15 s. Picture: 64 different clips of 1280 x 720 at
24 frames a second with a drawn face, each linked under several names.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import soundfile

from mer.cache import Fate
from mer.pipeline.extraction.options import Execution, ExtractOptions
from mer.pipeline.extraction.run import extract
from mer.pipeline.rates.models import bench_checkpoint
from mer.stages.corpora.demo.corpus import DemoCorpus
from mer.stages.corpora.demo.media import Picture, Sound, write_media
from mer.stages.media.reader import MediaRequest, read_media

MELD_CLIPS = 13_708
MEDIAN_SECONDS, MEAN_SECONDS = 2.5, 3.2
DISTINCT = 64
FPS = 24
SIZE = (1280, 720)


def lengths_seconds(count: int) -> npt.NDArray[np.float64]:
    """Lengths like MELD's."""
    spread = np.sqrt(2 * np.log(MEAN_SECONDS / MEDIAN_SECONDS))
    return np.random.default_rng(0).lognormal(np.log(MEDIAN_SECONDS), spread, count).clip(0.3, 15.0)


def demo_clips() -> list[Path]:
    """Clips of the demo corpus, made where they are not there."""
    corpus = DemoCorpus(clips=24)
    return [Path(corpus.root) / str(one.media) for one in corpus.utterances()]


def write_manifest(root: Path, names: list[str], texts: list[str]) -> None:
    """Write the manifest of a folder corpus."""
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(Path(name).stem, name, text) for name, text in zip(names, texts, strict=True)]
        csv.writer(file).writerows([("id", "path", "text"), *rows])


def speech(root: Path, count: int) -> None:
    """Write 16 kHz wave files: the demo's voices end to end, cut to MELD's lengths."""
    root.mkdir(parents=True, exist_ok=True)
    voices = [read_media(path, MediaRequest()).waveform for path in demo_clips()[:8]]
    stream = np.concatenate([voice for voice in voices if voice is not None])
    rng = np.random.default_rng(1)
    names = []
    for number, seconds in enumerate(lengths_seconds(count)):
        samples = int(seconds * 16_000)
        sound = np.resize(np.roll(stream, int(rng.integers(len(stream)))), samples)
        names.append(f"u{number:05}.wav")
        soundfile.write(root / names[-1], sound, 16_000)
    write_manifest(root, names, [f"line number {number}" for number in range(count)])


def one_clip(path: Path, source: Path, seconds: float) -> None:
    """Write one clip of a size, rate and length like MELD's out of a demo clip."""
    media = read_media(source, MediaRequest(frames_fps=FPS))
    frames = [cv2.resize(frame, SIZE, interpolation=cv2.INTER_LINEAR) for _, frame in media.frames]
    assert media.waveform is not None
    sound = np.resize(media.waveform, int(seconds * 16_000)).astype(np.float32)
    shown = itertools.islice(itertools.cycle(frames), max(1, int(seconds * FPS)))
    write_media(path, Picture(shown, float(FPS), SIZE), Sound(sound[:, None], 16_000))


def meld(root: Path, count: int) -> None:
    """Write a corpus of clips like MELD's."""
    (root / "clips").mkdir(parents=True, exist_ok=True)
    seconds, sources = lengths_seconds(DISTINCT), demo_clips()
    made = [root / "clips" / f"clip{number:02}.mp4" for number in range(min(DISTINCT, count))]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one_clip, made, itertools.cycle(sources), seconds))
    names = []
    for number in range(count):
        name = f"u{number:05}.mp4"
        (root / name).unlink(missing_ok=True)
        os.link(made[number % len(made)], root / name)
        names.append(name)
    write_manifest(root, names, [f"so this is line number {number}, and it is said now" for number in range(count)])


def run(root: Path, size: str, device: str) -> dict[str, object]:
    """Extract the corpus in all modalities and reckon the whole of MELD from its share."""
    encoders = {modality: (str(bench_checkpoint(modality, size)),) for modality in ("text", "audio", "face")}
    with tempfile.TemporaryDirectory() as folder:
        options = ExtractOptions("folder", root=root, out=Path(folder) / "meld.h5", encoders=encoders)
        started = time.perf_counter()
        summary = extract(options, Execution(device=device))
        seconds = time.perf_counter() - started
    return {
        "clips": summary.clips,
        "ok": summary.count(Fate.OK),
        "failed": summary.count(Fate.FAILED),
        "media_seconds": summary.media_seconds,
        "seconds": seconds,
        "stage_seconds": summary.stage_seconds,
        "size": size,
        "minutes_for_meld": seconds / summary.clips * MELD_CLIPS / 60,
    }


def join(out: Path, start: str) -> dict[str, object]:
    """Results of several files by name."""
    return {path.stem.removeprefix(start): json.loads(path.read_text()) for path in sorted(out.glob(f"{start}*.json"))}


def main() -> None:
    """Do one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speech", "meld", "extract", "join"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("start", nargs="?", default="")
    parser.add_argument("--clips", type=int, default=DISTINCT)
    parser.add_argument("--size", default="large")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    if given.part == "speech":
        speech(given.folder, given.clips)
    elif given.part == "meld":
        meld(given.folder, given.clips)
    else:
        found = join(given.folder, given.start) if given.part == "join" else run(given.folder, given.size, given.device)
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
