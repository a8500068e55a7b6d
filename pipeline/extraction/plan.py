"""What an extraction will do: which utterances still need which features, cut into shards.

The plan depends on the corpus and on the last finished catalogue alone, never on what a killed run left behind;
so a run that is started again plans the same shards, finds the finished ones by name, and makes the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mer.cache import (
    DamagedError,
    Fate,
    SetIndex,
    read_shard_index,
    shard_folder,
    shard_name,
)

from .checked_shards import CheckedShards
from .jobs import Job
from .known_shards import KnownShards, load_known
from .local_state import side_folder
from .tasks import EncodingSet, ShardTask

SHARD_CLIPS = 64
TEXT_SHARD_CLIPS = 512
"""Utterances in a shard made of transcripts alone: they are small, and more of them sort into fuller batches."""
SHARD_ROW_WIDTH = 2048
"""Up to this row width a shard holds `SHARD_CLIPS` utterances, beyond it proportionally fewer."""


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


def make_plan(
    jobs: Sequence[Job],
    sets: Sequence[EncodingSet],
    catalogue: Path,
    previous: Mapping[str, SetIndex],
    retry_failed: bool = False,
    check: bool = False,
) -> Plan:
    """Compare what is wanted with what the last catalogue holds and with the shards on disk.

    With `check` every stored byte is read; else shards that this machine wrote or read before are trusted.
    """
    checked = CheckedShards(side_folder(catalogue), trust=not check)
    known: dict[str, KnownShards] = {}
    damaged: list[str] = []
    for made in sets:
        known[made.name] = load_known(catalogue, made.name, previous.get(made.name), damaged.append, checked)
    tasks: list[ShardTask] = []
    shards = {made.name: {info.name: None for info in known[made.name].infos} for made in sets}
    there = {made.name: sum(info.bytes for info in known[made.name].infos) for made in sets}
    for missing, chunk, again in _chunks(jobs, sets, known, retry_failed):
        unfinished = []
        for made in missing:
            name = shard_name(made.spec, [job.key for job in chunk], [job.source(made.modality) for job in chunk])
            shards[made.name].pop(name, None)
            shards[made.name][name] = None  # at the end: a later shard overrides an earlier one
            path = Path(made.folder) / f"{name}.h5"
            if again or not _is_finished(path, damaged.append, checked):
                unfinished.append(made)
            else:
                there[made.name] += path.stat().st_size
        if unfinished:
            tasks.append(ShardTask(tuple(chunk), tuple(unfinished)))
    others = {name: index for name, index in previous.items() if name not in known}
    lost = [told for name, index in others.items() for told in _lost(shard_folder(catalogue, name), index)]
    checked.save()
    names = {name: list(each) for name, each in shards.items()}
    return Plan(tuple(jobs), tuple(sets), tuple(tasks), names, known, tuple(damaged), tuple(lost), there)


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


def _lost(folder: Path, index: SetIndex) -> Iterable[str]:
    """Say which shards of a set cannot be read."""
    for info in index.shards:
        try:
            read_shard_index(folder / f"{info.name}.h5")
        except DamagedError as error:
            yield str(error)


def _is_finished(path: Path, complain: Callable[[str], None], checked: CheckedShards) -> bool:
    if not path.exists():
        return False
    try:
        checked.read(path)
    except DamagedError as error:
        complain(str(error))
        return False
    return True
