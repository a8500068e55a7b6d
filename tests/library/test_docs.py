"""docs/python.md: its examples run, in their order, on the demo's cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mer.pipeline.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    words = ["extract", "--corpus", "demo", "--preset", "demo", "--face-encoder", "none", "--corpus-option", "clips=48"]
    with pytest.raises(SystemExit) as left:
        main([*words, "--device", "cpu"])
    assert left.value.code == 0
    blocks = re.findall(r"<!-- run: \w+ -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert len(names["store"]) == 48
    assert names["sequence"].values.shape[1] == names["store"]["audio"].dim
    assert 0 <= names["accuracy"] <= 1
    assert names["there"].shape == names["audio"].shape[:2]
    assert names["run"].path == Path("runs/python")
    assert set(names["frame"]["seed"]) == {0, 1}
