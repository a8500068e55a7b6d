"""`mer diff`: how two caches or packs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer


def diff(
    first: Annotated[str, typer.Argument(help="Cache or pack.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 when they differ.")] = False,
) -> None:
    """Say how two caches or packs differ: specs, utterances, labels, and the distance of the features they share."""
    import json

    from mer.cache import FeatureStore
    from mer.cache import diff as compare
    from mer.pipeline.terminal.console import results

    found = compare(FeatureStore.open(first), FeatureStore.open(second))
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    elif not found:
        results.print("no difference in specs, utterances, labels or features", soft_wrap=True)
    else:
        for line in lines(found):
            results.print(line, soft_wrap=True, markup=False, highlight=False)
    if exit_code and found:
        raise typer.Exit(1)


def lines(found: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Differences as indented lines, `first -> second` where a value changed."""
    for name, value in found.items():
        label = name.replace("_", " ") if not indent else name
        if isinstance(value, list) and len(value) == 2:
            yield f"{indent}{label}: {_short(value[0])} -> {_short(value[1])}"
        elif isinstance(value, Mapping) and set(value) == {"count", "first"}:
            more = ", …" if value["count"] > len(value["first"]) else ""
            yield f"{indent}{label.replace('_', ' ')}: {value['count']:,} ({', '.join(value['first'])}{more})"
        elif isinstance(value, Mapping):
            yield f"{indent}{label}"
            yield from lines(value, indent + "  ")
        else:
            shown = f"{value:.6g}" if isinstance(value, float) else value
            yield f"{indent}{label.replace('_', ' ')}: {shown}"


def _short(value: Any) -> str:
    text = "(none)" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
