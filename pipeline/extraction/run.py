"""`mer extract`: corpus → plan → shards → catalogue."""

from __future__ import annotations

import csv
import dataclasses
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer.cache import (
    Catalogue,
    DamagedError,
    Fate,
    LabelColumn,
    MerError,
    SetIndex,
    UtteranceTable,
    atomic_write,
    check_not_renamed,
    read_catalogue,
    read_shard_index,
    shard_folder,
    write_catalogue,
)
from mer.cache.pack import without_folders
from mer.stages.device import resolve_device
from mer.stages.interfaces import MODALITIES, Corpus, CorpusInfo, LabelSpec
from mer.stages.registry import find
from mer.stages.utterance import Utterance

from ..terminal.console import ProgressBar, progress_bar
from ..terminal.interrupt import INTERRUPTED
from .decoding import Job, TaskSettings, sound_inputs
from .execute import execute
from .local_state import one_at_a_time, remember_root, side_folder
from .media_digests import MediaDigests
from .options import Execution, ExtractOptions
from .plan import Plan, index_set, job_of, make_plan, media_path
from .presets import restricted_licences
from .reproduce import versions_used
from .tasks import EncodingSet, ShardReport, loaded_encoder
from .transcripts import Transcripts

logger = logging.getLogger("mer.extract")

SAME_FAILURES_BEFORE_STOP = 24
"""So many utterances failing for one reason, with none encoded, end the run: something general is wrong."""

NOT_LOOKED_AT = bytes(16)
"""Source digest of an utterance in a set that was not asked for it yet."""


class StoppedError(MerError):
    """Raised when an extraction was stopped by hand; the message says how to go on."""

    exit_code = INTERRUPTED


@dataclass
class Prepared:
    """Everything a run needs before the first clip is touched."""

    corpus: Corpus
    info: CorpusInfo
    listed: list[Utterance]
    """Everything the corpus lists."""
    utterances: list[Utterance]
    """What this run is about, after --split and --limit."""
    jobs: list[Job]
    """One for each of `utterances`."""
    sets: list[EncodingSet]
    previous: Catalogue | None
    settings: TaskSettings
    plan: Plan
    untranscribed: list[Job]
    """Clips that --transcribe has still to listen to; only a dry run leaves any."""

    def media_bytes(self) -> int:
        """Size of the files that the run reads; one that is not there has none."""
        files = self.plan.media() | {str(job.sound or job.picture) for job in self.untranscribed}
        return sum(os.path.getsize(file) for file in files if os.path.isfile(file))


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

    def count(self, fate: Fate) -> int:
        """Number of utterance-modality pairs with a fate."""
        return sum(int((index.fates == fate).sum()) for index in self.made.values())


def prepare(options: ExtractOptions, execution: Execution, dry: bool = False) -> Prepared:
    """Read the annotation, resolve encoders, compare with what is there.

    No clip is decoded but those that --transcribe listens to, and in a `dry` run not even these.

    Raises
    ------
    MerError
        If the corpus, an encoder, the device or the catalogue is not usable.
    """
    for sentence in restricted_licences(options.encoders):
        logger.warning("%s", sentence)
    device = resolve_device(execution.device)
    corpus = make_corpus(options)
    info = corpus.info()
    catalogue = options.catalogue
    previous = _previous(catalogue, info.name)
    listed = list(corpus.utterances())
    _tell_who_leaves(catalogue, previous, {utterance.key for utterance in listed})
    utterances = _selected(listed, options)
    settings, sets = _encoders(options, info, device, execution, catalogue)
    with_media = options.transcribe is not None or any(made.modality != "text" for made in sets)
    if not options.transcribe:
        utterances = _with_machine_texts(utterances, previous)
    jobs = _jobs(corpus, utterances, catalogue, with_media)
    untranscribed: list[Job] = []
    if options.transcribe:
        transcripts = Transcripts(catalogue, options.transcribe, options.retry_failed)
        if not dry:
            transcripts.listen(jobs, settings)
        untranscribed = transcripts.waiting(jobs)
        utterances, jobs = transcripts.give(utterances, jobs)
    plan = make_plan(jobs, sets, catalogue, previous.sets if previous else {}, options.retry_failed)
    return Prepared(corpus, info, listed, utterances, jobs, sets, previous, settings, plan, untranscribed)


