"""What an extraction will do: which utterances still need which features, cut into shards.

The plan depends on the corpus and on the last finished catalogue alone, never on what a killed run left behind;
so a run that is started again plans the same shards, finds the finished ones by name, and makes the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import (
    DamagedError,
    Fate,
    FeatureSpec,
    MerError,
    SetIndex,
    ShardIndex,
    ShardInfo,
    check_shard,
    read_shard_index,
    shard_folder,
    shard_name,
)
from mer.stages.utterance import Utterance

from .decoding import Job, digest_of
from .tasks import EncodingSet, ShardTask

SHARD_CLIPS = 64
TEXT_SHARD_CLIPS = 512
"""Utterances in a shard made of transcripts alone: they are small, and more of them sort into fuller batches."""
SHARD_ROW_WIDTH = 2048
"""Up to this row width a shard holds `SHARD_CLIPS` utterances, beyond it proportionally fewer."""


@dataclass
class KnownShards:
    """The shards of one feature set that are sound, and which of their rows answer for which utterance."""

    infos: list[ShardInfo] = field(default_factory=list)
    rows: dict[tuple[str, bytes], tuple[int, int]] = field(default_factory=dict)
    """(key, source digest) to (shard, row); a later shard overrides an earlier one."""
    indexes: list[ShardIndex] = field(default_factory=list)

    def add(self, info: ShardInfo, index: ShardIndex) -> None:
        """Take in one shard."""
        number = len(self.infos)
        self.infos.append(info)
        self.indexes.append(index)
        for row, (key, source) in enumerate(zip(index.keys, index.sources, strict=True)):
            self.rows[str(key), bytes(source)] = (number, row)

    def fate(self, key: str, source: bytes) -> Fate:
        """Fate of an utterance, PENDING when no shard answers for it."""
        found = self.rows.get((key, source))
        if found is None:
            return Fate.PENDING
        return Fate(int(self.indexes[found[0]].fates[found[1]]))

    def with_features_of(self, keys: Set[str]) -> list[int]:
        """Shards with features of some utterances, made from whatever sources: a clip that is away may come back."""
        return [
            number
            for number, index in enumerate(self.indexes)
            if any(key in keys and fate == Fate.OK for key, fate in zip(index.keys, index.fates, strict=True))
        ]


@dataclass(frozen=True)
class Plan:
    """Work to do and work found done."""

    jobs: tuple[Job, ...]
    sets: tuple[EncodingSet, ...]
    tasks: tuple[ShardTask, ...]
    """Work to do; a task whose shards all exist is left out."""
    shards: Mapping[str, list[str]]
    """Per feature set the names of every shard that will answer, in order: known, found finished, and to be made."""
    known: Mapping[str, KnownShards]
    damaged: tuple[str, ...] = ()
    """Sentences about shards that were damaged or gone and are made again."""
    lost: tuple[str, ...] = ()
    """The same about shards of sets that this run does not make."""

    bytes_there: Mapping[str, int] = field(default_factory=dict)
    """Per feature set the size of the shards that were found."""

    @property
    def utterances_to_do(self) -> int:
        """Number of utterances in the tasks."""
        return sum(len(task.jobs) for task in self.tasks)

    def media(self) -> set[str]:
        """Files that the tasks read."""
        files: set[str | None] = set()
        for task in self.tasks:
            kinds = {made.modality for made in task.sets}
            if "face" in kinds:
                files |= {job.picture for job in task.jobs}
            if kinds != {"text"}:
                files |= {job.sound or job.picture for job in task.jobs}
        return {file for file in files if file is not None}


def job_of(utterance: Utterance, root: Path, digests: Mapping[Path, bytes | None]) -> Job:
    """Turn an utterance into a job, with the digests of what it gives to the encoders."""
    picture = media_path(root, utterance.media)
    sound = media_path(root, utterance.sound_media)
    place = [(digests.get(path) or b"").hex() if path is not None else None for path in (picture, sound)]
    media = [*place, utterance.start_seconds, utterance.end_seconds, utterance.face_region, utterance.known_bad]
    return Job(
        key=utterance.key,
        text=utterance.text,
        picture=str(picture) if picture is not None else None,
        sound=str(sound) if sound is not None else None,
        start_seconds=utterance.start_seconds,
        end_seconds=utterance.end_seconds,
        face_region=utterance.face_region,
        known_bad=utterance.known_bad,
        text_source=digest_of(utterance.text),
        media_source=digest_of(media),
    )


def media_path(root: Path, relative: str | None) -> Path | None:
    """Path of a corpus file.

    Raises
    ------
    MerError
        If the path would leave the corpus folder.
    """
    if relative is None:
        return None
    path = root / relative
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise MerError(f"media path {relative!r} leaves the corpus folder {root}; give a path inside it")
    return path


def make_plan(
    jobs: Sequence[Job],
    sets: Sequence[EncodingSet],
    catalogue: Path,
    previous: Mapping[str, SetIndex],
    retry_failed: bool = False,
) -> Plan:
    """Compare what is wanted with what the last catalogue holds and with the shards on disk."""
    known: dict[str, KnownShards] = {}
    damaged: list[str] = []
    for made in sets:
        known[made.name] = load_known(catalogue, made.name, previous.get(made.name), damaged.append)
    tasks: list[ShardTask] = []
    shards = {made.name: [info.name for info in known[made.name].infos] for made in sets}
    there = {made.name: sum(info.bytes for info in known[made.name].infos) for made in sets}
    for missing, chunk, again in _chunks(jobs, sets, known, retry_failed):
        unfinished = []
        for made in missing:
            name = shard_name(made.spec, [job.key for job in chunk], [job.source(made.modality) for job in chunk])
            shards[made.name] = [other for other in shards[made.name] if other != name] + [name]
            path = Path(made.folder) / f"{name}.h5"
            if again or not _is_finished(path, damaged.append):
                unfinished.append(made)
            else:
                there[made.name] += path.stat().st_size
        if unfinished:
            tasks.append(ShardTask(tuple(chunk), tuple(unfinished)))
    others = {name: index for name, index in previous.items() if name not in known}
    lost = [told for name, index in others.items() for told in _lost(shard_folder(catalogue, name), index)]
    return Plan(tuple(jobs), tuple(sets), tuple(tasks), shards, known, tuple(damaged), tuple(lost), there)


def _chunks(
    jobs: Sequence[Job], sets: Sequence[EncodingSet], known: Mapping[str, KnownShards], retry_failed: bool
) -> Iterable[tuple[tuple[EncodingSet, ...], list[Job], bool]]:
    """Group the utterances by the sets they still need, in corpus order, and cut the groups into shards.

    Those that failed and are tried again stand apart, so that the others are cut as without them.
    """
    groups: dict[tuple[tuple[str, ...], bool], list[Job]] = {}
    for job in jobs:
        fates = {made.name: known[made.name].fate(job.key, job.source(made.modality)) for made in sets}
        again = retry_failed and Fate.FAILED in fates.values()
        redo = {Fate.PENDING, Fate.FAILED} if again else {Fate.PENDING}
        needs = tuple(name for name, fate in fates.items() if fate in redo)
        if needs:
            groups.setdefault((needs, again), []).append(job)
    by_name = {made.name: made for made in sets}
    for (names, again), members in groups.items():
        missing = tuple(by_name[name] for name in names)
        size = shard_clips(max(made.spec.dim for made in missing), all(made.modality == "text" for made in missing))
        for start in range(0, len(members), size):
            yield missing, members[start : start + size], again


def shard_clips(dim: int, text_alone: bool = False) -> int:
    """Utterances per shard for rows of a width."""
    clips = TEXT_SHARD_CLIPS if text_alone else SHARD_CLIPS
    return clips if dim <= SHARD_ROW_WIDTH else max(4, clips * SHARD_ROW_WIDTH // dim)


def load_known(catalogue: Path, set_name: str, index: SetIndex | None, complain: Callable[[str], None]) -> KnownShards:
    """Read the index of every shard the last catalogue lists, leaving out what is gone or damaged."""
    known = KnownShards()
    folder = shard_folder(catalogue, set_name)
    for info in index.shards if index is not None else ():
        path = folder / f"{info.name}.h5"
        try:
            check_shard(path, deep=True)
            known.add(info, read_shard_index(path))
        except DamagedError as error:
            complain(str(error))
    return known


def _lost(folder: Path, index: SetIndex) -> Iterable[str]:
    """Say which shards of a set cannot be read."""
    for info in index.shards:
        try:
            read_shard_index(folder / f"{info.name}.h5")
        except DamagedError as error:
            yield str(error)


def _is_finished(path: Path, complain: Callable[[str], None]) -> bool:
    if not path.exists():
        return False
    try:
        check_shard(path, deep=True)
    except DamagedError as error:
        complain(str(error))
        return False
    return True


def index_set(
    spec: FeatureSpec,
    folder: Path,
    shards: Iterable[str],
    wanted: Sequence[tuple[str, bytes]],
    durations_seconds: npt.NDArray[np.float64],
) -> SetIndex:
    """Collect the fates of a feature set from its shards, one entry per utterance of the table.

    `wanted` gives the key and the source digest of every utterance; a shard row made from other sources (an older
    transcript, another file) does not answer. Nor does a shard that cannot be read: its utterances are pending. Noted
    lengths of streams are filled into `durations_seconds`, the longest of each clip.
    """
    known = KnownShards()
    for name in shards:
        with suppress(DamagedError):
            index = read_shard_index(folder / f"{name}.h5")
            known.add(index.info, index)
    columns = _empty_columns(len(wanted))
    used: dict[int, int] = {}
    for position, (key, source) in enumerate(wanted):
        columns["sources"][position] = np.frombuffer(source, np.uint8)
        found = known.rows.get((key, source))
        if found is None:
            continue
        shard, row = found
        index = known.indexes[shard]
        columns["fates"][position] = index.fates[row]
        columns["reasons"][position] = index.reasons[row]
        columns["shard"][position] = used.setdefault(shard, len(used))
        columns["start"][position] = index.offsets[row]
        columns["length"][position] = index.offsets[row + 1] - index.offsets[row]
        columns["checksums"][position] = index.checksums[row]
        columns["coverage"][position] = index.coverage[row]
        if index.notes[row]:
            noted = json.loads(index.notes[row]).get("duration_seconds", np.nan)
            durations_seconds[position] = np.fmax(durations_seconds[position], noted)
    without = {key for (key, _), fate in zip(wanted, columns["fates"], strict=True) if fate != Fate.OK}
    kept = [*used, *(number for number in known.with_features_of(without) if number not in used)]
    return SetIndex(spec=spec, shards=[known.infos[shard] for shard in kept], **columns)


def _empty_columns(count: int) -> dict[str, Any]:
    return {
        "fates": np.full(count, Fate.PENDING, np.uint8),
        "reasons": [""] * count,
        "shard": np.full(count, -1, np.int32),
        "start": np.zeros(count, np.int64),
        "length": np.zeros(count, np.int64),
        "checksums": np.zeros(count, np.uint64),
        "sources": np.zeros((count, 16), np.uint8),
        "coverage": np.zeros(count, np.float32),
    }
