"""Runs that are handed on: the same weights elsewhere, and nothing that was tampered with or would execute."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mer.cache import MerError
from mer.cache.transfer.hub import HubAddress
from mer.pipeline.cli import main
from mer.pipeline.results.shared_runs import open_run, push_run
from mer.pipeline.training.run_folder import Run


@pytest.fixture
def pushed(make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A published run: its folder, and its URL, as another user sees it."""
    push_run(make_run(), f"file://{tmp_path}/shared/plain", license="CC-BY-4.0", notes="Made for a *test*.")
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "cache of another user"))
    return tmp_path / "shared" / "plain", f"file://{tmp_path}/shared/plain"


def change(folder: Path, name: str, content: bytes) -> None:
    """Replace a published file and vouch for it in the manifest, as a hostile publisher would."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_weights_arrive_and_labels_stay_behind(make_run: Callable[..., Path], pushed: tuple[Path, str]) -> None:
    folder, url = pushed
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "README.md",
        "manifest.json",
        "models/official-seed0.safetensors",
        "models/official-seed1.safetensors",
        "run.json",
    ]
    own, fetched = Run.open(make_run()), open_run(url)
    assert fetched.path != own.path
    for member in own.members:
        here, there = own.load_model(member["name"]), fetched.load_model(member["name"])
        assert all(torch.equal(a, b) for a, b in zip(here.model.parameters(), there.model.parameters(), strict=True))
        assert torch.equal(here.normalisers["text"].mean, there.normalisers["text"].mean)
    published = (folder / "run.json").read_text()
    assert str(make_run().parent) not in published
    assert str(Path(own.facts["features"]["path"]).parent) not in published
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: mer\n")
    for words in ("license: cc-by-4.0", "Made for a *test*.", "AI Act", f"mer predict {url}", "official", "Left out"):
        assert words in card
    assert "<corpus>" not in card


def test_predictions_are_published_when_asked_for(make_run: Callable[..., Path], tmp_path: Path) -> None:
    url = f"file://{tmp_path}/all"
    assert push_run(make_run(), url, with_predictions=True).left_out == ()
    names = {str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*") if path.is_file()}
    assert {"splits.json", "predictions/official-seed0.npz", "history/official-seed1.json"} <= names


def test_a_second_look_fetches_nothing_and_a_damaged_copy_is_fetched_again(pushed: tuple[Path, str]) -> None:
    folder, url = pushed
    first = open_run(url).path
    stamp = (first / "run.json").stat().st_mtime_ns
    assert open_run(url).path == first
    assert (first / "run.json").stat().st_mtime_ns == stamp
    weights = first / "models" / "official-seed0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert open_run(url).load_model("official-seed0").name == "official-seed0"
    shutil.move(folder, folder.with_name("gone"))
    assert open_run(url).path == first


def test_what_was_tampered_with_is_refused_and_leaves_nothing(pushed: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = pushed
    weights = folder / "models" / "official-seed0.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(MerError, match="promised"):
        open_run(url)
    weights.write_bytes(bytes(content) + b"more")
    with pytest.raises(MerError, match="manifest promises"):
        open_run(url)
    assert not list((tmp_path / "cache of another user").rglob("*.safetensors"))


class Harmful:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, (str(self.path), "w"))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("models/official-seed0.pt", "which no run has"),
        ("../../outside.json", "which no run has"),
        ("/tmp/outside.json", "which no run has"),
        ("models/../../outside.safetensors", "which no run has"),
        ("models/.hidden.safetensors", "which no run has"),
        ("code.py", "which no run has"),
        ("models/official-seed0.safetensors", "is damaged"),
    ],
)
def test_a_hostile_run_is_refused(pushed: tuple[Path, str], tmp_path: Path, name: str, words: str) -> None:
    folder, url = pushed
    harm = tmp_path / "harm"
    manifest = json.loads((folder / "manifest.json").read_text())
    content = pickle.dumps(Harmful(harm))
    if name in manifest["files"]:
        change(folder, name, content)
    else:
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MerError, match=words):
        open_run(url)
    assert not harm.exists()
    assert not list(tmp_path.rglob("outside*"))


@pytest.mark.parametrize("head", ["os:system", "odd_heads:Harmful", "no-such-head"])
def test_a_run_that_names_code_is_refused(pushed: tuple[Path, str], head: str) -> None:
    folder, url = pushed
    facts = json.loads((folder / "run.json").read_text())
    change(folder, "run.json", json.dumps({**facts, "head": head}).encode())
    with pytest.raises(MerError, match="code that is not part of mer"):
        open_run(url)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"files": 3}', b'{"files": {"run.json": {"bytes": 1}}}', b"\xff"]
)
def test_what_is_no_manifest_is_refused(pushed: tuple[Path, str], content: bytes) -> None:
    folder, url = pushed
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(MerError, match="is no manifest"):
        open_run(url)


def test_commands_tell_in_one_line(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(one) for one in arguments])
        told = capsys.readouterr()
        return left.value.code, told.out, told.err

    code, out, _ = run("push", make_run(), f"file://{tmp_path}/x")
    assert code in (0, None)
    assert "left out: predictions (they hold the labels of the corpus)" in out
    assert "no licence was given" in out
    code, _, err = run("push", tmp_path, f"file://{tmp_path}/y")
    assert (code, err.count("\n")) == (1, 1)
    assert "is no run" in err
    code, _, err = run("predict", f"file://{tmp_path}/no-such-run", "clip.mp4")
    assert (code, err.count("\n")) == (1, 1)
    code, _, err = run("push", make_run(), "https://example.org/x")
    assert "cannot be written through https" in err


def test_addresses_of_models_on_the_hub() -> None:
    address = HubAddress.parse("hf://you/meld-drkf@v1", kind="model")
    assert (address.repo, address.revision) == ("you/meld-drkf", "v1")
    assert address.url("run.json") == "hf://you/meld-drkf@v1/run.json"
    with pytest.raises(MerError, match="Hub address of a model is hf://ORG/NAME"):
        HubAddress.parse("hf://datasets/you/x", kind="model")
