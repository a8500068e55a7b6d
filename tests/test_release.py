"""The program's name and version: one place each, and no text that sends anybody to the stranger on PyPI."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

import pytest

from mer.cache import release
from mer.pipeline import cli

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = ("cache", "stages", "pipeline", "docs", "tests", "benchmarks", ".ci")
STRANGER = re.compile(r"pip3? install (?:-\S+ |--upgrade )*['\"]?mer(?![\w-])|['\"`]mer\[")


def texts() -> list[Path]:
    suffixes = {".py", ".md", ".toml", ".sh", ""}
    inside = (path for folder in WRITTEN for path in (ROOT / folder).rglob("*"))
    found = [path for path in (*inside, *ROOT.glob("*")) if path.is_file() and path.suffix in suffixes]
    return [path for path in found if path != Path(__file__) and "__pycache__" not in path.parts]


def test_no_text_installs_the_other_package() -> None:
    assert STRANGER.search("pip install --upgrade mer")
    assert STRANGER.search("pip install 'mer[zstd]'")
    assert not STRANGER.search("pip install 'mer-toolkit[zstd]'; pip install mer-toolkit==0.1.0; import mer")
    assert len(texts()) > 200
    wrong = [str(path.relative_to(ROOT)) for path in texts() if STRANGER.search(path.read_text("utf-8", "replace"))]
    assert wrong == []


def test_the_name_and_the_version_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == release.DISTRIBUTION
    assert project["version"] == release.program_version()
    done = subprocess.run(
        [sys.executable, "-m", "mer.pipeline.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"mer {project['version']}\n"
    assert f"\n## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_extras_that_messages_name_are_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        extra
        for path in texts()
        for extra in re.findall(r"mer-toolkit\\?\[(\w[\w-]*)\]", path.read_text("utf-8", "replace"))
    }
    named |= {
        extra
        for path in texts()
        for extra in re.findall(r"install_line\(['\"]([\w-]+)", path.read_text("utf-8", "replace"))
    }
    assert {"zstd", "sweep", "tensorboard", "opensmile", "remote"} <= named <= set(extras)


class Installed(Distribution):
    """A distribution that only has what is asked of it."""

    def __init__(self, entry: str) -> None:
        self.entry = entry

    def read_text(self, filename: str) -> str | None:
        """Metadata as an installer writes them."""
        if filename == "METADATA":
            return "Metadata-Version: 2.1\nName: mer\nVersion: 1.2.1\n"
        return f"[console_scripts]\nmer = {self.entry}\n" if filename == "entry_points.txt" else None

    def locate_file(self, path: object) -> Path:
        """Nowhere."""
        return Path("nowhere")


@pytest.mark.parametrize(("entry", "told"), [("mer.__main__:main", True), ("mer.pipeline.cli:main", False)])
def test_the_other_package_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], entry: str, told: bool
) -> None:
    monkeypatch.setattr(cli, "distribution", lambda name: Installed(entry))
    monkeypatch.setattr(release, "distribution", lambda name: Installed(entry))
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    said = capsys.readouterr().err
    assert ("`mer` 1.2.1 is installed here too; it is another program" in said) is told
    assert said.count("\n") == int(told)


def test_without_the_other_package_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> Distribution:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cli, "distribution", absent)
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().err == ""
