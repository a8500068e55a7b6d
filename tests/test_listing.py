"""Tables at any width: numbers whole, names broken where their parts meet, paragraphs where columns do not fit."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from mer.pipeline.listing import Listing, broken


def shown(made: Listing, width: int) -> list[str]:
    page = io.StringIO()
    Console(file=page, width=width).print(made)
    return page.getvalue().splitlines()


@pytest.fixture
def sets() -> Listing:
    made = Listing("What is there", ["feature set", ">steps", ">size", "state"])
    made.add_row("text-demo-text-108d7721", "1,653", "211.6 kB", "whole")
    made.add_row("audio-wav2vec2-large-5b6ab2a4", "14,160", "1.8 MB")
    return made


def test_with_room_every_row_is_a_line(sets: Listing) -> None:
    assert shown(sets, 80) == [
        "What is there",
        "feature set                     steps      size  state",
        "text-demo-text-108d7721         1,653  211.6 kB  whole",
        "audio-wav2vec2-large-5b6ab2a4  14,160    1.8 MB",
    ]


def test_with_less_room_names_break_and_numbers_do_not(sets: Listing) -> None:
    assert shown(sets, 48) == [
        "What is there",
        "feature set               steps      size  state",
        "text-demo-text-108d7721   1,653  211.6 kB  whole",
        "audio-wav2vec2-large-    14,160    1.8 MB",
        "5b6ab2a4",
    ]


def test_with_no_room_a_row_is_a_paragraph(sets: Listing) -> None:
    assert shown(sets, 30) == [
        "What is there",
        "text-demo-text-108d7721",
        "  steps 1,653 · size 211.6 kB",
        "  state whole",
        "audio-wav2vec2-large-5b6ab2a4",
        "  steps 14,160 · size 1.8 MB",
    ]


@pytest.mark.parametrize("width", [12, 20, 31, 40, 64, 200])
def test_nothing_is_lost_and_nothing_sticks_out(sets: Listing, width: int) -> None:
    sets.add_row("[bold]非商业用途的语料库[/bold]", "7", "0 bytes", "as long as it is")
    lines = shown(sets, width)
    assert max(cell_len(line) for line in lines) <= width
    if width > 12:
        assert all(number in "\n".join(lines) for cells, _ in sets.rows for number in cells[1:3])
    for cells, _ in sets.rows:
        for cell in cells:
            assert "".join("".join(broken(cell, width)).split()) == "".join(cell.split())


def test_words_break_between_words_then_after_marks_then_anywhere() -> None:
    assert broken("the corpus has no transcript", 12) == ["the corpus", "has no", "transcript"]
    assert broken("https://affective-meld.github.io", 20) == ["https://affective-", "meld.github.io"]
    assert broken("supercalifragilistic", 8) == ["supercal", "ifragili", "stic"]
    assert broken("非商业用途的", 5) == ["非商", "业用", "途的"]
    assert broken("  neutral", 9) == ["  neutral"]
    assert broken("", 5) == [""]
