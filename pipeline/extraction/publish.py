"""Step 5: shards -> catalogue, summary and the list of failures."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import (
    Catalogue,
    Fate,
    LabelColumn,
    MerError,
    SetIndex,
    UtteranceTable,
    atomic_write,
    shard_folder,
    write_catalogue,
)
from mer.cache.pack_facts import without_folders
from mer.stages.interfaces import Corpus, CorpusInfo, LabelSpec
from mer.stages.utterance import Utterance

from .checked_shards import CheckedShards
from .known_shards import index_set
from .listing import Listing
from .local_state import one_at_a_time, side_folder
from .plan import Plan
from .previous import read_previous, with_machine_texts
from .reproduce import versions_used
from .resolve import Resolved
from .tasks import ShardReport

FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
NOT_LOOKED_AT = bytes(16)
"""Source digest of an utterance in a set that was not asked for it yet."""


@dataclass
class ExtractSummary:
    """What a run did and what its catalogue holds."""

    catalogue: Path
    made: dict[str, SetIndex]
    clips: int = 0
    """Utterances worked on in this run; 0 when everything was there."""
    media_seconds: float = 0.0
    wall_seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    failures: Path | None = None
    media_notes: list[str] = field(default_factory=list)
    """What was odd about files that could be read, each with the utterance's id."""
    lost: int = 0
    """Utterances of this run, counted once per set, whose shard is gone or damaged now that the catalogue is made."""

    def count(self, fate: Fate) -> int:
        """Number of utterance-modality pairs with a fate."""
        return sum(int((index.fates == fate).sum()) for index in self.made.values())

    def check(self, max_failures: int | None = None) -> None:
        """Raise if nothing could be encoded, or more utterances failed than are tolerated.

        Raises
        ------
        MerError
            The message names the list of failures.
        """
        if self.lost:
            raise MerError(
                f"{self.lost} utterances lost their features while the run went on, twice: something removes or damages"
                f" the files in {side_folder(self.catalogue)}; run the same command again when that has stopped"
            )
        failed = self.count(Fate.FAILED)
        if self.count(Fate.OK) == 0:
            raise MerError(f"no utterance could be encoded; see {self.failures}")
        if max_failures is not None and failed > max_failures:
            raise MerError(f"{failed} failures are more than --max-failures {max_failures}; see {self.failures}")


def publish(
    resolved: Resolved, listing: Listing, plan: Plan, reports: Sequence[ShardReport], recorded: Mapping[str, Any]
) -> ExtractSummary:
    """Write the catalogue anew over all shards that answer, and the list of utterances without features.

    Parameters
    ----------
    resolved, listing, plan
        What the run is about.
    reports
        What it made.
    recorded
        The request as the provenance keeps it (`ExtractOptions.recorded`).
    """
    path = resolved.catalogue
    with one_at_a_time(path):
        catalogue = _assemble(resolved, listing, plan, reports, recorded)
        write_catalogue(path, catalogue)
        _remember(resolved, reports)
    made = {encoding.name: catalogue.sets[encoding.name] for encoding in resolved.sets}
    summary = ExtractSummary(path, made)
    rows = catalogue.utterances.rows([job.key for job in listing.jobs])
    summary.lost = sum(int((index.fates[rows] == Fate.PENDING).sum()) for index in made.values())
    for report in reports:
        summary.clips += report.clips
        summary.media_seconds += report.media_seconds
        summary.media_notes += report.media_notes
        for stage, seconds in report.seconds.items():
            summary.stage_seconds[stage] = summary.stage_seconds.get(stage, 0.0) + seconds
    summary.failures = _list_failures(path, catalogue.utterances.keys, made)
    return summary


def _remember(resolved: Resolved, reports: Sequence[ShardReport]) -> None:
    """Trust the shards that this run wrote: the next one need not read their features again."""
    folders = {made.name: Path(made.folder) for made in resolved.sets}
    checked = CheckedShards(side_folder(resolved.catalogue))
    checked.remember(folders[name] / f"{info.name}.h5" for report in reports for name, info in report.shards)
    checked.save()


def _assemble(
    resolved: Resolved, listing: Listing, plan: Plan, reports: Sequence[ShardReport], recorded: Mapping[str, Any]
) -> Catalogue:
    """Make the catalogue anew: what this run looked at as it is now, everything else as the catalogue has it.

    The catalogue is read once more, since another run may have added to it meanwhile.
    """
    latest = read_previous(resolved.catalogue, resolved.info.name)
    utterances = _everyone(resolved.listed, listing.utterances, latest, transcribed="transcribe" in recorded)
    durations = np.full(len(utterances), np.nan)
    mine = {made.name: made for made in resolved.sets}
    sets: dict[str, SetIndex] = {}
    for name, index in (latest.sets if latest else {}).items():
        if name not in mine:
            wanted = _sources(utterances, {}, latest, name)
            shards = [info.name for info in index.shards]
            sets[name] = index_set(index.spec, shard_folder(resolved.catalogue, name), shards, wanted, durations)
    checked = CheckedShards(side_folder(resolved.catalogue))
    for name, made in mine.items():
        now = {job.key: job.source(made.modality) for job in listing.jobs}
        wanted = _sources(utterances, now, latest, name)
        answering = _answering(resolved.previous, latest, plan.shards[name], name, reports)
        remade = {info.name for report in reports for other, info in report.shards if other == name}
        known = plan.known[name]
        read = {info.name: index for info, index in zip(known.infos, known.indexes, strict=True)}
        unchanged = {
            shard: index
            for shard, index in read.items()
            if shard not in remade and checked.is_known(Path(made.folder) / f"{shard}.h5")
        }
        sets[name] = index_set(made.spec, Path(made.folder), answering, wanted, durations, unchanged)
    return Catalogue(
        corpus=corpus_record(resolved.info, resolved.corpus),
        utterances=utterance_table(utterances, resolved.info.labels, durations),
        sets=sets,
        provenance=_provenance(recorded, latest) | _versions(sets, reports, latest),
    )


