"""What the document shows for R, MATLAB and Octave, run by them where they are installed."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from mer.cache.exchange import export_features, import_features
from mer.cache.pack import PackOptions, pack
from mer.cache.store import FeatureStore

_spec = importlib.util.spec_from_file_location("making", Path(__file__).parent / "making.py")
making = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(making)
DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "format.md").read_text()
KEY = "dia0_utt0"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return making.small(tmp_path_factory.mktemp("source") / "source.h5")


def test_octave_reads_the_exported_mat_file(tmp_path, source):
    if shutil.which("octave-cli") is None:
        pytest.skip("octave-cli is not installed (Debian: octave)")
    export_features("mat", source.path, tmp_path / "m.mat")
    script = f"""
        data = load('{tmp_path / "m.mat"}');
        row = find(strcmp(data.id, '{KEY}'));
        values = data.audio_enc_audio{{row}};
        printf('%d %d %.9g\\n', rows(values), columns(values), values(end, end));
        printf('%s %s\\n', data.split{{row}}, data.text{{row}});
        printf('%d\\n', numel(data.face_enc_face{{4}}));
    """
    called = ["octave-cli", "-q", "--eval", script]
    done = subprocess.run(called, capture_output=True, text=True, check=True, timeout=60)
    found = source.read(source.pick("audio"), KEY)
    first, second, third = done.stdout.splitlines()
    assert first == f"9 5 {found.values[-1, -1]:.9g}"
    assert second == "train Hello, you."
    assert third == "0"


def test_the_mat_file_comes_back_and_has_no_clock(tmp_path, source):
    export_features("mat", source.path, tmp_path / "m.mat")
    export_features("mat", source.path, tmp_path / "again.mat")
    assert (tmp_path / "m.mat").read_bytes() == (tmp_path / "again.mat").read_bytes()
    content = scipy.io.loadmat(tmp_path / "m.mat")
    found = source.read(source.pick("face"), KEY)
    np.testing.assert_array_equal(content["face_enc_face"][0, 0], found.values)
    mapping = {"id": "id", "audio": "audio_enc_audio", "label:emotion": "label_emotion", "split": "split"}
    import_features(None, tmp_path / "m.mat", tmp_path / "back.h5", mapping=mapping)
    back = FeatureStore.open(tmp_path / "back.h5")
    assert back.utterances.keys == source.utterances.keys
    np.testing.assert_array_equal(
        back.read(back.pick("audio"), KEY).values, source.read(source.pick("audio"), KEY).values
    )


def test_r_reads_a_pack_as_the_document_says(tmp_path, source):
    has = shutil.which("Rscript") and subprocess.run(
        ["Rscript", "-e", "library(rhdf5)"], capture_output=True, check=False, timeout=60
    )
    if not has or has.returncode:
        pytest.skip("R with rhdf5 is not installed (Debian: r-base-core r-bioc-rhdf5)")
    packed = pack(source.path, tmp_path / "p.h5", PackOptions("CC0-1.0"))[0]
    listing = re.search(r"```r\n(.*?)```", DOCUMENT, re.DOTALL)[1]
    name = source.pick("audio")
    script = f"""{listing}
        made <- read_utterance("{packed}", "{name}", "{KEY}")
        cat(sprintf("[%s]", paste(c(made$values), collapse = ",")), "\\n")
        cat(sprintf("[%s]", paste(made$times, collapse = ",")), all(made$valid), "\\n")
    """
    (tmp_path / "read.R").write_text(f"options(digits = 12)\n{script}")
    done = subprocess.run(["Rscript", str(tmp_path / "read.R")], capture_output=True, text=True, check=True, timeout=60)
    found = source.read(name, KEY)
    first, second = done.stdout.splitlines()
    np.testing.assert_allclose(json.loads(first), found.values.ravel(), rtol=1e-6)  # D × T, column by column
    assert second.split()[1] == "TRUE"
    np.testing.assert_allclose(json.loads(second.split()[0]), found.times, rtol=1e-6)