def extract(options: ExtractOptions, execution: Execution) -> ExtractSummary:
    """Bring the catalogue of a corpus up to date and say what was done."""
    started = time.perf_counter()
    prepared = prepare(options, execution)
    for sentence in prepared.plan.damaged:
        logger.warning("made again: %s", sentence)
    for sentence in prepared.plan.lost:
        logger.warning("pending until its encoder is asked for again: %s", sentence)
    reports = _run(prepared, execution)
    with one_at_a_time(options.catalogue):
        catalogue = _assemble(prepared, options, reports)
        write_catalogue(options.catalogue, catalogue)
    made = {encoding.name: catalogue.sets[encoding.name] for encoding in prepared.sets}
    summary = ExtractSummary(options.catalogue, made, wall_seconds=time.perf_counter() - started)
    for report in reports:
        summary.clips += report.clips
        summary.media_seconds += report.media_seconds
        summary.media_notes += report.media_notes
        for stage, seconds in report.seconds.items():
            summary.stage_seconds[stage] = summary.stage_seconds.get(stage, 0.0) + seconds
    summary.failures = _list_failures(options.catalogue, catalogue.utterances.keys, made)
    return summary


# --- before -------------------------------------------------------------------------------------------------------


def make_corpus(options: ExtractOptions) -> Corpus:
    """Build the corpus adapter with its root and options.

    Raises
    ------
    MerError
        If the name, the folder or an option is not usable.
    """
    adapter = find("corpus", options.corpus)
    fields = {made.name: made for made in dataclasses.fields(adapter)}
    given = dict(options.corpus_options)
    if options.root is not None:
        if not options.root.is_dir():
            raise MerError(
                f"corpus folder {options.root} is not there; give the folder of {options.corpus!r} with --root"
            )
        given["root"] = options.root
    elif fields["root"].default is dataclasses.MISSING and fields["root"].default_factory is dataclasses.MISSING:
        raise MerError(f"corpus {options.corpus!r} needs its folder; add --root DIR")
    unknown = sorted(set(given) - set(fields))
    if unknown:
        have = ", ".join(sorted(set(fields) - {"root"})) or "none"
        raise MerError(f"corpus {options.corpus!r} has no option {unknown[0]!r}; its options: {have}")
    made: Corpus = adapter(**given)
    return made


def _previous(catalogue: Path, corpus: str) -> Catalogue | None:
    """Read the catalogue that is there, if this run may add to it."""
    if not catalogue.exists():
        return None
    try:
        found = read_catalogue(catalogue)
    except DamagedError as error:
        raise DamagedError(f"{error} (remove it and run this again; finished shards are found by name)") from error
    except MerError as error:
        raise MerError(f"{error}; choose another file with --out") from error
    if found.packed or found.datasheet:
        raise MerError(f"{catalogue} is a pack, to which nothing is added; choose another file with --out")
    check_not_renamed(catalogue, found)
    if found.corpus.get("name") != corpus:
        raise MerError(
            f"{catalogue} holds corpus {found.corpus.get('name')!r}, not {corpus!r}; choose another file with --out"
        )
    return found


def _tell_who_leaves(catalogue: Path, previous: Catalogue | None, listed: Set[str]) -> None:
    """Warn of utterances that the corpus no longer lists; refuse another folder's corpus, which lists none of them."""
    known = list(previous.utterances.keys) if previous is not None else []
    gone = [key for key in known if key not in listed]
    if gone and len(gone) == len(known):
        raise MerError(
            f"{catalogue} holds {len(known)} utterances ({known[0]}, ...), none of which this corpus lists; choose "
            "another file with --out"
        )
    if gone:
        logger.warning(
            "%d utterances that the corpus no longer lists leave %s (first: %s)", len(gone), catalogue, gone[0]
        )


def _selected(utterances: list[Utterance], options: ExtractOptions) -> list[Utterance]:
    """Apply --split and --limit."""
    twice = [key for key, count in Counter(utterance.key for utterance in utterances).items() if count > 1]
    if twice:
        raise MerError(f"corpus {options.corpus!r} lists {twice[0]!r} twice; utterance ids must be unique")
    chosen = [u for u in utterances if options.split is None or u.split == options.split]
    if options.split is not None and not chosen:
        splits = ", ".join(sorted({u.split for u in utterances if u.split})) or "none"
        raise MerError(f"corpus {options.corpus!r} has no split {options.split!r}; its splits: {splits}")
    chosen = chosen[: options.limit]
    if not chosen:
        raise MerError(f"corpus {options.corpus!r} has no utterances; check the folder and its annotation")
    return chosen


def _with_machine_texts(utterances: Sequence[Utterance], catalogue: Catalogue | None) -> list[Utterance]:
    """Keep the transcripts that an earlier run made for utterances whose corpus has none."""
    if catalogue is None:
        return list(utterances)
    table = catalogue.utterances
    texts = {key: text for key, text, made in zip(table.keys, table.text, table.machine_text, strict=True) if made}
    return [
        replace(one, text=texts[one.key], machine_text=True) if one.text is None and one.key in texts else one
        for one in utterances
    ]


