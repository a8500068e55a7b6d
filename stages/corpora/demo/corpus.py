"""A synthetic corpus that needs no download: talking clips made on this machine, for trying `mer` out.

Nothing in it was said or felt by anybody. Numbers measured on it say that the machinery works and nothing about
emotion recognition.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mer.cache import MerError, atomic_write
from mer.cache.user_cache import user_cache

from ...interfaces import CorpusInfo, LabelSpec
from ...utterance import Utterance
from .face import Colour, FacePainter, Look, Pose
from .media import Frame, Picture, Sound, write_media
from .script import MOODS, Line, write_script
from .voice import RATE_HZ, Speech, Throat, speak

VERSION = 4
"""Enters the folder's name; raise it whenever a change here changes the clips."""

SIZE = (240, 180)
FPS = 12.5
SMALLEST = 16

log = logging.getLogger("mer.demo")

EXPRESSIONS: dict[str, Pose] = {
    "neutral": Pose(),
    "joy": Pose(mouth_open=0.8, mouth_curve=1.2, mouth_wide=1.2, brow_raise=1.0, eye_open=1.1, flush=0.3),
    "anger": Pose(
        mouth_open=0.35, mouth_curve=-0.7, mouth_wide=0.6, brow_raise=-0.6, brow_slant=-1.3, eye_open=0.65, flush=0.8
    ),
    "sadness": Pose(mouth_curve=-1.3, mouth_wide=-0.6, brow_raise=0.6, brow_slant=1.4, eye_open=0.35, flush=-0.6),
}

SKINS: tuple[Colour, ...] = ((150, 180, 225), (110, 145, 195), (80, 110, 160), (170, 195, 235), (130, 165, 215))
HAIRS: tuple[Colour, ...] = ((35, 45, 70), (20, 22, 30), (55, 95, 150), (28, 32, 45), (90, 90, 95), (30, 45, 110))
SHIRTS: tuple[Colour, ...] = ((150, 100, 60), (70, 70, 150), (90, 130, 70), (120, 80, 120), (60, 120, 170))
WALLS: tuple[Colour, ...] = ((205, 200, 190), (190, 205, 205), (185, 195, 215), (200, 190, 205))


