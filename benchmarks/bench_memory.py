"""Peak memory of `mer extract` for 150 and 600 clips, each in a process of its own; the ratio should be near 1.

python benchmarks/bench_memory.py
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
from pathlib import Path


def make_corpus(root: Path, clips: int) -> None:
    """Write a folder corpus whose clips are the demo corpus' mp4 files, each copied so that every file differs."""
    from mer.stages.corpora.demo.corpus import DemoCorpus

    demo = DemoCorpus(clips=32)
    source = [utterance for utterance in demo.utterances() if utterance.media]
    root.mkdir(parents=True)
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "path", "text"))
        for number in range(clips):
            utterance = source[number % len(source)]
            content = (Path(demo.root) / str(utterance.media)).read_bytes()
            (root / f"{number}.mp4").write_bytes(content + number.to_bytes(4, "little"))
            writer.writerow((f"u{number}", f"{number}.mp4", utterance.text or ""))


def measure(root: Path, out: Path) -> float:
    """Extract in a new process and return its peak memory in MiB."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(root), str(out)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def child(root: Path, out: Path) -> None:
    """Extract and print the peak memory of this process."""
    from mer.pipeline.extraction.options import Execution, ExtractOptions
    from mer.pipeline.extraction.presets import chosen_encoders
    from mer.pipeline.extraction.run import extract

    encoders = chosen_encoders("demo")
    extract(ExtractOptions("folder", root=root, out=out, encoders=encoders), Execution(device="cpu"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Measure both sizes and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=150)
    parser.add_argument("--many", type=int, default=600)
    parser.add_argument("--child", nargs=2)
    given = parser.parse_args()
    if given.child:
        child(Path(given.child[0]), Path(given.child[1]))
        return
    peaks = []
    for clips in (given.few, given.many):
        with tempfile.TemporaryDirectory() as folder:
            make_corpus(Path(folder) / "corpus", clips)
            peaks.append(measure(Path(folder) / "corpus", Path(folder) / "x.h5"))
        print(f"{clips} clips: {peaks[-1]:.0f} MiB")
    print(f"ratio {peaks[1] / peaks[0]:.2f}")


if __name__ == "__main__":
    main()
