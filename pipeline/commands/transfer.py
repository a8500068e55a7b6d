"""`mer push` and `mer pull`: publishing packs and fetching them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

URLS = "hf://datasets/ORG/NAME/FILE, s3://, gs://, ssh://, file://"


def push(
    pack: Annotated[Path, typer.Argument(help="Pack, as `mer pack` makes it.")],
    url: Annotated[str, typer.Argument(help=f"{URLS}; a slash at the end keeps the file's name.")],
    revision: Annotated[str | None, typer.Option(help="Branch of a Hub repository.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new Hub repository private.")] = False,
    notes: Annotated[Path | None, typer.Option(help="Markdown to put on the Hub page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Publish a pack with its sha256 beside it; on the Hub with a page that says what it is and how to use it."""
    from mer.cache import MerError
    from mer.cache.transfer import push as run
    from mer.pipeline.terminal.console import set_up_logging, status

    set_up_logging()
    try:
        text = notes.read_text(encoding="utf-8") if notes else ""
    except (OSError, UnicodeDecodeError) as error:
        raise MerError(f"{notes}: cannot be read ({error})") from error
    with status.status("verifying and uploading"):
        made = run(pack, url, revision=revision, private=private, notes=text)
    facts = {"url": made.url, "sha256": made.sha256, "bytes": made.bytes}
    _print(facts, as_json, f"{made.url}\nsha256 {made.sha256}")


def pull(
    url: Annotated[str, typer.Argument(help=f"{URLS}, https://.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File or folder. [default: the URL's file name, here]")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repository.")] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Hash it must have. [default: the one beside it on the server]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fetch a pack, check it to the last byte, and only then give it its name.

    Interrupted, it keeps what came in OUT.partial and goes on from there when run again.
    """
    from mer.cache.transfer import pull as run
    from mer.pipeline.terminal.console import byte_bar, set_up_logging, status

    set_up_logging()
    with byte_bar("fetching") as bar:
        got = run(url, out, revision=revision, sha256=sha256, overwrite=overwrite, on_progress=bar.put)
    if not got.vouched:
        status.print("no sha256 lies beside it on the server; its own checksums are right", soft_wrap=True)
    facts = {"path": str(got.path), "sha256": got.sha256, "bytes": got.bytes, "resumed": got.resumed}
    _print({**facts, "vouched": got.vouched}, as_json, f"{got.path}\nsha256 {got.sha256}")


def _print(facts: dict[str, object], as_json: bool, text: str) -> None:
    import json

    typer.echo(json.dumps(facts) if as_json else text)
