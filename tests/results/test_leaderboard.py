"""Boards of runs: grouped by what they were tested on, ranked, and nothing that cannot be read passes in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from reporting.test_report import Page

from mer.cache import MerError
from mer.pipeline.cli import main
from mer.pipeline.results.leaderboard import leaderboard
from mer.pipeline.training.run_folder import Run


@pytest.fixture(scope="module")
def runs(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of one question with scores set by hand, one of another target, one broken, one unfinished."""
    folder = tmp_path_factory.mktemp("board")
    for name, value in (("good", 0.8), ("best", 0.9), ("sub/poor", 0.5)):
        shutil.copytree(make_run(), folder / name)
        run = Run.open(folder / name)
        run.facts["metrics"]["wf1"] |= {"mean": value, "low": value - 0.05, "high": value + 0.05, "majority": 0.2}
        run.write()
    shutil.copytree(make_run("valence", target="valence"), folder / "valence")
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{")
    shutil.copytree(make_run(), folder / "unfinished")
    run = Run.open(folder / "unfinished")
    run.facts["status"] = "running"
    run.write()
    return folder


def test_runs_are_ranked_within_one_question(runs: Path) -> None:
    boards, left_out = leaderboard(runs)
    assert [(board.target, board.metric) for board in boards] == [("emotion", "wf1"), ("valence", "mae")]
    assert [entry.name for entry in boards[0].entries] == ["best", "good", "sub/poor"]
    assert boards[0].prior == 0.2
    assert [line.partition(":")[0] for line in left_out] == ["broken", "unfinished"]


def test_a_lower_error_ranks_higher(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for name, value in (("a", 0.5), ("b", 0.25)):
        shutil.copytree(make_run("valence", target="valence"), tmp_path / name)
        run = Run.open(tmp_path / name)
        run.facts["metrics"]["mae"]["mean"] = value
        run.write()
    assert [entry.name for entry in leaderboard(tmp_path)[0][0].entries] == ["b", "a"]


def test_other_folds_are_another_board(make_run: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(make_run(), tmp_path / "one")
    shutil.copytree(make_run(), tmp_path / "two")
    run = Run.open(tmp_path / "two")
    run.facts["protocol"]["digest"] = "another"
    run.write()
    assert [len(board.entries) for board in leaderboard(tmp_path)[0]] == [1, 1]


def test_what_cannot_be_ranked_is_told(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(MerError, match="holds no run"):
        leaderboard(tmp_path)
    with pytest.raises(MerError, match="is no folder"):
        leaderboard(tmp_path / "gone")
    with pytest.raises(MerError, match="is of none of these runs"):
        leaderboard(runs, "beauty")


def test_the_command_prints_boards_and_writes_a_page(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["leaderboard", str(runs), "--html", str(tmp_path / "board.html")])
    assert left.value.code in (0, None)
    printed = capsys.readouterr()
    assert printed.out.index("best") < printed.out.index("sub/poor")
    assert "left out: broken:" in printed.err
    page = Page(tmp_path / "board.html")
    assert page.row("best|")[:2] == ["1", "90.0 ± " + page.row("best|")[1].partition(" ± ")[2]]
    assert page.row("sub/poor|")[0] == "3"
    with pytest.raises(SystemExit):
        main(["leaderboard", str(runs), "--json", "--metric", "uar"])
    boards = json.loads(capsys.readouterr().out)["boards"]
    assert [board["metric"] for board in boards] == ["uar"]


def test_a_comparison_is_drawn(make_run: Callable[..., Path], tmp_path: Path) -> None:
    one, two = make_run(), make_run("text", modalities="text")
    with pytest.raises(SystemExit) as left:
        main(["compare", str(one), str(two), "--html", str(tmp_path / "c.html")])
    assert left.value.code in (0, None)
    page = Page(tmp_path / "c.html")
    from mer.pipeline.results.compare import compare

    (pair,) = compare([one, two])
    cells = page.row(f"{two.name} − {one.name}")
    assert cells[1:3] == [f"{pair.p:.4f}", f"{pair.p_holm:.4f}"]
    assert cells[4] == f"{pair.only_first} / {pair.only_second}"
    assert page.row("calm")  # F1 by class
    assert not any(tag in ("script", "mark", "img") for tag, _ in page.tags)
