"""A corpus of which only a part is there: one line of what is missing, and one split alone goes through."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mer.pipeline.cli import main


@pytest.fixture
def part(shared_data: Path, tmp_path: Path) -> Path:
    """The real tables of MELD, of the training split only 299 rows."""
    tables = shared_data / "annotations" / "meld"
    for split in ("dev", "test"):
        shutil.copy(tables / f"{split}_sent_emo.csv", tmp_path)
    rows = (tables / "train_sent_emo.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "train_sent_emo.csv").write_bytes(b"".join(rows[:300]))
    return tmp_path


def plan(capsys: pytest.CaptureFixture[str], root: Path, *more: str) -> tuple[int, str, str]:
    words = ("extract", "--corpus", "meld", "--root", str(root), "--out", str(root / "meld.h5"), "--preset", "demo")
    with pytest.raises(SystemExit) as left:
        main([*words, "--audio-encoder", "none", "--face-encoder", "none", "--dry-run", *more])
    told = capsys.readouterr()
    return int(left.value.code or 0), told.out, told.err


def test_what_is_missing_is_one_line(part: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = plan(capsys, part)
    assert code == 1
    assert err.strip().splitlines()[-1] == (
        "mer: meld: counts differ from the published ones: train 299 of 9,989 utterances; `mer corpora check"
        " meld` lists them all. Go on with --split val alone, or with --allow-count-mismatch"
    )


def test_one_split_alone_goes_through(part: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (part / "train_sent_emo.csv").unlink()
    code, out, _ = plan(capsys, part, "--split", "test")
    assert code == 0
    assert "2610 utterances, 2610 to work on" in out


def test_a_split_that_is_itself_in_part_is_refused(part: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = plan(capsys, part, "--split", "train")
    assert code == 1
    assert "train 299 of 9,989 utterances" in err
    code, _, err = plan(capsys, part, "--split", "trian")
    assert code == 1
    assert "has no split 'trian'" in err
