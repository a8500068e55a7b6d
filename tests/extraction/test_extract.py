"""`mer extract` through its Python door: fates, resume, and re-encoding only what changed."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folder_clips import HERE, Extract, manifest_rows, write_manifest
from synthetic import text_as_media, truncate, write_clip, zero_bytes

from mer.cache import Fate, FeatureStore, MerError, check_shard, verify
from mer.cache.seal import read_seal
from mer.cache.source import FileReader
from mer.pipeline.extraction import checked_shards
from mer.pipeline.extraction.local_state import remembered_root
from mer.pipeline.extraction.publish import ExtractSummary
from mer.pipeline.extraction.run import extract, prepare
from mer.stages.media.reader import read_media

AAC_FRAMES = 4
"""AAC codes blocks of 1,024 samples, so a decoded clip may be up to 64 ms longer than what was written."""


def frames_of(seconds: float) -> int:
    """Frames of the wav2vec2 convolutions for so much sound."""
    return (int(seconds * 16_000) - 400) // 320 + 1


def shards(catalogue: Path) -> dict[str, bytes]:
    """Every shard of a catalogue by name, with its bytes."""
    folder = catalogue.with_name(catalogue.stem + ".shards")
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.h5"))}


def fates(summary: ExtractSummary) -> dict[str, dict[str, str]]:
    """Per utterance the fate in each modality."""
    store = FeatureStore.open(summary.catalogue)
    return {
        key: {index.spec.modality: Fate(int(index.fates[row])).name.lower() for index in summary.made.values()}
        for row, key in enumerate(store.utterances.keys)
    }


def test_every_clip_gets_features_in_every_modality(options: Extract) -> None:
    summary = extract(options(), HERE)
    assert all(set(fate.values()) == {"ok"} for fate in fates(summary).values())
    assert verify(summary.catalogue) == []
    store = FeatureStore.open(summary.catalogue)
    assert list(store.utterances.labels["emotion"].classes) == ["anger", "joy"]
    face = store.read(store.pick("face"), "u5")
    assert face.valid.mean() > 0.8
    assert np.all(face.values[~face.valid] == 0)
    audio = store.read(store.pick("audio"), "u5")
    assert len(audio) == pytest.approx(frames_of(1.75), abs=AAC_FRAMES)


def test_where_the_clips_lie_is_kept_beside_the_cache_and_not_in_it(options: Extract, clips: Path) -> None:
    catalogue = extract(options(), HERE).catalogue
    assert remembered_root(catalogue) == clips.resolve()
    assert str(clips).encode() not in catalogue.read_bytes()


def test_a_clip_is_decoded_once_for_all_its_encoders(options: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Counter()

    def counted(path: Path, *rest: object, **more: object) -> object:
        read[Path(path).name] += 1
        return read_media(path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("mer.pipeline.extraction.decoding.read_media", counted)
    here = replace(HERE, isolated=False)  # what is counted here is not counted in a helper process
    sound = ("demo-audio", "librosa-mfcc", "librosa-prosody")
    summary = extract(options(encoders={"text": ("demo-text",), "audio": sound, "face": ("demo-face",)}), here)
    assert len(summary.made) == 5
    assert summary.count(Fate.OK) == 30
    assert read == {f"clip{i}.mp4": 1 for i in range(6)}


def test_a_checkpoint_folder_is_named_without_the_folders_around_it(
    options: Extract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mer.pipeline.extraction.reproduce import recipe
    from mer.stages.encoders.demo import demo_folder

    shutil.copytree(demo_folder("demo-text"), tmp_path / "home-of-alice" / "mine")
    monkeypatch.chdir(tmp_path)
    for place in (str(tmp_path / "home-of-alice" / "mine"), "home-of-alice/mine"):
        catalogue = extract(options(encoders={"text": (place,)}), HERE).catalogue
        store = FeatureStore.open(catalogue)
        assert store.provenance["options"]["encoders"] == {"text": ["mine"]}
        assert b"home-of-alice" not in catalogue.read_bytes()
        assert "--text-encoder ./mine " in recipe(store.catalogue)


def test_a_second_run_does_nothing_and_changes_no_byte(options: Extract) -> None:
    first = extract(options(), HERE)
    before, catalogue = shards(first.catalogue), first.catalogue.read_bytes()
    second = extract(options(), HERE)
    assert second.clips == 0
    assert shards(first.catalogue) == before
    assert first.catalogue.read_bytes() == catalogue


def test_an_edited_transcript_is_encoded_again_alone(options: Extract, clips: Path) -> None:
    before = shards(extract(options(), HERE).catalogue)
    rows = manifest_rows(6)
    rows[2]["text"] = "something else entirely"
    write_manifest(clips, rows)
    summary = extract(options(), HERE)
    after = shards(summary.catalogue)
    assert summary.clips == 1
    new = set(after) - set(before)
    assert len(new) == 1
    assert next(iter(new)).startswith("text-")
    assert {name: after[name] for name in before} == before
    store = FeatureStore.open(summary.catalogue)
    assert store.utterances.text[2] == "something else entirely"
    assert verify(summary.catalogue) == []


def test_a_replaced_clip_renews_sound_and_face_but_not_text(options: Extract, clips: Path) -> None:
    before = shards(extract(options(), HERE).catalogue)
    write_clip(clips / "clip4.mp4", seconds=0.8, sound="silence")
    summary = extract(options(), HERE)
    new = set(shards(summary.catalogue)) - set(before)
    assert {name.split("-")[0] for name in new} == {"audio", "face"}
    assert summary.clips == 1
    store = FeatureStore.open(summary.catalogue)
    assert len(store.read(store.pick("audio"), "u4")) == pytest.approx(frames_of(0.8), abs=AAC_FRAMES)


def test_added_clips_do_not_shift_what_is_there(options: Extract, clips: Path) -> None:
    before = shards(extract(options(), HERE).catalogue)
    write_clip(clips / "clip6.mp4", seconds=0.6)
    rows = manifest_rows(7)
    write_manifest(clips, [rows[6], *rows[:6]])
    summary = extract(options(), HERE)
    after = shards(summary.catalogue)
    assert summary.clips == 1
    assert {name: after[name] for name in before} == before
    assert FeatureStore.open(summary.catalogue).utterances.keys[0] == "u6"
    assert set(fates(summary)["u6"].values()) == {"ok"}


def test_another_text_encoder_touches_text_only(options: Extract) -> None:
    first = extract(options(), HERE)
    before = shards(first.catalogue)
    summary = extract(options(layers={"text": "all"}), HERE)
    after = shards(summary.catalogue)
    assert {name: after[name] for name in before} == before
    assert {name.split("-")[0] for name in set(after) - set(before)} == {"text"}
    store = FeatureStore.open(summary.catalogue)
    texts = store.set_names("text")
    assert len(texts) == 2
    stacked = store.sets[store.pick("text")].spec
    assert stacked.stack > 1
    plain = store.read(next(name for name in texts if store.sets[name].spec.stack == 1), "u0")
    width = stacked.dim // stacked.stack
    np.testing.assert_array_equal(store.read(store.pick("text"), "u0").values[:, -width:], plain.values)


def test_a_damaged_shard_is_made_again_with_the_same_bytes(options: Extract, clips: Path) -> None:
    write_clip(clips / "clip2.mp4", seconds=1.0, sound_seconds=0.7)  # what is noted of the sound is the sound's own
    first = extract(options(), HERE)
    assert FeatureStore.open(first.catalogue).utterances.duration_seconds[2] == pytest.approx(1.0, abs=0.05)
    before = shards(first.catalogue)
    folder = first.catalogue.with_name("mine.shards")
    victim = sorted(folder.rglob("*.h5"))[0]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0xFF
    victim.write_bytes(content)
    assert verify(first.catalogue)
    assert extract(options(), HERE).clips == 6
    assert shards(first.catalogue) == before


def test_bad_clips_have_fates_and_harm_nobody(options: Extract, clips: Path) -> None:
    rows = manifest_rows(6)
    truncate(clips / "clip0.mp4", 0.3)
    zero_bytes(clips / "clip1.mp4")
    text_as_media(clips / "clip2.mp4")
    write_clip(clips / "clip3.mp4", seconds=1.0, sound=None)
    (clips / "clip4.mp4").unlink()
    rows[5]["path"] = "clip5.wav"
    write_clip(clips / "clip5.wav", seconds=1.0)
    rows.append({"id": "u6", "path": "short.wav", "text": "", "emotion": "joy"})
    write_clip(clips / "short.wav", seconds=0.01)
    rows.append({"id": "u7", "path": "bare.mp4", "text": "word " * 10_000, "emotion": "joy"})
    write_clip(clips / "bare.mp4", seconds=1.0, faces=0)
    write_manifest(clips, rows)
    summary = extract(options(), HERE)
    found = fates(summary)
    assert {key: found[key]["audio"] for key in found} | {"u6": ""} == {
        "u0": "failed", "u1": "failed", "u2": "failed", "u3": "missing", "u4": "missing", "u5": "ok", "u6": "",
        "u7": "ok",
    }  # fmt: skip
    assert found["u6"]["audio"] in {"failed", "missing"}
    assert [found[f"u{i}"]["face"] for i in (3, 5, 7)] == ["ok", "missing", "missing"]
    assert found["u6"]["text"] == "missing"
    assert found["u7"]["text"] == "ok"
    assert summary.failures is not None
    listed = summary.failures.read_text()
    for key in ("u0", "u1", "u2", "u4", "u6"):
        assert f"{key},audio-" in listed
    assert verify(summary.catalogue) == []
    assert extract(options(), HERE).clips == 0


def test_a_transcript_whose_cost_is_unknown_fails_alone(options: Extract, clips: Path) -> None:
    rows = manifest_rows(6)
    rows[2]["text"] = "a strange word"
    write_manifest(clips, rows)
    summary = extract(options(encoders={"text": ("odd_encoders:Picky",)}), HERE)
    (made,) = summary.made.values()
    assert [Fate(int(fate)).name for fate in made.fates] == ["OK", "OK", "FAILED", "OK", "OK", "OK"]
    assert made.reasons[2] == "encoding failed: the tokenizer knows a token that its model does not"


def test_failed_clips_are_tried_again_on_request(options: Extract, clips: Path, tmp_path: Path) -> None:
    whole = shutil.copy(clips / "clip1.mp4", tmp_path / "whole.mp4")
    zero_bytes(clips / "clip1.mp4")
    assert fates(extract(options(), HERE))["u1"]["audio"] == "failed"
    summary = extract(options(retry_failed=True), HERE)
    assert summary.clips == 1
    assert fates(summary)["u1"]["audio"] == "failed"
    shutil.copy(whole, clips / "clip1.mp4")
    summary = extract(options(), HERE)
    assert fates(summary)["u1"]["audio"] == "ok"


def test_limit_and_split_add_up(options: Extract) -> None:
    assert len(FeatureStore.open(extract(options(limit=2), HERE).catalogue).utterances.keys) == 2
    summary = extract(options(limit=4), HERE)
    assert summary.clips == 2
    assert len(FeatureStore.open(summary.catalogue).utterances.keys) == 4
    with pytest.raises(MerError, match="no split 'dev'"):
        extract(options(split="dev"), HERE)


def test_kept_faces_save_decoding_for_a_second_face_encoder(options: Extract, clips: Path) -> None:
    keeping = replace(HERE, keep_faces=True)
    extract(options(), keeping)
    for clip in clips.glob("*.mp4"):
        stat = clip.stat()
        clip.write_bytes(b"\0" * stat.st_size)  # unreadable now; same size and time, so not looked at again
        os.utime(clip, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    summary = extract(options(encoders={"face": ("demo-face",)}, layers={"face": "all"}), keeping)
    assert {fate["face"] for fate in fates(summary).values()} == {"ok"}


def test_a_picture_that_cannot_be_read_and_damaged_crops_are_looked_at_again(options: Extract, clips: Path) -> None:
    keeping = replace(HERE, keep_faces=True)
    clip = write_clip(clips / "clip3.mp4", seconds=1.0, sound=None)
    whole = clip.read_bytes()
    start, stop = whole.index(b"mdat") + 4, whole.rindex(b"moov") - 4
    clip.write_bytes(whole[:start] + b"\xff" * (stop - start) + whole[stop:])
    first = extract(options(encoders={"face": ("demo-face",)}), keeping)
    kept = list(first.catalogue.parent.rglob("faces/*/*.npz"))
    assert len(kept) == 5
    kept[0].write_bytes(b"damaged")
    second = extract(options(encoders={"face": ("demo-face",)}, layers={"face": "all"}), keeping)
    for index in [*first.made.values(), *second.made.values()]:
        assert [Fate(int(fate)).name for fate in index.fates] == ["OK", "OK", "OK", "FAILED", "OK", "OK"]
        assert "picture packets can be decoded" in index.reasons[3]
    assert kept[0].stat().st_size > 1000


def test_nothing_encoded_is_told_and_another_corpus_is_refused(options: Extract, clips: Path) -> None:
    with pytest.raises(MerError, match="no encoder"):
        prepare(options(encoders={}), HERE)
    with pytest.raises(MerError, match="is not there"):
        prepare(options(root=clips / "nowhere"), HERE)
    extract(options(limit=1), HERE)
    with pytest.raises(MerError, match="holds corpus 'folder'"):
        prepare(options(corpus="demo", root=None), HERE)


def test_a_running_dask_cluster_leaves_the_same_bytes(options: Extract, tmp_path: Path) -> None:
    from distributed import LocalCluster

    alone = extract(options(), HERE)
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        elsewhere = replace(HERE, scheduler=cluster.scheduler_address)
        there = extract(options(out=tmp_path / "apart" / "mine.h5"), elsewhere)
    assert shards(there.catalogue) == shards(alone.catalogue)


def test_an_absent_scheduler_is_told(options: Extract) -> None:
    with pytest.raises(MerError, match="no Dask scheduler answers"):
        extract(options(), replace(HERE, scheduler="tcp://127.0.0.1:9"))


def test_two_worker_processes_leave_the_same_bytes(options: Extract, tmp_path: Path) -> None:
    alone = extract(options(), HERE)
    together = extract(options(out=tmp_path / "apart" / "mine.h5"), replace(HERE, workers=2))
    assert shards(together.catalogue) == shards(alone.catalogue)
    assert together.catalogue.read_bytes() == alone.catalogue.read_bytes()


def test_features_are_read_once_and_again_when_asked_or_touched(
    options: Extract, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What this machine wrote is trusted by size and time; `check` trusts nothing."""
    read: list[str] = []

    def counted(path: Path, deep: bool = False) -> None:
        read.append(path.name)
        check_shard(path, deep)

    monkeypatch.setattr(checked_shards, "check_shard", counted)
    given = options()
    first = extract(given, HERE)
    before = shards(first.catalogue)
    assert read == []
    prepare(given, HERE)
    assert extract(given, HERE).clips == 0
    assert read == []
    assert extract(given, replace(HERE, check=True)).clips == 0
    assert len(read) == len(before)
    read.clear()
    # One changed byte of the features, with the time put back: only `check` can see it.
    path = next(iter(sorted(first.catalogue.with_name(first.catalogue.stem + ".shards").rglob("*.h5"))))
    stat, content = path.stat(), bytearray(path.read_bytes())
    with FileReader(path) as reader:
        place = read_seal(reader).plain["/values"][0]
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert extract(given, HERE).clips == 0
    assert extract(given, replace(HERE, check=True)).clips > 0
    assert shards(first.catalogue) == before
    path.write_bytes(content)
    assert extract(given, HERE).clips > 0, "a shard that was touched is read again"
    assert shards(first.catalogue) == before
