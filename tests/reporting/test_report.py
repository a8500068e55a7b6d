"""The report: everything a run holds is on the page, nothing of the data becomes markup, nothing is fetched."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import f1_score

from mer.cache import MerError
from mer.pipeline.reporting import charts as report_charts
from mer.pipeline.reporting.charts import Series, _ticks, confusion_table, line_chart
from mer.pipeline.reporting.data import read_run
from mer.pipeline.reporting.html import el, render
from mer.pipeline.reporting.page import build_page, write_report
from mer.pipeline.results.tables import print_run
from mer.pipeline.training.run_folder import Run


class Page(HTMLParser):
    """Tags, attributes and text of a page, read as a browser reads them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.best: list[str] = []
        self.in_cell = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.in_cell = True
            self.rows[-1].append("")
        if tag == "br" and self.in_cell:
            self.rows[-1][-1] += "|"

    def handle_endtag(self, tag: str) -> None:
        self.in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags and self.tags[-1] == ("b", {"class": "best"}):
            self.best.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data

    def row(self, start: str) -> list[str]:
        """Cells after the first of the one table row whose first cell starts so."""
        (found,) = [row[1:] for row in self.rows if row and row[0].startswith(start)]
        return found


MakeRun = Callable[..., Path]


def test_page_holds_scores_classes_charts_errors_and_provenance(make_run: MakeRun, tmp_path: Path) -> None:
    path = make_run()
    page = Page(write_report([path], tmp_path / "report.html"))
    run = Run.open(path)
    assert f"{100 * run.facts['metrics']['wf1']['mean']:.1f}" in page.text
    for words in ("UAR", "Confusion", "joy <mark>&", "validation weighted F1", "training loss", "Map", "made-text"):
        assert words in page.text
    assert run.specs["audio"].fingerprint in page.text
    assert run.facts["versions"]["torch"] in page.text
    assert str(tmp_path.parent) not in page.text  # folders of the machine stay on it
    assert sum(tag == "svg" for tag, _ in page.tags) == 6  # two curves, two maps, reliability, missing modalities
    test_rows = (run.predictions(run.members[0]["name"]).split == "test").sum()
    assert sum(attrs.get("class") == "point" for _, attrs in page.tags) == 2 * test_rows


def test_figures_are_those_of_the_record(make_run: MakeRun, tmp_path: Path) -> None:
    path = tmp_path / "told"
    shutil.copytree(make_run(), path)
    run = Run.open(path)
    metrics, cells, prior = run.facts["metrics"], [], []
    for place, name in enumerate(("war", "uar", "wf1", "macro_f1"), 5):
        metrics[name] |= {"mean": place / 10, "std": place / 100, "low": 0.011 * place, "high": 0.95 + place / 1000}
        metrics[name]["majority"] = 0.03 * place
        cells.append(f"{10 * place}.0 ± {place}.0|{1.1 * place:.1f} – {95 + place / 10:.1f}")
        prior.append(f"{3 * place}.0")
    run.write()
    page = Page(write_report([path], tmp_path / "report.html"))
    assert page.row("told|") == cells
    assert page.row("training prior alone") == prior
    counts = np.array(metrics["confusion"])
    for number, name in enumerate(("calm", "joy <mark>&", "anger")):
        hit, true, guessed = counts[number, number], counts[number].sum(), counts[:, number].sum()
        shares = (hit / guessed, hit / true, 2 * hit / (true + guessed))
        classes, confusion = (row[1:] for row in page.rows if row[:1] == [name] and len(row) > 3)
        each = [run.predictions(member["name"]).part("test") for member in run.members]
        f1 = [f1_score(found.labels == number, found.outputs.argmax(1) == number) for found in each]
        assert classes == [*(f"{100 * share:.1f}" for share in shares), f"± {100 * np.std(f1, ddof=1):.1f}", "8"]
        per_seed = [f"{count / 2:.1f}".removesuffix(".0") for count in counts[number]]
        assert confusion == [f"{share:.0%}{n}" for share, n in zip(counts[number] / true, per_seed, strict=True)]


