"""What is in a raw corpus folder, beside what was published: the work behind `mer corpora check`.

An adapter may help with methods beyond `Corpus`, all optional: `published()` gives its counts; `origins()` per
key what of the original recording is shown; `known_issues()` per key what is known of it; `listed_key(key)` its
own key for a key of an EmoBox list; `ignored_media` a pattern of files beside the clips that are no clips.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from mer.cache import MerError

from ..interfaces import Corpus
from ..utterance import Utterance
from .annotation import read_text
from .counts import Count, Published, compare_counts, groups_of
from .media_files import MEDIA_SUFFIXES

TOLERANCE_SECONDS = 1.0
KINDS = ("column", "count", "missing", "unreadable", "duration", "duplicate", "not listed", "extra", "known", "no text")
SHARED = {"row": "media file and span", "origin": "text and times", "file": "bytes"}
"""What utterances that are one recording have in common."""


class Bar(Protocol):
    """Told about every clip that was looked at."""

    def advance(self) -> None:
        """Count one clip."""
        ...


Watch: TypeAlias = Callable[[int], AbstractContextManager[Bar | None]]


def _nobody(total: int) -> AbstractContextManager[Bar | None]:
    return nullcontext()


@dataclass(frozen=True)
class Finding:
    """One thing to know about the corpus."""

    kind: str
    """One of `KINDS`."""
    name: str
    """Key of an utterance, or a path relative to the root."""
    detail: str
    attention: bool = True
    """False when it is in every copy of the corpus, or does no harm."""


@dataclass(frozen=True)
class Listed:
    """What an inventory list says of one utterance."""

    seconds: float | None
    label: str = ""


@dataclass(frozen=True)
class Clip:
    """What a look at one media file found."""

    seconds: float
    problem: str = ""
    """Why it is unreadable; empty when it is not."""


@dataclass(frozen=True)
class Inventory:
    """Result of a check."""

    corpus: str
    root: str
    counts: tuple[Count, ...]
    classes: Mapping[str, Mapping[str, Mapping[str, int]]]
    """Per target, per group (`all`, splits, sessions): class -> number of utterances found."""
    findings: tuple[Finding, ...]
    utterances: int
    clips: int
    hours: float
    """Sum of the durations of the readable clips."""
    listed: int = field(default=0)
    """Number of utterances in the lists it was compared with."""

    @property
    def attention(self) -> bool:
        """True when something needs attention."""
        return any(finding.attention for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "corpus": self.corpus,
            "root": self.root,
            "attention": self.attention,
            "utterances": self.utterances,
            "clips": self.clips,
            "hours": round(self.hours, 5),
            "listed": self.listed,
            "counts": [vars(count) for count in self.counts],
            "classes": self.classes,
            "findings": [vars(finding) for finding in self.findings],
        }


def take_inventory(
    corpus: Corpus,
    listed: Mapping[str, Listed] | None = None,
    decode: bool = False,
    threads: int = 4,
    watch: Watch | None = None,
) -> Inventory:
    """Look at every clip of a corpus and compare what is there with what was published.

    Parameters
    ----------
    corpus
        An adapter, made so that it goes on when counts differ.
    listed
        Utterances of an inventory list by the corpus' own keys, from `read_lists`.
    decode
        Decode the sound of every clip to its end; otherwise its header and first packets are read.
    threads
        Clips looked at at once.
    watch
        Given the number of clips, opens something whose `advance()` is called after each.

    Raises
    ------
    MerError
        If the annotation cannot be read.
    """
    utterances = corpus.utterances()
    known: Mapping[str, str] = getattr(corpus, "known_issues", dict)()
    published: Published = getattr(corpus, "published", Published)()
    counts = compare_counts(published, utterances)
    paths = sorted({path for u in utterances for path in (u.media, u.sound_media) if path is not None})
    with (watch or _nobody)(len(paths)) as bar:
        clips = _look(corpus.root, paths, decode, threads, bar)
    findings = [
        Finding("count", count.what, f"{count.group}: {count.found} instead of {count.published}")
        for count in counts
        if count.differs
    ]
    findings += [Finding("column", name, what, False) for name, what in getattr(corpus, "columns", dict)().items()]
    findings += _media_findings(utterances, clips, known)
    findings += _listed_findings(utterances, clips, listed or {})
    findings += _duplicates(corpus, utterances, clips, known)
    findings += _extras(corpus, set(paths))
    findings += _text_findings(utterances)
    return Inventory(
        corpus=corpus.info().name,
        root=str(corpus.root),
        counts=tuple(counts),
        classes=_classes(corpus, utterances),
        findings=tuple(sorted(findings, key=lambda finding: (KINDS.index(finding.kind), finding.name))),
        utterances=len(utterances),
        clips=sum(clip is not None for clip in clips.values()),
        hours=math.fsum(clip.seconds for clip in clips.values() if clip is not None and not clip.problem) / 3600,
        listed=len(listed or {}),
    )


def read_lists(corpus: Corpus, paths: Iterable[Path]) -> dict[str, Listed]:
    """Read EmoBox lists (one JSON object a line, with `key`, `length` in seconds and `emo`) by the corpus' own keys.

    Raises
    ------
    MerError
        If a line is not such an object.
    """
    own: Callable[[str], str] = getattr(corpus, "listed_key", lambda key: key.partition("-")[2])
    found = {}
    for path in paths:
        for number, line in enumerate(read_text(path).splitlines(), 1):
            try:
                entry = json.loads(line)
                found[own(entry["key"])] = Listed(float(entry["length"]), str(entry["emo"]))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise MerError(f"{path} line {number}: is not an entry of an EmoBox list ({error})") from error
    return found


def probe(path: Path, decode: bool = False) -> Clip:
    """Read the header and the first frame of each stream, or with `decode` the whole sound."""
    import av

    from ..media.reader import open_container, read_media
    from ..media.request import MediaError, MediaRequest

    if path.stat().st_size == 0:
        return Clip(0.0, "empty (0 bytes)")
    try:
        if decode:
            media = read_media(path, MediaRequest(sound=True))
            if media.waveform is not None:
                return Clip(media.duration_seconds)
        with open_container(path) as container:
            for stream in (*container.streams.audio[:1], *container.streams.video[:1]):
                next(container.decode(stream))
                container.seek(0)
            return Clip((container.duration or 0) / 1e6)
    except MediaError as error:
        return Clip(0.0, str(error))
    except (av.FFmpegError, OSError, ValueError, StopIteration) as error:
        told = str(getattr(error, "strerror", None) or error) or "no frame can be decoded"
        return Clip(0.0, told.splitlines()[0])


def _look(root: Path, paths: Sequence[str], decode: bool, threads: int, bar: Bar | None) -> dict[str, Clip | None]:
    """Probe every path; None stands for a file that is not there."""

    def one(path: str) -> Clip | None:
        return probe(root / path, decode) if (root / path).is_file() else None

    found: dict[str, Clip | None] = {}
    with ThreadPoolExecutor(threads) as pool:
        for path, clip in zip(paths, pool.map(one, paths), strict=True):
            found[path] = clip
            if bar is not None:
                bar.advance()
    return found


def _media_findings(
    utterances: Sequence[Utterance], clips: Mapping[str, Clip | None], known: Mapping[str, str]
) -> list[Finding]:
    found = [Finding("known", key, what, False) for key, what in known.items()]
    for utterance in utterances:
        if utterance.known_bad:
            found.append(Finding("known", utterance.key, utterance.known_bad, False))
            continue
        for path in filter(None, (utterance.media, utterance.sound_media)):
            clip = clips[path]
            if clip is None:
                found.append(Finding("missing", utterance.key, path))
            elif clip.problem:
                found.append(Finding("unreadable", utterance.key, f"{path}: {clip.problem}"))
        picture = clips.get(utterance.media or "")
        end = utterance.end_seconds
        if (
            picture is not None
            and not picture.problem
            and end is not None
            and end > picture.seconds + TOLERANCE_SECONDS
        ):
            told = f"ends at {end:.2f} s of {utterance.media}, which lasts {picture.seconds:.2f} s"
            found.append(Finding("duration", utterance.key, told))
    return found


def seconds_of(utterance: Utterance, clips: Mapping[str, Clip | None]) -> float | None:
    """Duration of an utterance: of its own sound file, else of its span, else of its clip."""
    whole = utterance.sound_media or utterance.media
    clip = clips.get(whole or "")
    if clip is None or clip.problem:
        return None
    if utterance.sound_media is None and (utterance.start_seconds is not None or utterance.end_seconds is not None):
        start = utterance.start_seconds or 0.0
        return min(utterance.end_seconds or clip.seconds, clip.seconds) - start
    return clip.seconds


def _listed_findings(
    utterances: Sequence[Utterance], clips: Mapping[str, Clip | None], listed: Mapping[str, Listed]
) -> list[Finding]:
    by_key = {utterance.key: utterance for utterance in utterances}
    found = []
    for key, entry in listed.items():
        utterance = by_key.get(key)
        if utterance is None:
            found.append(Finding("missing", key, "is in the inventory list and not in the annotation"))
            continue
        seconds = seconds_of(utterance, clips)
        if seconds is not None and entry.seconds is not None and abs(seconds - entry.seconds) > TOLERANCE_SECONDS:
            found.append(Finding("duration", key, f"{seconds:.2f} s instead of {entry.seconds:.2f} s"))
    unlisted = len(by_key.keys() - listed.keys()) if listed else 0
    if unlisted:
        found.append(Finding("not listed", "utterances", f"{unlisted} are not in the inventory list", False))
    return found


def _duplicates(
    corpus: Corpus, utterances: Sequence[Utterance], clips: Mapping[str, Clip | None], known: Mapping[str, str]
) -> list[Finding]:
    """Find utterances that are one recording; only across splits, or else sessions or speakers, it needs attention."""
    groups: dict[tuple[str, object], list[Utterance]] = defaultdict(list)
    origins: Mapping[str, object] = getattr(corpus, "origins", dict)()
    for utterance in utterances:
        if utterance.media:
            span = (utterance.start_seconds, utterance.end_seconds)
            groups["row", (utterance.media, utterance.sound_media, span)].append(utterance)
        if utterance.key in origins:
            groups["origin", origins[utterance.key]].append(utterance)
    for digest, same in _equal_files(corpus.root, utterances, clips).items():
        groups["file", digest] += same
    found: dict[frozenset[str], Finding] = {}
    for mark, same in groups.items():
        kind = mark[0]
        if len(same) < 2 or (kind != "row" and len({u.sound_media or u.media for u in same}) < 2):
            continue
        parts = {utterance.split or utterance.session or utterance.speaker for utterance in same}
        keys = [utterance.key for utterance in same]
        where = f" across {', '.join(sorted(parts))}" if len(parts) > 1 else ""
        harmless = len(parts) < 2 or all(key in known for key in keys)
        found[frozenset(keys)] = Finding(
            "duplicate", keys[0], f"the same {SHARED[kind]} as {', '.join(keys[1:])}{where}", not harmless
        )
    return list(found.values())


def _equal_files(
    root: Path, utterances: Sequence[Utterance], clips: Mapping[str, Clip | None]
) -> dict[bytes, list[Utterance]]:
    """Group utterances whose whole files hold the same bytes; only files of one size are read."""
    from ..media.reader import media_digest

    by_size: dict[int, dict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
    for utterance in utterances:
        path = utterance.sound_media or utterance.media
        clip = clips.get(path or "")
        if path is not None and clip is not None and not clip.problem:
            by_size[(root / path).stat().st_size][path].append(utterance)
    found: dict[bytes, list[Utterance]] = defaultdict(list)
    for paths in by_size.values():
        if len(paths) > 1:
            for path, same in paths.items():
                found[media_digest(root / path)] += same[:1]
    return {digest: same for digest, same in found.items() if len(same) > 1}


def _extras(corpus: Corpus, used: set[str]) -> list[Finding]:
    """List media files that lie beside the clips and belong to no utterance."""
    ignored = re.compile(getattr(corpus, "ignored_media", "(?!)"))
    found = []
    for folder in sorted({Path(path).parent for path in used}):
        if not (corpus.root / folder).is_dir():
            continue
        for path in sorted((corpus.root / folder).iterdir()):
            relative = (folder / path.name).as_posix()
            is_media = path.suffix.lower() in MEDIA_SUFFIXES and not path.name.startswith(".")
            if is_media and relative not in used and not ignored.match(path.name):
                found.append(Finding("extra", relative, "belongs to no utterance of the annotation", False))
    return found


def _text_findings(utterances: Sequence[Utterance]) -> list[Finding]:
    missing = sum(utterance.text is None for utterance in utterances)
    empty = sum(utterance.text == "" for utterance in utterances)
    found = []
    if missing:
        found.append(Finding("no text", "utterances", f"{missing} have no transcript; --transcribe makes one", False))
    if empty:
        found.append(Finding("no text", "utterances", f"{empty} have an empty transcript", False))
    return found


def _classes(corpus: Corpus, utterances: Sequence[Utterance]) -> dict[str, dict[str, dict[str, int]]]:
    """Count the classes of every target that has some, in the order of their indices."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for target, spec in corpus.info().labels.items():
        if spec.kind == "real":
            continue
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for utterance in utterances:
            label = utterance.labels.get(target)
            names = label if isinstance(label, tuple) else (label,)
            for group in groups_of(utterance):
                counts[group].update(name for name in names if isinstance(name, str))
        found[target] = {
            group: {name: counts[group][name] for name in spec.classes} for group in sorted(counts) if counts[group]
        }
    return found
