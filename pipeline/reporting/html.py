"""Writing HTML so that nothing from the data can become markup: text is escaped unless an element made here."""

from __future__ import annotations

import html
from collections.abc import Iterable


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Content = str | Iterable["Content"] | None
"""Text (escaped unless it is `Html`), a sequence of such, or nothing."""

VOID = frozenset({"meta", "line", "circle", "rect", "polyline", "path", "br", "col", "img"})


def render(content: Content) -> Html:
    """Turn content into markup."""
    if content is None:
        return Html()
    if isinstance(content, Html):
        return content
    if isinstance(content, str):
        return Html(html.escape(content))
    return Html("".join(render(part) for part in content))


def el(tag: str, *content: Content, **attributes: object) -> Html:
    """Make one element.

    Attribute names get `_` replaced by `-` and one trailing `_` removed (`class_`); a value of None or False leaves the
    attribute out, True gives it without a value. Values and text are escaped.
    """
    parts = [tag]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        label = name.removesuffix("_").replace("_", "-")
        parts.append(label if value is True else f'{label}="{html.escape(str(value))}"')
    opened = " ".join(parts)
    inner = render(content)
    if tag in VOID and not inner:
        return Html(f"<{opened}/>")
    return Html(f"<{opened}>{inner}</{tag}>")


def table(head: Iterable[Content], rows: Iterable[Iterable[Content]], class_: str = "", numbers: bool = True) -> Html:
    """Make a table; with `numbers`, every column but the first is right-aligned. A cell may be one made already."""
    kind = " ".join(filter(None, (class_, "numbers" if numbers else "")))
    body = [
        el("tr", [cell if _is_cell(cell) else _cell(cell, place == 0) for place, cell in enumerate(row)])
        for row in rows
    ]
    return el(
        "div",
        el(
            "table",
            el("thead", el("tr", [el("th", cell, scope="col") for cell in head])),
            el("tbody", body),
            class_=kind or None,
        ),
        class_="scroll",
    )


def _cell(content: Content, names_row: bool) -> Html:
    """A cell; the first one of a row is what a screen reader says before the others."""
    return el("th", content, scope="row", class_="row") if names_row else el("td", content)


def _is_cell(cell: Content) -> bool:
    return isinstance(cell, Html) and cell.startswith(("<td", "<th"))
