"""What is shown while long work goes on: the bar of `mer extract` and the live table of `mer train`."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folder_clips import HERE, write_manifest
from rich.console import Console

import mer.pipeline.terminal.console
from mer.pipeline.extraction.options import ExtractOptions
from mer.pipeline.extraction.run import extract
from mer.pipeline.terminal.console import FILE_WIDTH, byte_bar, progress_bar, width_of_results
from mer.pipeline.training.progress import LiveTable
from mer.pipeline.training.shared import SeedRun


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal would be sent in place of stderr."""
    shown = io.StringIO()
    monkeypatch.setattr(
        mer.pipeline.terminal.console, "status", Console(file=shown, force_terminal=True, width=160, color_system=None)
    )
    return shown


def test_the_bar_of_an_extraction_counts_utterances_pace_and_failures(tmp_path: Path, terminal: io.StringIO) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    rows = [{"id": f"u{i}", "path": "bad.mp4" if i == 2 else "", "text": f"word {i}"} for i in range(5)]
    write_manifest(tmp_path, rows)
    encoders = {"text": ("odd_encoders:Counting",), "audio": ("librosa-mfcc",)}
    extract(ExtractOptions("folder", root=tmp_path, out=tmp_path / "mine.h5", encoders=encoders), HERE)
    shown = terminal.getvalue()
    assert "extracting" in shown
    assert "5/5" in shown
    assert re.search(r"[\d.]+ clips/s · [\d.]+ h media/h · 1 failed", shown)
    assert re.search(r"\d:\d\d:\d\d|-:--:--", shown)


def test_the_live_table_shows_losses_validation_pace_and_time_left() -> None:
    none = np.zeros(0, np.int64)
    members = [SeedRun(0, "official", seed, none, none, none, none) for seed in range(2)]
    table = LiveTable(None, "wf1", runs=5, board=None)
    table.begin(members, epochs=4, steps=10)
    for _ in range(10):
        table.step(64)
    scores = (0.5, 0.625)
    for epoch in (1, 2):
        entries = [{"epoch": epoch, "task": 1.25 / epoch, "ed": 0.5, "val_wf1": s / epoch} for s in scores]
        table.epoch(members, entries)
    page = io.StringIO()
    Console(file=page, width=160).print(table.render())
    *title, heads, first, second = (line.split() for line in page.getvalue().splitlines())
    said = " ".join(word for line in title for word in line)
    assert re.fullmatch(
        r"epoch 2/4 · [\d,]+ utterances/s · at most \d+ s left for these runs · 2 of 5 runs begun", said
    )
    assert heads == ["run", "task", "ed", "val", "weighted", "F1", "best"]
    assert first == ["official-seed0", "0.625", "0.500", "25.0", "50.0"]
    assert second == ["official-seed1", "0.625", "0.500", "31.2", "62.5"]


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock, in minutes."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def put(minute: float) -> None:
        now[0] = 60 * minute

    return put


def test_off_a_terminal_a_bar_writes_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, minutes: Callable[[float], None]
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(mer.pipeline.terminal.console, "status", Console(file=file, width=80))
    with progress_bar("extracting", 8) as bar:
        for quarter in range(1, 9):
            minutes(quarter / 2)
            bar.advance(extra=f"{quarter} [clips]/s")
    assert file.getvalue().splitlines() == [
        "extracting 2/8 · 2 [clips]/s · about 3 min left",
        "extracting 4/8 · 4 [clips]/s · about 2 min left",
        "extracting 6/8 · 6 [clips]/s · about 60 s left",
        "extracting 8/8 · 8 [clips]/s · about 0 s left",
    ]


def test_off_a_terminal_bytes_are_counted_from_where_a_transfer_goes_on(
    monkeypatch: pytest.MonkeyPatch, minutes: Callable[[float], None]
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(mer.pipeline.terminal.console, "status", Console(file=file, width=80))
    with byte_bar("fetching") as bar:
        for minute, megabytes in ((0.5, 600), (1, 700), (1.5, 750), (2, 800), (3, 900)):
            minutes(minute)
            bar.put(megabytes * 10**6, 10**9)
    with byte_bar("streaming") as bar:
        minutes(4)
        bar.put(1500, None)
    assert file.getvalue().splitlines() == [
        "fetching 700.0 MB/1.0 GB · about 3 min left",
        "fetching 800.0 MB/1.0 GB · about 2 min left",  # 200 MB came in two minutes, 200 are left
        "fetching 900.0 MB/1.0 GB · about 60 s left",
        "streaming 1.5 kB",
    ]


def test_off_a_terminal_training_writes_a_line_a_minute(minutes: Callable[[float], None]) -> None:
    file = io.StringIO()
    none = np.zeros(0, np.int64)
    table = LiveTable(Console(file=file, width=80), "wf1", runs=5, board=None)
    table.begin([SeedRun(0, "official", 0, none, none, none, none)], epochs=4, steps=1)
    for half in (1, 2, 3):
        minutes(half / 2)
        table.step(60)
    said = "epoch 0/4 · 2 utterances/s · at most 60 s left for these runs · 1 of 5 runs begun"
    assert file.getvalue().splitlines() == [said]


def test_results_in_a_file_are_wide_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.delenv("COLUMNS", raising=False)
    assert width_of_results() == FILE_WIDTH
    monkeypatch.setenv("COLUMNS", "70")
    assert width_of_results() is None
