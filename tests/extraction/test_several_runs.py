"""Runs into one catalogue that ask for other sets or other utterances, one after the other and side by side."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder_clips import HERE, Extract, write_manifest
from synthetic import write_clip

from mer.cache import Fate, FeatureStore, MerError, read_catalogue, verify
from mer.pipeline.extraction import plan
from mer.pipeline.extraction import run as module
from mer.pipeline.extraction.local_state import one_at_a_time
from mer.pipeline.extraction.reproduce import recipe
from mer.pipeline.extraction.run import extract, prepare
from mer.stages.speech.transcribe import Heard

TEXT = {"encoders": {"text": ("odd_encoders:Counting",)}}
AUDIO = {"encoders": {"audio": ("odd_encoders:Listening",)}}
Make = Callable[..., module.ExtractSummary]


def rows(count: int = 4, text: str = "words") -> list[dict[str, object]]:
    return [{"id": f"u{i}", "path": f"{i}.wav", "text": text, "split": ("train", "test")[i % 2]} for i in range(count)]


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Four short sounds with transcripts, two for training and two for testing."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for i in range(4):
        write_clip(folder / f"{i}.wav", seconds=0.1 + 0.05 * i)
    write_manifest(folder, rows())
    return folder


@pytest.fixture
def run(options: Extract, sounds: Path) -> Make:
    """Extract the sounds with these options."""
    return lambda **given: extract(options(root=sounds, **given), HERE)


def fates(summary: module.ExtractSummary) -> dict[str, list[int]]:
    """Fates of all sets by modality."""
    store = FeatureStore.open(summary.catalogue)
    return {index.spec.modality: index.fates.tolist() for index in store.sets.values()}


def rename(folder: Path, before: str, after: str) -> None:
    for path in folder.glob(f"*{before}"):
        path.rename(path.with_suffix(after))


def test_machine_texts_outlive_a_run_that_does_not_transcribe(
    run: Make, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mer.stages.speech.transcribe.listen", lambda waves, model, device, language: [Heard("hi there")] * len(waves)
    )
    write_manifest(sounds, rows(text=""))
    first = run(**TEXT, transcribe="a/listener")
    last = run(**AUDIO)
    assert fates(last) == {"text": [1, 1, 1, 1], "audio": [1, 1, 1, 1]}
    store = FeatureStore.open(last.catalogue)
    assert store.utterances.text == ["hi there"] * 4
    assert store.utterances.machine_text.all()
    assert store.provenance["options"]["transcribe"] == "a/listener"
    assert run(**TEXT).clips == 0
    assert fates(first)["text"] == [1, 1, 1, 1]


def test_where_nobody_is_heard_the_text_is_missing_and_scores_are_kept(
    run: Make, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def listen(waves: list[Any], model: str, device: str, language: str | None) -> list[Heard]:
        asked.append((len(waves), language))
        said = [Heard("Guten Tag", ((0.0, 0.1, "Guten Tag"),), {"language": "de", "no_speech_probability": 0.01})]
        return (said + [Heard("", note={"refused": "repeats itself"})] * 4)[: len(waves)]

    monkeypatch.setattr("mer.stages.speech.transcribe.listen", listen)
    write_manifest(sounds, rows(text=""))
    assert fates(run(**TEXT))["text"] == [2, 2, 2, 2]
    first = run(**TEXT, transcribe="a/listener", language="de")
    assert asked == [(4, "de")]
    assert fates(first)["text"] == [1, 2, 2, 2]
    store = FeatureStore.open(first.catalogue)
    (name,) = store.sets
    notes = [store.notes(name, key)["heard"] for key in store.utterances.keys]
    assert notes[0]["segments"] == [[0.0, 0.1, "Guten Tag"]]
    assert notes[0]["no_speech_probability"] == 0.01
    assert store.index(name).reasons[1:] == ["no speech heard"] * 3
    assert notes[1] == {"refused": "repeats itself"}
    assert "--transcribe a/listener --language de" in recipe(read_catalogue(first.catalogue))
    assert run(**TEXT, transcribe="a/listener", language="de").clips == 0
    assert len(asked) == 1  # remembered, the silent ones too
    with pytest.raises(MerError, match="name a recogniser with --transcribe"):
        run(**TEXT, language="de")


@pytest.mark.parametrize("asked", [TEXT, AUDIO], ids=["text", "audio"])
def test_sound_that_was_away_for_one_run_is_not_encoded_again(
    run: Make, sounds: Path, asked: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(**AUDIO, limit=2)
    run(**AUDIO)
    rename(sounds, ".wav", ".gone")
    there = fates(run(**asked))["audio"]
    assert there == ([Fate.OK] * 4 if asked is TEXT else [Fate.MISSING] * 4)
    rename(sounds, ".gone", ".wav")
    summary = run(**AUDIO)
    assert summary.clips == 0
    assert fates(summary)["audio"] == [1, 1, 1, 1]
    assert verify(summary.catalogue) == []


def test_an_edited_transcript_waits_for_the_next_run_on_text(run: Make, sounds: Path) -> None:
    run(**TEXT)
    edited = rows()
    edited[1]["text"] = "other words"
    write_manifest(sounds, edited[:3])
    assert fates(run(**AUDIO)) == {"text": [1, 1, 1], "audio": [1, 1, 1]}
    summary = run(**TEXT)
    assert summary.clips == 1
    assert FeatureStore.open(summary.catalogue).utterances.keys == ["u0", "u1", "u2"]


def test_who_leaves_the_corpus_is_told_and_another_folder_is_refused(
    run: Make, sounds: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(**TEXT)
    write_manifest(sounds, rows(3))
    assert len(FeatureStore.open(run(**TEXT).catalogue).utterances) == 3
    assert "1 utterances that the corpus no longer lists leave" in caplog.text
    write_manifest(sounds, [{**row, "id": f"other{row['id']}"} for row in rows(3)])
    with pytest.raises(MerError, match=r"holds 3 utterances \(u0, ...\), none of which this corpus lists"):
        run(**TEXT)


def test_a_split_or_limit_holds_for_a_catalogue_that_is_there(run: Make, sounds: Path) -> None:
    run(**TEXT)
    tested = run(**AUDIO, split="test")
    assert tested.clips == 2
    assert tested.failures is None
    assert fates(tested) == {"text": [1, 1, 1, 1], "audio": [0, 1, 0, 1]}
    limited = run(**AUDIO, limit=1)
    assert limited.clips == 1
    assert fates(limited)["audio"] == [1, 1, 0, 1]
    assert run(**AUDIO).clips == 1
    assert verify(limited.catalogue) == []


def test_lost_shards_of_another_set_are_told_first_and_hold_nobody_up(
    run: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plan, "TEXT_SHARD_CLIPS", 3)
    shards = sorted(run(**TEXT).catalogue.parent.glob("mine.shards/text-*/*.h5"))
    shards[0].unlink()
    summary = run(**AUDIO)
    assert f"pending until its encoder is asked for again: {shards[0]} is missing" in caplog.text
    found = fates(summary)
    assert found["audio"] == [1, 1, 1, 1]
    assert sorted(found["text"]) in ([0, 0, 0, 1], [0, 1, 1, 1])
    assert run(**TEXT).clips == found["text"].count(0)
    assert verify(summary.catalogue) == []


def test_what_another_run_added_meanwhile_stays(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = module.encode

    def meanwhile(*given: object) -> object:
        monkeypatch.setattr(module, "encode", whole)
        run(**TEXT)
        run(**AUDIO, split="train")
        return whole(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "encode", meanwhile)
    summary = run(**AUDIO, split="test")
    assert fates(summary) == {"text": [1, 1, 1, 1], "audio": [1, 1, 1, 1]}
    store = FeatureStore.open(summary.catalogue)
    assert [len(store.read(store.pick("audio"), key)) for key in store.utterances.keys] == [1, 1, 1, 1]


def test_one_run_waits_while_another_writes_the_catalogue(run: Make, options: Extract) -> None:
    other = threading.Thread(target=run, kwargs=TEXT)
    with one_at_a_time(options().catalogue):
        other.start()
        other.join(1.0)
        assert other.is_alive()
        assert not options().catalogue.exists()
    other.join()
    assert options().catalogue.exists()


def test_failed_ones_are_tried_again_without_the_shards_that_a_killed_run_finished(
    options: Extract, sounds: Path, run: Make
) -> None:
    (sounds / "0.wav").write_bytes(b"no sound")
    failed = run(**AUDIO, limit=2)
    listed = failed.catalogue.read_bytes()
    run(**AUDIO)
    failed.catalogue.write_bytes(listed)  # as if the last run had been killed before it wrote the catalogue
    prepared = prepare(options(root=sounds, **AUDIO, retry_failed=True), HERE)
    assert [[job.key for job in task.jobs] for task in prepared.plan.tasks] == [["u0"]]


def test_only_what_failed_is_tried_again_and_what_was_missing_is_encoded_once_it_is_there(
    options: Extract, sounds: Path, run: Make
) -> None:
    (sounds / "0.wav").write_bytes(b"no sound")
    (sounds / "1.wav").rename(sounds / "1.away")
    write_manifest(sounds, [{**row, "text": "" if row["id"] in ("u0", "u2") else "words"} for row in rows()])
    both = {"encoders": {**TEXT["encoders"], **AUDIO["encoders"]}}
    again = {**both, "retry_failed": True}
    ok, missing, failed = Fate.OK, Fate.MISSING, Fate.FAILED
    found = {"text": [missing, ok, missing, ok], "audio": [failed, missing, ok, ok]}
    assert fates(run(**both)) == found
    tasks = prepare(options(root=sounds, **again), HERE).plan.tasks
    assert [([job.key for job in task.jobs], [made.modality for made in task.sets]) for task in tasks] == [
        (["u0"], ["audio"])
    ]
    summary = run(**again)
    assert summary.clips == 1
    assert fates(summary) == found
    (sounds / "1.away").rename(sounds / "1.wav")
    write_manifest(sounds, rows())
    summary = run(**both)
    assert summary.clips == 3
    assert fates(summary) == {"text": [ok] * 4, "audio": [failed, ok, ok, ok]}


def test_the_content_of_a_file_decides_and_not_its_date(run: Make, sounds: Path) -> None:
    path = sounds / "2.wav"

    def clips_after(content: bytes, date: int) -> int:
        path.write_bytes(content)
        os.utime(path, (date, date))
        return run(**AUDIO).clips

    sound = path.read_bytes()
    one, two = (sound[:-2] + sample for sample in (b"\x11\x11", b"\x22\x22"))
    assert clips_after(sound, 1) == 4
    assert clips_after(sound, 2) == 0
    assert clips_after(one, 3) == 1
    assert clips_after(one + b"\0", 3) == 1
    assert clips_after(one, 4) == 0
    # A file of the size and the date that it had is taken for unchanged, until the memory of digests is removed.
    assert clips_after(two, 4) == 0
    next(sounds.parent.rglob("media-digests.json")).unlink()
    assert clips_after(two, 4) == 1


def test_provenance_has_the_versions_that_made_what_is_there(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opensmile", reason="the extra mer-toolkit[opensmile] is not installed")
    smile = {"encoders": {"audio": ("egemaps",)}}

    def with_versions(number: str, **asked: object) -> dict[str, str]:
        monkeypatch.setattr("mer.pipeline.extraction.reproduce.version", lambda name: number)
        found = read_catalogue(run(**asked).catalogue).provenance["libraries"]
        assert {"mer-toolkit", "torch", "librosa", "soxr", "opencv-python-headless"} <= set(found)
        return {name: found.get(name, "none") for name in ("numpy", "opensmile")}

    assert with_versions("1", **TEXT) == {"numpy": "1", "opensmile": "none"}
    assert with_versions("2", **smile) == {"numpy": "2", "opensmile": "2"}
    assert with_versions("3", **smile) == {"numpy": "2", "opensmile": "2"}  # nothing was encoded
    assert with_versions("4", **AUDIO) == {"numpy": "4", "opensmile": "2"}
    told = recipe(read_catalogue(run(**AUDIO).catalogue)).splitlines()[0]
    assert "numpy==4" in told
    assert "opensmile==2" in told
