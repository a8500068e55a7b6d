"""`mer report`: runs, or a cache, as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN|CACHE", help="Folders that mer train wrote, or one cache or pack.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write. [default: report.html in the first run; beside a cache]"),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Also write tables (CSV, LaTeX) and figures (SVG) of the runs into a folder.")
    ] = None,
) -> None:
    """Write one self-contained HTML page.

    Of runs: results, classes, curves, map, errors, calibration, what each modality adds, where modalities disagree,
    provenance. Of a cache: coverage, durations, classes, fates with reasons, outliers and near-duplicates.
    """
    from mer.cache import MerError
    from mer.pipeline.reporting.cache_page import write_cache_page
    from mer.pipeline.reporting.page import write_report
    from mer.pipeline.terminal.console import results

    caches = [path for path in runs if path.is_file()]
    if caches and len(runs) > 1:
        raise MerError(f"{caches[0]}: is a file; name runs alone, or one cache alone")
    if caches and export is not None:
        raise MerError("--export is for runs; leave it out for a cache")
    if caches:
        written = write_cache_page(caches[0], out if out is not None else caches[0].with_suffix(".report.html"))
    else:
        written = write_report(runs, out if out is not None else runs[0] / "report.html")
    results.print(f"report    {written}", soft_wrap=True)
    if export is not None:
        from mer.pipeline.reporting.export import export_report

        results.print(f"export    {export}: {len(export_report(runs, export))} files", soft_wrap=True)
