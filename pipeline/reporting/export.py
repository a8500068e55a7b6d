"""Tables of a report as CSV and LaTeX, and its figures as SVG files, ready for a paper."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.cache import atomic_write

from ..scores.metrics import PLAIN_NUMBERS, TITLES, show
from .charts import LEFT, colour, reliability_chart, scatter_chart
from .charts import line_chart as lines
from .data import RunView, read_runs
from .explain import calibration_of, contribution_rows, missing_series, signed, subsets_of
from .html import Html, el
from .page import interval_figure
from .run import curves_of
from .timeline_page import picture

LEGEND = 22
LETTER = 6.2
LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
         "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$", "−": r"$-$", "–": "--",
         "<": r"\textless{}", ">": r"\textgreater{}"}  # fmt: skip


@dataclass(frozen=True)
class Sheet:
    """One table: numbers for CSV, and the same as people read them for LaTeX."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | float | int]]
    shown: Sequence[Sequence[str]]


def export_report(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Write tables and figures of runs into a folder; return the paths.

    Parameters
    ----------
    runs
        Folders that `mer train` wrote.
    folder
        Gets `scores.csv`, `scores.tex`, `scores.svg`, and per run `RUN-classes`, `RUN-modalities`, `RUN-calibration`
        (`.csv` and `.tex`) and `RUN-curves`, `RUN-map`, `RUN-reliability`, `RUN-missing` (`.svg`), as far as the run
        has them.

    Raises
    ------
    MerError
        If a run cannot be read, or a file cannot be written.
    """
    views = read_runs(runs, "-")
    sheets: dict[str, Sheet] = {"scores": _scores(views)}
    figures: dict[str, Html] = {"scores": interval_figure(views)}
    for view in views:
        sheets |= {f"{view.name}-{name}": sheet for name, sheet in _sheets(view).items()}
        figures |= {f"{view.name}-{name}": figure for name, figure in _figures(view).items()}
    written = []
    for name, sheet in sheets.items():
        written += [_write(folder / f"{name}.csv", to_csv(sheet)), _write(folder / f"{name}.tex", to_latex(sheet))]
    for name, figure in figures.items():
        written.append(_write(folder / f"{name}.svg", picture(figure)))
    return written


def _write(path: Path, text: str) -> Path:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def to_csv(sheet: Sheet) -> str:
    """Text of a CSV file; an empty cell is a value that is not there."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(sheet.head)
    table.writerows([["" if isinstance(c, float) and math.isnan(c) else c for c in row] for row in sheet.rows])
    return out.getvalue()


def to_latex(sheet: Sheet) -> str:
    """Text of a tabular with booktabs' rules."""
    width = len(sheet.shown[0]) if sheet.shown else len(sheet.head)
    head = [name for name in sheet.head if not name.endswith((" std", " low", " high"))][:width]
    lines_ = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"\toprule",
        f"{' & '.join(map(latex, head))} \\\\",
        r"\midrule",
        *(f"{' & '.join(map(latex, row))} \\\\" for row in sheet.shown),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines_) + "\n"


def latex(text: str) -> str:
    """Text with LaTeX's special characters written out."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def _scores(views: Sequence[RunView]) -> Sheet:
    each = [view.figures() for view in views]
    metrics = list(dict.fromkeys(name for figures in each for name in figures))
    head = ["run"]
    for name in metrics:
        head += [TITLES[name], f"{TITLES[name]} std", f"{TITLES[name]} low", f"{TITLES[name]} high"]
    rows: list[list[str | float | int]] = []
    shown: list[list[str]] = []
    for view, figures in zip(views, each, strict=True):
        rows.append([view.name])
        shown.append([view.name])
        for name in metrics:
            if name not in figures:
                rows[-1] += [math.nan] * 4
                shown[-1].append("–")
                continue
            found = figures[name].interval
            rows[-1] += [found.mean, found.std, found.low, found.high]
            spread = f" ± {show(name, found.std)}" if math.isfinite(found.std) else ""
            shown[-1].append(show(name, found.mean) + spread)
    return Sheet(head, rows, shown)


def _sheets(view: RunView) -> dict[str, Sheet]:
    made: dict[str, Sheet] = {}
    if view.run.kind != "real":
        scored = view.by_class()
        shares = [(row.precision, row.recall, row.f1) for row in scored]
        numbers: list[list[str | float | int]] = [
            [row.name, *three, row.support] for row, three in zip(scored, shares, strict=True)
        ]
        said = [
            [row.name, *(f"{100 * one:.1f}" for one in three), str(row.support)]
            for row, three in zip(scored, shares, strict=True)
        ]
        made["classes"] = Sheet(["class", "precision", "recall", "F1", "rows"], numbers, said)
    calibration = calibration_of(view)
    if calibration is not None:
        errors = {"as they are": calibration.before.error}
        if calibration.after is not None:
            errors["with a temperature"] = calibration.after.error
        shown = [[name, f"{100 * error:.1f}"] for name, error in errors.items()]
        made["calibration"] = Sheet(["probabilities", "ECE"], list(errors.items()), shown)
    answers, _ = subsets_of(view)
    if answers is not None:
        metric = view.facts["metric"]
        found = contribution_rows(answers, metric)
        shown = [[name, show(metric, value), signed(metric, change) if change else ""] for name, value, change in found]
        made["modalities"] = Sheet(["given", TITLES[metric], "change"], found, shown)
    return made


def _figures(view: RunView) -> dict[str, Html]:
    made: dict[str, Html] = {}
    series, label = curves_of(view, "val")
    if series:
        made["curves"] = lines(series, "epoch", label)
    points, judged, shares = view.map()
    if view.run.kind == "class" and len(points):
        codes = [max(int(one.label), 0) for one in judged]
        wrong = [int(one.output.argmax()) != int(one.label) for one in judged]
        axes = f"first direction, {shares[0]:.0%} of variance", f"second, {shares[1]:.0%}"
        chart = scatter_chart(points, codes, wrong, [one.key for one in judged], *axes)
        made["map"] = with_legend(chart, view.run.classes)
    calibration = calibration_of(view)
    if calibration is not None:
        names = ["as they are", "with a temperature"][: 1 + (calibration.after is not None)]
        made["reliability"] = with_legend(reliability_chart(calibration.before, calibration.after), names)
    answers, _ = subsets_of(view)
    if answers is not None:
        metric = view.facts["metric"]
        unit = "" if metric in PLAIN_NUMBERS else ", %"
        chart = lines(missing_series(answers, metric), "utterances without it, %", TITLES[metric] + unit)
        made["missing"] = with_legend(chart, answers.modalities)
    return made


def with_legend(chart: Html, names: Sequence[str]) -> Html:
    """A chart with its legend drawn below it: a picture of its own has no page around it."""
    found = re.search(r'viewBox="0 0 (\d+) (\d+)"', chart)
    assert found is not None
    width, height = int(found[1]), int(found[2])
    x, y, shapes = float(LEFT), height + 14.0, []
    for place, name in enumerate(names):
        step = 24 + LETTER * len(name)
        if x + step > width and x > LEFT:
            x, y = float(LEFT), y + LEGEND
        shapes.append(el("circle", cx=f"{x:.1f}", cy=f"{y - 4:.1f}", r=5, style=f"fill:{colour(place)}"))
        shapes.append(el("text", name, x=f"{x + 9:.1f}", y=f"{y:.1f}"))
        x += step
    taller = chart.replace(found[0], f'viewBox="0 0 {width} {round(y) + 8}"', 1)
    return Html(taller.removesuffix("</svg>") + "".join(shapes) + "</svg>")
