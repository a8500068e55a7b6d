"""The manners of the command line: exit codes, one-line errors, help."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from folder_clips import write_manifest

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


def test_a_run_stopped_by_hand_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mer.pipeline.training.run.train", stop)
    with pytest.raises(SystemExit) as left:
        main(["train", "--features", "mine.h5"])
    assert left.value.code == 130
    assert capsys.readouterr().err == "mer: interrupted; run the same command again to go on\n"


@pytest.mark.parametrize("where", [(), ("--workers", "1")], ids=["here", "in a worker"])
def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path, where: tuple[str, ...]) -> None:
    """The first one waits for the batch that is being encoded, which here comes to no end."""
    write_manifest(tmp_path, [{"id": "u0", "path": "", "text": "words"}])
    words = ("--corpus", "folder", "--root", ".", "--out", "mine.h5", "--text-encoder", "odd_encoders:Endless", *where)
    with subprocess.Popen(
        [sys.executable, "-m", "mer.pipeline.cli", "extract", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == "encoding\n"
        os.killpg(running.pid, signal.SIGINT)
        if not where:
            told = running.stderr.readline()
            assert told.startswith("mer: interrupted after 0 clips; finished shards are kept")
        while running.poll() is None:
            os.killpg(running.pid, signal.SIGINT)
            time.sleep(0.2)
        told = running.stderr.read()
    assert running.returncode == 130
    assert "Traceback" not in told
    assert told.endswith("mer: left at once; run the same command again to go on\n")
    assert where or told.count("\n") == 1
    assert not list(tmp_path.rglob("*.h5"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "out/x"), "out/x: permission denied; check your rights"),
        (OSError(errno.EROFS, "Read-only file system", "out"), "out: read-only file system; check your rights"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device; make room, or"),
    ],
)
def test_a_folder_that_cannot_be_written_is_told(
    error: OSError, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("mer.pipeline.training.run.train", refuse)
    with pytest.raises(SystemExit) as left:
        main(["train", "--features", "mine.h5"])
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"mer: {told}")
    assert "report it" not in said


def test_an_output_folder_below_a_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(SystemExit) as left:
        main(["demo", "--folder", str(tmp_path / "taken")])
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert f"mer: {tmp_path / 'taken'}" in said
    assert "report it" not in said


def test_a_module_that_python_does_not_see_is_told_how_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["extract", "--corpus", "my_unseen_corpus:Stage", "--root", "."])
    assert left.value.code == 1
    assert "put PYTHONPATH=. before the command" in capsys.readouterr().err


def pages() -> list[tuple[str, ...]]:
    """Every command, those below another one included."""
    from typer.main import get_command

    from mer.pipeline.cli import app

    found: list[tuple[str, ...]] = []
    waiting = [((), get_command(app))]
    while waiting:
        name, command = waiting.pop()
        found.append(name)
        waiting += [((*name, below), made) for below, made in getattr(command, "commands", {}).items()]
    return sorted(found)


@pytest.mark.parametrize("page", pages(), ids=" ".join)
def test_no_name_of_an_option_is_cut_at_80_columns(
    page: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    with pytest.raises(SystemExit):
        main([*page, "--help"])
    assert "…" not in capsys.readouterr().out


def test_mer_alone_says_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def told() -> list[str]:
        with pytest.raises(SystemExit) as left:
            main([])
        assert left.value.code == 0
        return capsys.readouterr().out.splitlines()

    assert [line.split("  ")[1] for line in told() if line.startswith("  ")] == [
        "mer demo",
        "mer extract --corpus ./my-clips",
        "mer corpora",
    ]
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/mine.h5").touch()
    lines = told()
    assert lines[0] == "here: cache/mine.h5"
    assert lines[3].startswith("  mer train -f cache/mine.h5 ")
    (tmp_path / "runs/mine-drkf").mkdir(parents=True)
    (tmp_path / "runs/mine-drkf/run.json").touch()
    assert any(line.startswith("  mer report runs/mine-drkf ") for line in told())


def test_a_shell_is_told_how_a_word_goes_on() -> None:
    asked = {"_MER_COMPLETE": "complete_bash", "COMP_WORDS": "mer ext", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from mer.pipeline.cli import main; main()"],
        capture_output=True, text=True, check=False, env={**os.environ, **asked},
    )  # fmt: skip
    assert done.stdout.split() == ["extract"]


def test_doctor_stays_offline_and_names_the_extras(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(SystemExit) as left:
        main(["doctor", "--json"])
    assert left.value.code == 0
    found = {(one["group"], one["name"]): one for one in json.loads(capsys.readouterr().out)}
    assert found["versions", "torch"]["good"]
    assert found["media", "decoders"]["good"]
    assert "file locks" in {name for group, name in found if group == "disk"}
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
    extras = {name for name in project["optional-dependencies"] if name != "lint" and not name.startswith("test")}
    assert {name for group, name in found if group == "extras"} == extras
    assert not any(group == "network" for group, _ in found)


def test_doctor_asks_the_hub_only_when_told_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SystemExit):
        main(["doctor", "--online"])
    out = " ".join(capsys.readouterr().out.split())
    assert "http://127.0.0.1:9 does not answer within 2 s" in out
    assert "needs attention:" in out
