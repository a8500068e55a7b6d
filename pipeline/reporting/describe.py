"""A cache or pack as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..terminal.console import sized, table

MOST_REASONS = 3
SHOWN_TERMS = ("license", "terms", "citation", "contact", "title", "description", "gaps")


def layers_of(encoder: Mapping[str, Any], stack: int) -> str:
    """Layers an encoder's features come from, in a few characters."""
    layers = encoder.get("layers")
    if isinstance(layers, list):
        shown = ",".join(map(str, layers)) if len(layers) <= 4 else f"{layers[0]}…{layers[-1]}"
    else:
        shown = "" if layers is None else str(layers)
    if stack > 1:
        return f"{shown} (stack of {stack})"
    return f"mean of {shown}" if isinstance(layers, list) and len(layers) > 1 else shown


def encoder_of(made: Mapping[str, Any]) -> str:
    """Checkpoint of a feature set with the beginning of its revision, or its name where it has none."""
    encoder = made["encoder"]
    checkpoint = str(encoder.get("checkpoint") or made["name"])
    revision = str(encoder.get("revision") or "")
    return f"{checkpoint}@{revision[:8]}" if revision else checkpoint


def overview(facts: Mapping[str, Any]) -> RenderableType:
    """Everything `mer info` shows, from what `mer info --json` prints."""
    parts: list[RenderableType] = [_headline(facts), "", _classes(facts)]
    numbers = _numbers(facts)
    if numbers.row_count:
        parts += ["", numbers]
    parts += ["", _sets(facts["sets"]), "", _fates(facts["sets"])]
    reasons = [
        f"{name}: {count} × {reason}"
        for name, made in facts["sets"].items()
        for reason, count in list(made["reasons"].items())[:MOST_REASONS]
    ]
    if reasons:
        parts += ["", Text("without features", style="bold"), *(Text(f"  {line}") for line in reasons)]
    parts += ["", _records("provenance", _provenance(facts["provenance"]))]
    if facts["datasheet"]:
        parts += ["", _records("terms and datasheet", _datasheet(facts["datasheet"]))]
    return Group(*parts)


def _headline(facts: Mapping[str, Any]) -> Text:
    corpus, spoken = facts["corpus"], facts["utterances"]
    head = Text(f"{corpus.get('name', '')} ", style="bold")
    head.append(str(corpus.get("title") or ""), style="default")
    if corpus.get("license"):
        head.append(f"\nlicence of the data: {corpus['license']}" + (" (gated)" if corpus.get("gated") else ""))
    counts = [f"{spoken['count']:,} utterances"]
    counts += [f"{spoken['hours']:.2f} h"] if spoken["hours"] else []
    counts += [f"{spoken[what]:,} {what}" for what in ("speakers", "dialogues") if spoken[what]]
    counts += [f"{spoken['machine_text']:,} machine transcripts"] if spoken["machine_text"] else []
    head.append(f"\n{', '.join(counts)}; {facts['form']}, {sized(facts['bytes'])} on disk", style="default")
    return head


def _classes(facts: Mapping[str, Any]) -> Table:
    splits = list(facts["utterances"]["splits"])
    shown = table("", "utterances", *(f">{split or '(no split)'}" for split in splits), ">all")

    def row(label: str, counts: list[int], style: str = "") -> None:
        shown.add_row(label, *(f"{count:,}" for count in counts), f"{sum(counts):,}", style=style)

    row("all", [facts["utterances"]["splits"][split] for split in splits])
    for name, target in facts["targets"].items():
        if target["kind"] == "real":
            continue
        shown.add_row(f"{name}{' (any of)' if target['kind'] == 'multi' else ''}", style="bold")
        for code, label in enumerate(target["classes"]):
            row(f"  {label}", [target["splits"][split]["counts"][code] for split in splits])
        without = [target["splits"][split]["unlabelled"] for split in splits]
        if any(without):
            row("  (unlabelled)", without, "dim")
    return shown


def _numbers(facts: Mapping[str, Any]) -> Table:
    shown = table("", "number", "split", ">labelled", ">mean", ">std", ">min", ">max")
    for name, target in facts["targets"].items():
        for split, counts in target["splits"].items() if target["kind"] == "real" else ():
            values = [f"{counts[what]:.3f}" if what in counts else "" for what in ("mean", "std", "min", "max")]
            shown.add_row(name, split or "(no split)", f"{counts['labelled']:,}", *values)
    return shown


def _sets(sets: Mapping[str, Any]) -> Table:
    shown = table("", "feature set", "encoder", "layers", ">dims", "stored as")
    for name, made in sets.items():
        shown.add_row(
            name, encoder_of(made), layers_of(made["encoder"], made["stack"]), str(made["dim"]), made["dtype"]
        )
    return shown


def _fates(sets: Mapping[str, Any]) -> Table:
    columns = (">steps", ">size", ">ok", ">missing", ">failed", ">pending", ">coverage")
    shown = table("", "feature set", *columns)
    for name, made in sets.items():
        counts = [f"{made['fates'][fate]:,}" for fate in ("ok", "missing", "failed", "pending")]
        shown.add_row(name, f"{made['steps']:,}", sized(made["bytes"]), *counts, f"{made['coverage']:.1%}")
    return shown


def _records(title: str, records: Mapping[str, str]) -> Table:
    shown = Table(
        title=title, title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 2, 0, 0)
    )
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in records.items():
        shown.add_row(name, value)
    return shown


def _provenance(provenance: Mapping[str, Any]) -> dict[str, str]:
    records = {}
    for name, value in provenance.items():
        if isinstance(value, Mapping):
            records[name] = ", ".join(f"{key} {_said(item)}" for key, item in value.items())
        else:
            records[name] = _said(value)
    return records


def _datasheet(datasheet: Mapping[str, Any]) -> dict[str, str]:
    known = {name: _said(datasheet[name]) for name in SHOWN_TERMS if datasheet.get(name)}
    simple = {k: _said(v) for k, v in datasheet.items() if k not in known and not isinstance(v, Mapping) and v}
    return known | simple


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_said(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_said(item) for item in value)
    return str(value)
