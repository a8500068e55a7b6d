"""`mer extract` as a chain of five steps, each one's result the next one's argument.

resolve    the request -> an opened corpus, encoders, media settings
list       the corpus -> jobs with digests
plan       jobs and what is there -> tasks
encode     tasks -> shards
publish    shards -> catalogue and summary
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass

from mer.cache import MerError

from .encode import encode
from .listing import Listing, list_jobs
from .options import Execution, ExtractOptions
from .plan import Plan, make_plan
from .publish import ExtractSummary, publish
from .resolve import Resolved, resolve
from .transcripts import Transcripts

logger = logging.getLogger("mer.extract")


@dataclass(frozen=True)
class Prepared:
    """The first three steps: everything before the first clip is encoded."""

    resolved: Resolved
    listing: Listing
    plan: Plan

    def media_bytes(self) -> int:
        """Size of the files that the run reads; one that is not there has none."""
        files = self.plan.media() | {str(job.sound or job.picture) for job in self.listing.untranscribed}
        return sum(os.path.getsize(file) for file in files if os.path.isfile(file))


def prepare(options: ExtractOptions, execution: Execution, dry: bool = False) -> Prepared:
    """Read the annotation, resolve encoders, compare with what is there.

    No clip is decoded but those that --transcribe listens to, and in a `dry` run not even these.

    Raises
    ------
    MerError
        If the corpus, an encoder, the device or the catalogue is not usable.
    """
    resolved = resolve(options, execution)
    catalogue = resolved.catalogue
    transcripts = None
    if options.transcribe:
        transcripts = Transcripts(catalogue, options.transcribe, options.retry_failed, options.language)
    elif options.language:
        raise MerError("--language tells --transcribe what is spoken; name a recogniser with --transcribe")
    listing = list_jobs(resolved, options.split, options.limit, transcripts, dry)
    previous = resolved.previous.sets if resolved.previous else {}
    plan = make_plan(listing.jobs, resolved.sets, catalogue, previous, options.retry_failed, execution.check)
    return Prepared(resolved, listing, plan)


def extract(options: ExtractOptions, execution: Execution) -> ExtractSummary:
    """Bring the catalogue of a corpus up to date and say what was done.

    Raises
    ------
    MerError
        As `prepare`, or if the work cannot go on (a full disk, all clips failing alike).
    """
    started = time.perf_counter()
    prepared = prepare(options, execution)
    resolved, listing, plan = prepared.resolved, prepared.listing, prepared.plan
    for sentence in plan.damaged:
        logger.warning("made again: %s", sentence)
    for sentence in plan.lost:
        logger.warning("pending until its encoder is asked for again: %s", sentence)
    reports = encode(plan, resolved.settings, execution)
    summary = publish(resolved, listing, plan, reports, options.recorded())
    if summary.lost:  # shards were removed or damaged while the run went on: what is lost is made again, once
        logger.warning("%d utterances lost their features while the run went on; they are made again", summary.lost)
        again = prepare(options, execution)
        reports += encode(again.plan, again.resolved.settings, execution)
        summary = publish(again.resolved, again.listing, again.plan, reports, options.recorded())
    summary.wall_seconds = time.perf_counter() - started
    return summary
