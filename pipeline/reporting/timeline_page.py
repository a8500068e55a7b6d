"""A time line as a page with its video, and as a picture of its own."""

from __future__ import annotations

import base64
import hashlib
import os
import urllib.parse
from pathlib import Path

from mer.cache import atomic_write
from mer.cache.release import program_version

from ..results.timeline import NOBODY, Timeline, stretches
from .charts import legend
from .html import Content, Html, el, table
from .style import CSS, PICTURE_CSS
from .timeline_chart import clock_face, timeline_chart

MOST_ROWS = 1200
"""Stretches that the page lists; the table file has all."""
UNITS_PER_SECOND = 5
NARROWEST, WIDEST = 1000, 12_000

PAGE_CSS = """
video { display: block; width: 100%; max-height: 56vh; background: #000; border-radius: 8px }
.watch { position: sticky; top: 0; z-index: 1; background: var(--page); padding: 6px 0 }
.now { font-variant-numeric: tabular-nums; margin: 6px 0 0; min-height: 1.5em }
table a { color: var(--accent) } tr.now > * { background: color-mix(in srgb, var(--accent) 14%, transparent) }
@media print { .watch { display: none } #cursor { display: none } tr.now > * { background: none }
  svg.lanes { min-width: 0 !important } }
@media (max-height: 700px) { .watch { position: static } }
"""

SCRIPT = """
const video = document.querySelector("video"), cursor = document.getElementById("cursor");
const svg = document.querySelector("svg.lanes"), now = document.querySelector(".now");
const left = +svg.dataset.left, right = +svg.dataset.right, seconds = +svg.dataset.seconds;
const rows = [...document.querySelectorAll("tr[data-start]")];
function show() {
  const x = left + Math.min(video.currentTime / seconds, 1) * (right - left);
  cursor.setAttribute("x1", x); cursor.setAttribute("x2", x);
  const said = [];
  for (const row of rows) {
    const here = +row.dataset.start <= video.currentTime && video.currentTime < +row.dataset.end;
    row.classList.toggle("now", here);
    if (here) said.push(row.dataset.said);
  }
  now.textContent = said.join(" · ");
}
function go(to) { video.currentTime = to; show(); }
for (const link of document.querySelectorAll("a[data-seek]"))
  link.addEventListener("click", event => { event.preventDefault(); go(+link.dataset.seek); });
svg.addEventListener("click", event => {
  const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
  go(Math.max(0, (x - left) / (right - left)) * seconds);
});
video.addEventListener("timeupdate", show);
video.addEventListener("seeked", show);
show();
"""


def write_timeline_page(timeline: Timeline, path: Path, video: Path) -> Path:
    """Write the page; the video is referred to by its relative path, so that both can move together.

    Raises
    ------
    MerError
        If the file cannot be written.
    """
    link = urllib.parse.quote(Path(os.path.relpath(video.resolve(), path.resolve().parent)).as_posix())
    with atomic_write(path) as temporary:
        temporary.write_text(build_timeline_page(timeline, link), encoding="utf-8")
    return path


def build_timeline_page(timeline: Timeline, link: str) -> str:
    """Return the page as text; `link` is the address of the video."""
    allowed = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; media-src 'self' file:; script-src 'sha256-{allowed}'"
    header = timeline.header
    title = f"{header.video}: {header.target} over time"
    width = min(max(round(UNITS_PER_SECOND * timeline.seconds), NARROWEST), WIDEST)
    body = el(
        "main",
        el("header", el("h1", title), el("p", _about(timeline), class_="soft"), _notes(timeline)),
        el(
            "div",
            el("video", src=link, controls=True, preload="metadata", aria_label=f"video {header.video}"),
            el("p", "", class_="now", role="status"),
            class_="watch",
        ),
        el("h2", "Time line"),
        el(
            "div",
            legend(header.classes) if header.classes else None,
            el("div", timeline_chart(timeline, width), class_="scroll", tabindex="0", role="region",
               aria_label="time line, scrolls sideways"),
            el("p", _reading(timeline), class_="soft"),
            class_="card",
        ),
        el("h2", "Answers"),
        el("div", _answers(timeline, link), class_="card"),
        el("footer", f"Written by mer {program_version()}. The page loads nothing but the video beside it."),
    )  # fmt: skip
    head = [
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", f"{title} · mer"),
        el("style", Html(CSS + PAGE_CSS)),
    ]
    script = el("script", Html(SCRIPT))
    return "<!doctype html>\n" + el("html", el("head", head), el("body", body, script), lang="en") + "\n"


