"""The part of a report that is about one run: classes, training, predictions, where it comes from."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer.cache import FeatureSpec

from ..scores.metrics import PLAIN_NUMBERS, TITLES
from .charts import COLOURS, Series, bar, confusion_table, legend, line_chart, scatter_chart
from .data import Judged, RunView
from .explain import explain_blocks, speaker_colours, unchecked
from .face_crops import faces_of
from .html import Content, Html, el, table

ERRORS_SHOWN = 12
MOST_FOLDS = 5
"""Folds whose sizes are spelled out."""


def run_section(view: RunView, alone: bool) -> Html:
    """Everything about one run; `alone` gives each part its heading, otherwise the run's name heads them all."""
    curves = [el("div", chart, class_="card") for what in ("val", "loss") if (chart := _curves(view, what))]
    blocks: list[tuple[str, Content]] = [
        ("Classes", _classes(view) if view.run.kind != "real" else None),
        (
            "Training",
            el("div", curves, class_="grid") if curves else None,
        ),
        ("Predictions", _predictions(view)),
        *explain_blocks(view),
        ("Where it comes from", _provenance(view)),
        ("Not checked", el("div", el("ul", [el("li", one) for one in unchecked(view)]), class_="card")),
    ]
    parts: list[Content] = [] if alone else [el("h2", view.name)]
    for title, block in blocks:
        if block is not None:
            parts += [el("h2", title), block] if alone else [el("h3", title, class_="part"), block]
    return el("section", parts)


