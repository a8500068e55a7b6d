"""What happens around a run: shards that vanish, clips that change, places that are URLs, ids that are formulas."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from folder_clips import HERE, Extract, manifest_rows, write_manifest
from synthetic import write_clip

from mer.cache import Fate, FeatureStore, MerError, atomic_write
from mer.pipeline.commands.status import status as show_status
from mer.pipeline.extraction import encode, run
from mer.pipeline.extraction.run import extract

IN_PROCESS = replace(HERE, isolated=False)
TEXT = {"text": ("demo-text",)}


def spoil_after_encoding(monkeypatch: pytest.MonkeyPatch, times: int, spoil: object) -> None:
    """Do something to the shards between their making and the catalogue."""
    whole, done = encode.encode, []

    def spoiled(plan: object, *rest: object) -> object:
        reports = whole(plan, *rest)  # type: ignore[arg-type]
        if len(done) < times:
            done.append(plan)
            spoil(next(Path(made.folder) for made in plan.sets))  # type: ignore[attr-defined, operator]
        return reports

    monkeypatch.setattr(run, "encode", spoiled)


def remove(folder: Path) -> None:
    for shard in folder.glob("*.h5"):
        shard.unlink()


def test_shards_that_vanish_during_the_run_are_made_again_once(
    options: Extract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calm = extract(options(encoders=TEXT, out=tmp_path / "calm" / "mine.h5"), HERE)
    spoil_after_encoding(monkeypatch, 1, remove)
    with caplog.at_level(logging.WARNING, "mer"):
        summary = extract(options(encoders=TEXT), HERE)
    assert summary.lost == 0
    assert "6 utterances lost their features while the run went on; they are made again" in caplog.text
    assert summary.catalogue.read_bytes() == calm.catalogue.read_bytes()


def test_shards_that_vanish_twice_are_no_success(options: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_after_encoding(monkeypatch, 2, remove)
    summary = extract(options(encoders=TEXT), HERE)
    with pytest.raises(MerError, match="6 utterances lost their features while the run went on, twice"):
        summary.check()


def test_a_shard_that_the_disk_changed_is_found_by_reading_it_back(
    options: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, spoiled = encode._remove_damaged, []

    def flip(reports: object, folders: dict[str, Path]) -> None:
        shard = next(next(iter(folders.values())).glob("*.h5"))
        if not spoiled:
            content = bytearray(shard.read_bytes())
            content[-3] ^= 1  # features come last
            shard.write_bytes(content)
        spoiled.append(shard)
        whole(reports, folders)  # type: ignore[arg-type]

    monkeypatch.setattr(encode, "_remove_damaged", flip)
    summary = extract(options(encoders=TEXT), HERE)
    assert len(spoiled) == 2
    summary.check()
    store = FeatureStore.open(summary.catalogue)
    store.load(store.pick("text"), verify=True)


def test_a_clip_that_changes_after_its_digest_has_no_features_of_the_other_content(
    options: Extract, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = options(encoders={"audio": ("demo-audio",)})
    whole = run.encode

    def change_first(*rest: object) -> object:
        before = (clips / "clip0.mp4").stat()
        shutil.copy(clips / "clip5.mp4", clips / "clip0.mp4")
        os.utime(clips / "clip0.mp4", ns=(before.st_atime_ns, before.st_mtime_ns))  # the clock does not tell
        os.utime(clips / "clip1.mp4")  # touched, not changed
        return whole(*rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(run, "encode", change_first)
        extract(given, IN_PROCESS)
    store = FeatureStore.open(given.catalogue)
    index = store.index(store.pick("audio"))
    assert index.fates.tolist() == [Fate.FAILED, *[Fate.OK] * 5]
    assert index.reasons[0] == "its file changed while the run went on; run the same command again"
    extract(given, IN_PROCESS)
    store = FeatureStore.open(given.catalogue)
    index = store.index(store.pick("audio"))
    assert index.fates.tolist() == [Fate.OK] * 6
    assert index.length[0] == index.length[5]


def test_a_url_is_not_taken_for_a_folder(options: Extract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ({"out": Path("s3://bucket/c.h5")}, {"root": Path("s3://bucket/corpus")}):
        with pytest.raises(MerError, match=r"s3:/bucket/c.* is a URL; name a place on this machine"):
            options(**place)
    with pytest.raises(MerError, match="is a URL"), atomic_write(Path("gs://bucket/run.json")):
        pass
    assert not (tmp_path / "s3:").exists()
    assert not (tmp_path / "gs:").exists()


def test_ids_in_the_list_of_failures_are_no_formulas(options: Extract, tmp_path: Path) -> None:
    folder = tmp_path / "formulas"
    folder.mkdir()
    write_clip(folder / "clip0.mp4")
    row = manifest_rows(1)[0]
    hostile = '=HYPERLINK("http://evil.example","click")'
    write_manifest(folder, [row, {**row, "id": hostile, "path": "gone.mp4"}])
    summary = extract(options(root=folder, encoders={"audio": ("demo-audio",)}), HERE)
    assert summary.failures is not None
    with summary.failures.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1][0] == f"'{hostile}"


def test_status_tells_of_a_run_that_goes_on_ended_and_died(
    options: Extract, clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options(encoders={"audio": ("demo-audio",)})
    (clips / "clip2.mp4").write_bytes(b"text in the place of a clip")
    told: list[str] = []
    whole = encode._Meter.check

    def look(meter: object, report: object) -> None:
        show_status(given.catalogue)
        told.append(capsys.readouterr().out)
        whole(meter, report)  # type: ignore[arg-type]

    with pytest.raises(MerError, match="start one with mer extract"):
        show_status(given.catalogue)
    monkeypatch.setattr(encode._Meter, "check", look)
    extract(given, IN_PROCESS)
    assert told[0].startswith("running: ")
    show_status(given.catalogue)
    ended = capsys.readouterr().out
    assert ended.startswith("done: 6 of 6 utterances, 1 failed, 1 shards")
    assert "failed: u2 (audio-" in ended
    path = next(given.catalogue.parent.rglob("run-status.json"))
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "running", "pid": int(gone.stdout)}))
    show_status(given.catalogue)
    assert "its process is gone" in capsys.readouterr().out
    path.write_text("[" * 100_000)
    with pytest.raises(MerError, match="is made anew by the next mer extract"):
        show_status(given.catalogue)
