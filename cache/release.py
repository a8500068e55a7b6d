"""What this program is installed as, and which version of it runs: every message takes both from here."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution, version

DISTRIBUTION = "mer-toolkit"
"""Name on PyPI. `mer` there is a stranger's package, which has the same import name."""
FORMER = "mer"
"""Name under which older provenance recorded this program's version."""
UPGRADE = f"pip install --upgrade {DISTRIBUTION}"

_COMMAND = "mer.pipeline.cli:main"


def program_version() -> str:
    """Version of this program as pyproject.toml has it; `unknown` where it is not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


def install_line(extra: str) -> str:
    """The command that installs one of the extras."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def clash() -> str:
    """One line about the other package of this import name, where it is installed too; empty where it is not."""
    try:
        other = distribution(FORMER)
    except PackageNotFoundError:
        return ""
    if any(entry.value == _COMMAND for entry in other.entry_points):
        return ""  # this program, installed before it had its own name
    return (
        f"the package `{FORMER}` {other.version} is installed here too; it is another program and overwrites files of"
        f" this one. Run: pip uninstall {FORMER} {DISTRIBUTION}, then: pip install {DISTRIBUTION}"
    )
