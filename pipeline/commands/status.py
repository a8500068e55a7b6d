"""`mer status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def status(
    file: Annotated[Path, typer.Argument(help="Cache that mer extract writes, such as cache/meld.h5.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell how far the extraction of a cache is: done, failed, rate, what remains, the last failures.

    A run that ended, was stopped or died is told as such; start it again with the same command.
    """
    import json

    from mer.pipeline.extraction.status import read_status
    from mer.pipeline.terminal.console import clock, results

    facts = read_status(file)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    done, total = facts["done"], facts["utterances"]
    elapsed = max(1e-6, facts["now"] - facts["begun"])
    lines = [
        f"{facts['state']}: {done} of {total} utterances, {facts['failed']} failed, {facts['shards']} shards"
        f" (process {facts['pid']} on {facts['host']})",
        f"{done / elapsed:.2f} clips/s, {facts['media_seconds'] / elapsed:.2f} hours of media per hour",
    ]
    if facts["state"] == "running" and done:
        lines.append(f"about {clock((total - done) * elapsed / done)} left")
    if facts["state"] == "dead":
        lines.append("its process is gone; finished shards are kept, run the same command again to go on")
    if facts["why"]:
        lines.append(facts["why"])
    if facts["seconds"]:
        spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in facts["seconds"].items())
        lines.append(f"thread seconds: {spent}")
    lines += [f"failed: {key} ({name}): {reason}" for key, name, reason in facts["failures"]]
    for line in lines:
        results.print(line, soft_wrap=True, highlight=False, markup=False)
