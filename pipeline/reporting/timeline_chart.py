"""A time line as SVG: one lane per person with the probabilities over time and the answers above them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..results.timeline import NOBODY, Prediction, Timeline, stretches
from .charts import colour
from .html import Html, el
from .timeline_points import blocks_of, points_of

LEFT, RIGHT, TOP = 96, 14, 10
ANSWERS, CURVES, STRIP, GAP = 30, 72, 8, 18
LANE = ANSWERS + CURVES + STRIP + GAP
AXIS = 26
LETTER = 6.6
"""Width of a letter of a label in units of the picture."""
STEPS_SECONDS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)
LEAST_TICK = 70


def timeline_chart(timeline: Timeline, width: int = 1000) -> Html:
    """Draw a time line `width` units wide; colours are the style's `--c0` to `--c9`, one per class."""
    people = timeline.people
    height = TOP + LANE * len(people) + AXIS
    at = _Across(timeline.seconds, width)
    shapes: list[Any] = [_axis(at, height)]
    for lane, person in enumerate(people):
        shapes.append(_lane(timeline, person, at, TOP + LANE * lane))
    shapes.append(el("line", x1=LEFT, x2=LEFT, y1=TOP, y2=height - AXIS, class_="cursor", id="cursor"))
    label = f"answers over time for {len(people)} lane{'s' * (len(people) != 1)}; the table below says the same"
    return el(
        "svg", shapes, viewBox=f"0 0 {width} {height}", role="img", aria_label=label, class_="lanes",
        style=f"min-width:{width}px", data_left=LEFT, data_right=width - RIGHT, data_seconds=f"{timeline.seconds:.3f}",
    )  # fmt: skip


class _Across:
    """Maps seconds to places."""

    def __init__(self, seconds: float, width: int) -> None:
        self.seconds, self.width = max(seconds, 1e-6), width

    def __call__(self, seconds: float) -> float:
        return LEFT + min(seconds / self.seconds, 1.0) * (self.width - LEFT - RIGHT)

    def ticks(self) -> list[float]:
        """Round times, far enough apart for their labels."""
        room = (self.width - LEFT - RIGHT) / LEAST_TICK
        step = next((step for step in STEPS_SECONDS if self.seconds / step <= room), STEPS_SECONDS[-1])
        return [step * index for index in range(int(self.seconds / step) + 1)]


def clock_face(seconds: float) -> str:
    """Seconds as minutes and seconds, with hours where there are any."""
    whole, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(whole), 60)
    tail = f"{rest:04.1f}".removesuffix(".0")
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def _axis(at: _Across, height: int) -> list[Html]:
    made = []
    for tick in at.ticks():
        x = f"{at(tick):.1f}"
        made.append(el("line", x1=x, x2=x, y1=TOP, y2=height - AXIS, class_="grid"))
        made.append(el("text", clock_face(tick), x=x, y=height - AXIS + 16, class_="x tick"))
    return made


def _lane(timeline: Timeline, person: int, at: _Across, top: float) -> list[Any]:
    rows = timeline.of_person(person)
    name = f"person {person}" if person else NOBODY
    leads = sum(row.leads for row in rows)
    parts: list[Any] = [
        el("text", name, x=LEFT - 10, y=f"{top + ANSWERS + 14:.1f}", class_="name"),
        el("text", f"sound: {leads}/{len(rows)}", x=LEFT - 10, y=f"{top + ANSWERS + 30:.1f}", class_="y"),
        el("rect", x=LEFT, y=f"{top + ANSWERS:.1f}", width=f"{at.width - LEFT - RIGHT}", height=CURVES, class_="frame"),
    ]
    parts += _answers(timeline, person, at, top)
    for block in blocks_of(rows):
        parts += (
            _areas(timeline, block, at, top + ANSWERS)
            if timeline.header.kind == "class"
            else _curves(timeline, block, at, top + ANSWERS)
        )
    parts += _strip(rows, at, top + ANSWERS + CURVES + 2)
    return parts


def _answers(timeline: Timeline, person: int, at: _Across, top: float) -> list[Html]:
    made = []
    order = {name: place for place, name in enumerate(timeline.header.classes)}
    for one in stretches(timeline, person) if timeline.header.kind != "real" else ():
        left, right = at(one.start_seconds), at(one.end_seconds)
        said = f"{clock_face(one.start_seconds)} – {clock_face(one.end_seconds)}: {one.label}"
        said += f" {100 * one.share:.0f} %" if one.share == one.share else ""
        which = colour(order.get(one.label, 7))
        bar = {"x": f"{left:.1f}", "y": f"{top + ANSWERS - 9:.1f}", "width": f"{max(right - left - 1, 0.6):.1f}"}
        made.append(el("rect", el("title", said), **bar, height=6, style=f"fill:{which}"))
        if LETTER * len(one.label) < right - left:
            made.append(el("text", one.label, x=f"{left:.1f}", y=f"{top + ANSWERS - 13:.1f}", class_="answer"))
    return made


def _areas(timeline: Timeline, block: Sequence[Prediction], at: _Across, top: float) -> list[Html]:
    seconds, shares = points_of(block)
    xs = [at(one) for one in seconds]
    bounds = np.concatenate([np.zeros((len(shares), 1)), np.cumsum(shares, axis=1)], axis=1)
    ys = top + CURVES * (1 - np.clip(bounds, 0, 1))
    made = []
    for place, name in enumerate(timeline.header.classes):
        upper = [f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys[:, place + 1], strict=True)]
        lower = [f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys[:, place], strict=True)]
        points = " ".join([*upper, *reversed(lower)])
        made.append(el("polygon", el("title", name), points=points, class_="share", style=f"fill:{colour(place)}"))
    return made


def _curves(timeline: Timeline, block: Sequence[Prediction], at: _Across, top: float) -> list[Html]:
    seconds, values = points_of(block)
    xs = [at(one) for one in seconds]
    if timeline.header.kind == "real":
        low, high = _reach(timeline)
        values = (values - low) / (high - low)
    names = timeline.header.classes or (timeline.header.target,)
    made = []
    for place, name in enumerate(names):
        points = " ".join(f"{x:.1f},{top + CURVES * (1 - y):.1f}" for x, y in zip(xs, values[:, place], strict=True))
        line = el("polyline", el("title", name), points=points, class_="line", style=f"stroke:{colour(place)}")
        made.append(line)
    return made


def _reach(timeline: Timeline) -> tuple[float, float]:
    values = np.concatenate([row.output for row in timeline.rows])
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _strip(rows: Sequence[Prediction], at: _Across, top: float) -> list[Html]:
    """Agreement of the modalities: the paler, the less they agree."""
    made = []
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        if row.agreement is None:
            continue
        end = row.end_seconds if after is None else min(row.end_seconds, after.start_seconds)
        said = f"{clock_face(row.start_seconds)}: agreement {row.agreement:.2f}"
        place = {"x": f"{at(row.start_seconds):.1f}", "width": f"{max(at(end) - at(row.start_seconds), 0.6):.1f}"}
        made.append(
            el("rect", el("title", said), **place, y=top, height=STRIP - 2, class_="agree",
               style=f"fill-opacity:{max(row.agreement, 0.0):.2f}")
        )  # fmt: skip
    return made
