"""`mer info` and `mer verify` through the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mer.cache import Catalogue, FeatureSpec, FeatureStore, read_catalogue, write_catalogue
from mer.pipeline.cli import main

Cache = Callable[..., Path]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as left:
        code = int(left.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_info_shows_what_is_inside(make_cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", make_cache())
    assert code == 0
    for words in ("Tiny corpus", "CC0-1.0", "13 utterances", "audio-tiny-", "text-words-", "local/tiny@0123abc"):
        assert words in out
    assert "2 × no sound stream" in out
    table = [line.split() for line in out.splitlines()]
    assert ["all", "5", "4", "4", "13"] in table
    assert ["joy", "1", "1", "1", "3"] in table


def test_info_as_json_counts_by_hand(make_cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_cache()
    facts = json.loads(run(capsys, "info", path, "--json")[1])
    assert facts["utterances"]["count"] == 13
    assert facts["utterances"]["splits"] == {"train": 5, "val": 4, "test": 4}
    assert facts["targets"]["emotion"]["splits"]["train"] == {"labelled": 3, "unlabelled": 2, "counts": [1, 1, 1]}
    made = facts["sets"][FeatureStore.open(path).pick("text")]
    assert made["fates"] == {"pending": 0, "ok": 10, "missing": 2, "failed": 1}
    assert made["bytes"] == made["steps"] * 3 * 4
    files = [path, *path.parent.glob("tiny.shards/*/*.h5")]
    assert facts["bytes"] == sum(file.stat().st_size for file in files)


def test_reproduce_prints_pinned_commands(make_cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_cache()
    catalogue = read_catalogue(path)
    index = next(iter(catalogue.sets.values()))
    audio = {
        "checkpoint": "lab/sound",
        "revision": "abc",
        "layers": [6, 9],
        "precision": "float32",
        "max_seconds": 30.0,
    }
    specs = [
        FeatureSpec("audio", "sound", audio, 4, {"channel": "center"}),
        FeatureSpec("audio", "sound", audio | {"layers": [12]}, 4, {"channel": "center"}),
        FeatureSpec("text", "words", {"checkpoint": "lab/words", "layers": [1, 2], "precision": "float32"}, 4, stack=2),
    ]
    index.spec = specs[0]
    sets = {spec.set_name: type(index)(**(vars(index) | {"spec": spec})) for spec in specs}
    provenance = {
        "libraries": {"mer": "0.1.0", "torch": "2.13.0+cpu"},
        "python": "3.11.7",
        "options": {
            "corpus": "meld",
            "split": "dev set",
            "corpus_options": {"test_set": "two words", "clips": 48, "turns": True, "labels": "final"},
        },
    }
    write_catalogue(path, Catalogue(catalogue.corpus, catalogue.utterances, sets, provenance))
    code, out, _ = run(capsys, "info", path, "--reproduce")
    assert code == 0
    chosen = "--corpus-option clips=48 --corpus-option 'test_set=two words' --corpus-option turns=true --out OUT.h5"
    assert out.splitlines() == [
        "pip install mer-toolkit==0.1.0 torch==2.13.0  # Python 3.11.7",
        "mer extract --corpus meld --root DIR --text-encoder lab/words --audio-encoder lab/sound@abc "
        "--face-encoder none --layers audio=6,9 --layers text=all --channel center --dtype float16 "
        "--max-audio-seconds 30.0 --precision float32 --split 'dev set' --labels final " + chosen,
        "mer extract --corpus meld --root DIR --text-encoder none --audio-encoder lab/sound@abc --face-encoder none "
        "--layers audio=12 --channel center --dtype float16 --max-audio-seconds 30.0 --precision float32 "
        "--split 'dev set' --labels final " + chosen,
    ]


def test_verify_says_that_all_is_well_and_sweeps(make_cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_cache()
    stale = next(path.parent.glob("tiny.shards/*")) / ".0123.h5.89abcdef.partial"
    stale.write_bytes(b"half")
    os.utime(stale, (0, 0))
    code, out, err = run(capsys, "verify", path)
    assert code == 0
    assert "tiny.h5 is whole: 13 utterances, 2 feature sets, 20 sequences" in out
    assert "removed .0123.h5.89abcdef.partial" in err
    assert not stale.exists()


def test_verify_names_damage_and_leaves_with_1(make_cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_cache()
    next(path.parent.glob("tiny.shards/audio-*/*.h5")).unlink()
    code, out, _ = run(capsys, "verify", path)
    assert code == 1
    assert "train/dia" in out
    assert "is missing" in " ".join(out.split())
    assert "to repair: run: mer extract --corpus tiny --out tiny.h5" in out
    code, out, _ = run(capsys, "verify", path, "--json")
    assert code == 1
    assert {problem["set_name"][:5] for problem in json.loads(out)} == {"audio"}


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_wrong_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    (tmp_path / "a.h5").write_text("no features here")
    code, out, err = run(capsys, command, tmp_path / "a.h5")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "is not a feature file of mer" in err


def test_pack_writes_the_terms_and_info_shows_them(
    make_cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.h5"
    terms = (
        "--license",
        "LicenseRef-lab",
        "--terms",
        "for research",
        "--contact",
        "us@lab.org",
        "--gap",
        "no children",
    )
    code, told, noted = run(capsys, "pack", make_cache(), "-o", out, *terms, "--split", "train", "--max-bytes", "1.5MB")
    assert code == 0
    assert f"pack: {out} (" in told
    assert "in 2 parts under" in told
    assert "noted: only the splits train" in noted
    assert "the pack names no citation; add one with --citation" in noted
    shown = run(capsys, "info", out)[1]
    for words in ("LicenseRef-lab", "for research", "us@lab.org", "no children", "only the splits train"):
        assert words in shown
    assert run(capsys, "verify", out)[0] == 0


@pytest.mark.parametrize("size", ["two", "-1", "3 parsecs", "1e9"])
def test_sizes_that_are_none_are_told(
    make_cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str
) -> None:
    options = ("-o", tmp_path / "out.h5", "--license", "MIT", f"--max-bytes={size}")
    code, _, err = run(capsys, "pack", make_cache(), *options)
    assert code == 1
    assert "is not understood; write it as 2GB or 500MB" in err


def test_a_pack_needs_a_licence(make_cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "pack", make_cache(), "-o", tmp_path / "out.h5")
    assert code == 2
    assert "--license" in err


def test_diff_prints_differences_and_can_signal_them(
    make_cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = make_cache(), tmp_path / "out.h5"
    run(capsys, "pack", source, "-o", out, "--license", "MIT", "--split", "train")
    code, told, _ = run(capsys, "diff", source, out)
    assert code == 0
    assert "  license: (none) -> MIT" in told
    assert (
        "  only first: 8 (train/dia0_utt1, train/dia0_utt2, train/dia1_utt1, train/dia1_utt2, train/dia2_utt1, …)"
        in told
    )
    assert run(capsys, "diff", source, out, "--exit-code")[0] == 1
    assert run(capsys, "diff", source, source, "--exit-code") == (
        0,
        "no difference in specs, utterances, labels or features\n",
        "",
    )
    assert json.loads(run(capsys, "diff", source, out, "--json")[1])["utterances"]["only_first"]["count"] == 8
