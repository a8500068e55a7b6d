"""The model card of a published run: Markdown with the header the Hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mer.cache.transfer.card import HUB_LICENSES

from ..scores.metrics import TITLES, show
from ..training.run_folder import Run


def model_card(
    run: Run, corpus: Mapping[str, Any], url: str, license: str, left_out: Sequence[str], notes: str = ""
) -> str:
    """Markdown of the card.

    Parameters
    ----------
    run
        A finished run.
    corpus
        What is known of the corpus it was trained on.
    url
        Where it is published.
    license
        Terms of the weights; may be empty.
    left_out
        What of the run is not published.
    notes
        Markdown of the publisher, placed after the summary.
    """
    facts = run.facts
    title = _plain(corpus.get("title") or corpus.get("name") or facts["corpus"])
    what = {"class": "one class of", "multi": "any classes of", "real": "a number,"}[run.kind]
    named = f" {_plain(', '.join(run.classes))}" if run.classes else ""
    parts = [
        _header(corpus, license),
        f"# {_plain(facts['head'])} on {title}\n",
        f"Predicts `{facts['target']}` ({what}{named}) from {', '.join(run.specs)} of a clip, with frozen encoders "
        f"and a small head. {len(run.members)} models, whose answers are averaged.\n",
        notes.strip() + "\n" if notes.strip() else "",
        "## Use it\n",
        f"```bash\nmer predict {url} clip.mp4 --text \"what is said\"\nmer predict {url} video.mp4 --windows 4\n```\n",
        "## Intended use\n",
        "Research on emotion recognition: comparing methods, and describing recordings of people who agreed to it. "
        "An answer is an estimate of how others would label a clip, not of what somebody feels.\n",
        "## Out of bounds\n",
        "- Judging people: hiring, grading, policing, credit, insurance, health decisions, lie detection.\n"
        "- Emotions at the workplace and in education: in the European Union the AI Act (Regulation 2024/1689, "
        "article 5(1)(f)) forbids it but for medical and safety reasons.\n"
        "- People who do not know of it; other languages, ages or recordings than it was trained on, without a test "
        "there.\n",
        "## Scores\n",
        *_scores(run),
        "## Trained on\n",
        *_data(run, corpus),
        "## Encoders\n",
        *_encoders(run),
        "## Limits\n",
        *_limits(run),
        "## Left out\n",
        "".join(f"- {_plain(one)}\n" for one in left_out) or "Nothing: predictions and splits are published, too.\n",
        "## Terms\n",
        f"Weights: {_plain(license) if license else 'no licence was given; ask the publisher'}. What went in has terms "
        "of its own: see the corpus and the encoders above.\n",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _header(corpus: Mapping[str, Any], license: str) -> str:
    """YAML between dashes; every value is a JSON string, which YAML reads and nothing can break out of."""
    lines = ["---", "library_name: mer", "pipeline_tag: video-classification"]
    if license.lower() in HUB_LICENSES:
        lines.append(f"license: {license.lower()}")
    else:
        lines += ["license: other", f"license_name: {json.dumps(license or 'not given')}"]
    languages = [str(one) for one in corpus.get("languages") or () if re.fullmatch("[a-z]{2,3}", str(one))]
    if languages:
        lines += ["language:", *(f"- {one}" for one in languages)]
    return "\n".join([*lines, "tags:", "- emotion-recognition", "- multimodal", "- mer", "---\n"])


def _scores(run: Run) -> Iterator[str]:
    protocol = run.facts["protocol"]
    folds = len(protocol["folds"])
    seeds = len({member["seed"] for member in run.members})
    yield (
        f"Protocol `{protocol['name']}`: {folds} fold{'s' * (folds > 1)}, {seeds} seed{'s' * (seeds > 1)}; the epoch "
        f"was chosen on validation by {TITLES[run.facts['metric']]}.\n"
    )
    if not run.facts["metrics"]:
        yield "The test part was not scored.\n"
        return
    yield "| metric | mean | standard deviation | 95 % interval | training prior alone |"
    yield "|---|---:|---:|---:|---:|"
    for name in run.metric_names:
        entry = run.facts["metrics"].get(name)
        if entry is None:
            continue
        mean, std, low, high, prior = (_shown(name, entry[key]) for key in ("mean", "std", "low", "high", "majority"))
        yield f"| {TITLES[name]} | {mean} | {std} | {low} – {high} | {prior} |"
    yield ""


def _shown(metric: str, value: float | None) -> str:
    return "–" if value is None else show(metric, value)


def _data(run: Run, corpus: Mapping[str, Any]) -> Iterator[str]:
    for name in ("title", "license", "url", "citation"):
        if corpus.get(name):
            yield f"- {name}: {_plain(corpus[name])}"
    sizes = run.facts["protocol"]["folds"][0]
    yield f"- utterances: {sizes['train']} train, {sizes['val']} validation, {sizes['test']} test (first fold)"
    if corpus.get("gated"):
        yield "- its terms forbid handing it on: nothing of it is in here but what the weights have learnt"
    yield ""


def _encoders(run: Run) -> Iterator[str]:
    from mer.stages.encoders.catalog import ENCODERS

    yield "| modality | encoder | checkpoint | revision | weights sha256 | licence |"
    yield "|---|---|---|---|---|---|"
    for modality, spec in run.specs.items():
        entry = ENCODERS.get(spec.name)
        made = spec.encoder
        cells = [
            modality, spec.name, made.get("checkpoint") or "–", str(made.get("revision") or "–")[:12],
            str(made.get("weights_sha256") or "–")[:16], entry.license if entry else "not known",
        ]  # fmt: skip
        yield f"| {' | '.join(_plain(cell) for cell in cells)} |"
    yield "\nThe encoders are not in here: `mer predict` finds each by its checkpoint and checks that it is this one.\n"


def _limits(run: Run) -> Iterator[str]:
    if "face" in run.specs:
        yield "- One face is followed, chosen by its size or by the sound; one in profile may not be found."
    if "text" in run.specs:
        yield "- It was trained on the transcripts of the corpus; words of a speech recogniser may cost accuracy."
    yield "- Probabilities are not calibrated unless a report says so; `mer report` draws it."
    yield from (f"- {_plain(note)}" for note in run.facts["notes"])
    yield ""


def _plain(text: Any) -> str:
    """Text on one line that Markdown and HTML leave alone."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", line)