def test_a_metric_without_a_value_is_a_dash(make_run: MakeRun, tmp_path: Path) -> None:
    """One that is undefined, and one that an older version did not record."""
    path = tmp_path / "older"
    shutil.copytree(make_run(), path)
    run = Run.open(path)
    run.facts["metrics"]["uar"] |= dict.fromkeys(("mean", "std", "low", "high", "majority"))
    del run.facts["metrics"]["macro_f1"]
    for member in run.members:
        del member["test"]["macro_f1"]
    run.write()
    page = Page(write_report([path], tmp_path / "report.html"))
    shown, prior = page.row("older|"), page.row("training prior alone")
    assert (shown[1], shown[3], prior[1], prior[3]) == ("–", "–", "–", "–")
    assert "–" not in (shown[0], shown[2], prior[0], prior[2])


def test_an_utterance_is_judged_by_the_mean_of_its_models(make_run: MakeRun) -> None:
    path = make_run()
    run, judged = Run.open(path), {one.key: one for one in read_run(path).judged}
    parts = [run.predictions(member["name"]).part("test") for member in run.members]
    assert len(parts) == 2
    for key, label, first, second in zip(parts[0].keys, parts[0].labels, *(p.outputs for p in parts), strict=True):
        np.testing.assert_allclose(judged[str(key)].output, (first.astype(float) + second) / 2, rtol=1e-6)
        assert judged[str(key)].label == label


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[Any, ...]]]:
    """Arguments of every chart, by the chart's name."""
    calls: dict[str, list[tuple[Any, ...]]] = {}

    def keep(name: str, honest: Callable[..., str]) -> Callable[..., str]:
        def draw(*arguments: Any, **more: Any) -> str:
            calls.setdefault(name, []).append(arguments)
            return honest(*arguments, **more)

        return draw

    for module, name in (("run", "line_chart"), ("run", "scatter_chart"), ("page", "interval_chart")):
        honest = getattr(report_charts, name)
        monkeypatch.setattr(f"mer.pipeline.reporting.{module}.{name}", keep(name, honest))
    return calls


def test_charts_draw_the_history_the_errors_and_the_spread(
    make_run: MakeRun, drawn: dict[str, list[tuple[Any, ...]]], tmp_path: Path
) -> None:
    run = Run.open(make_run("fdrl", head="fdrl", **{"head.dim": 8}))
    write_report([run.path, make_run()], tmp_path / "report.html")
    (scores, _, _), (losses, _, _) = drawn["line_chart"][:2]
    for member, score, loss in zip(run.members, scores, losses, strict=True):
        history = run.history(member["name"])
        assert score.y == [100 * entry["val_wf1"] for entry in history]
        assert score.mark == member["best_epoch"]
        terms = ("task", "predict", "align", "disparity")
        assert loss.y == pytest.approx([sum(entry[term] for term in terms) for entry in history])
        assert loss.mark is None
    rows, prior, _ = drawn["interval_chart"][0]
    told = run.facts["metrics"]["wf1"]
    assert (rows[0].label, rows[0].mean) == ("fdrl", 100 * told["mean"])
    assert (rows[0].low, rows[0].high, prior) == tuple(100 * told[name] for name in ("low", "high", "majority"))
    assert rows[0].values == [100 * member["test"]["wf1"] for member in run.members]
    points, colours, hollow, titles, *_ = drawn["scatter_chart"][2]  # by class; each run also has a map by speaker
    judged = {one.key: one for one in read_run(make_run()).judged}
    named = [judged[title.split(" ")[0]] for title in titles]
    assert colours == [one.label for one in named]
    assert hollow == [one.output.argmax() != one.label for one in named]
    assert len(set(hollow)) == 2
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-6)  # around the middle of the fused vectors


def test_the_page_of_numbers_names_the_largest_errors_and_the_least_mean_error(
    make_run: MakeRun, drawn: dict[str, list[tuple[Any, ...]]], tmp_path: Path
) -> None:
    path, other = make_run("valence", target="valence"), tmp_path / "other"
    shutil.copytree(path, other)
    run = Run.open(other)
    for name, value in (("mae", 0.125), ("pearson", -0.5)):
        run.facts["metrics"][name]["mean"] = value
    run.write()
    page = Page(write_report([path, other], tmp_path / "report.html"))
    assert any(best.startswith("0.125") for best in page.best)
    assert not any(best.startswith("-0.500") for best in page.best)
    judged = read_run(path).judged
    points = drawn["scatter_chart"][0][0]
    assert points.tolist() == [[one.label, one.output[0]] for one in judged]
    worst = sorted(judged, key=lambda one: -abs(one.output[0] - one.label))[:12]
    rows = [row for row in page.rows if row and row[0].startswith("d")][:12]
    assert [row[0].split("|")[0] for row in rows] == [one.key for one in worst]
    assert [row[1:] for row in rows] == [[f"{one.label:.2f}", f"{one.output[0]:.2f}"] for one in worst]