def write_timeline_picture(timeline: Timeline, path: Path) -> Path:
    """Write the time line as an SVG file of its own.

    Raises
    ------
    MerError
        If the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(picture(timeline_chart(timeline)), encoding="utf-8")
    return path


def picture(chart: Html) -> str:
    """Text of an SVG file: a chart of a page with the style it needs, light."""
    opened, _, rest = chart.partition(">")
    return f'{opened} xmlns="http://www.w3.org/2000/svg">{el("style", Html(PICTURE_CSS))}{rest}\n'


def _about(timeline: Timeline) -> str:
    header, windows = timeline.header, timeline.header.windows
    cut = (
        "one window per turn"
        if "turns" in windows
        else (f"windows of {windows['length_seconds']:g} s every {windows['hop_seconds']:g} s")
    )
    people = sum(1 for person in timeline.people if person)
    count = f"{people} {'person' if people == 1 else 'people'} in view"
    models = f"{header.models} model{'s' * (header.models > 1)} averaged"
    return f"run {header.run} · {cut} · {clock_face(timeline.seconds)} long · {count} · {models}"


def _notes(timeline: Timeline) -> Html | None:
    told = [f"The file: {note}." for note in timeline.notes]
    reasons = dict.fromkeys(
        f"{m}: {why}" for row in timeline.rows for m, why in row.missing.items() if "taken to be" not in why
    )
    told += [f"Left out in places: {'; '.join(list(reasons)[:6])}."] if reasons else []
    return el("p", " ".join(told), class_="note") if told else None


def _reading(timeline: Timeline) -> str:
    said = {
        "class": "Each lane shows the probabilities of all classes stacked to 1, above them the most likely class.",
        "multi": "Each lane shows the probability of every label, above them those of at least a half.",
        "real": "Each lane shows the number.",
    }[timeline.header.kind]
    return (
        f"{said} Below it, darker means that the modalities agree, each asked alone. “sound” counts the windows in "
        "which sound and words were taken to be this person's. Seen again from another side, one may get a new lane. "
        "An estimate from a face and a voice is not what somebody feels."
    )


def _answers(timeline: Timeline, link: str) -> Content:
    rows: list[Html] = []
    listed = sorted(
        ((one, person) for person in timeline.people for one in stretches(timeline, person)),
        key=lambda pair: (pair[0].start_seconds, pair[1]),
    )
    for one, person in listed[:MOST_ROWS]:
        who = f"person {person}" if person else NOBODY
        share = f"{100 * one.share:.0f} %" if one.share == one.share else ""
        start = f"{one.start_seconds:.2f}"
        seek = el("a", clock_face(one.start_seconds), href=f"{link}#t={start}", data_seek=start)
        cells = [
            el("th", seek, " – ", clock_face(one.end_seconds), scope="row"),
            el("td", who), el("td", one.label), el("td", share),
        ]  # fmt: skip
        said = f"{who}: {one.label} {share}".strip()
        rows.append(el("tr", cells, data_start=start, data_end=f"{one.end_seconds:.2f}", data_said=said))
    head = el("tr", [el("th", name, scope="col") for name in ("time", "who", timeline.header.target, "mean share")])
    made: list[Content] = [el("div", el("table", el("thead", head), el("tbody", rows)), class_="scroll")]
    if len(listed) > MOST_ROWS:
        made.append(el("p", f"{len(listed) - MOST_ROWS} more stand in the table file.", class_="soft"))
    words = [
        [clock_face(row.start_seconds), row.text]
        for row in timeline.rows
        if row.leads and row.text and "turns" in timeline.header.windows
    ]
    if words:
        made.append(el("details", el("summary", "Words"), table(["from", "words"], words[:MOST_ROWS], numbers=False)))
    return made
