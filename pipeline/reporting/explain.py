"""The part of a report that explains one run: calibration, what each modality adds, where modalities disagree."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mer.cache import MerError

from ..results.subsets import SHARES, SubsetAnswers, ask_subsets
from ..scores.calibration import Reliability, at_temperature, fit_temperature, reliability
from ..scores.metrics import PLAIN_NUMBERS, TITLES, labelled, show
from .charts import Series, bar, legend, line_chart, reliability_chart
from .data import RunView
from .html import Content, Html, el, table

DISPUTED_SHOWN = 10
log = logging.getLogger("mer.report")


@dataclass(frozen=True)
class Calibration:
    """Calibration of all models of a run, on the part the report is of."""

    before: Reliability
    after: Reliability | None
    """With each model's own temperature, fitted on its validation rows; None without such rows."""
    temperatures: Sequence[float]


def calibration_of(view: RunView) -> Calibration | None:
    """Calibration of a run of classes; None for other targets."""
    if view.run.kind != "class":
        return None
    labels, plain, cooled, temperatures = [], [], [], []
    for name, found in view.predictions.items():
        known = labelled("class", found.labels)
        labels.append(found.labels[known].astype(np.int64))
        plain.append(found.outputs[known].astype(np.float64))
        held_out = view.run.predictions(name).part("val")
        if view.part == "test" and (some := labelled("class", held_out.labels)).any():
            temperatures.append(fit_temperature(held_out.labels[some].astype(np.int64), held_out.outputs[some]))
            cooled.append(at_temperature(plain[-1], temperatures[-1]))
    truth = np.concatenate(labels)
    if not len(truth):
        return None
    after = reliability(truth, np.concatenate(cooled)) if len(cooled) == len(plain) else None
    return Calibration(reliability(truth, np.concatenate(plain)), after, temperatures)


def subsets_of(view: RunView) -> tuple[SubsetAnswers | None, str]:
    """Answers of a run to every subset of its modalities, or why there are none."""
    if len(view.run.specs) < 2:
        return None, "The run has one modality."
    if view.part != "test":
        return None, "The test rows were left alone."
    try:
        return ask_subsets(view.run), ""
    except (MerError, OSError) as error:
        return None, f"Not shown, because the features cannot be used: {error}"


def explain_blocks(view: RunView) -> list[tuple[str, Content]]:
    """Headings with their content."""
    calibration = calibration_of(view)
    blocks: list[tuple[str, Content]] = []
    if calibration is not None:
        blocks.append(("Calibration", _calibration(calibration)))
    answers, why = subsets_of(view)
    if answers is None:
        blocks.append(("Modalities", el("p", why, class_="soft")))
        return blocks
    cards = [_contributions(answers, view.facts["metric"]), _missing(answers, view.facts["metric"])]
    blocks.append(("Modalities", el("div", [el("div", card, class_="card") for card in cards], class_="grid")))
    if view.run.kind == "class":
        blocks.append(("Where modalities disagree", _disagreement(view, answers)))
    return blocks


# --- calibration ----------------------------------------------------------------------------------------------------


def _calibration(found: Calibration) -> Html:
    names = ["as they are"]
    rows = [["as they are", f"{100 * found.before.error:.1f}"]]
    said = "Points show how often predictions of one confidence were right; on the diagonal they are as sure as right."
    if found.after is not None:
        names.append("with a temperature")
        mean = float(np.mean(found.temperatures))
        rows.append([f"with a temperature (mean {mean:.2f})", f"{100 * found.after.error:.1f}"])
        said += " The temperature of each model is fitted on its validation rows; it changes no ranking of the classes."
    return el(
        "div",
        el("div", el("h3", "Reliability"), reliability_chart(found.before, found.after), legend(names), class_="card"),
        el(
            "div",
            el("h3", "Expected calibration error"),
            table(["probabilities", "ECE in %"], rows),
            el("p", said, class_="soft"),
            class_="card",
        ),
        class_="grid",
    )


# --- modalities -----------------------------------------------------------------------------------------------------


