"""A synthetic voice: a glottal pulse train through vowel resonances, after the source-filter model of speech.

It does not speak words. It babbles one vowel per vowel group of the transcript, with hisses for the consonants, and
carries a mood in pitch, pitch movement, loudness, tempo and brightness, as people do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RATE_HZ = 22_050

FORMANTS_HZ = {
    "a": (750.0, 1250.0, 2600.0),
    "e": (500.0, 1800.0, 2550.0),
    "i": (310.0, 2200.0, 2950.0),
    "o": (480.0, 900.0, 2500.0),
    "u": (340.0, 820.0, 2350.0),
}
"""First three resonances of an average adult's vowels, in round numbers."""
BANDWIDTHS_HZ = (70.0, 100.0, 140.0)

Samples = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tone:
    """How a mood sounds, relative to a calm voice."""

    pitch: float
    movement: float
    """Depth of the pitch movement within a syllable, in semitones."""
    fall: float
    """Semitones the pitch falls over the utterance; negative rises."""
    loudness: float
    tempo: float
    brightness: float
    """0 is a soft, breathy source, 1 a pressed one."""
    pause_seconds: float
    """Silence between words."""
    attack: float
    """Where in a syllable its loudness peaks, as a share of its length: small is a bark, a half is a swell."""


TONES = {
    "neutral": Tone(
        pitch=1.0, movement=1.0, fall=2.0, loudness=0.45, tempo=1.0, brightness=0.5, pause_seconds=0.03, attack=0.5
    ),
    "joy": Tone(
        pitch=1.4, movement=5.0, fall=-1.5, loudness=0.7, tempo=1.1, brightness=0.6, pause_seconds=0.0, attack=0.65
    ),
    "anger": Tone(
        pitch=1.15, movement=2.5, fall=4.0, loudness=1.0, tempo=1.2, brightness=1.0, pause_seconds=0.07, attack=0.08
    ),
    "sadness": Tone(
        pitch=0.85, movement=0.5, fall=5.0, loudness=0.3, tempo=0.82, brightness=0.0, pause_seconds=0.17, attack=0.4
    ),
}


@dataclass(frozen=True)
class Throat:
    """What makes one speaker's voice."""

    pitch_hz: float
    stretch: float
    """Factor on every formant; above 1 is a shorter vocal tract."""


@dataclass(frozen=True)
class Speech:
    """One spoken utterance."""

    samples: npt.NDArray[np.float32]
    """Shape (n,), at `RATE_HZ`, in [-1, 1]."""
    openness: npt.NDArray[np.float32]
    """Shape (n,), how far the mouth is open at each sample, in [0, 1]."""

    @property
    def duration_seconds(self) -> float:
        """Length."""
        return len(self.samples) / RATE_HZ


def speak(words: str, mood: str, strength: float, throat: Throat, rng: np.random.Generator) -> Speech:
    """Babble a transcript in a mood.

    Parameters
    ----------
    words
        Text whose vowels give the syllables.
    mood
        Key of `TONES`.
    strength
        How far the voice moves from neutral to the mood, 0 to 1.
    throat
        The speaker.
    rng
        Source of variation between utterances.
    """
    tone = _towards(TONES[mood], strength, rng)
    syllables = [_vowels(word) for word in words.split()]
    total = sum(len(word) for word in syllables)
    pieces: list[Samples] = [np.zeros(int(0.10 * RATE_HZ))]
    opens: list[Samples] = [np.zeros_like(pieces[0])]
    spoken = 0
    for word in syllables:
        for vowel in word:
            pitch_hz = throat.pitch_hz * tone.pitch * 2 ** (-tone.fall * spoken / max(total, 1) / 12)
            consonant, voiced = _hiss(tone, rng), _syllable(vowel, pitch_hz, tone, throat, rng)
            pieces += [consonant, voiced]
            opens += [np.zeros_like(consonant), np.sin(np.linspace(0, np.pi, len(voiced))) * _JAW[vowel]]
            spoken += 1
        pause = np.zeros(int(tone.pause_seconds * rng.uniform(0.6, 1.4) * RATE_HZ))
        pieces.append(pause)
        opens.append(pause)
    wave = np.concatenate([*pieces, np.zeros(int(0.12 * RATE_HZ))])
    opening = np.concatenate([*opens, np.zeros(int(0.12 * RATE_HZ))])
    wave += rng.normal(0, 0.002, len(wave))  # the room
    return Speech(np.clip(wave, -1, 1).astype(np.float32), opening.astype(np.float32))


