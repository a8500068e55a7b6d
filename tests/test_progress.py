"""What is shown while long work goes on: the bar of `mer extract` and the live table of `mer train`."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from folder_clips import HERE, write_manifest
from rich.console import Console

import mer.pipeline.console
from mer.pipeline.arena import Member
from mer.pipeline.extract import extract
from mer.pipeline.live import LiveTable
from mer.pipeline.options import ExtractOptions


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal would be sent in place of stderr."""
    shown = io.StringIO()
    monkeypatch.setattr(
        mer.pipeline.console, "status", Console(file=shown, force_terminal=True, width=160, color_system=None)
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
    members = [Member(0, "official", seed, none, none, none, none) for seed in range(2)]
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
