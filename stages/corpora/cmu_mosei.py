"""CMU-MOSEI: 23,259 labelled segments from 3,293 video blogs, with a sentiment value and six emotion intensities.

Who may use it
    Researchers, under the terms of CMU's MultiComp laboratory; the videos are YouTube's users'.
Layout
    Two forms are read. MMSA's: `label.csv` and `Raw/{video}/{clip}.mp4` (22,856 segments, sentiment only). And the
    SDK's: `Transcript/Segmented/Combined/{video}.txt`, `Videos/Full/Combined/{video}.mp4` (or the cut clips in
    `Videos/Segmented/Combined/{video}_{clip}.mp4`), the labels `CMU_MOSEI_Labels.csd` and, for the splits, the SDK's
    own `cmu_mosei_std_folds.py`, of which only the lists are read and nothing is run.
Labels
    `sentiment` in [-3, 3] with the derived classes of CMU-MOSI. In the SDK's form also `emotions`, the set of those
    whose intensity, 0 to 3, is above zero, and each intensity as a number.
Splits
    Official, by video: 2,249 / 300 / 678. MMSA's form has 16,326 / 1,871 / 4,659 segments; the SDK's has segments of 68
    videos in no split.
Traps
    * A line of a transcript is `video___clip___start___end___text`, and a text may hold underscores itself.
    * The `.csd` file has times and no clip numbers: segments are joined by their times.
    * A few published intensities lie outside their range (three videos): they are clipped to it.
    * Some videos have no sound file in one release; some segments are black.
Papers
    Zadeh et al., "Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable Dynamic Fusion Graph",
    ACL 2018; https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mer.cache import MerError

from ..interfaces import CorpusInfo, LabelSpec
from ..utterance import Utterance
from .annotation import corpus_root, first_existing, read_text
from .counts import ALL, Published, assert_counts
from .mmsa import Layout, bounded, read_labels
from .sentiment import CMU_LABELS, cmu_labels

EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
LABELS = "CMU_MOSEI_Labels.csd"
LAYOUT = Layout("CMU-MOSEI", other_form=(LABELS,), flat=("Videos/Segmented/Combined", "Raw/Videos/Segmented/Combined"))
FOLDS = "cmu_mosei_std_folds.py"
BASES = ("", "Raw/", "MOSEI/", "MOSEI/Raw/")
SAME_TIME_SECONDS = 0.01
PUBLISHED = Published(utterances={"train": 16326, "val": 1871, "test": 4659}, source="MMSA and MERBench")
PUBLISHED_SDK = Published(utterances={ALL: 23259}, source="label list of s3prl, made from the SDK's file")

Segment: TypeAlias = tuple[str, float, float, str]
"""Clip number, start and end in seconds, text."""


@dataclass(frozen=True)
class CmuMoseiCorpus:
    """CMU-MOSEI in MMSA's or the SDK's form, whichever is there."""

    root: Path
    allow_count_mismatch: bool = False

    @property
    def from_sdk(self) -> bool:
        """True when the root has the SDK's label file and no table of MMSA."""
        return LAYOUT.table(self.root) is None and self._place(LABELS) is not None

    def info(self) -> CorpusInfo:
        """Return the facts about CMU-MOSEI; the emotions are there when the root is of the SDK's form."""
        emotions = {"emotions": LabelSpec("multi", EMOTIONS), **{name: LabelSpec("real") for name in EMOTIONS}}
        return CorpusInfo(
            name="cmu-mosei",
            title="CMU-MOSEI: Multimodal Opinion Sentiment and Emotion Intensity",
            languages=("en",),
            license="research only",
            gated=True,
            url="http://multicomp.cs.cmu.edu/resources/cmu-mosei-dataset/",
            citation="Zadeh et al., ACL 2018, https://aclanthology.org/P18-1208",
            labels={**CMU_LABELS, **(emotions if self.from_sdk else {})},
            protocols=("official",),
        )

    def published(self) -> Published:
        """Return the published counts of the form that is there."""
        return PUBLISHED_SDK if self.from_sdk else PUBLISHED

    def utterances(self) -> Sequence[Utterance]:
        """List the segments by video and clip.

        Raises
        ------
        MerError
            If a file is missing or malformed, a label has no segment, or counts differ from the published ones.
        """
        root = corpus_root(self.root)
        if self.from_sdk:
            found = self._sdk()
        else:
            found = read_labels(root, LAYOUT, lambda row: cmu_labels(bounded(row, "label", 3.0)))
        return assert_counts("cmu-mosei", self.published(), found, self.allow_count_mismatch)

    def _place(self, name: str) -> str | None:
        places = (base + folder + name for base in BASES for folder in ("", "Labels/", "labels/"))
        return first_existing(self.root, places)

    def _sdk(self) -> list[Utterance]:
        labels = read_csd(self.root / (self._place(LABELS) or LABELS))
        folds = read_folds(self.root / (self._place(FOLDS) or FOLDS))
        transcripts = first_existing(self.root, (base + "Transcript/Segmented/Combined" for base in BASES))
        if transcripts is None:
            raise MerError(f"{self.root}: no Transcript/Segmented/Combined found; unpack the raw archive of the SDK")
        whole = first_existing(self.root, (base + "Videos/Full/Combined" for base in BASES))
        cut = first_existing(self.root, (base + "Videos/Segmented/Combined" for base in BASES))
        found = []
        for video, rows in sorted(labels.items()):
            path = self.root / transcripts / f"{video}.txt"
            if not path.is_file():
                raise MerError(f"{path}: file not found, and {LABELS} has labels of this video; copy both again")
            segments = read_segments(path)
            taken = [(_segment_at(path, segments, *row[:2]), row[2]) for row in rows]
            for turn, (segment, values) in enumerate(sorted(taken, key=lambda pair: int(pair[0][0]))):
                clip, start, end, text = segment
                media = (
                    f"{cut}/{video}_{clip}.mp4"
                    if cut and not whole
                    else f"{whole or 'Videos/Full/Combined'}/{video}.mp4"
                )
                spanned = whole is not None or cut is None
                found.append(
                    Utterance(
                        key=f"{video}_{clip}",
                        media=media,
                        text=text,
                        dialogue=video,
                        turn=turn,
                        split=folds.get(video, ""),
                        start_seconds=start if spanned else None,
                        end_seconds=end if spanned else None,
                        labels=_sdk_labels(values),
                    )
                )
        return found