_JAW = {"a": 1.0, "e": 0.65, "i": 0.4, "o": 0.75, "u": 0.35}


def _towards(tone: Tone, strength: float, rng: np.random.Generator) -> Tone:
    """Mix the neutral tone with a mood's and let the day's form add its own."""
    calm = TONES["neutral"]

    def mix(name: str, spread: float) -> float:
        here, there = getattr(calm, name), getattr(tone, name)
        return float(here + strength * (there - here) + rng.normal(0, spread))

    return Tone(
        pitch=max(0.6, mix("pitch", 0.06)),
        movement=max(0.0, mix("movement", 0.5)),
        fall=mix("fall", 0.8),
        loudness=float(np.clip(mix("loudness", 0.08), 0.12, 1.0)),
        tempo=float(np.clip(mix("tempo", 0.06), 0.65, 1.5)),
        brightness=float(np.clip(mix("brightness", 0.10), 0.0, 1.0)),
        pause_seconds=max(0.0, mix("pause_seconds", 0.01)),
        attack=float(np.clip(mix("attack", 0.05), 0.05, 0.8)),
    )


def _vowels(word: str) -> str:
    """One vowel per vowel group of a word, at least one."""
    groups = re.findall("[aeiouy]+", word.lower().rstrip("e")) or re.findall("[aeiouy]", word.lower()) or ["u"]
    return "".join(group[0].replace("y", "i") for group in groups)


def _syllable(vowel: str, pitch_hz: float, tone: Tone, throat: Throat, rng: np.random.Generator) -> Samples:
    from scipy.signal import lfilter

    count = int(rng.uniform(0.10, 0.14) / tone.tempo * RATE_HZ)
    along = np.linspace(0, 1, count)
    semitones = tone.movement * np.sin(np.pi * along) + rng.normal(0, 0.3)
    cycles = np.cumsum(pitch_hz * 2 ** (semitones / 12) / RATE_HZ)
    # a skewed pulse per cycle: the shorter its opening, the brighter and more pressed the voice
    opened = np.clip(cycles % 1.0 / (0.75 - 0.35 * tone.brightness), 0, 1)
    wave = np.diff(opened**2 * (1 - opened), prepend=0.0) * RATE_HZ / pitch_hz / 10
    wave += rng.normal(0, 0.05 * (1 - tone.brightness), count)
    for formant_hz, bandwidth_hz in zip(FORMANTS_HZ[vowel], BANDWIDTHS_HZ, strict=True):
        radius = np.exp(-np.pi * bandwidth_hz / RATE_HZ)
        angle = 2 * np.pi * formant_hz * throat.stretch / RATE_HZ
        poles = [1.0, -2 * radius * np.cos(angle), radius**2]
        wave = lfilter([sum(poles)], poles, wave)
    # rises to its peak at `attack` and falls from there, both along a quarter of a sine
    swell = np.where(along < tone.attack, along / tone.attack, (1 - along) / (1 - tone.attack))
    envelope = np.sin(np.pi / 2 * swell) ** 0.7
    peak = float(np.abs(wave).max()) or 1.0
    return np.asarray(wave / peak * envelope * tone.loudness * 0.85)


def _hiss(tone: Tone, rng: np.random.Generator) -> Samples:
    """A consonant, as a short breath of high-passed noise."""
    count = int(rng.uniform(0.03, 0.06) / tone.tempo * RATE_HZ)
    breath = np.diff(rng.normal(0, 1, count), prepend=0.0)
    return np.asarray(breath * np.hanning(count) * 0.06 * (0.4 + tone.loudness))
