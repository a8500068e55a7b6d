"""One self-contained HTML page about one or several training runs: no scripts, nothing fetched from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer.cache import MerError, atomic_write
from mer.cache.release import program_version

from ..results.evaluate import SAME_LABELS
from ..scores.metrics import LOWER_IS_BETTER, PLAIN_NUMBERS, TITLES, show
from .charts import Estimate, interval_chart
from .data import Figure, RunView, read_runs
from .html import Content, Html, el, table
from .run import run_section
from .style import CSS

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser lets the page do: nothing but show what is in it."""
ANY_FOLDER = "folder"
"""Name that all corpora share which are a folder with a manifest."""
FEW_MODELS = 4
"""A single run with fewer models than this needs no chart of its spread."""


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write the page and return its path.

    Parameters
    ----------
    runs
        Folders that `mer train` wrote; several are set side by side.
    out
        File to write; it appears whole or not at all.

    Raises
    ------
    MerError
        If there is no run, one is unfinished or damaged, or the file cannot be written.
    """
    if not runs:
        raise MerError("no run was named; give one or more folders that mer train wrote")
    page = build_page(read_runs(runs))
    with atomic_write(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def build_page(views: Sequence[RunView]) -> str:
    """Return the whole page as text."""
    title = views[0].name if len(views) == 1 else f"{len(views)} runs"
    body: list[Content] = [_header(views, title), results_section(views)]
    body += [run_section(view, alone=len(views) == 1) for view in views]
    return document(f"{title} · mer report", body)


def document(title: str, body: Sequence[Content]) -> str:
    """Text of a page that is complete in itself: the style within, a policy that lets it load nothing, a footer."""
    footer = el("footer", f"Written by mer {program_version()}. The page is complete in itself and loads nothing.")
    head = [
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        el("style", Html(CSS)),
    ]
    shown = el("html", el("head", head), el("body", el("main", [*body, footer])), lang="en")
    return f"<!doctype html>\n{shown}\n"


# --- the top of the page ------------------------------------------------------------------------------------------


def _header(views: Sequence[RunView], title: str) -> Html:
    said = _unique(_corpus(view) for view in views)
    said += [f"target {target}" for target in _unique(str(view.facts["target"]) for view in views)]
    said += [f"{name} protocol" for name in _unique(view.facts["protocol"]["name"] for view in views)]
    parts: list[Content] = [el("h1", title), el("p", " · ".join(said), class_="soft")]
    parts += header_notes(views)
    if len(views) == 1:
        parts.append(_tiles(views[0]))
    return el("header", parts)


def header_notes(views: Sequence[RunView]) -> list[Html]:
    """What a reader has to know before the figures."""
    said = _notes(views)
    if any(view.part == "val" for view in views):
        said.append("These are validation figures: the test rows were left alone.")
    return [el("p", note, class_="note") for note in said]


def _corpus(view: RunView) -> str:
    title = str(view.corpus.get("title") or view.corpus.get("name") or "unnamed corpus")
    return f"{title} ({_file(view)})" if view.facts["corpus"] == ANY_FOLDER else title


def _file(view: RunView) -> str:
    return Path(str(view.facts["features"]["path"])).name


def _notes(views: Sequence[RunView]) -> list[str]:
    """Warn of synthetic corpora, and of runs whose figures answer different questions."""
    synthetic = _unique(
        _corpus(view)
        for view in views
        if "synthe" in f"{view.corpus.get('license', '')} {view.corpus.get('title', '')}".lower()
    )
    named = "This corpus" if len({_corpus(view) for view in views}) == 1 else ", ".join(synthetic)
    notes = []
    if synthetic:
        are = "is" if len(synthetic) == 1 else "are"
        notes.append(f"{named} {are} synthetic. The figures show that the machinery works, nothing more.")
    if mixed(views):
        notes.append("The runs are of different corpora or targets: their figures stand beside each other uncompared.")
    return notes


def mixed(views: Sequence[RunView]) -> bool:
    """Whether runs differ in corpus, target or its classes; folders, which share a name, differ by their utterances."""
    kinds = {(view.facts["corpus"], view.facts["target"], view.run.kind, view.run.classes) for view in views}
    return len(kinds) > 1 or (views[0].facts["corpus"] == ANY_FOLDER and not all(_agree(views[0], v) for v in views))


def _agree(one: RunView, other: RunView) -> bool:
    """Whether two runs scored some of the same utterances, with the same labels but for corrections."""
    labels = {judged.key: judged.label for judged in one.judged}
    same = [np.allclose(labels[it.key], it.label, equal_nan=True) for it in other.judged if it.key in labels]
    return bool(same) and float(np.mean(same)) >= SAME_LABELS


def _tiles(view: RunView) -> Html:
    metric = view.facts["metric"]
    figure = view.figures()[metric]
    low, high = figure.interval.low, figure.interval.high
    drawn = "models" if figure.over == "runs" else "test part"
    tiles = [
        (_value(metric, figure), f"{TITLES[metric]}, {_models(view)}"),
        (
            f"{show(metric, low)} – {show(metric, high)}" if math.isfinite(low) else "–",
            f"95 % interval, {drawn} resampled" if math.isfinite(low) else "no interval from a single model",
        ),
        (show(metric, figure.prior), "the training prior alone"),
        (str(len(view.judged)), "test utterances" if view.part == "test" else "validation utterances"),
    ]
    return el("div", [el("div", el("b", big), el("span", said), class_="tile") for big, said in tiles], class_="tiles")


def results_section(views: Sequence[RunView]) -> Html:
    """Scores of all runs side by side, and their intervals."""
    each = [view.figures() for view in views]
    metrics = _unique(name for figures in each for name in figures)
    rows: list[list[Content]] = []
    apart = mixed(views)
    rivals = [] if apart else each
    for view, figures in zip(views, each, strict=True):
        corpus = _file(view) if view.facts["corpus"] == ANY_FOLDER else view.facts["corpus"]
        about = f"; {corpus}, target {view.facts['target']}" if apart else ""
        label: list[Content] = [view.name, el("br"), el("small", _recipe_line(view) + about)]
        rows.append([label, *(_result_cell(name, figures.get(name), rivals) for name in metrics)])
    if len(views) == 1:
        priors = [show(name, each[0][name].prior) for name in metrics]
        rows.append([el("small", "training prior alone"), *priors])
    parts: list[Content] = [
        el("h2", "Results"),
        el("div", table(["run", *(TITLES[name] for name in metrics)], rows), class_="card"),
        el(
            "p", "Mean ± standard deviation over models, below it the 95 % interval. Shares in per cent.", class_="soft"
        ),
    ]
    if len(views) > 1 or len(views[0].run.members) >= FEW_MODELS:
        parts.append(el("div", _intervals(views), class_="card"))
    return el("section", parts)


def _result_cell(metric: str, figure: Figure | None, rivals: Sequence[Mapping[str, Figure]]) -> Content:
    if figure is None:
        return "–"
    means = [figures[metric].interval.mean for figures in rivals if metric in figures]
    best = len(rivals) > 1 and figure.interval.mean == (min if metric in LOWER_IS_BETTER else max)(means)
    cell: list[Content] = [el("b", _value(metric, figure), class_="best" if best else None)]
    if math.isfinite(figure.interval.low):
        cell += [el("br"), el("small", f"{show(metric, figure.interval.low)} – {show(metric, figure.interval.high)}")]
    return cell


def _intervals(views: Sequence[RunView]) -> Html:
    metric = views[0].facts["metric"]
    drawn = not mixed(views) and math.isfinite(views[0].figures()[metric].prior)
    said = "; dashed: the training prior alone" if drawn else ""
    return el(
        "figure",
        el("h3", f"{TITLES[metric]}: mean, interval and single models{said}"),
        el("div", interval_figure(views), class_="scroll"),
    )


def interval_figure(views: Sequence[RunView]) -> Html:
    """The first run's metric of all runs, each with its interval and its single models."""
    metric = views[0].facts["metric"]
    scale = 1.0 if metric in PLAIN_NUMBERS else 100.0
    rows = []
    for view in views:
        figure = view.figures().get(metric)
        if figure is not None:
            single = scale * view.grid(metric).ravel()
            ends = scale * figure.interval.mean, scale * figure.interval.low, scale * figure.interval.high
            rows.append(Estimate(view.name, single[np.isfinite(single)].tolist(), *ends))
    # Another corpus or target has another prior: no line would be true of all runs.
    prior = float("nan") if mixed(views) else scale * views[0].figures()[metric].prior
    return interval_chart(rows, None if math.isnan(prior) else prior, TITLES[metric])


def _models(view: RunView) -> str:
    seeds, folds = len(view.seeds), len(view.folds)
    text = f"{seeds} seed{'s' if seeds > 1 else ''}"
    return f"{text} × {folds} folds" if folds > 1 else text


def _recipe_line(view: RunView) -> str:
    facts = view.facts
    context = "" if facts["context"] == "none" else f" + {facts['context']}"
    return f"{facts['head']}{context} on {' + '.join(view.run.specs)}; {_models(view)}"


def _value(metric: str, figure: Figure) -> str:
    mean, std = show(metric, figure.interval.mean), figure.interval.std
    return f"{mean} ± {show(metric, std)}" if math.isfinite(std) else mean


def _unique(names: Any) -> list[str]:
    return list(dict.fromkeys(names))
