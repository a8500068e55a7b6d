"""Predictions over time: the rows of one video, their JSON-lines file, and stretches of one answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import DamagedError, FormatError, MerError

FORMAT = "mer-timeline"
VERSION = 1
NOBODY = "no face"


@dataclass(frozen=True)
class Prediction:
    """What a run says of one person in one window."""

    window: int
    start_seconds: float
    end_seconds: float
    person: int
    """From 1; 0 where no face was found or none is looked for."""
    leads: bool
    """Whether the sound and the words are taken to be this person's."""
    why: str
    """How the one who leads was chosen: `speaking`, `largest`, `central`, `only`, or empty."""
    text: str | None
    output: npt.NDArray[np.float64]
    """Shape (C,), probabilities averaged over the models, or (1,), a number."""
    spread: npt.NDArray[np.float64]
    """Same shape: standard deviation over the models."""
    used: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    """Modality to the reason why it was left out."""
    alone: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """Modality to what the run says when it is given nothing else."""
    agreement: float | None = None
    """1 where all modalities say the same alone, 0 where they share no class; None where it is not defined."""

    @property
    def person_name(self) -> str:
        """Name of the lane."""
        return f"person {self.person}" if self.person else NOBODY


@dataclass(frozen=True)
class TimelineHeader:
    """What a time line is of."""

    video: str
    """File name."""
    video_bytes: int
    run: str
    """Name of the run's folder."""
    run_digest: str
    target: str
    kind: str
    """`class`, `multi` or `real`."""
    classes: tuple[str, ...]
    models: int
    windows: Mapping[str, Any]
    """How the windows were cut: `length_seconds` and `hop_seconds`, or `turns`, and where the words come from."""

    def record(self) -> dict[str, Any]:
        """The first line of the file."""
        return {"format": FORMAT, "version": VERSION, **vars(self), "classes": list(self.classes)}


@dataclass(frozen=True)
class Timeline:
    """All predictions of one video."""

    header: TimelineHeader
    rows: Sequence[Prediction]
    """In the order of windows, and of people within a window."""
    seconds: float
    notes: tuple[str, ...] = ()
    """What was odd about the video."""

    @property
    def people(self) -> list[int]:
        """Everyone in the rows, those with a face first."""
        return sorted({row.person for row in self.rows}, key=lambda person: (person == 0, person))

    def of_person(self, person: int) -> list[Prediction]:
        """Rows of one lane, in order of time."""
        return sorted((row for row in self.rows if row.person == person), key=lambda row: row.start_seconds)

    def label(self, row: Prediction) -> str:
        """The most likely class, the classes of a set with at least a half, or the number."""
        if self.header.kind == "real":
            return f"{row.output[0]:.2f}"
        if self.header.kind == "multi":
            return ", ".join(n for n, p in zip(self.header.classes, row.output, strict=True) if p >= 0.5) or "none"
        return self.header.classes[int(row.output.argmax())]


@dataclass(frozen=True)
class Stretch:
    """A stretch of one lane with one answer; the stretches of a lane do not overlap."""

    start_seconds: float
    end_seconds: float
    label: str
    share: float
    """Mean probability of the label over its windows; NaN for numbers and sets."""


def stretches(timeline: Timeline, person: int) -> list[Stretch]:
    """Lay the windows of a lane side by side and join neighbours with one answer.

    Where windows overlap, the border between two of them is in the middle of what they share. A window in which nothing
    was there to go by, so that the training prior answered, gives no stretch.
    """
    rows = [row for row in timeline.of_person(person) if row.used]
    edges = [
        (one.end_seconds + two.start_seconds) / 2 if two.start_seconds < one.end_seconds else None
        for one, two in pairwise(rows)
    ]
    made: list[tuple[float, float, str, list[float]]] = []
    for place, row in enumerate(rows):
        before = edges[place - 1] if place else None
        after = edges[place] if place < len(edges) else None
        start = row.start_seconds if before is None else before
        end = row.end_seconds if after is None else after
        label = timeline.label(row)
        share = float(row.output.max()) if timeline.header.kind == "class" else float("nan")
        if end <= start:
            continue
        if made and made[-1][2] == label and abs(made[-1][1] - start) < 1e-6:
            made[-1] = (made[-1][0], end, label, [*made[-1][3], share])
        else:
            made.append((start, end, label, [share]))
    return [Stretch(start, end, label, float(np.mean(shares))) for start, end, label, shares in made]


# --- the JSON-lines file --------------------------------------------------------------------------------------------


def row_record(header: TimelineHeader, row: Prediction) -> dict[str, Any]:
    """One line of the file."""
    record: dict[str, Any] = {
        "window": row.window,
        "start_seconds": row.start_seconds,
        "end_seconds": row.end_seconds,
        "person": row.person,
        "leads": row.leads,
        "why": row.why,
        "text": row.text,
        "used": list(row.used),
        "missing": dict(row.missing),
        "agreement": None if row.agreement is None else round(row.agreement, 6),
        "output": _named(header, row.output),
        "std_over_models": _named(header, row.spread),
        "alone": {modality: _named(header, output) for modality, output in row.alone.items()},
    }
    return record


def _named(header: TimelineHeader, output: npt.NDArray[np.float64]) -> dict[str, float]:
    names = header.classes if header.kind != "real" else ("value",)
    return {name: round(float(value), 6) for name, value in zip(names, output, strict=True)}


def _row(line: Mapping[str, Any]) -> Prediction:
    known = {name: line[name] for name in ("window", "start_seconds", "end_seconds", "person", "leads", "why", "text")}
    return Prediction(
        **known,
        output=np.array(list(line["output"].values())),
        spread=np.array(list(line["std_over_models"].values())),
        used=tuple(line["used"]),
        missing=line["missing"],
        alone={modality: np.array(list(values.values())) for modality, values in line["alone"].items()},
        agreement=line["agreement"],
    )


def write_line(file: Any, record: Mapping[str, Any]) -> None:
    """Append one line."""
    file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_timeline(path: Path) -> Timeline:
    """Read a finished JSON-lines file.

    Raises
    ------
    MerError
        If it is missing, damaged, unfinished or of a newer version.
    """
    header, rows, end = read_lines(path)
    if end is None:
        raise DamagedError(f"{path}: is not complete; give mer predict the same options again")
    return Timeline(header, rows, float(end["seconds"]), tuple(end["notes"]))


def read_lines(path: Path) -> tuple[TimelineHeader, list[Prediction], Mapping[str, Any] | None]:
    """Read what there is of a JSON-lines file: its header, its rows, and its last line where it is complete.

    A line that was torn by a crash is left out.
    """
    try:
        lines = list(_whole_lines(path))
        first = lines[0]
        if first["format"] != FORMAT:
            raise KeyError("format")
        if first["version"] > VERSION:
            raise FormatError(f"{path}: is of format {first['version']} and this mer reads {VERSION}; update mer")
        names = [name for name in TimelineHeader.__dataclass_fields__ if name != "classes"]
        header = TimelineHeader(**{name: first[name] for name in names}, classes=tuple(first["classes"]))
        end = lines[-1] if "seconds" in lines[-1] else None
        rows = [_row(line) for line in lines[1 : len(lines) - (end is not None)]]
    except MerError:
        raise
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DamagedError(f"{path}: is damaged ({error}); remove it and predict again") from error
    return header, rows, end


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
