"""Charts as inline SVG and plain HTML. Colours come from the page's style, so a chart follows light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..scores.calibration import Reliability
from .html import Html, el

Floats = npt.NDArray[np.float64]

WIDTH = 520
HEIGHT = 260
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 36
COLOURS = 10
"""Number of categorical colours the style has; class i is drawn in `--c{i % COLOURS}`."""


@dataclass(frozen=True)
class Series:
    """One line of a line chart."""

    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    faint: bool = False
    mark: float | None = None
    """x of a point to mark, such as the epoch that was kept."""


@dataclass(frozen=True)
class Estimate:
    """One row of an interval chart."""

    label: str
    values: Sequence[float]
    mean: float
    low: float
    high: float


def colour(index: int) -> str:
    """Style value of the categorical colour `index`."""
    return f"var(--c{index % COLOURS})"


def line_chart(series: Sequence[Series], x_label: str, y_label: str) -> Html:
    """Draw lines over a common pair of axes; missing values (NaN) interrupt a line."""
    xs = np.concatenate([np.asarray(one.x, float) for one in series])
    ys = np.concatenate([np.asarray(one.y, float) for one in series])
    scale = _Scale(xs, ys)
    shapes = [*scale.frame(x_label, y_label)]
    for one in sorted(series, key=lambda each: not each.faint):
        stroke = f"stroke:{colour(one.colour)}"
        for run in _runs(np.asarray(one.x, float), np.asarray(one.y, float)):
            points = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in run)
            shapes.append(el("polyline", points=points, class_="faint line" if one.faint else "line", style=stroke))
        if one.mark is not None:
            height = float(np.interp(one.mark, one.x, one.y))
            dot = {"cx": f"{scale.x(one.mark):.1f}", "cy": f"{scale.y(height):.1f}"}
            shapes.append(el("circle", **dot, r=3, class_="dot", style=f"fill:{colour(one.colour)}"))
    return _svg(shapes, WIDTH, HEIGHT, f"{y_label} over {x_label}")


def scatter_chart(
    points: Floats,
    colours: Sequence[int],
    hollow: Sequence[bool],
    titles: Sequence[str],
    x_label: str,
    y_label: str,
    diagonal: bool = False,
) -> Html:
    """Draw points of shape (N, 2); hollow ones are rings. The title of a point shows when the pointer rests on it."""
    if diagonal:
        both = np.concatenate([points[:, 0], points[:, 1]])
        scale = _Scale(both, both, ticks=True, height=340)
    else:
        scale = _Scale(points[:, 0], points[:, 1], ticks=False, height=340)
    shapes = [*scale.frame(x_label, y_label)]
    if diagonal:
        low, high = scale.x_range
        ends = {"x1": scale.x(low), "y1": scale.y(low), "x2": scale.x(high), "y2": scale.y(high)}
        shapes.append(el("line", **{k: f"{v:.1f}" for k, v in ends.items()}, class_="grid"))
    for (x, y), which, ring, title in zip(points, colours, hollow, titles, strict=True):
        style = f"stroke:{colour(which)};fill:{'none' if ring else colour(which)}"
        place = {"cx": f"{scale.x(x):.1f}", "cy": f"{scale.y(y):.1f}"}
        shapes.append(el("circle", el("title", title), **place, r=3.2, class_="point", style=style))
    return _svg(shapes, WIDTH, 340, f"{y_label} against {x_label}")


def reliability_chart(before: Reliability, after: Reliability | None) -> Html:
    """Draw accuracy over confidence, before and after a temperature; the size of a point grows with its count."""
    unit = np.array([0.0, 100.0])
    scale = _Scale(unit, unit, height=340)
    shapes = [*scale.frame("confidence, %", "right, %")]
    ends = {"x1": scale.x(0), "y1": scale.y(0), "x2": scale.x(100), "y2": scale.y(100)}
    shapes.append(el("line", **{k: f"{v:.1f}" for k, v in ends.items()}, class_="reference"))
    named = (("as they are", before, 0), ("with a temperature", after, 1))
    for name, found, which in named:
        if found is None:
            continue
        known = np.flatnonzero(found.count)
        places = [(scale.x(100 * found.confidence[i]), scale.y(100 * found.accuracy[i])) for i in known]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        shapes.append(el("polyline", points=points, class_="line", style=f"stroke:{colour(which)}"))
        for i, (x, y) in zip(known, places, strict=True):
            said = f"{name}: {found.count[i]} at {found.confidence[i]:.0%}, {found.accuracy[i]:.0%} right"
            size = 2.5 + 5 * math.sqrt(found.count[i] / found.count.sum())
            dot = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{size:.1f}"}
            shapes.append(el("circle", el("title", said), **dot, style=f"fill:{colour(which)}"))
    return _svg(shapes, WIDTH, 340, "share of right predictions over confidence")


def histogram_chart(values: Floats, x_label: str, bins: int = 30) -> Html:
    """Draw how often numbers occur; the last bar holds everything beyond the 99th percentile."""
    top = float(np.percentile(values, 99))
    low = float(values.min())
    edges = np.linspace(low, max(top, low + 1e-6), bins + 1)
    counts = np.histogram(np.minimum(values, edges[-1]), edges)[0]
    scale = _Scale(edges, np.concatenate([[0.0], counts]))
    shapes = [*scale.frame(x_label, "utterances")]
    floor = scale.y(0.0)
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        said = f"{left:.1f} to {right:.1f}: {count}"
        place = {"x": f"{scale.x(left):.1f}", "width": f"{max(scale.x(right) - scale.x(left) - 1, 0.5):.1f}"}
        size = {"y": f"{scale.y(count):.1f}", "height": f"{floor - scale.y(count):.1f}"}
        shapes.append(el("rect", el("title", said), **place, **size, style=f"fill:{colour(0)}"))
    return _svg(shapes, WIDTH, HEIGHT, f"utterances by {x_label}")


def interval_chart(rows: Sequence[Estimate], reference: float | None, label: str) -> Html:
    """Draw per row the single values as dots, their mean and its interval; `reference` is a dashed line."""
    left, step, width = 170, 34, 2 * WIDTH
    height = TOP + step * len(rows) + BOTTOM
    values = [v for row in rows for v in (*row.values, row.low, row.high) if math.isfinite(v)]
    values += [] if reference is None else [reference]
    scale = _Scale(np.array(values), np.array([0.0, 1.0]), left=left, width=width, height=height)
    shapes = [*scale.vertical_grid(label)]
    if reference is not None:
        at = f"{scale.x(reference):.1f}"
        shapes.append(el("line", x1=at, x2=at, y1=TOP, y2=height - BOTTOM, class_="reference"))
    for index, row in enumerate(rows):
        y = TOP + step * (index + 0.5)
        shapes.append(el("text", _short(row.label, 22), x=left - 10, y=f"{y + 4:.1f}", class_="name"))
        if math.isfinite(row.low) and math.isfinite(row.high):
            ends = {"x1": f"{scale.x(row.low):.1f}", "x2": f"{scale.x(row.high):.1f}"}
            shapes.append(el("line", **ends, y1=y, y2=y, class_="interval", style=f"stroke:{colour(0)}"))
        shapes += [el("circle", cx=f"{scale.x(value):.1f}", cy=y + 8, r=2, class_="seed") for value in row.values]
        if math.isfinite(row.mean):
            shapes.append(el("circle", cx=f"{scale.x(row.mean):.1f}", cy=y, r=5, style=f"fill:{colour(0)}"))
    return _svg(shapes, width, height, label)


def confusion_table(counts: npt.NDArray[np.floating], classes: Sequence[str]) -> Html:
    """Show counts of shape (C, C), rows the truth; the shade is the share of the row."""
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts, dtype=float), where=totals > 0)
    rows = []
    for truth, name in enumerate(classes):
        cells = [
            el(
                "td",
                el("b", f"{share:.0%}"),
                el("small", _count(count)),
                class_="strong" if share > 0.55 else None,
                style=f"--v:{share:.3f}",
                title=f"{_count(count)} × {name} taken for {classes[guess]}",
            )
            for guess, (share, count) in enumerate(zip(shares[truth], counts[truth], strict=True))
        ]
        rows.append(el("tr", el("th", name, scope="row"), cells))
    head = el("tr", el("th", "truth ↓  guess →"), [el("th", name, scope="col") for name in classes])
    return el("div", el("table", el("thead", head), el("tbody", rows), class_="confusion"), class_="scroll")


def bar(share: float, which: int = 0) -> Html:
    """Draw a share as a small horizontal bar with its percentage."""
    if not math.isfinite(share):
        return el("span", "–", class_="bar")
    inner = el("i", style=f"width:{100 * min(max(share, 0.0), 1.0):.1f}%;background:{colour(which)}")
    return el("span", el("span", inner, class_="track"), el("span", f"{100 * share:.1f}", class_="value"), class_="bar")


def legend(names: Sequence[str]) -> Html:
    """List class names beside their colours."""
    return el(
        "p", [el("span", el("i", style=f"background:{colour(i)}"), n) for i, n in enumerate(names)], class_="legend"
    )


class _Scale:
    """Maps data to the plotting area and draws its frame."""

    def __init__(
        self,
        xs: Floats,
        ys: Floats,
        left: int = LEFT,
        width: int = WIDTH,
        height: int = HEIGHT,
        ticks: bool = True,
    ) -> None:
        self.x_range, self.y_range = _range(xs), _range(ys)
        self.left, self.right, self.height, self.ticks = left, width - RIGHT, height, ticks

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - BOTTOM - (value - low) / (high - low) * (self.height - BOTTOM - TOP)

    def frame(self, x_label: str, y_label: str) -> list[Html]:
        shapes = self.vertical_grid(x_label)
        for tick in _ticks(*self.y_range) if self.ticks else ():
            y = self.y(tick)
            ends = {"x1": self.left, "x2": self.right, "y1": f"{y:.1f}", "y2": f"{y:.1f}"}
            shapes.append(el("line", **ends, class_="grid"))
            shapes.append(el("text", _number(tick), x=self.left - 6, y=f"{y + 3.5:.1f}", class_="y tick"))
        middle = (self.height - BOTTOM + TOP) / 2
        shapes.append(el("text", y_label, transform=f"translate(11 {middle:.0f}) rotate(-90)", class_="label"))
        return shapes

    def vertical_grid(self, x_label: str) -> list[Html]:
        shapes = []
        for tick in _ticks(*self.x_range) if self.ticks else ():
            x = f"{self.x(tick):.1f}"
            shapes.append(el("line", x1=x, x2=x, y1=TOP, y2=self.height - BOTTOM, class_="grid"))
            shapes.append(el("text", _number(tick), x=x, y=self.height - BOTTOM + 14, class_="x tick"))
        middle = (self.left + self.right) / 2
        shapes.append(el("text", x_label, x=f"{middle:.0f}", y=self.height - 5, class_="label"))
        return shapes


def _svg(shapes: Sequence[Html], width: int, height: int, label: str) -> Html:
    broad = "broad" if width > WIDTH else None
    return el("svg", shapes, viewBox=f"0 0 {width} {height}", role="img", aria_label=label, class_=broad)


def _range(values: Floats) -> tuple[float, float]:
    """Smallest and largest finite value with a little room; never empty."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    room = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    return low - room, high + room


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers within a range."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _runs(x: Floats, y: Floats) -> list[list[tuple[float, float]]]:
    """Split a line where a value is missing."""
    runs: list[list[tuple[float, float]]] = [[]]
    for one, other in zip(x.tolist(), y.tolist(), strict=True):
        if math.isfinite(other):
            runs[-1].append((one, other))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _count(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
