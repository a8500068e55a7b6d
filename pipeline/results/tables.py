"""Scores over the seeds and folds of a run, and the tables that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ..scores.metrics import (
    PLAIN_NUMBERS,
    TITLES,
    class_rows,
    per_class,
    show,
)
from ..terminal.console import table
from ..training.run_folder import Run
from .compare import Pair, verdict

MOST_LISTED = 12


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def print_run(run: Run, console: Console) -> None:
    """Print what a run found: its data, its scores, its classes; `train` has already told its notes."""
    facts = run.facts
    console.print(_headline(run), soft_wrap=True, highlight=False)
    if late := facts.get("best_at_last_epoch"):  # runs of older versions do not say
        console.print(
            f"{len(late)} of {len(run.members)} models are best at the last of {run.recipe.epochs} epochs, so longer "
            "training might help: raise --epochs or --lr and compare validation scores",
            soft_wrap=True,
            highlight=False,
        )
    if not facts["metrics"]:
        _print_validation(run, console)
        return
    print_scores(run, run.members, facts["metrics"], console)


def print_scores(run: Run, entries: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any], console: Console) -> None:
    """Print test scores: by member, over all, by class."""
    if 1 < len(entries) <= MOST_LISTED:
        _print_members(run, entries, console)
    console.print()
    console.print(scores_table(metrics, len({m["fold"] for m in entries})))
    if run.kind == "class":
        for made in class_tables(run.classes, metrics["confusion"], len({m["seed"] for m in entries})):
            console.print()
            console.print(made)
    if "label_counts" in metrics:  # runs of older versions have none
        console.print()
        console.print(label_table(run.classes, metrics["label_counts"], len({m["seed"] for m in entries})))


def _headline(run: Run) -> str:
    facts = run.facts
    folds = facts["protocol"]["folds"]
    shared = f"{len(folds)} fold{'s' * (len(folds) > 1)} x {len(facts['seeds'])} seed{'s' * (len(facts['seeds']) > 1)}"
    context = "" if facts["context"] == "none" else f" with {facts['context']} context"
    sizes = f", {folds[0]['train']}/{folds[0]['val']}/{folds[0]['test']} utterances" if len(folds) == 1 else ""
    return (
        f"[bold]{facts['head']}[/bold]{context} on {facts['corpus']} ({', '.join(facts['features']['sets'])}), target "
        f"{facts['target']}, protocol {facts['protocol']['name']}, {shared}{sizes}, {facts['parameters']:,} parameters"
    )


def _print_members(run: Run, entries: Sequence[Mapping[str, Any]], console: Console) -> None:
    shown = run.metric_names[:4]
    made = table("Test scores by run", "run", ">epoch", ">validation", *(f">{TITLES[name]}" for name in shown))
    for member in entries:
        scores = [show(name, _number(member["test"][name])) for name in shown]
        made.add_row(
            member["name"], str(member["best_epoch"]), show(run.facts["metric"], _number(member["best_score"])), *scores
        )
    console.print(made)


def _print_validation(run: Run, console: Console) -> None:
    made = table(
        "Validation scores (test rows not touched)", "run", ">epoch", *(f">{TITLES[n]}" for n in run.metric_names)
    )
    for member in run.members:
        made.add_row(
            member["name"], str(member["best_epoch"]), *(show(n, _number(member["val"][n])) for n in run.metric_names)
        )
    console.print(made)


def scores_table(metrics: Mapping[str, Any], folds: int) -> Table:
    """Table of the test scores: mean, spread, interval, pooled, and what the prior alone would reach."""
    runs = next(iter(metrics.values()))["over"] == "runs"
    over = ("seeds x folds" if folds > 1 else "seeds") if runs else "test part resampled"
    made = table(
        "Test scores", "metric", ">mean ± std", f">95 % interval ({over})", ">all folds pooled", ">prior alone"
    )
    for name in (name for name in metrics if name in TITLES):
        entry = {key: _number(value) for key, value in metrics[name].items() if key != "over"}
        spread = "" if np.isnan(entry["std"]) else f" ± {show(name, entry['std'])}"
        interval = "–" if np.isnan(entry["low"]) else f"{show(name, entry['low'])} to {show(name, entry['high'])}"
        made.add_row(
            TITLES[name], show(name, entry["mean"]) + spread, interval, show(name, entry["pooled"]),
            show(name, entry["majority"]),
        )  # fmt: skip
    return made


def class_tables(classes: Sequence[str], confusions: Sequence[Sequence[int]], seeds: int) -> tuple[Table, Table]:
    """Tables of the scores of each class, and of what it was taken for in shares of the class, over all runs."""
    counts = np.array(confusions, dtype=np.int64)
    scores = table("By class, all runs together", "class", ">precision", ">recall", ">F1", ">test utterances")
    taken = table("What each class was taken for, in per cent", "class", *(f">{name}" for name in classes))
    for row, entry in enumerate(per_class(counts, classes)):
        shown = [show("f1", score) for score in (entry.precision, entry.recall, entry.f1)]
        scores.add_row(entry.name, *shown, str(entry.support // seeds))
        shares = counts[row] / max(entry.support, 1)
        taken.add_row(entry.name, *(f"{100 * share:.0f}" if entry.support else "–" for share in shares))
    return scores, taken


def label_table(classes: Sequence[str], counts: Sequence[Sequence[int]], seeds: int) -> Table:
    """Table per class of a target of sets, over all runs."""
    made = table("By label, all runs together", "label", ">precision", ">recall", ">F1", ">test utterances")
    for entry in class_rows(np.array(counts, dtype=np.int64), classes):
        scores = [show("f1", score) for score in (entry.precision, entry.recall, entry.f1)]
        made.add_row(entry.name, *scores, str(entry.support // seeds))
    return made


def print_comparison(paths: Sequence[Path], pairs: Sequence[Pair], console: Console) -> None:
    """Print runs side by side and the tests between them."""
    runs = [Run.open(path) for path in paths]
    names = [name for name in runs[0].metric_names if all(name in run.metric_names for run in runs)]
    made = table("Test scores, mean ± std over runs", "run", "head", "features", *(f">{TITLES[n]}" for n in names))
    for run in runs:
        context = "" if run.facts["context"] == "none" else f" + {run.facts['context']}"
        scores = []
        for name in names:
            entry = run.facts["metrics"][name]
            spread = "" if entry["std"] is None else f" ± {show(name, entry['std'])}"
            scores.append(show(name, _number(entry["mean"])) + spread)
        made.add_row(str(run.path), run.facts["head"] + context, "+".join(run.facts["features"]["sets"]), *scores)
    console.print(made)
    for pair in pairs:
        _print_pair(pair, console)
    adjusted = " The verdict uses Holm's adjustment for several pairs." if len(pairs) > 1 else ""
    if any(len(run.facts["protocol"]["folds"]) > 1 for run in runs):
        console.print(
            "The table shows means over folds; the differences below it are of all folds pooled, so the two need not "
            "agree.",
            soft_wrap=True,
            highlight=False,
        )
    console.print(
        "The permutation test swaps the two runs' answers for whole dialogues (utterances where there are none) at "
        "random and asks how often chance alone gives a difference this large. It speaks about these test utterances "
        f"and these trained seeds, not about other corpora.{adjusted}",
        soft_wrap=True,
        highlight=False,
    )


def _print_pair(pair: Pair, console: Console) -> None:
    lines = [
        f"[bold]{pair.second}[/bold] against [bold]{pair.first}[/bold]: {TITLES[pair.metric]}, folds pooled, differs "
        f"by {_signed(pair)} on {pair.utterances} shared test utterances; {verdict(pair)}."
    ]
    if pair.note:
        lines.append(f"  note: {pair.note}")
    told = "–" if np.isnan(pair.p) else f"{pair.p:.4f}"
    lines.append(f"  permutation test over {pair.groups} {pair.unit}: p = {told}")
    if pair.p_mcnemar is not None:
        lines.append(
            f"  McNemar, seeds averaged: only {pair.second} is right on {pair.only_second}, only {pair.first} on "
            f"{pair.only_first}: p = {pair.p_mcnemar:.4f}"
        )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def _signed(pair: Pair) -> str:
    if np.isnan(pair.difference):
        return "–"
    plain = pair.metric in PLAIN_NUMBERS
    return f"{pair.difference:+.3f}" if plain else f"{100 * pair.difference:+.1f} points"
