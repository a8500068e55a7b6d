"""`mer demo` from synthetic clips to a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from mer.cache import verify
from mer.pipeline.cli import main
from mer.pipeline.training.run_folder import Run


def test_the_demo_goes_the_whole_way_and_learns_more_than_the_commonest_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "user"))
    called: list[object] = []
    monkeypatch.setattr("socket.socket.connect", lambda self, address: called.append(address))
    with pytest.raises(SystemExit) as left:
        main(["demo", "--folder", str(tmp_path), "--clips", "64", "--seeds", "2"])
    assert not left.value.code
    assert called == []  # the network is never touched
    said = capsys.readouterr().out
    for path in ("cache/demo.h5", "runs/demo", "runs/demo/report.html"):
        assert (tmp_path / path).exists()
        assert str(tmp_path / path) in said
    assert verify(tmp_path / "cache/demo.h5") == []
    accuracy = Run.open(tmp_path / "runs/demo").facts["metrics"]["war"]
    assert accuracy["mean"] > accuracy["majority"] + 0.15
