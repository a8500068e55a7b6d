"""`mer heads`: what can be trained, what of it is published, and its settings."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def heads(
    name: Annotated[str | None, typer.Argument(help="A head's name or module:Class; without, all are listed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the heads that can be trained; with a name, say what of it is published and show its settings."""
    import json

    from mer.stages.heads.catalog import known

    if as_json:
        chosen = known() if name is None else [name]
        typer.echo(json.dumps([_facts(each) for each in chosen], indent=2, ensure_ascii=False))
    elif name is None:
        _print_list(known())
    else:
        _print_one(_facts(name))


def _facts(name: str) -> dict[str, Any]:
    from dataclasses import asdict

    from mer.stages.heads.catalog import CATALOG, COST_MS, config_of, recipe_of, settings
    from mer.stages.registry import names

    entry = CATALOG.get(name)
    return {
        "name": name,
        "path": names("head").get(name, name),
        "what": entry.what if entry else "",
        "published": entry.published if entry else "",
        "ours": entry.ours if entry else "",
        "milliseconds_per_utterance": COST_MS.get(name),
        "recipe": recipe_of(config_of(name)),
        "settings": [asdict(setting) for setting in settings(config_of(name))],
    }


def _print_list(found: list[str]) -> None:
    from mer.pipeline.terminal.console import results, table
    from mer.stages.heads.catalog import CATALOG, COST_MS
    from mer.stages.registry import names

    rows = table("", "name", "what it is", ">ms an utterance")
    for name in found:
        cost = f"{COST_MS[name]:g}" if name in COST_MS else ""
        rows.add_row(name, CATALOG[name].what if name in CATALOG else f"plug-in {names('head')[name]}", cost)
    results.print(rows)
    results.print("ms: training on one CPU thread, three modalities of 8 steps x 32 numbers", soft_wrap=True)
    results.print("What is published, what is ours, and the settings: mer heads NAME", soft_wrap=True)


def _print_one(facts: dict[str, Any]) -> None:
    from mer.pipeline.terminal.console import results, table

    for label in ("what", "published", "ours"):
        if facts[label]:
            results.print(f"[bold]{label}:[/bold] {facts[label]}")
    rows = table("settings (--set head.NAME=VALUE)", "name", "default", "meaning")
    for setting in facts["settings"]:
        rows.add_row(setting["name"], str(setting["default"]), setting["meaning"])
    results.print(rows)
    if facts["recipe"]:
        told = ", ".join(f"train.{key}={value}" for key, value in facts["recipe"].items())
        results.print(f"[bold]trained with[/bold] {told}, unless told otherwise", soft_wrap=True)
