"""`mer heads`: complete, documented, without torch."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mer.cache import MerError
from mer.pipeline.cli import app
from mer.stages.heads.catalog import CATALOG, COST_MS, config_of, known, settings
from mer.stages.registry import HEADS, find


def test_every_head_is_listed_with_its_own_config() -> None:
    assert list(CATALOG) == list(HEADS)
    assert known()[: len(HEADS)] == list(HEADS)
    for name, entry in CATALOG.items():
        assert find("head", name).Config is entry.config
    assert set(COST_MS) == set(CATALOG)


def test_every_setting_is_documented() -> None:
    for name in HEADS:
        for setting in settings(config_of(name)):
            assert setting.meaning, f"{name}.{setting.name}"
            assert setting.kind in ("int", "float", "bool", "str")


def test_listing_imports_no_torch() -> None:
    code = "import sys, mer.stages.heads.catalog as c; [c.settings(c.config_of(n)) for n in c.known()]; "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_command() -> None:
    listed = CliRunner().invoke(app, ["heads"])
    assert listed.exit_code == 0
    assert all(name in listed.stdout for name in HEADS)
    one = json.loads(CliRunner().invoke(app, ["heads", "fdrl", "--json"]).stdout)[0]
    assert "reconstruction" in one["ours"]
    assert {"name": "align_weight", "kind": "float", "default": 0.5, "meaning": "Weight of the alignment."} in one[
        "settings"
    ]
    shown = CliRunner().invoke(app, ["heads", "drkf"])
    assert "modality_dropout" in shown.stdout


def test_an_unknown_head_is_told() -> None:
    with pytest.raises(MerError, match="unknown head 'drfk'; did you mean 'drkf'"):
        config_of("drfk")
