"""`mer bench --compare`: what counts as slower. And how many modules and files the first moments take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mer.cache import MerError
from mer.pipeline.rates.regressions import read_baseline, regressions

MODULES = {"import mer.pipeline.cli": 58, "import mer": 3, "import mer.cache": 163}
"""Modules beside Python's own that are in memory after an import; each may grow by half before it is looked at."""


def rates(a: list[float], c: list[float], **more: Any) -> dict[str, Any]:
    return {"extraction": [{"modality": "audio", "seconds": {"a": a, "b": [9.0] * len(a), "c": c}, **more}]}


def test_slower_than_the_spread_of_the_turns_is_told() -> None:
    before = rates([2.0, 2.1, 2.0], [1.8, 1.9, 1.8])
    assert regressions(rates([2.0, 2.0, 2.0], [1.8, 1.8, 1.8]), before) == []
    # Twice as slow a machine slows the limit too.
    assert regressions(rates([4.0, 4.2, 4.0], [3.6, 3.8, 3.6]), before) == []
    (told,) = regressions(rates([4.0, 4.2, 4.0], [1.8, 1.9, 1.8]), before)
    assert told.startswith("extraction audio: 0.45 of the limit, 0.90 before")
    # The same fall within turns that differ by as much says nothing.
    assert regressions(rates([2.0, 4.0, 3.0], [1.8, 1.8, 1.8]), before) == []


def test_one_number_per_side_is_compared_too() -> None:
    before = {"training": [{"head": "drkf", "seconds": {"a": 1.0, "b": 3.0}}]}
    now = {"training": [{"head": "drkf", "seconds": {"a": 1.5, "b": 3.0}}]}
    assert [line.split(":")[0] for line in regressions(now, before)] == ["training drkf"]
    assert regressions(before, now) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"extraction": [{}]}', '{"extraction": 3}'])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(content)
    with pytest.raises(MerError, match="no output of `mer bench --json`"):
        read_baseline(path)
    path.write_text(json.dumps(rates([1.0], [1.0])))
    assert read_baseline(path)


@pytest.mark.parametrize("first", MODULES)
def test_imports_do_not_double(first: str) -> None:
    """Counted, not timed: what an import brings in is the same on a busy machine."""
    own = "name.partition('.')[0] not in sys.stdlib_module_names"
    code = f"import sys; {first}; print(sum({own} for name in sys.modules))"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert int(made.stdout) < 1.5 * MODULES[first]
