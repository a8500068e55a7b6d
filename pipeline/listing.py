"""Tables for terminals of any width: no number is broken, a name only where its parts meet, and nothing is cut off."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

GAP = "  "
LEAST_WORDS = 16
"""Columns of words are not made narrower than this for other columns' sake."""
INDENT = "  "
PIECES = re.compile(r"[^\s/_+,=-]*[/_+,=-]+|[^\s/_+,=-]+")
"""What a name may be broken into."""


class Listing:
    """Rows under headings; where they do not fit side by side, each row is a paragraph of `heading value`.

    Parameters
    ----------
    title
        Line above it, or empty.
    columns
        Headings; one that starts with `>` heads numbers, which are right-aligned and never broken.
    """

    def __init__(self, title: str, columns: Sequence[str]) -> None:
        self.title = title
        self.heads = [column.lstrip(">") for column in columns]
        self.numbers = [column.startswith(">") for column in columns]
        self.rows: list[tuple[list[str], str]] = []

    def add_row(self, *cells: str, style: str = "") -> None:
        """Add one row; cells that are left out are empty."""
        self.rows.append(([*cells, *[""] * (len(self.heads) - len(cells))], style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(self.title, style="bold")
        widths = self.widths(options.max_width)
        if widths is None:
            yield from self._paragraphs(options.max_width)
        else:
            if any(self.heads):
                yield from self._lines(self.heads, widths, "bold")
            for cells, style in self.rows:
                yield from self._lines(cells, widths, style)

    def widths(self, room: int) -> list[int] | None:
        """Width of every column in so much room; None where the columns do not fit side by side."""
        least, most = [], []
        for column, (head, number) in enumerate(zip(self.heads, self.numbers, strict=True)):
            words = max((cell_len(word) for word in head.split()), default=0)
            widest = max((cell_len(cells[column]) for cells, _ in self.rows), default=0)
            least.append(max(words, widest if number else min(widest, LEAST_WORDS)))
            most.append(max(cell_len(head), widest))
        left = room - sum(least) - len(GAP) * (len(least) - 1)
        if left < 0:
            return None
        order = sorted(range(len(least)), key=lambda column: most[column] - least[column])
        for done, column in enumerate(order):  # the smallest wishes first, the others share what is left
            more = min(most[column] - least[column], left // (len(order) - done))
            least[column] += more
            left -= more
        return least

    def _lines(self, cells: Sequence[str], widths: Sequence[int], style: str) -> Iterator[Text]:
        """Lay the cells of one row side by side, as many lines high as the highest."""
        columns = [broken(cell, width) for cell, width in zip(cells, widths, strict=True)]
        for parts in zip_longest(*columns, fillvalue=""):
            padded = [
                " " * (width - cell_len(part)) + part if number else part + " " * (width - cell_len(part))
                for part, width, number in zip(parts, widths, self.numbers, strict=True)
            ]
            yield Text(GAP.join(padded).rstrip(), style=style)

    def _paragraphs(self, room: int) -> Iterator[Text]:
        for (first, *others), style in self.rows:
            for line in broken(first, room):
                yield Text(line, style=style or "bold")
            facts = [f"{head} {cell}".strip() for head, cell in zip(self.heads[1:], others, strict=True) if cell]
            for line in _filled(facts, room - len(INDENT)):
                yield Text(INDENT + line, style=style)


def _filled(facts: Sequence[str], room: int) -> Iterator[str]:
    """Put facts into lines, a new line before one that does not fit any more."""
    line = ""
    for fact in facts:
        if line and cell_len(f"{line} · {fact}") > room:
            yield line
            line = ""
        *full, line = broken(f"{line} · {fact}" if line else fact, room)
        yield from full
    if line:
        yield line


def broken(text: str, width: int) -> list[str]:
    """Break text into lines: between words, in a word too long for a line after a mark such as `-`, else anywhere."""
    if cell_len(text) <= width:
        return [text]
    lines = [""]
    for word in text.split():
        spaced = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(spaced) <= width:
            lines[-1] = spaced
            continue
        pieces = [word] if cell_len(word) <= width else PIECES.findall(word)
        lines += [""] if lines[-1] else []
        for piece in pieces:
            if cell_len(lines[-1] + piece) <= width:
                lines[-1] += piece
            else:
                lines += chop_cells(piece, width)
    return [line for line in lines if line] or [""]
