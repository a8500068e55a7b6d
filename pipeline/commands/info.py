"""`mer info`: what is in a cache or pack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mer.cache import FeatureStore


def info(
    file: Annotated[str, typer.Argument(help="Cache or pack: a path, or a URL that is read in place.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    reproduce: Annotated[
        bool,
        typer.Option("--reproduce", help="Print the commands that make these features again, with pinned versions."),
    ] = False,
) -> None:
    """Show what is in a cache or pack: utterances and classes per split, feature sets, fates, provenance."""
    import json

    from mer.cache import FeatureStore
    from mer.pipeline.extraction.reproduce import recipe
    from mer.pipeline.reporting.describe import overview
    from mer.pipeline.terminal.console import results

    store = FeatureStore.open(file)
    if reproduce:
        typer.echo(recipe(store.catalogue))
        return
    facts = facts_of(store)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        results.print(overview(facts))


def facts_of(store: FeatureStore) -> dict[str, Any]:
    """Everything there is to say about a cache, JSON-able."""
    from mer.cache import summarise

    catalogue = store.catalogue
    return {
        "file": store.location,
        "form": "packed" if catalogue.packed else "sharded",
        "bytes": store.size + sum(shard.bytes for made in catalogue.sets.values() for shard in made.shards),
        "corpus": catalogue.corpus,
        **summarise(catalogue),
        "provenance": catalogue.provenance,
        "datasheet": catalogue.datasheet,
    }
