"""`mer import` and `mer export` as a user calls them."""

import importlib.util
import shlex
from pathlib import Path

import numpy as np
import pytest

from mer.cache import FeatureStore
from mer.pipeline.cli import main

_spec = importlib.util.spec_from_file_location("making", Path(__file__).parent / "making.py")
making = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(making)


def run(capsys, *arguments):
    """Exit code, stdout and stderr of one command."""
    with pytest.raises(SystemExit) as left:
        main([str(one) for one in arguments])
    said = capsys.readouterr()
    return left.value.code or 0, said.out, said.err


def test_export_and_import(tmp_path, capsys):
    source = making.small(tmp_path / "source.h5")
    code, out, err = run(
        capsys, "export", source.path, "--format", "mmsa", "-o", tmp_path / "m.pkl", "--target", "valence"
    )
    assert code == 0
    assert "m.pkl.mer.npz" in out
    assert "note: 'text_bert' is not written" in err
    code, out, err = run(capsys, "import", tmp_path / "m.pkl", "--format", "mmsa", "-o", tmp_path / "b.h5")
    assert code == 0
    assert "8 utterances" in out
    assert "note: ids, labels, lengths and times come from m.pkl.mer.npz" in err
    assert FeatureStore.open(tmp_path / "b.h5").utterances.keys == source.utterances.keys


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("import", "gone.pkl", "--format", "mmsa", "-o", "x.h5"), "gone.pkl does not exist"),
        (("import", "gone.pkl", "--format", "mmsah", "-o", "x.h5"), "format 'mmsah' is not known for import"),
        (("import", "gone.npz", "--format", "npz", "-o", "x.h5", "--map", "id"), "NAME=WHAT"),
        (("import", "gone.pkl", "--format", "mmsa", "-o", "x.h5", "--map", "a=b"), "takes no --map"),
        (("export", "gone.h5", "--format", "csv", "-o", "x"), "format 'csv' is not known for export"),
        (("export", "gone.h5", "--format", "csd", "-o", "x"), "gone.h5 does not exist"),
    ],
)
def test_told_failures(capsys, arguments, told):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (1, "")
    assert told in " ".join(err.split())
    assert len(err.strip().splitlines()) == 1


def test_dry_run_prints_a_command_to_copy(tmp_path, capsys):
    rng = np.random.default_rng(0)
    arrays = {"acoustic": rng.normal(size=(3, 4, 5)), "visual": rng.normal(size=(3, 2)), "labels": np.arange(3.0)}
    np.savez(tmp_path / "mosei senti.npz", **arrays)
    source = tmp_path / "mosei senti.npz"
    code, out, err = run(capsys, "import", source, "--dry-run")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("recognised as npz (")
    assert lines[0].endswith("3 utterances")
    assert "  audio: acoustic, 5 dimensions, 3 utterances" in lines
    assert "there are no ids" in err
    assert not list(tmp_path.glob("*.h5"))
    words = shlex.split(lines[-1])
    assert words[:2] == ["mer", "import"]
    assert words[words.index("face=visual") - 1 : words.index("face=visual") + 1] == ["--map", "face=visual"]
    words[-1] = str(tmp_path / "copied.h5")
    code, out, err = run(capsys, *words[1:])
    assert code == 0
    assert len(FeatureStore.open(tmp_path / "copied.h5").sets) == 2
    code, out, err = run(capsys, "import", tmp_path / "copied.h5", "--dry-run")
    assert code == 1
    assert "is a cache or pack of mer already" in " ".join(err.split())
    code, out, err = run(capsys, "import", source)
    assert code == 1
    assert "say where the cache goes with -o" in err
