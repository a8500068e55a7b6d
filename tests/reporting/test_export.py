"""Tables and figures for a paper: the numbers of the record, escaped for where they go."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from mer.pipeline.cli import main
from mer.pipeline.reporting.export import Sheet, latex, to_csv, to_latex
from mer.pipeline.training.run_folder import Run


def test_tables_and_figures_of_a_run(make_run: Callable[..., Path], tmp_path: Path) -> None:
    one, two = make_run(), make_run("valence", target="valence")
    with pytest.raises(SystemExit) as left:
        main(["report", str(one), str(two), "-o", str(tmp_path / "r.html"), "--export", str(tmp_path / "out")])
    assert left.value.code in (0, None)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    for name in ("scores.csv", "scores.tex", "scores.svg", "plain-classes.csv", "plain-modalities.tex",
                 "plain-calibration.csv", "plain-reliability.svg", "plain-missing.svg", "plain-map.svg",
                 "plain-curves.svg", "valence-modalities.csv", "valence-missing.svg"):  # fmt: skip
        assert name in names
    assert "valence-classes.csv" not in names
    with (tmp_path / "out" / "scores.csv").open(encoding="utf-8") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    told = Run.open(one).facts["metrics"]["wf1"]
    assert float(rows["plain"]["weighted F1"]) == told["mean"]
    assert float(rows["plain"]["weighted F1 low"]) == told["low"]
    assert rows["valence"]["weighted F1"] == ""
    for path in (tmp_path / "out").glob("*.svg"):
        root = ET.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(--c0)" not in (root.find("{http://www.w3.org/2000/svg}style").text or "")
    drawn = (tmp_path / "out" / "plain-map.svg").read_text()
    assert "joy &lt;mark&gt;&amp;" in drawn  # the legend is within the picture


def test_latex_and_csv_are_escaped() -> None:
    sheet = Sheet(["a_b", "50 %"], [["x & y", float("nan")], ['"q", r', 0.5]], [["x & y", "–"], ['"q", r', "50.0 ± 1"]])
    assert to_csv(sheet) == 'a_b,50 %\nx & y,\n"""q"", r",0.5\n'
    assert to_latex(sheet).splitlines()[3:8] == [
        r"a\_b & 50 \% \\", r"\midrule", r"x \& y & -- \\", r'"q", r & 50.0 $\pm$ 1 \\', r"\bottomrule",
    ]  # fmt: skip
    assert latex(r"\input{x}") == r"\textbackslash{}input\{x\}"