def contribution_rows(answers: SubsetAnswers, metric: str) -> list[tuple[str, float, float]]:
    """What is given, the metric then, and its change from all modalities."""
    every = frozenset(answers.modalities)
    whole = answers.scores(every)[metric]
    rows = [(" + ".join(answers.modalities), whole, 0.0)]
    for modality in answers.modalities if len(every) > 2 else ():
        found = answers.scores(every - {modality})[metric]
        rows.append((f"without {modality}", found, found - whole))
    for modality in answers.modalities:
        found = answers.scores(frozenset({modality}))[metric]
        rows.append((f"{modality} alone", found, found - whole))
    prior = answers.scores(frozenset())[metric]
    rows.append(("nothing: the training prior", prior, prior - whole))
    return rows


def _contributions(answers: SubsetAnswers, metric: str) -> Content:
    rows = [
        [name, show(metric, value), "" if not place else f"{signed(metric, change)}"]
        for place, (name, value, change) in enumerate(contribution_rows(answers, metric))
    ]
    said = (
        f"Test rows, models of seed {answers.seed}, nothing trained anew: a modality is hidden as if the utterance "
        "did not have it. A model trained without it may do better."
    )
    return [
        el("h3", "What each modality adds"),
        table(["given", TITLES[metric], "change"], rows),
        el("p", said, class_="soft"),
    ]


def signed(metric: str, change: float) -> str:
    """A change of a metric with its sign."""
    shown = show(metric, abs(change))
    return f"{'−' if change < 0 else '+'}{shown}"


def missing_series(answers: SubsetAnswers, metric: str) -> list[Series]:
    """One line per modality: the metric by the share of utterances that lack it."""
    scale = 1.0 if metric in PLAIN_NUMBERS else 100.0
    return [
        Series(
            [100 * share for share in SHARES],
            [scale * answers.scores_without(modality, share, metric) for share in SHARES],
            colour=place,
        )
        for place, modality in enumerate(answers.modalities)
    ]


def _missing(answers: SubsetAnswers, metric: str) -> Content:
    chart = line_chart(missing_series(answers, metric), "utterances without it, %", TITLES[metric])
    said = "" if answers.run.facts["context"] == "none" else " The dialogue context is as if all utterances lacked it."
    return [
        el("h3", "When a modality is missing"),
        chart,
        legend(answers.modalities),
        el("p", f"Mean over random choices of the utterances.{said}", class_="soft"),
    ]


# --- disagreement ---------------------------------------------------------------------------------------------------


def disagreement_rows(answers: SubsetAnswers) -> list[tuple[str, int, float, float]]:
    """Agreement of the modalities, each alone: how many utterances, how often fused and the best-scoring one are right.

    Only utterances with every modality count.
    """
    alone, fused, labels = _codes(answers)
    if not len(labels):
        return []
    best = max(alone, key=lambda modality: float((alone[modality] == labels).mean()))
    opinions = np.stack(list(alone.values()))
    most = np.array([max(Counter(column).values()) for column in opinions.T.tolist()])
    rows = []
    for agree in range(len(alone), 0, -1):
        here = most == agree
        if here.any():
            name = (
                "all agree" if agree == len(alone) else f"{agree} of {len(alone)} agree" if agree > 1 else "none agree"
            )
            right = float((fused == labels)[here].mean()), float((alone[best] == labels)[here].mean())
            rows.append((name, int(here.sum()), *right))
    return rows


