"""`mer corpora`: the adapters, and `mer corpora check`: a raw folder beside what was published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mer.pipeline.terminal.console import ProgressBar
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
    results.print("Fetch one, or read how to get it: mer corpora get NAME", soft_wrap=True)
    results.print("Check a raw folder: mer corpora check NAME --root DIR", soft_wrap=True)


@corpora.command()
def check(
    name: Annotated[
        str, typer.Argument(help="Corpus name (see `mer corpora`), a folder of your own, or module:Class.")
    ],
    root: Annotated[
        Path | None, typer.Option(help="Folder of the raw corpus. [default: as `mer extract` finds it]")
    ] = None,
    inventory: Annotated[
        list[Path] | None,
        typer.Option(help="EmoBox list (.jsonl) to compare keys and durations with. Repeatable."),
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Named label set of the corpus, e.g. 4 or 6 for IEMOCAP.")] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every clip's sound to its end; slow, finds cut-off files.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Clips looked at at once.")] = 4,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Whisper checkpoint that compares the transcripts with what is said: word error rate, and clips whose "
            "words belong to another one. Slow; goes on after a break.",
        ),
    ] = None,
    language: Annotated[
        str | None, typer.Option(metavar="CODE", help="What is spoken, for --listen. [default: found out]")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split, for --listen.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N utterances, for --listen.")] = None,
    all_findings: Annotated[
        bool, typer.Option("--all", help="Show every finding, not the first 20 of a kind.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare a raw folder with the published inventory; exit with 1 when something needs attention."""
    import json

    from mer.pipeline.extraction.corpus_root import find_root, named_corpus, remember
    from mer.pipeline.terminal.console import progress_bar, set_up_logging
    from mer.stages.corpora.inventory import read_lists, take_inventory

    set_up_logging()
    name, root = named_corpus(name, root)
    corpus = _lenient(name, root or find_root(name), labels)
    listed = read_lists(corpus, inventory or ())
    remember(name, corpus.root)
    most_shown = None if all_findings else MOST_SHOWN
    if listen is not None:
        _listen(name, corpus, listen, language, split, limit, most_shown, as_json)
        return
    taken = take_inventory(corpus, listed, decode, threads, lambda total: progress_bar("looking at clips", total))
    if as_json:
        typer.echo(json.dumps(taken.to_json(), indent=2, ensure_ascii=False))
    else:
        _print_inventory(taken, most_shown)
    if taken.attention:
        raise typer.Exit(1)


@corpora.command()
def get(
    name: Annotated[str, typer.Argument(help="Corpus name (see `mer corpora`).")],
    to: Annotated[Path | None, typer.Option(help="Folder to make. [default: ./data/ and the release's name]")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the download.")] = False,
) -> None:
    """Fetch a corpus that anyone may download, or say whom to ask for it; run it again to go on after a break."""
    from mer.pipeline.extraction.corpus_root import remember
    from mer.pipeline.terminal.console import results, set_up_logging, sized
    from mer.stages.corpora.download import bytes_needed, bytes_to_fetch
    from mer.stages.corpora.download import get as fetch
    from mer.stages.corpora.releases import release_of

    set_up_logging()
    info, release = _info(name), release_of(name)
    target = to or Path("data") / release.folder
    results.print(f"[bold]{info.title}[/bold]\nlicence: {info.license}\nabout:   {info.url}", soft_wrap=True)
    if not release.downloads:
        _print_how_to_ask(name, target)
        raise typer.Exit(1)
    free = sized(_free_bytes(target))
    size = f"about {sized(fetched)}" if (fetched := bytes_to_fetch(release)) else "a few small tables"
    needed = sized(bytes_needed(release))
    for one in release.downloads:
        results.print(f"from:    {one.url}", soft_wrap=True)
    if release.listed_count:
        results.print(f"         and {release.listed_count:,} files below {release.listed[1]}", soft_wrap=True)
    results.print(f"to:      {target}\nsize:    {size}; {needed} of disk in between, {free} are free", soft_wrap=True)
    if not yes and not typer.confirm("Fetch it?", err=True):
        results.print("nothing was fetched")
        raise typer.Exit(1)
    with _Bars() as bars:
        folder = fetch(release, target, bars.move)
    remember(name, folder)
    results.print(
        f"{name}: {folder}\nnext      mer corpora check {name}\n          mer extract --corpus {name}", soft_wrap=True
    )


@corpora.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of clips.")],
    label_from: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="folder, or a pattern of names, as for `mer extract`.")
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Encoding of the transcripts. [default: utf-8]")] = None,
) -> None:
    """Write the manifest.csv of a folder of clips, to be edited: clips, transcripts, and what names say of labels."""
    from mer.pipeline.terminal.console import results
    from mer.stages.corpora.loose_clips import write_manifest

    path, rows = write_manifest(folder, label_from or "", encoding or "")
    results.print(f"{path}: {rows} clips", soft_wrap=True)
    results.print(f"next      fill in its columns, then: mer extract --corpus {folder}", soft_wrap=True)