def test_errors_are_shown_with_truth_and_guess(make_run: MakeRun, tmp_path: Path) -> None:
    path = make_run()
    page, classes = Page(write_report([path], tmp_path / "report.html")), Run.open(path).classes
    one = read_run(path).worst(1)[0]
    guess = int(one.output.argmax())
    (row,) = [row[1:] for row in page.rows if row and row[0].startswith(f"{one.key}|") and len(row) == 3]
    assert row == [classes[one.label], f"{classes[guess]}|{100 * one.output[guess]:.1f}"]


def test_most_confident_error_comes_first_and_is_one(make_run: MakeRun) -> None:
    view = read_run(make_run())
    worst = view.worst(100)
    confidence = [one.output.max() for one in worst]
    assert confidence == sorted(confidence, reverse=True)
    wrong = {one.key for one in view.judged if one.output.argmax() != one.label}
    assert {one.key for one in worst} == wrong
    assert wrong


def test_confusion_counts_every_test_row_of_every_model(make_run: MakeRun) -> None:
    view = read_run(make_run())
    counts = view.confusion()
    assert counts.sum() == 24 * 2
    assert counts.sum(1).tolist() == [16, 16, 16]


def test_data_never_becomes_markup(make_run: MakeRun, tmp_path: Path) -> None:
    path = write_report([make_run()], tmp_path / "report.html")
    page = Page(path)
    names = {tag for tag, _ in page.tags}
    assert names.isdisjoint({"script", "img", "mark", "corpus", "i>", "iframe", "link", "object"})
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert '<script>alert("x")</script>' in page.text  # shown as the text it is
    assert 'Made "up" <corpus>' in page.text


def test_page_asks_for_nothing_outside_itself(make_run: MakeRun, tmp_path: Path) -> None:
    source = write_report([make_run()], tmp_path / "report.html").read_text()
    page = Page(tmp_path / "report.html")
    assert not [attrs for _, attrs in page.tags if {"src", "href", "action"} & attrs.keys()]
    assert "url(" not in source
    assert "@import" not in source
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_several_runs_stand_side_by_side(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(), make_run("text-only", modalities=("text",))]
    page = Page(write_report(runs, tmp_path / "report.html"))
    assert "2 runs" in page.text
    assert "text-only" in page.text
    assert any(attrs.get("class") == "best" for _, attrs in page.tags)
    assert sum(attrs.get("class") == "interval" for _, attrs in page.tags) == 2


@pytest.mark.parametrize(("target", "words"), [("valence", "Prediction against truth"), ("tags", "mAP")])
def test_numbers_and_sets_of_classes_have_their_own_page(
    make_run: MakeRun, tmp_path: Path, target: str, words: str
) -> None:
    page = Page(write_report([make_run(target, target=target)], tmp_path / "report.html"))
    assert words in page.text
    assert "nan" not in page.text.lower().split()


def test_sets_of_classes_have_scores_per_label(make_run: MakeRun, tmp_path: Path) -> None:
    path = make_run("tags", target="tags")
    rows = {row.name: row for row in read_run(path).by_class()}
    counts = Run.open(path).facts["metrics"]["label_counts"]
    assert [row.support for row in rows.values()] == [true for _, true, _ in counts] == [32, 16]
    assert rows["loud"].recall == counts[0][0] / 32
    text = Page(write_report([path], tmp_path / "report.html")).text
    assert "Per label" in text
    assert "Predictions" not in text
    shown = Console(width=120)
    with shown.capture() as captured:
        print_run(Run.open(path), shown)
    assert re.search(r"loud .* 16\b", captured.get().split("By label")[1])