def _codes(
    answers: SubsetAnswers,
) -> tuple[dict[str, npt.NDArray[np.int64]], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    there = np.all(np.stack(list(answers.present.values())), axis=0)
    alone = {m: answers.outputs[frozenset({m})][there].argmax(1) for m in answers.modalities}
    return alone, answers.outputs[frozenset(answers.modalities)][there].argmax(1), answers.labels[there]


def _disagreement(view: RunView, answers: SubsetAnswers) -> Content:
    alone, _, labels = _codes(answers)
    if not len(labels):
        return el("p", "No test utterance has every modality.", class_="soft")
    best = max(alone, key=lambda modality: float((alone[modality] == labels).mean()))
    rows = [[name, str(count), bar(fused, 0), bar(one, 1)] for name, count, fused, one in disagreement_rows(answers)]
    said = (
        "Each modality is asked alone, the model given nothing else, for utterances that have all of them. DRKF's own "
        "inconsistency discriminator works on shuffled modalities in training and keeps no answer per utterance."
    )
    return el(
        "div",
        el(
            "div",
            el("h3", "Agreement and outcome"),
            table(["modalities", "utterances", "fused right", f"{best} right"], rows),
            el("p", said, class_="soft"),
            class_="card",
        ),
        el("div", el("h3", "Most disputed"), _disputed(view, answers), class_="card"),
        class_="grid",
    )


def _disputed(view: RunView, answers: SubsetAnswers) -> Html:
    """Utterances whose modalities are each sure of another class."""
    there = np.flatnonzero(np.all(np.stack(list(answers.present.values())), axis=0))
    single = {m: answers.outputs[frozenset({m})] for m in answers.modalities}
    fused = answers.outputs[frozenset(answers.modalities)]
    names = view.run.classes

    def dispute(row: int) -> float:
        codes = {int(outputs[row].argmax()) for outputs in single.values()}
        sure = float(np.mean([outputs[row].max() for outputs in single.values()]))
        return len(codes) - 1 + sure if len(codes) > 1 else -1.0

    ordered = [row for row in sorted(there.tolist(), key=dispute, reverse=True)[:DISPUTED_SHOWN] if dispute(row) > 0]
    rows: list[list[Content]] = []
    for row in ordered:
        key = str(answers.keys[row])
        spoken = view.spoken.get(key)
        said = spoken.text if spoken is not None and spoken.text else ""
        cells: list[Content] = [
            [el("span", key, class_="mono"), el("br"), said] if said else el("span", key, class_="mono")
        ]
        cells.append(names[int(answers.labels[row])])
        cells += [_guess(names, outputs[row]) for outputs in single.values()]
        right = int(fused[row].argmax()) == int(answers.labels[row])
        cells.append([_guess(names, fused[row]), el("br"), el("small", "right" if right else "wrong")])
        rows.append(cells)
    return table(["utterance", "truth", *(f"{m} alone" for m in single), "fused"], rows, numbers=False)


def _guess(names: Sequence[str], outputs: npt.NDArray[np.floating]) -> str:
    code = int(outputs.argmax())
    return f"{names[code]} {100 * float(outputs[code]):.0f} %"


def speaker_colours(view: RunView, keys: Sequence[str], most: int) -> tuple[list[int], list[str]]:
    """Colour number of each utterance by its speaker, and the names; the rarest share the last one."""
    speakers = [view.spoken[key].speaker if key in view.spoken else "" for key in keys]
    counts = Counter(name for name in speakers if name)
    named = [name for name, _ in counts.most_common(most)]
    if len(counts) < 2:
        return [], []
    others = ["others"] if len(counts) > most or "" in speakers else []
    place: Mapping[str, int] = {name: number for number, name in enumerate(named)}
    return [place.get(name, len(named)) for name in speakers], [*named, *others]


def unchecked(view: RunView) -> list[str]:
    """What a reader might take for granted and nobody looked at."""
    facts = view.facts
    said = [
        "Other corpora, languages and recording conditions than this one.",
        "Differences between groups of speakers (age, gender, accent): the report averages over them.",
        "Whether labels are right; annotators of emotion disagree with each other.",
    ]
    if len(view.run.members) == 1:
        said.append("The spread over seeds: there is one model.")
    if facts["metrics"] and facts["protocol"]["name"] != "official":
        said.append("The official split: these folds are another protocol.")
    if view.part == "val":
        said.append("The test part.")
    if facts["identity"]["options"].get("allow_leak"):
        said.append("Leaks between the parts: they were let through.")
    if any(not math.isfinite(figure.interval.low) for figure in view.figures().values()):
        said.append("Intervals of some metrics: there are too few models.")
    return said
