"""`mer push` and `mer pull`: publishing packs and trained runs, and fetching packs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

URLS = "hf://datasets/ORG/NAME/FILE, s3://, gs://, ssh://, file://"


def push(
    pack: Annotated[
        Path, typer.Argument(metavar="PACK|RUN", help="Pack, as `mer pack` makes it, or folder that mer train wrote.")
    ],
    url: Annotated[
        str, typer.Argument(help=f"{URLS}; a slash at the end keeps the file's name. A run: hf://ORG/NAME or a folder.")
    ],
    revision: Annotated[str | None, typer.Option(help="Branch of a Hub repository.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new Hub repository private.")] = False,
    notes: Annotated[Path | None, typer.Option(help="Markdown to put on the Hub page.")] = None,
    license: Annotated[str, typer.Option(help="A run: terms of its weights, such as CC-BY-NC-4.0.")] = "",
    with_predictions: Annotated[
        bool, typer.Option("--with-predictions", help="A run: also its predictions, which hold labels, and splits.")
    ] = False,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="A pack: as Parquet, for the Hub's viewer and datasets.load_dataset.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Publish a pack or a trained run with its sha256; on the Hub with a page that says what it is and how to use it.

    Of a run go the weights, what they need to be used, and a model card. `mer predict URL clip.mp4` uses it.
    """
    from mer.cache import MerError
    from mer.cache.transfer import push as run
    from mer.pipeline.terminal.console import set_up_logging, status

    set_up_logging()
    try:
        text = notes.read_text(encoding="utf-8") if notes else ""
    except (OSError, UnicodeDecodeError) as error:
        raise MerError(f"{notes}: cannot be read ({error})") from error
    if parquet:
        _push_parquet(pack, url, revision, private, as_json)
        return
    if pack.is_dir():
        _push_run(pack, url, revision, private, text, license, with_predictions, as_json)
        return
    if license or with_predictions:
        raise MerError(f"{pack}: is no run; --license and --with-predictions are for runs, `mer pack` has its own")
    with status.status("verifying and uploading"):
        made = run(pack, url, revision=revision, private=private, notes=text)
    facts = {"url": made.url, "sha256": made.sha256, "bytes": made.bytes}
    _print(facts, as_json, f"{made.url}\nsha256 {made.sha256}")


def _push_run(
    path: Path,
    url: str,
    revision: str | None,
    private: bool,
    notes: str,
    license: str,
    with_predictions: bool,
    as_json: bool,
) -> None:
    from mer.pipeline.results.shared_runs import push_run
    from mer.pipeline.terminal.console import status

    with status.status("checking and uploading"):
        made = push_run(
            path, url, license=license, with_predictions=with_predictions, notes=notes, revision=revision,
            private=private,
        )  # fmt: skip
    facts = {"url": made.files.url, "sha256": made.files.sha256, "bytes": made.files.bytes}
    lines = [f"{made.files.url}: {made.files.files} files", f"sha256 {made.files.sha256} (of the manifest)"]
    lines += [f"left out: {one}" for one in made.left_out]
    lines += [] if license else ["no licence was given: others may not know what they may do; add --license"]
    _print({**facts, "left_out": list(made.left_out)}, as_json, "\n".join(lines))


def _push_parquet(pack: Path, url: str, revision: str | None, private: bool, as_json: bool) -> None:
    """Export a pack beside nothing that stays, and publish the folder."""
    import tempfile

    from mer.cache.exchange import export_features
    from mer.cache.transfer import push_folder
    from mer.pipeline.terminal.console import status

    with tempfile.TemporaryDirectory(prefix="mer-push-") as folder:
        home = Path(folder) / "dataset"
        with status.status("writing Parquet and uploading"):
            told = export_features("parquet", pack, home)
            made = push_folder(pack, home, url, revision=revision, private=private)
    for sentence in told:
        status.print(f"note: {sentence}", soft_wrap=True, highlight=False, markup=False)
    _print({"url": made.url, "bytes": made.bytes}, as_json, made.url)


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
