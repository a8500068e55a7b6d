"""Tables and verdicts as they are printed, from numbers made up for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.table import Table

from mer.pipeline.results.compare import Pair, verdict
from mer.pipeline.results.tables import class_tables, label_table, scores_table
from mer.pipeline.scores.metrics import NAMES

ONE = {"mean": 0.5, "std": 0.04, "low": 0.45, "high": 0.55, "over": "runs", "pooled": 0.6, "pooled_std": 0.1}


def rows_of(table: Table) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in zip(*(column.cells for column in table.columns), strict=True)]


def test_scores_stand_with_spread_interval_pool_and_prior() -> None:
    metrics = {name: {**ONE, "majority": 0.25} for name in ("war", "uar", "wf1", "macro_f1")}
    metrics["uar"] |= dict.fromkeys(("std", "low", "high", "majority"))
    table = scores_table(metrics, 2)
    assert [str(column.header) for column in table.columns][2] == "95 % interval (seeds x folds)"
    assert str(scores_table(metrics, 1).columns[2].header) == "95 % interval (seeds)"
    shown = rows_of(table)
    assert shown[0] == ["WAR (accuracy)", "50.0 ± 4.0", "45.0 to 55.0", "60.0", "25.0"]
    assert shown[1] == ["UAR", "50.0", "–", "60.0", "–"]
    metrics = dict.fromkeys(NAMES["real"], metrics["war"])
    assert rows_of(scores_table(metrics, 1))[0] == ["MAE", "0.500 ± 0.040", "0.450 to 0.550", "0.600", "0.250"]


def test_classes_stand_with_what_they_were_taken_for() -> None:
    """Two seeds: six of eight `a` are right, `b` is always taken for `a`, and `c` does not occur."""
    scores, taken = map(rows_of, class_tables(("a", "b", "c"), [[6, 2, 0], [4, 0, 0], [0, 0, 0]], 2))
    assert scores == [["a", "60.0", "75.0", "66.7", "4"], ["b", "0.0", "0.0", "0.0", "2"], ["c", "–", "–", "–", "0"]]
    assert taken == [["a", "75", "25", "0"], ["b", "100", "0", "0"], ["c", "–", "–", "–"]]
    shown = rows_of(label_table(("loud", "fast"), [[3, 6, 4], [0, 2, 0]], 2))
    assert shown == [["loud", "75.0", "50.0", "60.0", "3"], ["fast", "–", "0.0", "0.0", "1"]]


@pytest.mark.parametrize(
    ("metric", "difference", "ahead"), [("war", 0.1, "b"), ("war", -0.1, "a"), ("mae", 0.1, "a"), ("mae", -0.1, "b")]
)
def test_a_verdict_names_the_better_run_by_the_adjusted_p(metric: str, difference: float, ahead: str) -> None:
    pair = Pair("a", "b", metric, difference, 0.01, 0.049, 9, "dialogues", 40, None, None, None, "")
    assert verdict(pair) == f"{ahead} is better (p = 0.049)"
    assert verdict(replace(pair, p_holm=0.05)) == "no evidence of a difference (p = 0.050)"
