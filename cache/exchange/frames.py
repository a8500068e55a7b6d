"""Tables of one row per frame: which columns are times, validity and features, after the tools that write them.

OpenFace 2 writes `frame, face_id, timestamp, confidence, success` and the features; py-feat writes `FaceScore`, boxes
and action units with `frame` or `approx_time`; openSMILE writes `name; frameTime; …` (or `file, start, end, …` from
Python); Praat scripts write `time` and `--undefined--`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import MerError
from ..sequence import FeatureSequence
from .delimited import Table, number_or_gap
from .pack import stepped

_NOT_FEATURES = "frame,face_id,faceid,input,file,filename,name,unnamed: 0,index,identity,"
NOT_FEATURES = frozenset(_NOT_FEATURES.split(","))
TIMES = ("timestamp", "frametime", "approx_time", "time", "time (s)", "time_s", "t")
SPAN = re.compile(r"(?:(\d+) days? )?(\d+):(\d{2}):(\d{2}(?:\.\d+)?)")


@dataclass(frozen=True)
class FrameColumns:
    """Columns of a table of frames by what they are."""

    kind: str
    """`OpenFace`, `py-feat`, `openSMILE`, `Praat`, or empty."""
    features: list[str]
    time: str | None
    end: str | None
    """Column with the end of the step, where `time` is its start."""
    score: str | None
    """Column that is above 0 where a face was found."""
    face: str | None


def columns_of_frames(table: Table) -> FrameColumns:
    """Tell the columns of a table apart."""
    lower = {name.lower(): name for name in table.names}
    time = next((lower[name] for name in TIMES if name in lower), None)
    score, end, kind = None, None, ""
    left_out = set(NOT_FEATURES) | {name.lower() for name in (time,) if name}
    if {"frame", "confidence", "success"} <= set(lower):
        kind, score = "OpenFace", lower["success"]
        left_out |= {"confidence", "success"}
    elif "facescore" in lower:
        kind, score = "py-feat", lower["facescore"]
        left_out |= {"facescore", "frame_height", "frame_width"}
    elif {"start", "end"} <= set(lower):
        kind, time, end = "openSMILE", lower["start"], lower["end"]
        left_out |= {"start", "end"}
    elif "frametime" in lower or "name" in lower:
        kind = "openSMILE"
        left_out |= {"class", "emotion", "label"}
    elif any("--undefined--" in row for row in table.rows[:1000]):
        kind = "Praat"
    features = [name for name in table.names if name.lower() not in left_out and _is_number(table, name)]
    if not features:
        raise MerError(f"{table.path}: has no column of numbers")
    return FrameColumns(kind, features, time, end, score, lower.get("face_id") or lower.get("faceid"))


def _is_number(table: Table, name: str) -> bool:
    """Whether a column can be features: a text in its first row makes it something else (a path, a name)."""
    return number_or_gap(table.rows[0][table.names.index(name)]) is not None


def frames(table: Table) -> tuple[FeatureSequence, tuple[str, ...], list[str]]:
    """Features of one clip, their names, and what was assumed."""
    columns = columns_of_frames(table)
    told = [f"{columns.kind} tables: {len(columns.features)} columns are features"] if columns.kind else []
    values = table.numbers(columns.features)
    valid = np.ones(len(values), np.bool_)
    if columns.score:
        valid = np.nan_to_num(table.numbers([columns.score])[:, 0]) > 0
        told.append(f"frames are valid where {columns.score} is above 0")
    times = _times(table, columns)
    if columns.time and times is None:
        told.append(f"{columns.time} holds no seconds that rise; times are step numbers")
    if columns.face:
        values, times, valid = _one_face(table, columns.face, times, values, valid, told)
    made = stepped(values, times)
    broken = valid & ~np.isfinite(values).any(1)
    kept = np.where(valid[:, None], values, 0)
    return FeatureSequence(kept, made.times, valid & ~broken, made.note), tuple(columns.features), told


def _times(table: Table, columns: FrameColumns) -> npt.NDArray[np.float64] | None:
    if columns.time is None:
        return None
    start = _seconds(table.column(columns.time))
    if start is None or columns.end is None:
        return start if start is not None and not (np.diff(start) < 0).any() else None
    end = _seconds(table.column(columns.end))
    return None if end is None else (start + end) / 2


def _seconds(cells: list[str]) -> npt.NDArray[np.float64] | None:
    """Seconds of a column, spelled as numbers or as `0 days 00:00:01.5`; None where one is neither."""
    made = np.empty(len(cells))
    for at, cell in enumerate(cells):
        value = number_or_gap(cell)
        span = SPAN.fullmatch(cell.strip()) if value is None else None
        if span:
            value = 86400 * int(span[1] or 0) + 3600 * int(span[2]) + 60 * int(span[3]) + float(span[4])
        if value is None or not np.isfinite(value):
            return None
        made[at] = value
    return made


def _one_face(
    table: Table,
    column: str,
    times: npt.NDArray[np.float64] | None,
    values: npt.NDArray[np.float64],
    valid: npt.NDArray[np.bool_],
    told: list[str],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None, npt.NDArray[np.bool_]]:
    """Keep the face that is found in most frames: a sequence has one row per step."""
    faces = np.array([cell.strip() for cell in table.column(column)])
    names, counts = np.unique(faces[valid] if valid.any() else faces, return_counts=True)
    if len(set(faces.tolist())) < 2:
        return values, times, valid
    kept = faces == names[counts.argmax()]
    told.append("of several faces in a clip the one found in most frames is kept")
    return values[kept], None if times is None else times[kept], valid[kept]