def _classes(view: RunView) -> Html:
    seeds = max(1, len(view.seeds))
    rows: list[list[Content]] = []
    spread = view.spread_by_class()
    for index, row in enumerate(view.by_class()):
        support = str(row.support // seeds)
        apart = spread.get(row.name, float("nan"))
        shown = f"± {100 * apart:.1f}" if math.isfinite(apart) else "–"
        rows.append([row.name, bar(row.precision, index), bar(row.recall, index), bar(row.f1, index), shown, support])
    what = "class" if view.run.kind == "class" else "label"
    scores = table([what, "precision", "recall", "F1", "over seeds", "rows"], rows, class_="tight")
    cards = [el("div", el("h3", f"Per {what}"), scores, class_="card")]
    if what == "class":
        per = "" if seeds == 1 else f", mean of {seeds} seeds"
        shares = confusion_table(view.confusion() / seeds, view.run.classes)
        cards.append(el("div", el("h3", f"Confusion{per}"), shares, class_="card"))
    return el("div", cards, class_="grid")


def _curves(view: RunView, what: str) -> Html | None:
    """Draw validation metric (`val`) or total training loss (`loss`) by epoch, one line per model."""
    series, label = curves_of(view, what)
    if not series:
        return None
    note = "one line per model" + ("; the dot is the epoch that was kept" if what == "val" else "; sum of all terms")
    return el("figure", el("h3", label, el("small", note)), line_chart(series, "epoch", label))


def curves_of(view: RunView, what: str) -> tuple[list[Series], str]:
    """One line per model by epoch: validation metric (`val`) or total training loss (`loss`), and its name."""
    metric = view.facts["metric"]
    scale = 1.0 if what == "loss" or metric in PLAIN_NUMBERS else 100.0
    many = len(view.run.members) > 1
    series = []
    for place, member in enumerate(view.run.members):
        history = view.histories.get(member["name"], ())
        if len(history) < 2:
            continue
        epochs = [float(entry["epoch"]) for entry in history]
        heights = [scale * _height(entry, what, metric) for entry in history]
        kept = float(member["best_epoch"]) if what == "val" else None
        series.append(Series(epochs, heights, colour=place, faint=many and len(view.run.members) > 6, mark=kept))
    return series, "training loss" if what == "loss" else f"validation {TITLES[metric]}"


def _height(entry: Mapping[str, float], what: str, metric: str) -> float:
    if what == "val":
        return float(entry.get(f"val_{metric}", float("nan")))
    return float(sum(value for name, value in entry.items() if name != "epoch" and not name.startswith("val_")))


def _predictions(view: RunView) -> Html | None:
    parts: list[Content] = []
    points, judged, shares = view.map()
    if view.run.kind == "real":
        known = [one for one in view.judged if math.isfinite(float(one.label))]
        pairs = [(float(one.label), float(one.output[0])) for one in known]
        titles = [_title(view, one) for one in known]
        chart = scatter_chart(
            np.array(pairs), [0] * len(pairs), [False] * len(pairs), titles, "truth", "prediction", diagonal=True
        )
        parts.append(el("div", el("h3", "Prediction against truth"), chart, class_="card"))
    elif view.run.kind == "class" and len(points):
        labels = [int(one.label) for one in judged]
        wrong = [int(one.output.argmax()) != int(one.label) for one in judged]
        chart = scatter_chart(
            points,
            [max(label, 0) for label in labels],
            wrong,
            [_title(view, one) for one in judged],
            f"first direction, {shares[0]:.0%} of variance",
            f"second, {shares[1]:.0%}",
        )
        note = "Fused vectors of the first model on their two widest directions (PCA); rings are errors."
        parts.append(
            el("div", el("h3", "Map"), chart, legend(view.run.classes), el("p", note, class_="soft"), class_="card")
        )
        by_speaker, speakers = speaker_colours(view, [one.key for one in judged], COLOURS - 1)
        if speakers:
            same = scatter_chart(points, by_speaker, wrong, [_title(view, one) for one in judged], "first", "second")
            told = "The same map by speaker: where speakers form islands, the vectors tell who speaks."
            parts.append(
                el("div", el("h3", "Speakers"), same, legend(speakers), el("p", told, class_="soft"), class_="card")
            )
    errors = view.worst(ERRORS_SHOWN)
    if errors:
        parts.append(el("div", _errors(view, errors), class_="card"))
    return el("div", parts, class_="grid") if parts else None


def _errors(view: RunView, errors: Sequence[Judged]) -> Html:
    number = view.run.kind == "real"
    rows: list[list[Content]] = []
    faces = faces_of(view.run, [one.key for one in errors])
    for one in errors:
        spoken = view.spoken.get(one.key)
        said = "" if spoken is None else (spoken.text if spoken.text is not None else "(no transcript)")
        first: Content = (
            [faces.get(one.key), el("span", one.key, class_="mono"), el("br"), said]
            if said or one.key in faces
            else el("span", one.key, class_="mono")
        )
        if number:
            rows.append([first, f"{float(one.label):.2f}", el("span", f"{float(one.output[0]):.2f}", class_="wrong")])
            continue
        guess = int(one.output.argmax())
        guessed = [el("span", view.run.classes[guess], class_="wrong"), el("br"), bar(float(one.output[guess]), guess)]
        rows.append([first, el("td", view.run.classes[int(one.label)], class_="name"), guessed])
    title = "Largest errors" if number else "Most confident errors"
    parts: list[Content] = [el("h3", title), table(["utterance", "truth", "prediction"], rows, numbers=False)]
    if view.spoken_problem:
        parts.append(el("p", view.spoken_problem, class_="soft"))
    return el("div", parts)


def _provenance(view: RunView) -> Html:
    sets = [_set_row(modality, spec) for modality, spec in view.run.specs.items()]
    corpus = view.corpus
    program, *arguments = [str(word) for word in view.facts["command"]] or [""]
    command = shlex.join([Path(program).name, *arguments]) if program else ""  # not where it lies on this machine
    facts: list[tuple[str, Content]] = [
        ("corpus", corpus.get("title") or corpus.get("name")),
        ("its licence", corpus.get("license")),
        ("feature file", el("span", Path(str(view.facts["features"]["path"])).name, class_="mono")),
        ("command", el("span", command, class_="mono") if command else None),
        ("protocol", _protocol_line(view)),
        ("head", f"{view.facts['head']}: {_pairs(view.facts['head_config'])}"),
        ("parameters", f"{view.facts['parameters']:,}"),
        ("context", f"{view.facts['context']} {_pairs(view.facts['context_settings'])}".strip()),
        ("recipe", _pairs(view.facts["recipe"])),
        ("notes", [el("p", str(note)) for note in view.facts["notes"]]),
        ("versions", _pairs(view.facts["versions"])),
    ]
    rows = [[el("th", name, scope="row"), value] for name, value in facts if value]
    return el(
        "div",
        el(
            "div",
            el("h3", "Features"),
            table(
                ["modality", "encoder", "checkpoint", "layers", "width", "licence", "fingerprint"], sets, numbers=False
            ),
            class_="card",
        ),
        el("div", el("h3", "Run"), table([], rows, numbers=False), class_="card"),
        class_="stack",
    )


def _set_row(modality: str, spec: FeatureSpec) -> list[Content]:
    from mer.stages.encoders.catalog import ENCODERS

    entry = ENCODERS.get(spec.name)
    checkpoint = str(spec.encoder.get("checkpoint", ""))
    revision = str(spec.encoder.get("revision") or "")
    return [
        modality,
        spec.name,
        [checkpoint, el("br"), el("small", revision[:12])] if revision else checkpoint,
        str(spec.encoder.get("layers", "")),
        f"{spec.dim // spec.stack}" + (f" × {spec.stack}" if spec.stack > 1 else ""),
        [entry.license, el("br"), el("small", entry.note)] if entry else "unknown",
        el("span", spec.fingerprint, class_="mono"),
    ]


def _protocol_line(view: RunView) -> str:
    protocol = view.facts["protocol"]
    sizes = "; ".join(
        f"{fold['name']}: {fold['train']} train, {fold['val']} validation, {fold['test']} test"
        for fold in protocol["folds"][:MOST_FOLDS]
    )
    more = len(protocol["folds"]) - MOST_FOLDS
    apart = f"; kept apart: {', '.join(protocol['apart'])}" if protocol["apart"] else ""
    seeds = ", ".join(map(str, view.seeds))
    return f"{protocol['name']} ({sizes}{f'; {more} more' if more > 0 else ''}){apart}; seeds {seeds}"


def _title(view: RunView, one: Judged) -> str:
    spoken = view.spoken.get(one.key)
    said = f" “{spoken.text}”" if spoken is not None and spoken.text else ""
    if view.run.kind == "real":
        return f"{one.key}{said}: {float(one.label):.2f}, predicted {float(one.output[0]):.2f}"
    truth = view.run.classes[int(one.label)] if one.label >= 0 else "unlabelled"
    return f"{one.key}{said}: {truth}, predicted {view.run.classes[int(one.output.argmax())]}"


def _pairs(values: Any) -> str:
    if not isinstance(values, Mapping):
        return str(values)
    return ", ".join(f"{name} {value}" for name, value in values.items())
