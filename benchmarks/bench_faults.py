"""Faults by the hundred: mutated clips, forged packs, killed runs, and what decoding in helper processes costs.

Usage: python benchmarks/bench_faults.py [--clips 500] [--forged 1000] [--kills 20] [--pairs 3]

Every part prints one line of counts. Mutated clips go through the decoding of an extraction, sound and faces; forged
packs have metadata changed and every checksum over them made to fit; killed runs end in the bytes of an undisturbed
one. The cost is CPU seconds, this process and its helpers together, of the same clips decoded in turn both ways.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cache.conftest import make_rows, make_spec, make_table, write_set  # noqa: E402
from cache.test_fuzz import mutate  # noqa: E402
from synthetic import noise, write_clip  # noqa: E402

from mer.cache import Catalogue, PackOptions, pack, write_catalogue  # noqa: E402
from mer.pipeline.extraction.decoding import TaskSettings, decode  # noqa: E402
from mer.pipeline.extraction.isolation import clip_helpers  # noqa: E402
from mer.pipeline.extraction.jobs import Job  # noqa: E402
from mer.stages.faces.finder import resolve_finder  # noqa: E402

CONTAINERS = ("mp4", "mov", "mkv", "avi", "webm", "mpg", "wav", "flac", "mp3", "ogg")


def job_of(path: Path) -> Job:
    """A clip as an extraction sees it."""
    return Job(path.stem, None, str(path), None, None, None, None, "", b"", path.stem.encode().ljust(16)[:16])


def write_clips(folder: Path) -> list[Path]:
    """One clip per container, two seconds each."""
    clips = []
    for suffix in CONTAINERS:
        path = folder / f"whole.{suffix}"
        if suffix in ("wav", "flac", "mp3", "ogg"):
            write_clip(path, sound=noise(2.0, 48_000), rate_hz=48_000)
        else:
            write_clip(path, seconds=2.0, fps=25)
        clips.append(path)
    return clips


def mutated_clips(folder: Path, count: int) -> dict[str, int]:
    """Decode mutations of clips in helpers; whoever kills this process has found something."""
    settings = TaskSettings("mean", 5.0, resolve_finder("cascade"), decode_threads=1, clip_timeout_seconds=60.0)
    clips, told = write_clips(folder), Counter[str]()
    helpers = clip_helpers()
    for number in range(count):
        whole = clips[number % len(clips)]
        path = folder / f"mutated{whole.suffix}"
        path.write_bytes(mutate(whole.read_bytes(), np.random.default_rng(number)))
        decoded = helpers.decode(job_of(path), {"audio", "face"}, settings)
        reasons = (decoded.sound_fate[1], decoded.face_fate[1])
        told["sound read"] += decoded.waveform is not None
        told["helper crashed"] += any("crashes" in reason for reason in reasons)
        told["took too long"] += any("--clip-timeout" in reason for reason in reasons)
        told["fault of ours"] += bool(decoded.traceback)
        if decoded.traceback:
            print(whole.suffix, number, decoded.traceback.rstrip().rpartition("\n")[2], file=sys.stderr)
    return {"mutated": count, **told}


def forged_packs(folder: Path, count: int) -> dict[str, int]:
    """Open forgeries in a process that must not die."""
    keys, spec = list("abcde"), make_spec()
    sets = {spec.set_name: write_set(folder / "tiny.h5", spec, make_rows(keys))}
    facts = {"name": "tiny", "title": "Tiny", "license": "CC0-1.0", "gated": False}
    write_catalogue(folder / "tiny.h5", Catalogue(facts, make_table(keys), sets, {}))
    pack(folder / "tiny.h5", folder / "pack.h5", PackOptions("CC0-1.0"))
    forging = ROOT / "tests" / "cache" / "forging.py"
    done = subprocess.run(
        [sys.executable, forging, folder / "pack.h5", "0", str(count)], capture_output=True, text=True
    )
    counts = json.loads(done.stdout) if done.returncode == 0 else {"parent died with": done.returncode}
    return {name: value for name, value in counts.items() if isinstance(value, int)}


def killed_runs(folder: Path, kills: int) -> dict[str, object]:
    """Kill an extraction at random moments and compare with an undisturbed one."""
    clips = folder / "clips"
    clips.mkdir()
    rows = ["id,path,text,emotion"]
    for i in range(6):
        write_clip(clips / f"clip{i}.mp4", seconds=0.5 + 0.25 * i)
        rows.append(f"u{i},clip{i}.mp4,words {i},{('joy', 'anger')[i % 2]}")
    (clips / "manifest.csv").write_text("\n".join(rows) + "\n")
    killing = ROOT / "tests" / "extraction" / "killing.py"

    def run(out: str, count: int, seconds: float) -> str:
        arguments = [str(clips), str(folder / out / "mine.h5"), str(count), "7", str(seconds)]
        return subprocess.run([sys.executable, killing, *arguments], capture_output=True, text=True, check=True).stdout

    seconds = float(run("calm", 0, 0.0).split()[-2])
    told = run("killed", kills, seconds)
    bytes_of = [
        {str(path.relative_to(folder / out)): path.read_bytes() for path in (folder / out).rglob("*.h5")}
        for out in ("calm", "killed")
    ]
    return {"kills": kills, "while it worked": int(told.split()[0]), "equal bytes": bytes_of[0] == bytes_of[1]}


def cost(folder: Path, pairs: int) -> dict[str, object]:
    """CPU seconds of decoding the same clips in this process and in a helper, in turn."""
    settings = TaskSettings("mean", 5.0, resolve_finder("cascade"), decode_threads=1)
    jobs = [job_of(write_clip(folder / f"cost{i}.mp4", seconds=4.0, size=(320, 240), fps=25)) for i in range(10)]
    helpers, spent = clip_helpers(), {"here": [], "apart": []}
    decode(jobs[0], {"audio", "face"}, settings)
    helpers.decode(jobs[0], {"audio", "face"}, settings)
    (helper,) = helpers._idle[-1:]
    ticks = os.sysconf("SC_CLK_TCK")

    def helper_seconds() -> float:
        fields = Path(f"/proc/{helper.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    def own_seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    for _ in range(pairs):
        for name, how in (("here", decode), ("apart", helpers.decode)):
            before = own_seconds() + helper_seconds()
            for job in jobs:
                how(job, {"audio", "face"}, settings)
            spent[name].append(round(own_seconds() + helper_seconds() - before, 2))
    more = sum(spent["apart"]) / sum(spent["here"]) - 1
    return {**spent, "more": f"{more:+.1%}"}


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    for name, default in (("clips", 500), ("forged", 1000), ("kills", 20), ("pairs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    parts = {"clips": mutated_clips, "forged": forged_packs, "kills": killed_runs, "pairs": cost}
    for name, part in parts.items():
        if getattr(asked, name):
            with tempfile.TemporaryDirectory() as folder:
                print(name, part(Path(folder), getattr(asked, name)), flush=True)


if __name__ == "__main__":
    main()
