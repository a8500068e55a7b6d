"""Step 2: the corpus -> jobs, each with the digests of what it gives to the encoders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.cache import MerError
from mer.stages.utterance import Utterance

from ..terminal.console import progress_bar
from .jobs import Job, job_of, media_path
from .local_state import remember_root, side_folder
from .media_digests import MediaDigests
from .previous import with_machine_texts
from .resolve import Resolved
from .transcripts import Transcripts


@dataclass(frozen=True)
class Listing:
    """What a run is about."""

    utterances: list[Utterance]
    """After --split and --limit."""
    jobs: list[Job]
    """One for each of `utterances`."""
    untranscribed: list[Job]
    """Clips that --transcribe has still to listen to; only a dry run leaves any."""


def list_jobs(
    resolved: Resolved,
    split: str | None = None,
    limit: int | None = None,
    transcripts: Transcripts | None = None,
    dry: bool = False,
) -> Listing:
    """Choose the utterances of a run and digest their inputs.

    Parameters
    ----------
    resolved
        The opened corpus.
    split, limit
        Only this split; only the first so many.
    transcripts
        A recogniser's transcripts for clips without one of their own; None leaves those without.
    dry
        Do not listen to any clip now.

    Raises
    ------
    MerError
        If nothing is left, or two utterances share an id.
    """
    utterances = _selected(resolved.info.name, resolved.listed, split, limit)
    if transcripts is None:
        utterances = with_machine_texts(utterances, resolved.previous)
    with_media = transcripts is not None or any(made.modality != "text" for made in resolved.sets)
    jobs = digested_jobs(Path(resolved.corpus.root).resolve(), utterances, resolved.catalogue, with_media)
    if transcripts is None:
        return Listing(utterances, jobs, [])
    if not dry:
        transcripts.listen(jobs, resolved.settings)
    untranscribed = transcripts.waiting(jobs)
    return Listing(*transcripts.give(utterances, jobs), untranscribed)


def _selected(corpus: str, utterances: list[Utterance], split: str | None, limit: int | None) -> list[Utterance]:
    """Apply --split and --limit."""
    twice = [key for key, count in Counter(utterance.key for utterance in utterances).items() if count > 1]
    if twice:
        raise MerError(f"corpus {corpus!r} lists {twice[0]!r} twice; utterance ids must be unique")
    chosen = [u for u in utterances if split is None or u.split == split]
    if split is not None and not chosen:
        splits = ", ".join(sorted({u.split for u in utterances if u.split})) or "none"
        raise MerError(f"corpus {corpus!r} has no split {split!r}; its splits: {splits}")
    chosen = chosen[:limit]
    if not chosen:
        raise MerError(f"corpus {corpus!r} has no utterances; check the folder and its annotation")
    return chosen


def digested_jobs(root: Path, utterances: Sequence[Utterance], catalogue: Path, with_media: bool) -> list[Job]:
    """Digest what the utterances give to the encoders; the media are not read where only text is encoded."""
    from mer.stages.media.reader import media_digest

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
    return [job_of(utterance, root, digests, memo.seen) for utterance in utterances]