class _Bars:
    """One progress bar after the other, one for each file that is fetched."""

    def __init__(self) -> None:
        from contextlib import ExitStack

        self.stack = ExitStack()
        self.name = ""
        self.bar: ProgressBar | None = None

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def move(self, name: str, done: int, total: int | None) -> None:
        """Show how far a file is."""
        from mer.pipeline.terminal.console import byte_bar, progress_bar

        if name != self.name:
            self.stack.close()
            counted = name.startswith("files of ")
            self.bar = self.stack.enter_context(progress_bar(name, total or 0) if counted else byte_bar(name, total))
            self.name = name
        if self.bar is not None:
            self.bar.put(done, total)


def _print_how_to_ask(name: str, target: Path) -> None:
    """Say whom to ask for a corpus that is not given to anyone, and what its folder must look like."""
    from mer.pipeline.terminal.console import results
    from mer.stages.corpora.releases import paragraph

    for title, said in (("who may use it", paragraph(name, "Who may use it")), ("layout", paragraph(name, "Layout"))):
        if said:
            results.print(f"{title}: {said}", soft_wrap=True, markup=False, highlight=False)
    results.print("This corpus has to be asked for; nothing was fetched.", soft_wrap=True)
    results.print(f"Once it lies in {target}: mer corpora check {name}", soft_wrap=True)


def _free_bytes(target: Path) -> int:
    import shutil

    there = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(there).free


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


def _listen(
    name: str,
    corpus: Any,
    model: str,
    language: str | None,
    split: str | None,
    limit: int | None,
    most_shown: int | None,
    as_json: bool,
) -> None:
    """Compare transcripts with what is said, and print where they differ; exit with 1 where words belong elsewhere."""
    import dataclasses
    import json

    from mer.pipeline.extraction.listening import hear
    from mer.pipeline.terminal.console import results, table
    from mer.stages.device import resolve_device
    from mer.stages.speech.wording import compare_wording

    chosen = [one for one in corpus.utterances() if split is None or one.split == split][:limit]
    heard = hear(name, corpus, chosen, model, language, resolve_device("auto"))
    found = compare_wording({one.key: one.text for one in chosen if one.text and one.key in heard}, heard)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found), indent=2, ensure_ascii=False))
    else:
        rate = "-" if found.word_error_rate is None else f"{100 * found.word_error_rate:.1f} %"
        results.print(f"{name}: {len(found.of_clips)} clips heard, word error rate {rate}", soft_wrap=True)
        results.print(f"nothing heard in {len(found.unheard)} clips that have a transcript", soft_wrap=True)
        rows = table(f"words of another clip: {len(found.elsewhere)}", "clip", "transcript", "heard", "belongs to")
        for one in found.elsewhere[:most_shown]:
            rows.add_row(one.key, one.given, one.heard, one.other)
        if found.elsewhere:
            results.print(rows)
    if found.elsewhere:
        raise typer.Exit(1)


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
