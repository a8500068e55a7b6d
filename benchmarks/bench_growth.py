"""What grows with the number of utterances: plan, second run, opening, info, verify, memory.

    python benchmarks/bench_growth.py --counts 10000 100000

A corpus of transcripts and an encoder that costs nothing are extracted once; then each step runs in a process of its
own, and its CPU seconds, imports included, and greatest memory are printed. Nothing but the bookkeeping is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mer.cache import FeatureSequence, FeatureSpec

DIM = 8


@dataclass(frozen=True)
class Costless:
    """A text encoder that gives one row of zeros."""

    checkpoint: str = "none"
    layers: str = "last"
    precision: str = "float32"
    trust_remote_code: bool = False
    modality: str = "text"
    name: str = "costless"

    def resolve(self) -> Costless:
        """Nothing has to be found."""
        return self

    def spec(self, inputs: Any, dtype: str) -> FeatureSpec:
        """Identity of what it gives."""
        return FeatureSpec("text", self.name, {"checkpoint": "none"}, DIM, inputs, 1, dtype)

    def load(self, device: str) -> Costless:
        """Nothing has to be loaded."""
        return self

    def cost(self, item: Any) -> int:
        """One unit an utterance."""
        return 1

    def encode(self, batch: Sequence[Any]) -> list[FeatureSequence]:
        """One row each."""
        return [FeatureSequence.of(np.zeros((1, DIM), np.float32), np.zeros(1)) for _ in batch]


STEPS = ("first run", "plan", "second run", "open", "info", "verify")


def run_step(step: str, root: Path, out: Path) -> None:
    """Carry one step out and print its seconds and memory as JSON."""
    from mer.cache import FeatureStore, verify
    from mer.pipeline.cli import main as mer
    from mer.pipeline.extraction.options import Execution, ExtractOptions
    from mer.pipeline.extraction.run import extract, prepare

    options = ExtractOptions("folder", root=root, out=out, encoders={"text": (f"{__spec_name()}:Costless",)})
    execution = Execution(device="cpu", budget=512)
    started = time.process_time()
    if step == "first run":
        extract(options, execution)
    elif step == "plan":
        prepare(options, execution)
    elif step == "second run":
        extract(options, execution)
    elif step == "open":
        FeatureStore.open(out)
    elif step == "info":
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
            mer(["info", str(out)])
    else:
        assert verify(out) == []
    seconds = time.process_time() - started
    print(json.dumps({"seconds": seconds, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def __spec_name() -> str:
    sys.path.insert(0, str(Path(__file__).parent))
    return Path(__file__).stem


def write_corpus(root: Path, count: int) -> None:
    """Write a manifest of so many transcripts."""
    root.mkdir(parents=True)
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "text", "emotion"])
        writer.writerows((f"u{i:07}", "", f"line number {i}", ("joy", "anger")[i % 2]) for i in range(count))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--at", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        run_step(given.step, given.at / "corpus", given.at / "cache.h5")
        return
    print(f"{'utterances':>10} " + " ".join(f"{step:>16}" for step in STEPS), flush=True)
    for count in given.counts:
        with tempfile.TemporaryDirectory() as folder:
            write_corpus(Path(folder) / "corpus", count)
            shown = []
            for step in STEPS:
                command = [sys.executable, __file__, "--step", step, "--at", folder]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr)
                found = json.loads(done.stdout.splitlines()[-1])
                shown.append(f"{found['seconds']:7.2f} s {found['mib']:4.0f} M")
            print(f"{count:>10} " + " ".join(f"{cell:>16}" for cell in shown), flush=True)


if __name__ == "__main__":
    main()
