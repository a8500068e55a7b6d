"""`mer report`: runs as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders that mer train wrote.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write. [default: report.html in the first run]")
    ] = None,
) -> None:
    """Write one self-contained HTML page: results, per-class table, confusion, curves, map, errors, provenance."""
    from mer.pipeline.reporting.page import write_report
    from mer.pipeline.terminal.console import results

    written = write_report(runs, out if out is not None else runs[0] / "report.html")
    results.print(f"report    {written}", soft_wrap=True)
