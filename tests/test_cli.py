"""The manners of the command line: exit codes, one-line errors, help."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mer.pipeline.cli import COMMANDS, main


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mer.pipeline.cli", *arguments], capture_output=True, text=True, check=False
    )


def test_help_lists_every_command_in_the_order_of_the_work() -> None:
    done = run("--help")
    assert done.returncode == 0
    places = [done.stdout.index(f"│ {name} ") for name, _, _ in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("name", [name for name, _, _ in COMMANDS])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert f"mer {name}" in capsys.readouterr().out


def test_wrong_usage_exits_with_2() -> None:
    assert run("extract", "--no-such-option").returncode == 2
    assert run("no-such-command").returncode == 2


def test_a_told_failure_is_one_line_and_exits_with_1() -> None:
    done = run("extract", "--corpus", "folder", "--root", "does-not-exist")
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert "does-not-exist" in lines[0]
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback_wherever_it_stands() -> None:
    done = run("extract", "--corpus", "folder", "--root", "does-not-exist", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_an_unknown_corpus_is_answered_with_the_nearest_name() -> None:
    done = run("extract", "--corpus", "medl", "--root", ".")
    assert done.returncode == 1
    assert "'meld'" in done.stderr
