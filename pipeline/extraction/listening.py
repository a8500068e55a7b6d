"""Hearing what is said in the clips of a corpus that has transcripts, to compare the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mer.cache import MerError
from mer.cache.user_cache import user_cache
from mer.stages.interfaces import Corpus
from mer.stages.utterance import Utterance

from .decoding import TaskSettings
from .listing import digested_jobs
from .transcripts import Transcripts


def hear(
    name: str, corpus: Corpus, utterances: Sequence[Utterance], model: str, language: str | None, device: str
) -> dict[str, str]:
    """Write down what is said in clips that have a transcript; the empty text where nothing is heard.

    What was heard is remembered in the user's cache by the digest of the media, so that a run goes on after a break.

    Raises
    ------
    MerError
        If no clip has both sound and a transcript, or the recogniser is not usable.
    """
    chosen = [one for one in utterances if one.text and (one.media or one.sound_media)]
    if not chosen:
        raise MerError(f"corpus {name!r} has no clip with a transcript of its own to listen to")
    memory = user_cache("heard", f"{name.rpartition(':')[2]}.h5")
    jobs = digested_jobs(Path(corpus.root).resolve(), chosen, memory, True)
    mute = [replace(job, text=None) for job in jobs]
    transcripts = Transcripts(memory, model, language=language)
    transcripts.listen(mute, TaskSettings(channel=corpus.info().channel, face_fps=1.0, device=device))
    heard, _ = transcripts.give([replace(one, text=None) for one in chosen], mute)
    return {one.key: one.text or "" for one in heard if one.text is not None}
