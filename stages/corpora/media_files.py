"""Which files are media, and the subtitles and transcripts that lie beside them."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

from .annotation import UTF8, read_text

MEDIA_SUFFIXES = frozenset(
    [".mp4", ".avi", ".mov", ".mkv", ".mpg", ".webm", ".flv", ".m4v", ".wav", ".flac", ".mp3", ".ogg", ".m4a", ".opus"]
)
TRANSCRIPTS = (".txt", ".srt", ".vtt")


def media_below(root: Path) -> list[str]:
    """Media files anywhere below a folder, relative to it with `/`, sorted; without names that start with a dot."""
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        kept = (name for name in files if Path(name).suffix.lower() in MEDIA_SUFFIXES and not name.startswith("."))
        found += ((Path(folder) / name).relative_to(root).as_posix() for name in kept)
    return sorted(found)


def transcript_beside(media: Path, encoding: str = "") -> str | None:
    """Words from the `.txt`, `.srt` or `.vtt` of a clip's own name, or None where there is none or an empty one.

    Raises
    ------
    MerError
        If the file is not text in the encoding.
    """
    for suffix in TRANSCRIPTS:
        path = media.with_suffix(suffix)
        if path.is_file() and path.stat().st_size:
            text = read_text(path, (encoding,) if encoding else UTF8, wide=bool(encoding))
            return (" ".join(text.split()) if suffix == ".txt" else spoken(text)) or None
    return None


def spoken(subtitles: str) -> str:
    """Words of an SRT or WebVTT file in one line: no numbers, times, notes, styles or tags; a repeated line once."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", subtitles.replace("\r\n", "\n").replace("\r", "\n")):
        rows = [row.strip() for row in block.split("\n") if row.strip()]
        times = next((at for at, row in enumerate(rows) if "-->" in row), None)
        if times is None:  # WEBVTT, NOTE, STYLE, REGION
            continue
        for row in rows[times + 1 :]:
            words = " ".join(html.unescape(re.sub(r"<[^>]*>|\{\\[^}]*\}", "", row)).split())
            if words and (not lines or lines[-1] != words):
                lines.append(words)
    return " ".join(lines)