def _everyone(
    listed: Sequence[Utterance], chosen: Sequence[Utterance], latest: Catalogue | None, transcribed: bool
) -> list[Utterance]:
    """Utterances of this run and of the catalogue that the corpus still lists, in its order."""
    mine = {utterance.key: utterance for utterance in chosen}
    kept = [
        mine.get(one.key, one)
        for one in listed
        if one.key in mine or (latest is not None and one.key in latest.utterances)
    ]
    with_texts = with_machine_texts(kept, latest)
    return [one if transcribed and one.key in mine else other for one, other in zip(kept, with_texts, strict=True)]


def _sources(
    utterances: Sequence[Utterance], now: Mapping[str, bytes], latest: Catalogue | None, name: str
) -> list[tuple[str, bytes]]:
    """Key and source digest of every utterance in one set: as they are `now`, or as the catalogue has them."""
    before: dict[str, bytes] = {}
    if latest is not None and name in latest.sets:
        sources = latest.sets[name].sources
        before = {key: source.tobytes() for key, source in zip(latest.utterances.keys, sources, strict=True)}
    known = {**before, **now}
    return [(utterance.key, known.get(utterance.key, NOT_LOOKED_AT)) for utterance in utterances]


def _answering(
    previous: Catalogue | None,
    latest: Catalogue | None,
    planned: Sequence[str],
    name: str,
    reports: Sequence[ShardReport],
) -> Iterable[str]:
    """Names of the shards of a set that this run makes; a later one overrides an earlier one."""
    before, after = (
        [info.name for info in catalogue.sets[name].shards] if catalogue is not None and name in catalogue.sets else []
        for catalogue in (previous, latest)
    )
    known = {*before, *planned}
    meanwhile = [shard for shard in after if shard not in known]
    made = [info.name for report in reports for other, info in report.shards if other == name]
    return dict.fromkeys([*meanwhile, *planned, *made])


def corpus_record(info: CorpusInfo, corpus: Corpus) -> dict[str, Any]:
    """Facts about the corpus as the catalogue keeps them, JSON-able."""
    record = dataclasses.asdict(info)
    record["labels"] = {name: dataclasses.asdict(label) for name, label in info.labels.items()}
    record["options"] = {
        made.name: value
        for made in dataclasses.fields(corpus)  # type: ignore[arg-type]
        if made.name != "root" and isinstance(value := getattr(corpus, made.name), str | int | float | bool | None)
    }
    return record


def utterance_table(
    utterances: Sequence[Utterance], labels: Mapping[str, LabelSpec], durations_seconds: npt.NDArray[np.float64]
) -> UtteranceTable:
    """Turn a corpus' utterances into the columns of a catalogue."""
    copied = ("text", "media", "speaker", "dialogue", "turn", "split", "session", "machine_text")
    columns: dict[str, Any] = {name: [getattr(u, name) for u in utterances] for name in copied}
    columns |= {
        name: [np.nan if getattr(u, name) is None else getattr(u, name) for u in utterances]
        for name in ("start_seconds", "end_seconds")
    }
    targets = {
        name: LabelColumn.of(label.kind, label.classes, [u.labels.get(name) for u in utterances])
        for name, label in labels.items()
    }
    return UtteranceTable.of([u.key for u in utterances], targets, duration_seconds=durations_seconds, **columns)


def _provenance(recorded: Mapping[str, Any], latest: Catalogue | None) -> dict[str, Any]:
    """What made these features, without clocks, hosts and folders, so that equal runs leave equal catalogues."""
    chosen = dict(recorded)
    if "transcribe" not in chosen and latest is not None and latest.utterances.machine_text.any():
        before = latest.provenance.get("options", {}).get("transcribe")
        chosen |= {"transcribe": before} if before else {}
    return {"options": without_folders(chosen)}


def _versions(sets: Mapping[str, SetIndex], reports: Sequence[ShardReport], latest: Catalogue | None) -> dict[str, Any]:
    """Versions of what made the features: of this run where it made some."""
    encoded = {name for report in reports for name, _ in report.shards}
    made = [index.spec for name, index in sets.items() if name in encoded]
    return versions_used(made, [index.spec for name, index in sets.items() if name not in encoded], latest)


def _as_text(cell: str) -> str:
    """Quote what a spreadsheet would take for a formula, as OWASP advises: ids come from whoever made the corpus."""
    return f"'{cell}" if cell.startswith(FORMULA_SIGNS) else cell


def _list_failures(catalogue: Path, keys: Sequence[str], made: Mapping[str, SetIndex]) -> Path | None:
    """Write the utterances that have no features, and why, beside the shards."""
    lines = [
        (key, name, Fate(int(fate)).name.lower(), reason)
        for name, index in made.items()
        for key, fate, reason in zip(keys, index.fates, index.reasons, strict=True)
        if fate not in (Fate.OK, Fate.PENDING)
    ]
    path = side_folder(catalogue) / "without-features.csv"
    if not lines:
        path.unlink(missing_ok=True)
        return None
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "feature_set", "fate", "reason"))
        writer.writerows([_as_text(cell) for cell in line] for line in lines)
    return path