def test_runs_of_different_targets_and_corpora_are_told_apart(make_run: MakeRun, tmp_path: Path) -> None:
    views = [read_run(make_run()), read_run(make_run("valence", target="valence"))]
    other = {"name": "walked", "title": "Walked streets", "license": "CC0-1.0"}
    page = build_page([views[0], replace(views[1], corpus=other)])
    assert "Walked streets" in page.split("</header>")[0]
    assert "different corpora or targets" in page
    assert "Made &quot;up&quot; &lt;corpus&gt; is synthetic" in page
    assert 'class="best"' not in page
    assert "target valence</small>" in page


def test_folders_share_a_name_and_are_told_apart_by_file_and_utterances(make_run: MakeRun, tmp_path: Path) -> None:
    views = []
    for file in ("mine.h5", "yours.h5"):
        path = Path(shutil.copytree(make_run(), tmp_path / file))
        facts = json.loads((path / "run.json").read_text())
        facts["corpus"], facts["features"]["path"] = "folder", f"caches/{file}"
        (path / "run.json").write_text(json.dumps(facts))
        views.append(replace(read_run(path), corpus={"name": "folder", "title": "A folder"}))
    page = build_page(views)
    assert "A folder (mine.h5) · A folder (yours.h5)" in page
    assert 'class="best"' in page  # the same utterances, as with other encoders
    labelled = replace(views[1], judged=[replace(one, label=(one.label + 1) % 3) for one in views[1].judged])
    named = replace(
        views[1],
        judged=[replace(one, key=f"your {one.key}") for one in views[1].judged],
        predictions={
            name: replace(found, keys=np.array([f"your {key}" for key in found.keys]))
            for name, found in views[1].predictions.items()
        },
    )
    for other in (labelled, named):
        page = build_page([views[0], other])
        assert "different corpora or targets" in page
        assert 'class="best"' not in page
        assert "yours.h5, target emotion</small>" in page


def test_runs_in_folders_of_one_name_are_told_apart(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [Path(shutil.copytree(make_run(), tmp_path / home / "drkf")) for home in ("monday", "friday")]
    text = Page(write_report(runs, tmp_path / "report.html")).text
    assert "monday/drkf" in text
    assert "friday/drkf" in text
    assert str(tmp_path.parent) not in text


def test_a_run_whose_test_rows_were_left_alone_says_so(make_run: MakeRun, tmp_path: Path) -> None:
    page = Page(write_report([make_run("untested", score_test=False)], tmp_path / "report.html"))
    assert "These are validation figures" in page.text


def test_without_the_feature_file_the_page_lacks_only_transcripts(
    make_run: MakeRun, features: Path, tmp_path: Path
) -> None:
    path = make_run()
    aside = features.with_suffix(".aside")
    features.rename(aside)
    try:
        page = Page(write_report([path], tmp_path / "report.html"))
    finally:
        aside.rename(features)
    assert "Transcripts are not shown" in page.text
    assert "number 7" not in page.text


def test_what_is_no_finished_run_is_told_in_one_line(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(MerError, match="is no run"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(MerError, match="no run was named"):
        write_report([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_text_is_escaped_and_elements_are_not() -> None:
    assert render(["a<b", el("i", "x&y", title='"')]) == 'a&lt;b<i title="&quot;">x&amp;y</i>'


def test_ticks_are_round_and_inside() -> None:
    assert _ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert _ticks(-13, 87) == pytest.approx([0, 20, 40, 60, 80])


def test_a_line_breaks_where_a_value_is_missing_and_survives_constants() -> None:
    chart = line_chart([Series([1, 2, 3, 4], [1.0, 1.0, float("nan"), 1.0])], "epoch", "loss")
    assert chart.count("<polyline") == 2
    assert "nan" not in chart


def test_confusion_shades_by_share_of_the_row() -> None:
    made = confusion_table(np.array([[3, 1], [0, 0]]), ["a", "b"])
    assert [float(shade) for shade in re.findall(r"--v:([\d.]+)", made)] == [0.75, 0.25, 0.0, 0.0]
    assert re.findall(r'title="(.*?)"', made) == [
        "3 × a taken for a",
        "1 × a taken for b",
        "0 × b taken for a",
        "0 × b taken for b",
    ]