def _encoders(
    options: ExtractOptions, info: CorpusInfo, device: str, execution: Execution, catalogue: Path
) -> tuple[TaskSettings, list[EncodingSet]]:
    from mer.stages.encoders.catalog import make_encoder
    from mer.stages.media.reader import MediaRequest

    if not any(options.encoders.values()):
        raise MerError("no encoder was asked for; use --preset, or --text-encoder, --audio-encoder, --face-encoder")
    channel = options.channel or info.channel
    MediaRequest(channel=channel, frames_fps=options.face_fps)  # told now if impossible, not clip by clip
    finder = None
    if options.encoders.get("face"):
        from mer.stages.faces.finder import resolve_finder

        finder = resolve_finder(options.face_detector, policy=options.face_policy)
    precision = options.precision
    if precision == "auto":
        precision = "bfloat16" if device.startswith("cuda") else "float32"
    inputs: dict[str, dict[str, Any]] = {
        "text": {},
        "audio": sound_inputs(channel),
        "face": {"fps": options.face_fps, "channel": channel, **(finder.identity() if finder else {})},
    }
    sets = []
    for modality in MODALITIES:
        for name in options.encoders.get(modality, ()):
            extra = (
                {"max_seconds": options.max_audio_seconds} if modality == "audio" and options.max_audio_seconds else {}
            )
            encoder = make_encoder(
                modality,
                name,
                layers=options.layers.get(modality, "last"),
                precision=precision,
                trust_remote_code=options.trust_remote_code,
                **extra,
            ).resolve()
            spec = encoder.spec(inputs[modality], options.dtype)
            sets.append(
                EncodingSet(spec.set_name, encoder, spec, str(shard_folder(catalogue, spec.set_name).resolve()))
            )
    settings = TaskSettings(
        channel=channel,
        face_fps=options.face_fps,
        finder=finder,
        face_inputs=inputs["face"],
        keep_faces=str(side_folder(catalogue) / "faces") if execution.keep_faces and finder else None,
        device=device,
        budget=execution.budget,
        decode_threads=execution.decode_threads or max(1, min(8, (os.cpu_count() or 2))),
    )
    return settings, sets


def _jobs(corpus: Corpus, utterances: Sequence[Utterance], catalogue: Path, with_media: bool) -> list[Job]:
    """Digest what the utterances give to the encoders; the media are not read where only text is encoded."""
    from mer.stages.media.reader import media_digest

    root = Path(corpus.root).resolve()
    files = [
        path
        for utterance in utterances
        for path in (media_path(root, utterance.media), media_path(root, utterance.sound_media))
        if with_media and path is not None
    ]
    memo = MediaDigests(side_folder(catalogue) / "media-digests.json", media_digest)
    with progress_bar("reading media digests", len(set(files))) as bar:
        try:
            digests = memo.of_all(files, bar.advance)
        finally:
            if files:
                memo.save()  # what was read before an interrupt is not read again
    if files:
        remember_root(catalogue, root)
    return [job_of(utterance, root, digests) for utterance in utterances]


# --- during -------------------------------------------------------------------------------------------------------


def _run(prepared: Prepared, execution: Execution) -> list[ShardReport]:
    plan = prepared.plan
    if not plan.tasks:
        return []
    if not execution.workers and not execution.scheduler:
        for made in {made.name: made for task in plan.tasks for made in task.sets}.values():
            loaded_encoder(made, prepared.settings)  # a bad checkpoint or device is told before any clip is decoded
    reports: list[ShardReport] = []
    with progress_bar("extracting", plan.utterances_to_do) as bar:
        meter = _Meter(bar, {made.name: Path(made.folder) for made in plan.sets})

        def on_report(report: ShardReport) -> None:
            reports.append(report)
            meter.check(report)

        try:
            execute(plan.tasks, prepared.settings, execution, on_report, meter.clip)
        except KeyboardInterrupt:
            raise StoppedError(
                f"interrupted after {meter.clips} clips; finished shards are kept, run the same command again to go on"
            ) from None
    return reports


class _Meter:
    """Counts clips, hours and failures, and writes them beside the bar."""

    def __init__(self, bar: ProgressBar, folders: Mapping[str, Path]) -> None:
        self.bar = bar
        self.folders = folders
        self.started = time.perf_counter()
        self.clips = 0
        self.failed = 0
        self.media_seconds = 0.0
        self.reasons: Counter[str] = Counter()
        """Why utterances failed that have no features in any set, one reason each."""
        self.any_encoded = False

    def clip(self, failed: bool, media_seconds: float) -> None:
        """Count one utterance."""
        self.clips += 1
        self.failed += failed
        self.media_seconds += media_seconds
        elapsed = max(1e-6, time.perf_counter() - self.started)
        pace = f"{self.clips / elapsed:.1f} clips/s · {self.media_seconds / elapsed:.1f} h media/h"
        self.bar.advance(1, f"{pace} · {self.failed} failed")

    def check(self, report: ShardReport) -> None:
        """Stop a run in which everything fails alike."""
        self.any_encoded = self.any_encoded or report.failed < report.clips
        if self.any_encoded:
            return
        indexes = [read_shard_index(self.folders[name] / f"{info.name}.h5") for name, info in report.shards]
        for row in range(report.clips):
            self.any_encoded = self.any_encoded or any(index.fates[row] == Fate.OK for index in indexes)
            self.reasons[next(index.reasons[row] for index in indexes if index.fates[row] == Fate.FAILED)] += 1
        reason, count = self.reasons.most_common(1)[0]
        if count >= SAME_FAILURES_BEFORE_STOP and not self.any_encoded:
            raise MerError(f"stopped: all of the first {count} utterances failed the same way: {reason}")


