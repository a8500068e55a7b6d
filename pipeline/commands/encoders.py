"""`mer encoders`: what can be named, with width, licence and what it needs to be installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mer.stages.encoders.catalog import EncoderEntry


def encoders(
    modality: Annotated[str | None, typer.Option(help="Only text, audio or face encoders.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the encoders that can be named, with dimension, licence and what they need."""
    import json

    from mer.cache import MerError
    from mer.pipeline.terminal.console import results, table
    from mer.stages.encoders.catalog import ENCODERS, PRESETS
    from mer.stages.interfaces import MODALITIES

    if modality is not None and modality not in MODALITIES:
        raise MerError(f"modality {modality!r} is not known; use {', '.join(MODALITIES)}")
    wanted = [modality] if modality else list(MODALITIES)
    facts = [_facts(name, entry) for name, entry in ENCODERS.items() if entry.modality in wanted]
    facts += _plug_ins()
    from rich.markup import escape

    presets = [
        {"name": name, "text": one.text, "audio": one.audio, "face": one.face, "note": one.note}
        for name, one in PRESETS.items()
    ]
    if as_json:
        typer.echo(json.dumps({"encoders": facts, "presets": presets}, indent=2, ensure_ascii=False))
        return
    for kind in wanted:
        rows = table(f"{kind} encoders", "name", ">dim", "licence of the weights", "checkpoint", "libraries installed")
        for fact in facts:
            if fact["modality"] == kind:
                rows.add_row(fact["name"], str(fact["dim"]), fact["license"], fact["checkpoint"], escape(_state(fact)))
        results.print(rows)
        results.print()
    rows = table("presets: mer extract --preset NAME", "name", "text", "audio", "face", "")
    for preset in presets:
        rows.add_row(preset["name"], preset["text"], preset["audio"], preset["face"], preset["note"])
    results.print(rows)
    plugged = [fact["name"] for fact in facts if fact["modality"] == ""]
    if plugged:
        results.print(f"\nfrom installed packages: {', '.join(plugged)}", soft_wrap=True)
    results.print(
        "\nAny other checkpoint that transformers loads can be given too: a hub id (owner/name, owner/name@revision), "
        "a local folder, timm/NAME, or module:Class for an encoder of your own.",
        soft_wrap=True,
    )


def _facts(name: str, entry: EncoderEntry) -> dict[str, Any]:
    from mer.cache.release import install_line

    return {
        "name": name,
        "modality": entry.modality,
        "dim": entry.dim,
        "license": entry.license,
        "checkpoint": entry.checkpoint or entry.note,
        "note": entry.note,
        "extra": entry.extra,
        "installed": entry.installed(),
        "install": install_line(entry.extra) if entry.extra else "",
    }


def _plug_ins() -> list[dict[str, Any]]:
    from mer.stages.registry import names

    empty = {"modality": "", "dim": None, "license": "", "note": "", "extra": "", "installed": True, "install": ""}
    return [{"name": name, **empty, "checkpoint": path} for name, path in sorted(names("encoder").items())]


def _state(fact: dict[str, Any]) -> str:
    return "yes" if fact["installed"] else fact["install"]
