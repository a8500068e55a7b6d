"""`mer corpora`: the adapters, and `mer corpora check`: a raw folder beside what was published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mer.stages.corpora.inventory import Inventory
    from mer.stages.interfaces import CorpusInfo

MOST_SHOWN = 20

corpora = typer.Typer(
    invoke_without_command=True,
    no_args_is_help=False,
    help="List the corpora that can be named, with licence and where to get them; check a raw folder.",
)


@corpora.callback()
def show(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the corpora that can be named, with licence and where to get them."""
    if context.invoked_subcommand is not None:
        return
    import json

    from mer.pipeline.terminal.console import results, table

    found = [(name, _info(name)) for name in _names()]
    if as_json:
        typer.echo(json.dumps([_facts(name, info) for name, info in found], indent=2, ensure_ascii=False))
        return
    rows = table("", "name", "languages", "targets (classes)", "protocols")
    for name, info in found:
        targets = ", ".join(f"{target} ({len(spec.classes) or 'number'})" for target, spec in info.labels.items())
        rows.add_row(name, " ".join(info.languages), targets, ", ".join(info.protocols))
    results.print(rows)
    places = table("what they are and where to get them", "name", "corpus", "licence", "address")
    for name, info in found:
        places.add_row(name, info.title, f"{info.license}{' (gated)' if info.gated else ''}", info.url)
    results.print()
    results.print(places)
    results.print("Check a raw folder: mer corpora check NAME --root DIR", soft_wrap=True)


@corpora.command()
def check(
    name: Annotated[str, typer.Argument(help="Corpus name (see `mer corpora`) or module:Class.")],
    root: Annotated[Path, typer.Option(help="Folder that holds the raw corpus.")],
    inventory: Annotated[
        list[Path] | None,
        typer.Option(help="EmoBox list (.jsonl) to compare keys and durations with. Repeatable."),
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Named label set of the corpus, e.g. 4 or 6 for IEMOCAP.")] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every clip's sound to its end; slow, finds cut-off files.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Clips looked at at once.")] = 4,
    all_findings: Annotated[
        bool, typer.Option("--all", help="Show every finding, not the first 20 of a kind.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare a raw folder with the published inventory; exit with 1 when something needs attention."""
    import json

    from mer.pipeline.terminal.console import progress_bar
    from mer.stages.corpora.inventory import read_lists, take_inventory

    corpus = _lenient(name, root, labels)
    listed = read_lists(corpus, inventory or ())
    taken = take_inventory(corpus, listed, decode, threads, lambda total: progress_bar("looking at clips", total))
    if as_json:
        typer.echo(json.dumps(taken.to_json(), indent=2, ensure_ascii=False))
    else:
        _print_inventory(taken, None if all_findings else MOST_SHOWN)
    if taken.attention:
        raise typer.Exit(1)


def _names() -> list[str]:
    from mer.stages.registry import names

    return list(names("corpus"))


def _info(name: str) -> CorpusInfo:
    """Return the facts of a corpus, without any folder of it."""
    from mer.stages.registry import find

    info: CorpusInfo = find("corpus", name)(root=Path("no-such-folder")).info()
    return info


def _facts(name: str, info: CorpusInfo) -> dict[str, Any]:
    return {**vars(info), "name": name, "labels": {target: vars(spec) for target, spec in info.labels.items()}}


def _lenient(name: str, root: Path, labels: str | None) -> Any:
    """Make an adapter that goes on when counts differ: telling them is the check's own work."""
    import dataclasses

    from mer.cache import MerError
    from mer.stages.registry import find

    adapter = find("corpus", name)
    fields = {field.name for field in dataclasses.fields(adapter)}
    options: dict[str, object] = {"allow_count_mismatch": True} if "allow_count_mismatch" in fields else {}
    if labels is not None:
        if "labels" not in fields:
            raise MerError(f"corpus {name!r} has no named label sets; leave --labels out")
        options["labels"] = labels
    if not root.is_dir():
        raise MerError(f"corpus folder {root} is not there; give the folder of {name!r} with --root")
    return adapter(root=root, **options)


def _print_inventory(taken: Inventory, most: int | None) -> None:
    from mer.pipeline.terminal.console import results, table

    results.print(
        f"[bold]{taken.corpus}[/bold]  {taken.root}\n{taken.utterances} utterances, {taken.clips} clips found,"
        f" {taken.hours:.2f} h" + (f", {taken.listed} in the inventory list" if taken.listed else ""),
        soft_wrap=True,
    )
    if taken.counts:
        rows = table("counts", "what", "group", ">published", ">found", "")
        for count in taken.counts:
            published = "" if count.published is None else str(count.published)
            rows.add_row(count.what, count.group, published, str(count.found), "differs" if count.differs else "")
        results.print(rows)
    for target, groups in taken.classes.items():
        names = list(next(iter(groups.values()), {}))
        rows = table(target, "group", *(f">{name}" for name in names))
        for group, numbers in groups.items():
            rows.add_row(group, *(str(numbers[name]) for name in names))
        results.print(rows)
    _print_findings(taken, most)


def _print_findings(taken: Inventory, most: int | None) -> None:
    from mer.pipeline.terminal.console import results, table

    kinds = dict.fromkeys(finding.kind for finding in taken.findings if finding.kind != "count")
    for kind in kinds:
        same = [finding for finding in taken.findings if finding.kind == kind]
        rows = table(f"{kind} ({len(same)})", "what", "detail", "")
        for finding in same[:most]:
            rows.add_row(finding.name, finding.detail, "look" if finding.attention else "")
        results.print(rows)
        if most is not None and len(same) > most:
            results.print(f"… and {len(same) - most} more; --all or --json shows them")
    looks = sum(finding.attention for finding in taken.findings)
    told = {0: "nothing needs attention", 1: "1 finding needs attention"}
    results.print(told.get(looks, f"{looks} findings need attention"), soft_wrap=True)
