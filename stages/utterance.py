"""One utterance of a corpus: what was said, by whom, where its media lie, and what it is labelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Utterance:
    """One utterance as its corpus describes it. No media are touched to build one."""

    key: str
    """Unique in the corpus, e.g. `train/dia0_utt0`."""
    media: str | None = None
    """Path of the clip relative to the corpus root, or None when the corpus has none for this utterance."""
    sound_media: str | None = None
    """Path of a sound file of this utterance alone, when the corpus keeps sound and picture apart; `start_seconds` and
    `end_seconds` then cut the picture only. None means the sound is in `media`."""
    text: str | None = None
    """Transcript, or None when the corpus has none. An empty transcript is the empty string."""
    speaker: str = ""
    dialogue: str = ""
    turn: int = -1
    """Position in its dialogue, from 0; -1 when unknown."""
    split: str = ""
    """`train`, `val`, `test`, or empty for a corpus without official splits."""
    session: str = ""
    """Recording session, for leave-one-session-out protocols."""
    start_seconds: float | None = None
    """Start of the half-open span [start, end) inside the media file; None means from its beginning."""
    end_seconds: float | None = None
    labels: Mapping[str, str | float | tuple[str, ...] | None] = field(default_factory=dict)
    """Per target: a class name, a number, or a tuple of class names (multi-label). None or absent: not labelled."""
    known_bad: str = ""
    """Why the published media of this utterance are known to be unusable; it becomes the utterance's fate."""
    face_region: tuple[float, float, float, float] | None = None
    """Part of the frame that shows the speaker, as fractions (left, top, right, bottom); None means all of it."""
    machine_text: bool = False
    """True when the transcript was made by a speech recogniser."""
