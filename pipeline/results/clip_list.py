"""Which clips are predicted, and what is said in them: folders, tables of words, the table of answers."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mer.cache import MerError, atomic_write

from ..training.run_folder import Run
from .predict import Answer, Asked

MEDIA_SUFFIXES = frozenset(
    ".mp4 .mov .m4v .mkv .webm .avi .mpg .mpeg .flv .wmv .3gp .wav .flac .mp3 .ogg .m4a .opus".split()  # noqa: SIM905
)
CLIPS_AT_ONCE = 16


def expand(named: Sequence[Path]) -> list[Path]:
    """Clips by name, and for a folder every media file in it and below, in the order of their paths.

    A folder without any stays as it is, so that it is told of among the answers.
    """
    clips: list[Path] = []
    for path in named:
        if not path.is_dir():
            clips.append(path)
            continue
        inside = sorted(one for one in path.rglob("*") if one.suffix.lower() in MEDIA_SUFFIXES and one.is_file())
        clips += inside or [path]
    return clips


def read_texts(path: Path) -> dict[str, str]:
    """Read a table of words: a CSV with the columns `clip` (file name or path) and `text`.

    Raises
    ------
    MerError
        If it is missing, no such table, or names a clip twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            lacking = {"clip", "text"} - set(table.fieldnames or ())
            if lacking:
                raise MerError(f"{path}: has no column {' and '.join(sorted(lacking))}; its first line is clip,text")
            texts: dict[str, str] = {}
            for row in table:
                if row["clip"] in texts:
                    raise MerError(f"{path}: line {table.line_num}: names {row['clip']} again; leave one of them")
                texts[row["clip"]] = row["text"] or ""
            return texts
    except OSError as error:
        raise MerError(f"{path}: cannot be read ({error.strerror}); name a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MerError(f"{path}: is no CSV file in UTF-8 ({error})") from error


def words_of(clips: Sequence[Path], texts: Mapping[str, str], path: Path) -> list[str | None]:
    """Find the words of every clip by its path or its name; None where the table has none.

    Raises
    ------
    MerError
        If no clip is in the table.
    """
    found = [texts.get(str(clip), texts.get(clip.name)) for clip in clips]
    if all(text is None for text in found):
        raise MerError(f"{path}: names none of the {len(clips)} clips, such as {clips[0].name}; check its column clip")
    return found


def columns_of(run: Run) -> list[str]:
    """Columns of the table of answers."""
    shares = ["value", "std"] if run.kind == "real" else ["prediction", *(f"p_{name}" for name in run.classes)]
    return ["clip", *shares, "used", "missing", "text", "run"]


def table_row(run: Run, answer: Answer, digest: str) -> dict[str, Any]:
    """One row of the table of answers."""
    row: dict[str, Any] = {
        "clip": str(answer.asked.clip),
        "used": " ".join(answer.used),
        "missing": "; ".join(f"{modality}: {why}" for modality, why in answer.missing.items()),
        "text": answer.asked.text,
        "run": digest,
    }
    if run.kind == "real":
        return row | {"value": f"{answer.output[0]:.6f}", "std": f"{answer.spread[0]:.6f}"}
    said = answer.prediction(run)
    row["prediction"] = said if isinstance(said, str) else " ".join(said)
    return row | {f"p_{name}": f"{share:.6f}" for name, share in zip(run.classes, answer.output, strict=True)}


def predict_into_table(
    run: Run,
    asked: Sequence[Asked],
    path: Path,
    digest: str,
    answer: Callable[[Sequence[Asked]], list[Answer]],
    on_clips: Callable[[int], None] = lambda _: None,
) -> tuple[int, int, int]:
    """Predict clips a few at a time and write their rows; clips that are in the table already are left out.

    Parameters
    ----------
    run
        Tells the columns.
    asked
        Clips with their words.
    path
        CSV file to write or to go on with.
    digest
        Of the run (`run_digest`); rows of another run, or with other words, are made again.
    answer
        Predicts some clips.
    on_clips
        Called with the number of clips that are done with.

    Returns
    -------
    Numbers of clips predicted now, left out because they were there, and without anything to go by.

    Raises
    ------
    MerError
        If the file there is no table of this kind.
    """
    rows = _rows_of(path, columns_of(run))
    done = {row["clip"]: row for row in rows if row["run"] == digest}
    waiting = [one for one in asked if not _same(done.get(str(one.clip)), one)]
    on_clips(len(asked) - len(waiting))
    # In a dialogue every turn speaks to the others, so that all of them have to be there.
    size = len(waiting) if run.facts["context"] != "none" else CLIPS_AT_ONCE
    failed = 0
    for start in range(0, len(waiting), max(size, 1)):
        chunk = waiting[start : start + size]
        answers = answer(chunk)
        failed += sum(one.failed for one in answers)
        done |= {str(one.asked.clip): table_row(run, one, digest) for one in answers}
        ordered = [done[str(one.clip)] for one in asked if str(one.clip) in done]
        with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, columns_of(run))
            table.writeheader()
            table.writerows(ordered)
        on_clips(len(chunk))
    return len(waiting), len(asked) - len(waiting), failed


def _same(row: Mapping[str, Any] | None, asked: Asked) -> bool:
    return row is not None and (row["text"] or None) == (asked.text or None)


def _rows_of(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            if list(table.fieldnames or ()) != list(columns):
                raise MerError(f"{path}: is there already and is no table of this run's answers; choose another --out")
            return list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MerError(f"{path}: cannot be read ({error}); choose another --out") from error
