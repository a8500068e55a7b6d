"""`mer doctor`."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    online: Annotated[bool, typer.Option("--online", help="Also ask whether the hub answers (2 seconds).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what this machine has: versions, GPU, codecs, encoders, disk, file locks, extras; offline unless asked."""
    import dataclasses
    import json

    from rich.markup import escape

    from mer.pipeline.rates.machine import examine
    from mer.pipeline.terminal.console import results, table

    found = examine(online)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=2, ensure_ascii=False))
        return
    for group in dict.fromkeys(one.group for one in found):
        rows = table(group, "what", "", "")
        for one in found:
            if one.group == group:
                rows.add_row(one.name, escape(one.value), "" if one.good else "look")
        results.print(rows)
    looks = [one.name for one in found if not one.good]
    results.print(f"needs attention: {', '.join(looks)}" if looks else "nothing needs attention", soft_wrap=True)