@dataclass(frozen=True)
class DemoCorpus:
    """Synthetic talking heads with voice and transcript.

    Each clip's mood shows in its words, voice and face, each of them unreliable by itself. Four clips are awkward on
    purpose: one has no sound, one no face, one is cut short, one has no transcript.
    """

    root: Path = field(default_factory=lambda: user_cache("demo"))
    """Folder the clips are made in; each number of clips and seed has a folder of its own below it."""
    clips: int = 144
    """Number of utterances."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        if self.clips < SMALLEST:
            raise MerError(f"the demo corpus needs at least {SMALLEST} clips, not {self.clips}; ask for more")

    def info(self) -> CorpusInfo:
        """Return the facts about this corpus."""
        return CorpusInfo(
            name="demo",
            title="Demo: synthetic talking heads, made on this machine",
            languages=("en",),
            license="CC0-1.0; synthetic, no real person is seen, heard or quoted",
            gated=False,
            url="",
            citation="Synthesised by mer itself. Results on it show that the machinery works, nothing more.",
            labels={"emotion": LabelSpec("class", MOODS), "valence": LabelSpec("real")},
            channel="mean",
        )

    def utterances(self) -> Sequence[Utterance]:
        """List the clips, after making those that are not there yet.

        Raises
        ------
        MerError
            If the clips cannot be written below `root`.
        """
        script = write_script(self.clips, self.seed)
        self._make(script)
        return [self._utterance(line) for line in script]

    @property
    def folder(self) -> Path:
        """Folder of this corpus' clips."""
        return self.root / f"v{VERSION}-{self.clips}-clips-seed-{self.seed}"

    def _utterance(self, line: Line) -> Utterance:
        return Utterance(
            key=line.key,
            media=f"{self.folder.name}/{line.file_name}",
            text=None if line.awkward == "no transcript" else line.words,
            speaker=f"speaker-{line.speaker:02d}",
            dialogue=line.dialogue,
            turn=line.turn,
            split=line.split,
            labels={"emotion": line.mood, "valence": line.valence},
        )

    def _make_speaker(self, lines: Sequence[Line]) -> None:
        """Make the clips of one speaker, whose face is painted once."""
        painter = FacePainter(_look(lines[0].speaker, self.seed), SIZE)
        for line in lines:
            with atomic_write(self.folder / line.file_name) as partial:
                _make_clip(line, self.seed, painter, partial)

    def _make(self, script: Sequence[Line]) -> None:
        """Make what is missing. Every file appears whole; the manifest, written last, says that all are there."""
        manifest = self.folder / "manifest.json"
        sizes = _read_sizes(manifest)
        missing = [line for line in script if not _is_there(self.folder / line.file_name, sizes)]
        if not missing and sizes is not None:
            return
        log.info("making %d synthetic clips in %s", len(missing), self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            by_speaker: dict[int, list[Line]] = {}
            for line in missing:
                by_speaker.setdefault(line.speaker, []).append(line)
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # drawing and coding leave the interpreter to others
                list(pool.map(self._make_speaker, by_speaker.values()))
            found = {line.file_name: (self.folder / line.file_name).stat().st_size for line in script}
            with atomic_write(manifest) as partial:
                partial.write_text(json.dumps({"clips": found, "synthetic": True}, indent=1))
        except OSError as error:
            raise MerError(
                f"{self.folder}: the demo clips cannot be written ({error.strerror}); choose another folder with --root"
            ) from error


def _read_sizes(manifest: Path) -> dict[str, int] | None:
    try:
        return dict(json.loads(manifest.read_text())["clips"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_there(clip: Path, sizes: dict[str, int] | None) -> bool:
    """Without a manifest a present clip is a whole one too, because clips appear whole."""
    return clip.is_file() and (sizes is None or clip.stat().st_size == sizes.get(clip.name))


def _make_clip(line: Line, seed: int, painter: FacePainter, path: Path) -> None:
    rng = np.random.default_rng([seed, 2, line.number])
    speech = speak(line.words, line.voice.mood, line.voice.strength, _throat(line.speaker, seed), rng)
    if line.awkward == "no face":
        frames = iter([painter.empty()] * round(speech.duration_seconds * FPS))
    else:
        frames = _frames(painter, line, speech, rng)
    sound = None if line.awkward == "no sound" else Sound(speech.samples[:, None], RATE_HZ)
    write_media(path, Picture(frames, FPS, SIZE), sound, container="mp4")
    if line.awkward == "truncated file":
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])


def _throat(speaker: int, seed: int) -> Throat:
    rng = np.random.default_rng([seed, 3, speaker])
    high = speaker % 2
    return Throat(pitch_hz=float(rng.uniform(95, 130) * (1.7 if high else 1.0)), stretch=1.14 if high else 1.0)


def _look(speaker: int, seed: int) -> Look:
    rng = np.random.default_rng([seed, 4, speaker])
    return Look(
        skin=SKINS[(speaker + seed) % len(SKINS)],
        hair=HAIRS[int(rng.integers(len(HAIRS)))],
        shirt=SHIRTS[int(rng.integers(len(SHIRTS)))],
        wall=WALLS[int(rng.integers(len(WALLS)))],
        wide=float(rng.uniform(0.95, 1.04)),
        fringe=float(rng.uniform(0.0, 0.9)),
        long_hair=bool(speaker % 2),
    )


def _frames(painter: FacePainter, line: Line, speech: Speech, rng: np.random.Generator) -> Iterator[Frame]:
    """Animate: the mouth follows the voice, the head sways, the eyes blink."""
    rest = EXPRESSIONS[line.face.mood]
    strength = line.face.strength
    sway = rng.uniform(0, 2 * np.pi, 4)
    offset = rng.uniform(-0.035, 0.035, 2)
    blink_second = float(rng.uniform(0.3, 1.6))
    for index in range(round(speech.duration_seconds * FPS)):
        second = index / FPS
        spoken = float(speech.openness[min(int(second * RATE_HZ), len(speech.openness) - 1)])
        # the expression comes and goes a little
        now = strength * (0.9 + 0.1 * float(np.sin(3.1 * second + sway[3])))
        closed = abs(second - blink_second) < 0.05
        yield painter.draw(
            Pose(
                mouth_open=now * rest.mouth_open + 0.6 * spoken,
                mouth_curve=now * rest.mouth_curve,
                mouth_wide=now * rest.mouth_wide,
                brow_raise=now * rest.brow_raise,
                brow_slant=now * rest.brow_slant,
                eye_open=0.0 if closed else 1 + now * (rest.eye_open - 1),
                flush=now * rest.flush,
                gaze=0.6 * float(np.sin(1.3 * second + sway[0])),
                shift=(
                    float(offset[0] + 0.012 * np.sin(2.3 * second + sway[1])),
                    float(offset[1] * 0.4 + 0.008 * np.sin(3.7 * second + sway[2])),
                ),
                tilt_degrees=3.5 * float(np.sin(1.7 * second + sway[3])),
            )
        )
