"""The command line of `mer`: the list of commands, the one-line errors, the exit codes.

Exit codes: 0 done, 1 a failure told in one line, 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .terminal.interrupt import INTERRUPTED, exit_code, watch_ctrl_c

# (command, "module:function", panel) in the order of the work; the modules import nothing heavy at their top level.
COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("demo", "demo:demo", "Start here"),
    ("corpora", "corpora:corpora", "What there is"),
    ("encoders", "encoders:encoders", "What there is"),
    ("heads", "heads:heads", "What there is"),
    ("extract", "extract:extract", "Features"),
    ("status", "status:status", "Features"),
    ("info", "info:info", "Features"),
    ("verify", "verify:verify", "Features"),
    ("show-faces", "show_faces:show_faces", "Features"),
    ("train", "train:train", "Heads"),
    ("evaluate", "evaluate:evaluate", "Heads"),
    ("compare", "compare:compare", "Heads"),
    ("leaderboard", "leaderboard:leaderboard", "Heads"),
    ("report", "report:report", "Heads"),
    ("predict", "predict:predict", "Heads"),
    ("pack", "pack:pack", "Sharing"),
    ("push", "transfer:push", "Sharing"),
    ("pull", "transfer:pull", "Sharing"),
    ("diff", "diff:diff", "Sharing"),
    ("import", "exchange:import_features", "Sharing"),
    ("export", "exchange:export_features", "Sharing"),
    ("doctor", "doctor:doctor", "This machine"),
    ("bench", "bench:bench", "This machine"),
)

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a full disk and a used-up quota are called."""

EPILOG = (
    "A first run: `mer demo`. Clips of yours: `mer extract --corpus ./my-clips`, then "
    "`mer train -f cache/my-clips.h5`. Exit codes: 0 done, 1 a failure told in one line, 2 wrong usage, "
    "130 stopped by Ctrl-C, 143 by SIGTERM."
)


class InOrder(TyperGroup):
    """Lists commands in the order of the work, and not groups after commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of `COMMANDS`."""
        return [name for name, _, _ in COMMANDS if name in self.commands]


app = typer.Typer(
    name="mer",
    cls=InOrder,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from mer.cache.release import program_version

        typer.echo(f"mer {program_version()}")
        raise typer.Exit


@app.callback(epilog=EPILOG, invoke_without_command=True)
def root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")
    ] = False,
) -> None:
    """Multimodal emotion recognition: encode a corpus once with frozen encoders, train small heads on the cache."""
    if context.invoked_subcommand is None:
        typer.echo("\n".join(where_one_stands(Path())))


def where_one_stands(folder: Path) -> list[str]:
    """Lines for `mer` alone: what lies in a folder, and the commands that come next."""
    caches = sorted(folder.glob("cache/*.h5"), key=_age, reverse=True)
    runs = sorted((path.parent for path in folder.glob("runs/*/run.json")), key=_age, reverse=True)
    steps = [("mer demo", "the whole way in a minute, without data or downloads")]
    steps += [
        ("mer extract --corpus ./my-clips", "features of your own clips"),
        ("mer corpora", "corpora known by name"),
    ]
    here = [f"here: {', '.join(map(str, (*caches[:3], *runs[:3])))}", ""] if caches or runs else []
    if runs:
        steps = [(f"mer report {runs[0]}", "a page of its results"), (f"mer predict {runs[0]} CLIP", "new clips")]
    if caches:
        fresh = (f"mer train -f {caches[0]}", "train a head on these features")
        steps = [fresh, *steps] if runs else [fresh, (f"mer info {caches[0]}", "what is in them"), steps[1]]
    width = max(len(command) for command, _ in steps)
    begin = "next" if here else "begin with"
    lines = [f"  {command:<{width}}  {what}" for command, what in steps]
    return [*here, f"{begin}:", *lines, "", "all commands: mer --help; this machine: mer doctor"]


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed meanwhile
        return 0.0


def _register() -> None:
    for name, target, panel in COMMANDS:
        module, _, function = target.partition(":")
        loaded = importlib.import_module(f"mer.pipeline.commands.{module}")
        command = getattr(loaded, function)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(command)


_register()


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if argv is None:
        watch_ctrl_c()
    _warn_of_namesake()
    try:
        app(args=arguments, prog_name="mer")
    except SystemExit as left:
        if left.code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            print("mer: interrupted; run the same command again to go on", file=sys.stderr)
            sys.exit(exit_code())
        raise
    except BrokenPipeError:
        # The reader of our output went away (`mer info | head`); that is no failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"mer: {_told(error)}", file=sys.stderr)
        code = getattr(error, "exit_code", 1)
        sys.exit(exit_code() if code == INTERRUPTED else code)


def _warn_of_namesake() -> None:
    """Say in one line that the other package called `mer` lies in this environment too."""
    try:
        distribution("mer")  # cheap; what is behind it costs an import of numpy
    except PackageNotFoundError:
        return
    from mer.cache.release import clash

    if told := clash():
        print(f"mer: warning: {told}", file=sys.stderr)


def _told(error: Exception) -> str:
    from mer.cache import MerError  # here, so that `mer --help` stays free of it

    if isinstance(error, MerError):
        return one_line(error)
    if isinstance(error, OSError) and error.strerror and (error.filename or error.errno in FULL):
        named = f"{error.filename}: " if error.filename else ""
        advice = "make room" if error.errno in FULL else "check your rights there"
        reason = os.strerror(error.errno).lower() if error.errno else error.strerror  # HDF5 says it at length
        return one_line(MerError(f"{named}{reason}; {advice}, or choose another folder"))
    return f"unexpected {type(error).__name__}: {one_line(error)} (run again with --debug and report it)"


def one_line(error: BaseException) -> str:
    """Return the message of an error, folded to one line, with its notes."""
    parts = [str(error) or type(error).__name__, *getattr(error, "__notes__", ())]
    return " ".join(" ".join(part.split()) for part in parts)


if __name__ == "__main__":
    main()
