"""One self-contained HTML page about a cache or pack: what is in it, what is missing and why, what looks odd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer.cache import FeatureStore, atomic_write
from mer.cache.contents import summarise

from ..results.cache_health import MOST_COMPARED, OUTLYING, SAME, SetHealth, health_of
from .charts import bar, histogram_chart
from .describe import encoder_of, layers_of
from .html import Content, Html, el, table
from .page import document

MOST_REASONS = 20


def write_cache_page(path: Path | str, out: Path) -> Path:
    """Write the page of a cache and return its path.

    Raises
    ------
    MerError
        If the cache cannot be read, or the file cannot be written.
    """
    store = FeatureStore.open(path)
    page = build_cache_page(store)
    with atomic_write(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def build_cache_page(store: FeatureStore) -> str:
    """Return the whole page as text."""
    facts = summarise(store.catalogue)
    corpus = store.corpus
    title = str(corpus.get("title") or corpus.get("name") or "cache")
    body: list[Content] = [_header(title, corpus, facts), el("h2", "Utterances"), _utterances(store, facts)]
    body += [el("h2", "Features"), _sets(facts["sets"]), el("h2", "Without features"), _fates(facts["sets"])]
    body += [
        el("h2", "Worth a look"),
        el("div", [_health(health_of(store, name), store) for name in store.sets], class_="stack"),
    ]
    body += [el("h2", "Data card"), _card(store)]
    return document(f"{title}: features", body)


def _header(title: str, corpus: Mapping[str, Any], facts: Mapping[str, Any]) -> Html:
    spoken = facts["utterances"]
    unknown = f", not known of {spoken['without_duration']}" if spoken["without_duration"] else ""
    tiles = [
        (f"{spoken['count']:,}", "utterances"),
        (f"{spoken['hours']:.2f}", f"hours{unknown}"),
        (str(spoken["speakers"] or "–"), "speakers"),
        (str(spoken["dialogues"] or "–"), "dialogues"),
        (str(len(facts["sets"])), "feature sets"),
    ]
    terms = [str(corpus[name]) for name in ("license", "url") if corpus.get(name)]
    gated = el("p", "Its terms forbid handing the data on.", class_="note") if corpus.get("gated") else None
    boxes = [el("div", el("b", big), el("span", said), class_="tile") for big, said in tiles]
    said = el("p", " · ".join(terms), class_="soft")
    return el("header", el("h1", title), said, gated, el("div", boxes, class_="tiles"))


def _utterances(store: FeatureStore, facts: Mapping[str, Any]) -> Html:
    cards = []
    seconds = store.utterances.duration_seconds
    known = seconds[np.isfinite(seconds)]
    if len(known):
        said = f"Shortest {known.min():.1f} s, median {np.median(known):.1f} s, longest {known.max():.1f} s."
        cards.append([el("h3", "Durations"), histogram_chart(known, "seconds"), el("p", said, class_="soft")])
    for name, target in facts["targets"].items():
        cards.append([el("h3", f"Target {name}"), _target(target)])
    return el("div", [el("div", card, class_="card") for card in cards], class_="grid")


def _target(target: Mapping[str, Any]) -> Html:
    classes, splits = target["classes"], target["splits"]
    if not classes:
        numbers = ("mean", "std", "min", "max")
        rows = [
            [split or "all", str(one["labelled"]), *(f"{one[key]:.2f}" if key in one else "–" for key in numbers)]
            for split, one in splits.items()
        ]
        return table(["split", "labelled", "mean", "std", "least", "most"], rows)
    names = list(splits)
    rows = []
    for place, name in enumerate(classes):
        cells: list[Content] = [name]
        for split in names:
            counts = splits[split].get("counts", [0] * len(classes))
            share = counts[place] / max(sum(counts), 1)
            cells.append([str(counts[place]), el("br"), bar(share, place)])
        rows.append(cells)
    rows.append(["without a label", *(str(splits[split]["unlabelled"]) for split in names)])
    return table(["class", *(name or "all" for name in names)], rows)


def _sets(sets: Mapping[str, Any]) -> Html:
    rows: list[list[Content]] = []
    for made in sets.values():
        fates = made["fates"]
        have = fates["ok"] / max(sum(fates.values()), 1)
        rows.append(
            [
                [made["name"], el("br"), el("small", encoder_of(made))],
                made["modality"],
                bar(have, 0),
                bar(made["coverage"], 1),
                f"{made['steps']:,}",
                str(made["dim"]),
                layers_of(made["encoder"], made["stack"]) or "–",
                el("span", made["fingerprint"], class_="mono"),
            ]
        )
    head = [
        "encoder",
        "modality",
        "have it, %",
        "valid steps, %",
        "steps",
        "width",
        "layers",
        "fingerprint",
    ]
    return el("div", table(head, rows), class_="card")


def _fates(sets: Mapping[str, Any]) -> Html:
    rows = []
    for made in sets.values():
        fates = made["fates"]
        counted = ", ".join(f"{fates[name]} {name}" for name in fates if name != "ok" and fates[name])
        for place, (reason, count) in enumerate(list(made["reasons"].items())[:MOST_REASONS]):
            rows.append([made["name"] if not place else "", counted if not place else "", str(count), reason])
    if not rows:
        return el("p", "Every utterance has features of every set.")
    return el("div", table(["feature set", "fates", "utterances", "reason"], rows, numbers=False), class_="card")


def _health(found: SetHealth, store: FeatureStore) -> Html:
    if not found.utterances:
        return el("div", el("h3", found.name), el("p", "It holds no features."), class_="card")
    split = dict(zip(map(str, store.utterances.keys), store.utterances.split, strict=True))
    least, middle, most = found.steps
    among = "" if found.compared == found.utterances else f", among {found.compared:,} (at most {MOST_COMPARED:,})"
    told = [
        f"{found.utterances:,} utterances of {least} to {most} steps (median {middle}).",
        f"Mean length of a vector {found.mean_norm:.2f}.",
        f"{found.still_dims} dimensions are the same in all utterances." if found.still_dims else "",
        f"{found.outlier_count} outliers (more than {OUTLYING:g} deviations from the usual distance).",
        f"{found.duplicate_count} pairs of near-duplicates (cosine of centred means at least {SAME}){among}.",
    ]
    parts: list[Content] = [el("h3", found.name), *(el("p", line) for line in told if line)]
    if found.outliers:
        rows = [[el("span", key, class_="mono"), split[key] or "–", f"{far:.1f}"] for key, far in found.outliers]
        parts.append(table(["outlier", "split", "deviations"], rows))
    if found.duplicates:
        parts.append(table(["near-duplicates", "splits", "cosine"], [_pair(pair, split) for pair in found.duplicates]))
    return el("div", parts, class_="card")


def _pair(pair: tuple[str, str, float], split: Mapping[str, str]) -> Sequence[Content]:
    one, other, cosine = pair
    apart = split[one] != split[other]
    said = f"{split[one] or '–'} and {split[other] or '–'}" if apart else split[one] or "–"
    names = [el("span", one, class_="mono"), el("br"), el("span", other, class_="mono")]
    return [names, el("span", said, class_="wrong" if apart else None), f"{cosine:.4f}"]


def _card(store: FeatureStore) -> Html:
    rows: list[list[Content]] = []
    for source in (store.corpus, store.catalogue.datasheet):
        for name, value in source.items():
            if value not in ("", None, [], {}) and name != "contents":
                rows.append([el("th", name.replace("_", " "), scope="row"), _said(value)])
    libraries = store.provenance.get("libraries")
    if libraries:
        rows.append([el("th", "made with", scope="row"), _said(libraries)])
    return el("div", table([], rows, numbers=False), class_="card")


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_said(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_said(one) for one in value)
    return str(value)