def _sdk_labels(values: Sequence[float]) -> dict[str, str | float | tuple[str, ...] | None]:
    intensities = {name: min(max(value, 0.0), 3.0) for name, value in zip(EMOTIONS, values[1:], strict=True)}
    present = tuple(name for name, value in intensities.items() if value > 0)
    return {**cmu_labels(min(max(values[0], -3.0), 3.0)), "emotions": present, **intensities}


def _segment_at(path: Path, segments: Sequence[Segment], start: float, end: float) -> Segment:
    for segment in segments:
        if abs(segment[1] - start) < SAME_TIME_SECONDS and abs(segment[2] - end) < SAME_TIME_SECONDS:
            return segment
    raise MerError(f"{path}: no segment from {start:.3f} to {end:.3f} seconds, which {LABELS} has; copy both again")


def read_segments(path: Path) -> list[Segment]:
    """Read `video___clip___start___end___text` lines; the text may hold the separator.

    Raises
    ------
    MerError
        If a line is malformed, belongs to another video, or a clip appears twice.
    """
    found: dict[str, Segment] = {}
    for number, line in enumerate(read_text(path, ("utf-8-sig", "cp1252")).splitlines(), 1):
        if not line.strip():
            continue
        # A video's own id may hold or end in underscores, so it is taken off by its length.
        video, rest = line[: len(path.stem)], line[len(path.stem) :]
        match = re.fullmatch(r"___(\d{1,6})___(\d+(?:\.\d+)?)___(\d+(?:\.\d+)?)___(.*)", rest.rstrip())
        if video != path.stem or match is None or match[1] in found:
            why = "repeats a clip" if match and match[1] in found else f"is not {path.stem}___clip___start___end___text"
            raise MerError(f"{path} line {number}: {line[:60]!r} {why}; copy it again")
        found[match[1]] = (match[1], float(match[2]), float(match[3]), match[4].strip())
    return list(found.values())


def read_folds(path: Path) -> dict[str, str]:
    """Read the video lists of the SDK's Python file without running it.

    Raises
    ------
    MerError
        If it is missing, is not Python, lacks a list, or a video is in two of them.
    """
    try:
        tree = ast.parse(read_text(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise MerError(f"{path}: is not the SDK's file of folds ({error}); copy it again") from error
    lists: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                lists[node.targets[0].id] = ast.literal_eval(node.value)
            except (ValueError, TypeError, RecursionError, MemoryError):
                continue  # anything that is not a plain list is no list of ours
    found: dict[str, str] = {}
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        videos = lists.get(f"standard_{name}_fold")
        if not isinstance(videos, list) or not all(isinstance(video, str) for video in videos):
            raise MerError(f"{path}: has no list standard_{name}_fold; copy it again from the SDK")
        for video in videos:
            if found.setdefault(video, split) != split:
                raise MerError(f"{path}: video {video!r} is in two folds")
    return found


def read_csd(path: Path) -> dict[str, list[tuple[float, float, list[float]]]]:
    """Read a label sequence of the SDK: per video start, end and the seven values.

    Raises
    ------
    MerError
        If it is not such a file, points outside itself, or its shapes do not fit.
    """
    import h5py
    import numpy as np

    found: dict[str, list[tuple[float, float, list[float]]]] = {}
    try:
        with h5py.File(path, "r", locking=False) as file:
            data = _own(_own(file, next(iter(file))), "data")
            for video in data:
                arrays = [np.asarray(_plain(_own(data, video), name)) for name in ("features", "intervals")]
                values, times = (array.astype(np.float64) for array in arrays)
                if not re.fullmatch(r"[\w-]+", video) or values.shape[1:] != (7,) or times.shape != (len(values), 2):
                    raise ValueError(f"video {video!r} has shapes {values.shape} and {times.shape}")
                if not (np.isfinite(values).all() and np.isfinite(times).all()):
                    raise ValueError(f"video {video!r} has values that are not finite")
                found[video] = [
                    (float(start), float(end), row.tolist()) for (start, end), row in zip(times, values, strict=True)
                ]
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, StopIteration, AttributeError) as error:
        raise MerError(f"{path}: is not a label file of the CMU SDK ({error}); fetch it again") from error
    return found


def _own(group: Any, name: str) -> Any:
    """Return a group that lies in the file itself."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(group[name], h5py.Group):
        raise ValueError(f"{name!r} is not a group of its own")
    return group[name]


def _plain(group: Any, name: str) -> Any:
    """Return the values of a dataset that lie in the file itself and are few."""
    import h5py

    dataset = group[name]
    own = isinstance(group.get(name, getlink=True), h5py.HardLink) and isinstance(dataset, h5py.Dataset)
    if not own or dataset.external or dataset.is_virtual or dataset.size > 1_000_000:
        raise ValueError(f"{name!r} is not a plain dataset")
    return dataset[()]
