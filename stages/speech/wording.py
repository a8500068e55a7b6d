"""Given transcripts beside what a recogniser heard: word error rates, and texts that belong to another clip."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from mer.cache import MerError

WRONG_FROM = 0.6
"""Word error rate from which a clip's own transcript is doubted."""
ELSEWHERE_UP_TO = 0.34
"""Word error rate up to which another clip's transcript is what was heard."""
LEAST_WORDS = 3
"""Fewer words fit too many transcripts."""


@dataclass(frozen=True)
class Elsewhere:
    """A clip in which the words of another one are heard."""

    key: str
    other: str
    heard: str
    given: str
    belongs: str
    """Transcript of the other clip."""


@dataclass(frozen=True)
class Wording:
    """How the transcripts of a corpus agree with its sound."""

    word_error_rate: float | None
    """Of all clips together, those left out in which nothing was heard; None where there are none."""
    of_clips: Mapping[str, float]
    """Word error rate of each clip in which something was heard."""
    unheard: tuple[str, ...]
    """Clips with a transcript in which nothing was heard."""
    elsewhere: tuple[Elsewhere, ...]


def compare_wording(given: Mapping[str, str], heard: Mapping[str, str]) -> Wording:
    """Compare transcripts with what was heard, both by clip; case, accents' form and punctuation do not count.

    Raises
    ------
    MerError
        If the library for word error rates is not installed.
    """
    try:
        import jiwer
    except ImportError as error:
        raise MerError("word error rates need jiwer: pip install 'mer-toolkit[listen]'") from error

    told = {key: plain for key, text in given.items() if (plain := plain_words(text))}
    said = {key: plain_words(heard.get(key, "")) for key in told}
    both = [key for key in told if said[key]]
    rates = {key: float(jiwer.wer(told[key], said[key])) for key in both}
    total = float(jiwer.wer([told[key] for key in both], [said[key] for key in both])) if both else None
    found = []
    for key in both:
        other = _owner(said[key], told) if rates[key] >= WRONG_FROM else None
        if other is not None and other != key:
            found.append(Elsewhere(key, other, heard[key], given[key], given[other]))
    return Wording(total, rates, tuple(key for key in told if not said[key]), tuple(found))


def plain_words(text: str) -> str:
    """Words in lower case, without punctuation, one space between them."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    letters = (char if char.isalnum() or char == "'" or unicodedata.category(char) == "Mn" else " " for char in folded)
    return " ".join(word.strip("'") for word in "".join(letters).split() if word.strip("'"))


def _owner(said: str, told: Mapping[str, str]) -> str | None:
    """Clip whose transcript is nearest to what was heard, if it is near enough."""
    from rapidfuzz import distance, process

    words = said.split()
    if len(words) < LEAST_WORDS:
        return None
    candidates = {key: text.split() for key, text in told.items()}
    best = process.extractOne(
        words, candidates, scorer=distance.Levenshtein.distance, processor=None, score_cutoff=len(words)
    )
    if best is None or best[1] > ELSEWHERE_UP_TO * max(len(best[0]), 1):
        return None
    return str(best[2])
