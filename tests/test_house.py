"""The house rules: what is packaged, who may import whom, and that help stays quick to load."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import files
from pathlib import Path

import pytest

from mer.cache.release import DISTRIBUTION

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("cache", "stages", "pipeline")
HEAVY = {"torch", "transformers", "librosa", "cv2", "av", "h5py", "dask", "distributed", "sklearn", "scipy", "numpy"}


def sources() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def test_every_folder_with_code_is_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(settings["tool"]["setuptools"]["packages"])
    assert {".".join(installed_as(path).parent.parts) for path in sources()} == listed


def installed_as(path: Path) -> Path:
    """Where a source file lies below site-packages; pipeline/api/ is the package `mer` itself."""
    return Path("mer", path.relative_to(ROOT / "pipeline/api" if path.is_relative_to(ROOT / "pipeline/api") else ROOT))


def test_the_installed_package_holds_every_source_file() -> None:
    installed = {str(file) for file in files(DISTRIBUTION) or () if str(file).endswith(".py")}
    if not any(name.startswith("mer/") for name in installed):
        pytest.skip("editable install: the wheel's files are compared in CI, where the package is installed plainly")
    assert installed >= {installed_as(path).as_posix() for path in sources()}


def imports_of(path: Path) -> list[tuple[str, int]]:
    """(module, level) of every import statement of a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level))
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_cross_rooms_absolutely_and_stay_relative_inside(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for module, level in imports_of(path):
        if level == 0:
            assert module.split(".")[0] not in ROOMS, f"{module} is a bare room name; write mer.{module}"
            inside = module == f"mer.{room}" or module.startswith(f"mer.{room}.")
            assert not inside or (room == "pipeline" and {"commands", "api"} & set(path.parts)), (
                f"{module} is in this room"
            )


def test_the_cache_never_imports_torch() -> None:
    for path in (ROOT / "cache").rglob("*.py"):
        assert not {module.split(".")[0] for module, _ in imports_of(path)} & {"torch", "transformers"}, path


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, mer.pipeline.cli; print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def graph() -> dict[str, set[str]]:
    """Module to the modules of the project that it imports, wherever in the file."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sources()}
    known = {name.removesuffix(".__init__"): name for name in names}
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        package = name.split(".")[:-1]
        edges = found.setdefault(name.removesuffix(".__init__"), set())
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".").removeprefix("mer.")
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                edges |= {inner if inner in known else module} & known.keys()
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges = graph()
    assert len(edges) > 150
    assert edges["pipeline.library.runs"] >= {"pipeline.training.run"}
    try:
        list(TopologicalSorter(edges).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other in a circle: {' -> '.join(error.args[1])}")


def test_the_architecture_names_every_room() -> None:
    document = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {path.parent.relative_to(ROOT) for path in sources() if path.name == "__init__.py"}
    shown = {room for room in rooms if len(room.parts) == 2}
    assert {str(room) for room in shown if f"`{room}/`" not in document} == set()