# --- after --------------------------------------------------------------------------------------------------------


def _assemble(prepared: Prepared, options: ExtractOptions, reports: Sequence[ShardReport]) -> Catalogue:
    """Make the catalogue anew: what this run looked at as it is now, everything else as the catalogue has it.

    The catalogue is read once more, since another run may have added to it meanwhile.
    """
    latest = _previous(options.catalogue, prepared.info.name)
    utterances = _everyone(prepared, latest, transcribed=options.transcribe is not None)
    durations = np.full(len(utterances), np.nan)
    mine = {made.name: made for made in prepared.sets}
    sets: dict[str, SetIndex] = {}
    for name, index in (latest.sets if latest else {}).items():
        if name not in mine:
            wanted = _sources(utterances, {}, latest, name)
            listed = [info.name for info in index.shards]
            sets[name] = index_set(index.spec, shard_folder(options.catalogue, name), listed, wanted, durations)
    for name, made in mine.items():
        now = {job.key: job.source(made.modality) for job in prepared.jobs}
        wanted = _sources(utterances, now, latest, name)
        shards = _answering(prepared, latest, name, reports)
        sets[name] = index_set(made.spec, Path(made.folder), shards, wanted, durations)
    return Catalogue(
        corpus=corpus_record(prepared.info, prepared.corpus),
        utterances=utterance_table(utterances, prepared.info.labels, durations),
        sets=sets,
        provenance=_provenance(options, latest) | _versions(sets, reports, latest),
    )


def _everyone(prepared: Prepared, latest: Catalogue | None, transcribed: bool) -> list[Utterance]:
    """Utterances of this run and of the catalogue that the corpus still lists, in its order."""
    mine = {utterance.key: utterance for utterance in prepared.utterances}
    kept = [
        mine.get(one.key, one)
        for one in prepared.listed
        if one.key in mine or (latest is not None and one.key in latest.utterances)
    ]
    with_texts = _with_machine_texts(kept, latest)
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
    prepared: Prepared, latest: Catalogue | None, name: str, reports: Sequence[ShardReport]
) -> Iterable[str]:
    """Names of the shards of a set that this run makes; a later one overrides an earlier one."""
    before, after = (
        [info.name for info in catalogue.sets[name].shards] if catalogue is not None and name in catalogue.sets else []
        for catalogue in (prepared.previous, latest)
    )
    meanwhile = [shard for shard in after if shard not in before and shard not in prepared.plan.shards[name]]
    made = [info.name for report in reports for other, info in report.shards if other == name]
    return dict.fromkeys([*meanwhile, *prepared.plan.shards[name], *made])


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


def _provenance(options: ExtractOptions, latest: Catalogue | None) -> dict[str, Any]:
    """What made these features, without clocks, hosts and folders, so that equal runs leave equal catalogues."""
    chosen = {
        key: value
        for key, value in dataclasses.asdict(options).items()
        if key not in {"root", "out", "retry_failed"} and value not in (None, "", {}, False)
    }
    chosen["encoders"] = {modality: [_name_of(name) for name in names] for modality, names in options.encoders.items()}
    chosen["face_detector"] = _name_of(options.face_detector)
    if options.transcribe:
        chosen["transcribe"] = _name_of(options.transcribe)
    elif latest is not None and latest.utterances.machine_text.any():
        before = latest.provenance.get("options", {}).get("transcribe")
        chosen |= {"transcribe": before} if before else {}
    return {"options": without_folders(chosen)}


def _versions(sets: Mapping[str, SetIndex], reports: Sequence[ShardReport], latest: Catalogue | None) -> dict[str, Any]:
    """Versions of what made the features: of this run where it made some."""
    encoded = {name for report in reports for name, _ in report.shards}
    made = [index.spec for name, index in sets.items() if name in encoded]
    return versions_used(made, [index.spec for name, index in sets.items() if name not in encoded], latest)


def _name_of(place: str) -> str:
    """Name of a folder or file of this machine; a known name or hub id as it is."""
    path = Path(place).expanduser()
    return path.resolve().name if place and path.exists() else place


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
        writer.writerows(lines)
    return path
