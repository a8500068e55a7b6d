"""The page of a cache: counts, reasons, outliers and near-duplicates that were put in, and nothing as markup."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from reporting.conftest import NASTY
from reporting.test_report import Page

from mer.cache import Fate, FeatureSequence, LabelColumn, MerError, UtteranceTable
from mer.cache.exchange.bridge import save
from mer.cache.exchange.pack import Imported, PackSet
from mer.cache.store import FeatureStore
from mer.pipeline.cli import main
from mer.pipeline.reporting.cache_page import write_cache_page
from mer.pipeline.results.cache_health import distances, health_of, near_duplicates


def test_distances_by_hand() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 16)).astype(np.float32)
    vectors[7] *= 30
    found = distances(vectors)
    assert int(found.argmax()) == 7
    assert (np.delete(found, 7) < 6).all()
    assert found[7] > 6
    assert distances(np.ones((5, 3), np.float32)).tolist() == [0] * 5


def test_near_duplicates_are_found_across_blocks() -> None:
    vectors = np.random.default_rng(1).normal(size=(1500, 24)).astype(np.float32)
    vectors[1400] = vectors[3]
    vectors[9] = vectors[8] + 1e-4
    assert [(a, b) for a, b, _ in near_duplicates(vectors)] == [(3, 1400), (8, 9)]


@pytest.fixture(scope="module")
def odd_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty utterances: one far out, two of different splits that are one, three without features."""
    rng = np.random.default_rng(2)
    keys = [f"u{at:02d}" for at in range(40)]
    values = rng.normal(size=(40, 12)).astype(np.float32)
    values[5] *= 40
    values[30] = values[2]
    steps = [FeatureSequence.of(np.repeat(row[None], 3, axis=0), np.arange(3)) for row in values]
    table = UtteranceTable.of(
        keys, {"emotion": LabelColumn("class", ("calm", NASTY), np.arange(40) % 2)},
        split=["train"] * 25 + ["test"] * 15, speaker=["a", "b"] * 20,
    )  # fmt: skip
    made = [None if at > 36 else one for at, one in enumerate(steps)]
    path = tmp_path_factory.mktemp("odd") / "odd.h5"
    save(Imported(table, [PackSet("audio", "odd-audio", 12, made)], [], {"name": "odd", "title": NASTY}), path,
         "test", "0" * 64, 1 << 20)  # fmt: skip
    return path


def test_what_was_put_in_is_found(odd_cache: Path) -> None:
    store = FeatureStore.open(odd_cache)
    (name,) = store.sets
    assert int((store.sets[name].fates != Fate.OK).sum()) == 3
    found = health_of(store, name)
    assert [key for key, _ in found.outliers] == ["u05"]
    assert [(one, other) for one, other, _ in found.duplicates] == [("u02", "u30")]
    assert (found.utterances, found.steps, found.still_dims) == (37, (3, 3, 3), 0)


def test_the_page_tells_it_and_asks_for_nothing(odd_cache: Path, tmp_path: Path) -> None:
    page = Page(write_cache_page(odd_cache, tmp_path / "cache.html"))
    assert page.row("u05")[0] == "train"
    assert page.row("u02|u30") == ["train and test", "1.0000"]
    assert page.row("calm")[0].startswith("13|")  # 0, 2, …, 24
    assert NASTY in page.text
    assert not any(tag in ("script", "link", "iframe", "mark") for tag, _ in page.tags)
    text = (tmp_path / "cache.html").read_text()
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert str(tmp_path) not in text


def test_the_command_takes_runs_or_one_cache(
    odd_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["report", str(odd_cache)])
    assert left.value.code in (0, None)
    assert odd_cache.with_suffix(".report.html").is_file()
    broken = tmp_path / "broken.h5"
    broken.write_bytes(b"no cache")
    for arguments, words in (([odd_cache, odd_cache], "is a file"), ([broken], "broken.h5"), ([tmp_path], "is no run")):
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(["report", *map(str, arguments)])
        told = capsys.readouterr().err
        assert left.value.code == 1
        assert words in told
        assert told.count("\n") == 1
    with pytest.raises(MerError):
        write_cache_page(broken, tmp_path / "x.html")
