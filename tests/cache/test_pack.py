"""Packing: the same features in one file or in parts, under terms, reproducibly, in flat memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mer.cache import (
    DamagedError,
    Fate,
    FeatureSequence,
    FeatureSpec,
    FeatureStore,
    MerError,
    PackOptions,
    ShardRow,
    diff,
    pack,
    read_catalogue,
    verify,
    write_catalogue,
)

Cache = Callable[..., Path]
FREE = PackOptions("CC0-1.0")
SPEC = FeatureSpec("audio", "plain", {"checkpoint": "local"}, 4)


def assert_same_features(first: Path, second: Path) -> None:
    one, two = FeatureStore.open(first), FeatureStore.open(second)
    assert list(one.sets) == list(two.sets)
    for name in one.sets:
        a, b = one.load(name, verify=True), two.load(name, verify=True)
        np.testing.assert_array_equal(a.values, b.values)
        np.testing.assert_array_equal(a.times, b.times)
        np.testing.assert_array_equal(a.valid, b.valid)
        np.testing.assert_array_equal(a.offsets, b.offsets)
        np.testing.assert_array_equal(a.fates, b.fates)
        assert one.sets[name].reasons == two.sets[name].reasons
        assert one.all_notes(name) == two.all_notes(name)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_pack_is_one_file_that_reads_like_its_source(make_cache: Cache, tmp_path: Path, compression: str) -> None:
    source = make_cache()
    out = tmp_path / "away" / "pack.h5"
    assert pack(source, out, PackOptions("CC-BY-4.0", contact="us@lab.org", compression=compression)) == [out]
    assert [path.name for path in out.parent.iterdir()] == ["pack.h5"]
    assert_same_features(source, out)
    assert verify(out) == []
    store = FeatureStore.open(out)
    name = store.pick("audio")
    assert len(store.read(name, "train/dia0_utt0")) == 5
    assert store.notes(name, "train/dia1_utt1") == {"index": 4}
    np.testing.assert_array_equal(store.vectors(name), FeatureStore.open(source).vectors(name))
    assert store.catalogue.datasheet["license"] == "CC-BY-4.0"
    assert f"{name}: 2 of 13 utterances are missing" in store.catalogue.datasheet["gaps"]
    assert f"{name}: 1 of 13 utterances failed" in store.catalogue.datasheet["gaps"]
    assert "emotion: 4 of 13 utterances are not labelled" in store.catalogue.datasheet["gaps"]


def test_a_pack_names_no_folder_of_the_machine_that_made_the_cache(make_cache: Cache, tmp_path: Path) -> None:
    source = make_cache()
    catalogue = read_catalogue(source)
    catalogue.provenance["options"] = {
        "encoders": {"text": ["/home/alice/my models/ck/"], "audio": ["lab/sound@abc"], "face": ["~alice/vit"]},
        "face_detector": "C:\\Users\\alice\\yunet.onnx",
        "corpus_options": {"turns": True, "clips": 48},
        "transcribe": "../alice/whisper",
    }
    write_catalogue(source, catalogue)
    pack(source, tmp_path / "pack.h5", replace(FREE, salt="long enough"))
    provenance = read_catalogue(tmp_path / "pack.h5").provenance
    assert provenance["options"] == {
        "encoders": {"text": ["ck"], "audio": ["lab/sound@abc"], "face": ["vit"]},
        "face_detector": "yunet.onnx",
        "corpus_options": {"turns": True, "clips": 48},
        "transcribe": "whisper",
    }
    assert provenance["mer"] == "0.1.0"


def test_plain_h5py_reads_a_pack(make_cache: Cache, tmp_path: Path) -> None:
    source = make_cache()
    pack(source, tmp_path / "pack.h5", PackOptions("CC-BY-4.0", contact="us@lab.org"))
    expected = FeatureStore.open(source)
    with h5py.File(tmp_path / "pack.h5") as file:
        assert file.attrs["license"].decode() == "CC-BY-4.0"
        assert file.attrs["contact"].decode() == "us@lab.org"
        for name in expected.sets:
            group = file["sets"][name]
            row = file["utterances/keys"].asstr()[:].tolist().index("train/dia1_utt1")
            values = group["values"][group["offsets"][row] : group["offsets"][row + 1]]
            np.testing.assert_array_equal(values, expected.read(name, "train/dia1_utt1").values)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_equal_sources_and_options_give_equal_bytes(make_cache: Cache, tmp_path: Path, compression: str) -> None:
    source = make_cache()
    program = """
import sys
from mer.cache import PackOptions, pack
pack(sys.argv[1], sys.argv[2], PackOptions("MIT", compression=sys.argv[3]))
"""
    for name in ("one.h5", "two.h5"):
        subprocess.run([sys.executable, "-c", program, source, tmp_path / name, compression], check=True)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    again = tmp_path / "again.h5"
    pack(tmp_path / "one.h5", again, FREE)
    assert_same_features(source, again)


def test_parts_keep_their_size_and_share_one_catalogue(tmp_path: Path, make_cache: Cache) -> None:
    values = np.random.default_rng(0).normal(size=(9000, 4)).astype(np.float32)
    rows = [ok_row(f"k{i}", values) for i in range(40)]
    source = make_cache([row.key for row in rows], [SPEC], rows=[rows])
    name = SPEC.set_name
    made = pack(source, tmp_path / "out.h5", PackOptions("MIT", max_bytes=1 << 20))
    assert made[0] == tmp_path / "out.h5"
    assert len(made) > 4
    assert all(path.stat().st_size <= 1 << 20 for path in made[1:])
    assert_same_features(source, made[0])
    assert verify(made[0]) == []
    made[2].unlink()
    with pytest.raises(DamagedError, match=rf"{made[2].name} is missing; to repair it fetch or pack the file again"):
        FeatureStore.open(made[0]).load(name)


def ok_row(key: str, values: np.ndarray) -> ShardRow:
    return ShardRow(key, bytes(16), Fate.OK, "", FeatureSequence.of(values, np.arange(len(values))))


def test_splits_sets_and_dtype_are_chosen(make_cache: Cache, tmp_path: Path) -> None:
    source = make_cache()
    options = PackOptions("MIT", splits=("val",), sets=("words",), dtype="float16")
    pack(source, tmp_path / "p.h5", options)
    store, full = FeatureStore.open(tmp_path / "p.h5"), FeatureStore.open(source)
    assert store.utterances.split == ["val"] * 4
    (name,) = store.sets
    assert store.sets[name].spec.dtype == "float16"
    assert name == store.sets[name].spec.set_name != full.pick("text")
    for key in store.utterances.keys:
        before = full.sets[full.pick("text")].fates[full.utterances.rows([key])[0]]
        if before == Fate.OK:
            wide = full.read(full.pick("text"), key).values
            np.testing.assert_array_equal(store.read(name, key).values, wide.astype(np.float16))
    assert verify(tmp_path / "p.h5") == []
    changes = store.catalogue.datasheet["changes"]
    assert changes[0] == "only the splits val"
    assert changes[2].startswith("stored as float16: text-words-")


def test_values_that_overflow_the_narrower_dtype_fail_with_a_reason(tmp_path: Path, make_cache: Cache) -> None:
    rows = [ok_row(key, np.full((2, 4), value)) for key, value in (("a", 1e6), ("b", 1.0))]
    source = make_cache(["a", "b"], [replace(SPEC, dtype="float32")], rows=[rows])
    pack(source, tmp_path / "p.h5", PackOptions("MIT", dtype="float16"))
    made = next(iter(FeatureStore.open(tmp_path / "p.h5").sets.values()))
    assert made.fates.tolist() == [Fate.FAILED, Fate.OK]
    assert made.reasons == ["feature values up to 1e+06 do not fit float16; pack with --dtype float32", ""]
    assert verify(tmp_path / "p.h5") == []


def test_a_gated_corpus_asks_and_loses_its_text(make_cache: Cache, tmp_path: Path) -> None:
    source = make_cache(gated=True, license="research only, no redistribution")
    with pytest.raises(MerError, match=r"tiny is gated \(research only.*--i-have-the-right-to-share"):
        pack(source, tmp_path / "p.h5", FREE)
    assert not (tmp_path / "p.h5").exists()
    pack(source, tmp_path / "p.h5", PackOptions("CC0-1.0", may_share=True))
    store = FeatureStore.open(tmp_path / "p.h5")
    assert store.utterances.text == [None] * 13
    assert "transcripts left out" in store.catalogue.datasheet["changes"]
    assert b"words 0" not in (tmp_path / "p.h5").read_bytes()
    assert not any(index.sources.any() for index in store.sets.values())
    pack(source, tmp_path / "q.h5", PackOptions("CC0-1.0", may_share=True, strip_text=False))
    assert FeatureStore.open(tmp_path / "q.h5").utterances.text == read_catalogue(source).utterances.text


def test_hashed_ids_leave_no_names(make_cache: Cache, tmp_path: Path) -> None:
    source = make_cache()
    pack(source, tmp_path / "p.h5", PackOptions("MIT", salt="long enough", strip_text=True))
    pack(source, tmp_path / "q.h5", PackOptions("MIT", salt="another one", strip_text=True))
    one, two = (FeatureStore.open(tmp_path / name) for name in ("p.h5", "q.h5"))
    assert not set(one.utterances.keys) & set(two.utterances.keys)
    assert all(len(key) == 32 for key in one.utterances.keys)
    assert len(set(one.utterances.speaker)) == 3
    content = (tmp_path / "p.h5").read_bytes()
    for name in (b"dia0", b"speaker 1", b"clips/", b"long enough", b"no sound stream"):
        assert name not in content
    before = FeatureStore.open(source)
    np.testing.assert_array_equal(one.load(one.pick("audio")).values, before.load(before.pick("audio")).values)
    assert verify(tmp_path / "p.h5") == []


@pytest.mark.parametrize("private", [{"salt": "long enough"}, {"strip_text": True}], ids=["salted", "stripped"])
def test_what_could_tell_the_clips_or_their_words_stays_out(
    make_cache: Cache, tmp_path: Path, private: dict[str, Any]
) -> None:
    """Digests of media and text, notes about a transcript, session names: none may lead back to what was left out."""
    source = make_cache()
    catalogue = read_catalogue(source)
    count = len(catalogue.utterances)
    table = replace(catalogue.utterances, session=[f"evening with alice {i % 2}" for i in range(count)])
    write_catalogue(source, replace(catalogue, utterances=table))
    pack(source, tmp_path / "p.h5", PackOptions("MIT", **private))
    store = FeatureStore.open(tmp_path / "p.h5")
    assert not any(index.sources.any() for index in store.sets.values())
    assert (b"alice" in (tmp_path / "p.h5").read_bytes()) == ("salt" not in private)
    text = store.pick("text")
    with_features = [key for key, fate in zip(store.utterances.keys, store.sets[text].fates, strict=True) if fate == 1]
    assert with_features
    assert all(not store.notes(text, key) for key in with_features)


def test_reasons_lose_the_folders_of_the_machine(make_cache: Cache, tmp_path: Path) -> None:
    source = make_cache()
    catalogue = read_catalogue(source)
    index = next(iter(catalogue.sets.values()))
    index.reasons[3] = "clip /home/someone/data/x.mp4 cannot be read"
    write_catalogue(source, catalogue)
    pack(source, tmp_path / "p.h5", FREE)
    assert next(iter(FeatureStore.open(tmp_path / "p.h5").sets.values())).reasons[3] == "clip x.mp4 cannot be read"


def test_damage_in_the_source_stops_the_pack(make_cache: Cache, tmp_path: Path) -> None:
    source = make_cache()
    store = FeatureStore.open(source)
    victim = Path(store.shard_location(store.pick("audio"), 0))
    with h5py.File(victim) as file:
        at = file["values"].id.get_offset()
    content = bytearray(victim.read_bytes())
    content[at] ^= 1
    victim.write_bytes(content)
    with pytest.raises(DamagedError, match="'train/dia0_utt0'"):
        pack(source, tmp_path / "p.h5", FREE)
    assert not (tmp_path / "p.h5").exists()
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"license": ""}, "is not an SPDX id"),
        ({"license": "all rights reserved"}, "is not an SPDX id"),
        ({"license": "CC-BY"}, "is not an SPDX id"),
        ({"license": "LicenseRef-mine"}, "give the conditions with --terms"),
        ({"license": "MIT", "compression": "gzip"}, "is not one of none, zstd"),
        ({"license": "MIT", "salt": "short"}, "can be guessed"),
        ({"license": "MIT", "max_bytes": 10}, "too small"),
        ({"license": "MIT", "dtype": "int8"}, "is not one of float16, float32"),
        ({"license": "MIT", "splits": ("dev",)}, "no split 'dev'; it has: train, val, test"),
        ({"license": "MIT", "sets": ("face",)}, "no feature set 'face'; it has: audio-tiny"),
    ],
)
def test_impossible_wishes_are_told(make_cache: Cache, tmp_path: Path, options: dict[str, str], message: str) -> None:
    source = make_cache()
    with pytest.raises(MerError, match=message):
        pack(source, tmp_path / "p.h5", PackOptions(**options))
    with pytest.raises(MerError, match="onto itself"):
        pack(source, source, FREE)


def test_unknown_attributes_are_kept(make_cache: Cache, tmp_path: Path) -> None:
    source = make_cache()
    catalogue = read_catalogue(source)
    catalogue.extra = {"lab-note": "made by hand", "lab-number": np.int64(7)}
    write_catalogue(source, catalogue)
    pack(source, tmp_path / "p.h5", FREE)
    pack(tmp_path / "p.h5", tmp_path / "q.h5", FREE)
    assert read_catalogue(tmp_path / "q.h5").extra == {"lab-note": "made by hand", "lab-number": 7}


def test_packing_needs_flat_memory(tmp_path: Path, make_cache: Cache) -> None:
    """Making and verifying a pack of 96 MB takes less than half of that."""
    wide = replace(SPEC, dim=768)
    values = np.random.default_rng(0).random((780, 768), np.float32)
    rows = [ok_row(f"k{i}", values) for i in range(80)]
    source = make_cache([row.key for row in rows], [wide], rows=[rows])
    program = """
import resource, sys
from mer.cache import FeatureStore, PackOptions, pack, verify
FeatureStore.open(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pack(sys.argv[1], sys.argv[2], PackOptions("MIT"))
assert verify(sys.argv[2]) == []
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before * 1024)
"""
    out = tmp_path / "out.h5"
    done = subprocess.run([sys.executable, "-c", program, source, out], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 48e6
    assert out.stat().st_size < 1.01 * 80 * 780 * 768 * 2


def test_diff_tells_what_changed(make_cache: Cache, tmp_path: Path) -> None:
    source = make_cache()
    pack(source, tmp_path / "p.h5", PackOptions("MIT", splits=("train",), sets=("audio",)))
    one, two = FeatureStore.open(source), FeatureStore.open(tmp_path / "p.h5")
    found = diff(one, two)
    assert found["utterances"] == {
        "only_first": {
            "count": 8,
            "first": one.utterances.keys[1:3] + one.utterances.keys[4:6] + one.utterances.keys[7:8],
        }
    }
    assert found["sets"] == {"only_first": {"count": 1, "first": [one.pick("text")]}}
    assert found["datasheet"]["license"] == [None, "MIT"]
    assert diff(one, one) == {}


def test_diff_measures_shared_features(make_cache: Cache, tmp_path: Path) -> None:
    source = make_cache()
    pack(source, tmp_path / "wide.h5", PackOptions("MIT", dtype="float32"))
    pack(source, tmp_path / "narrow.h5", PackOptions("MIT", dtype="float16"))
    wide, narrow = (FeatureStore.open(tmp_path / name) for name in ("wide.h5", "narrow.h5"))
    found = diff(wide, narrow)["sets"]
    told = found[f"{wide.pick('text')} / {narrow.pick('text')}"]
    assert told["spec"] == {"dtype": ["float32", "float16"]}
    a, b = wide.load(wide.pick("text")), narrow.load(narrow.pick("text"))
    gap = np.abs(a.values.astype(np.float64) - b.values.astype(np.float64)).max()
    assert told["max_abs_difference"] == pytest.approx(gap, abs=1e-12)
    assert 0 < gap < 0.01
    assert 0.999 < told["least_cosine"] < 1
    assert (told["shared"], told["identical"]) == (10, 0) or told["identical"] < told["shared"]


def test_diff_finds_changed_labels_and_text(make_cache: Cache, tmp_path: Path) -> None:
    source = make_cache()
    catalogue = read_catalogue(source)
    catalogue.utterances.text[0] = "other words"
    catalogue.utterances.labels["emotion"].values[4] = 2
    write_catalogue(tmp_path / "b.h5", catalogue)
    other = tmp_path / "b.shards"
    other.symlink_to(tmp_path / "tiny.shards")
    found = diff(FeatureStore.open(source), FeatureStore.open(tmp_path / "b.h5"))
    assert found == {
        "utterances": {"changed": {"text": {"count": 1, "first": ["train/dia0_utt0"]}}},
        "targets": {"emotion": {"changed": {"count": 1, "first": ["train/dia1_utt1"]}}},
    }


@pytest.mark.parametrize("max_bytes", [None, 1 << 20], ids=["in one file", "in parts"])
def test_another_file_is_replaced_only_when_asked_for(make_cache: Cache, tmp_path: Path, max_bytes: int | None) -> None:
    source, out = make_cache(), tmp_path / "out.h5"
    options = PackOptions("MIT", max_bytes=max_bytes)
    files = pack(source, out, options)
    before = {path: path.read_bytes() for path in files}
    assert pack(source, out, options) == files  # the very bytes are no other file
    recast = replace(options, dtype="float32")
    catalogue = read_catalogue(source)
    catalogue.utterances.text[0] = "other words"  # nothing that the datasheet counts
    write_catalogue(source, catalogue)
    for changed in (options, recast, replace(options, citation="Us, 2025")):
        with pytest.raises(MerError, match=r"out\.h5 is there already .*--overwrite"):
            pack(source, out, changed)
    assert {path: path.read_bytes() for path in files} == before
    assert not list(tmp_path.rglob("*.partial"))
    pack(source, out, recast, overwrite=True)
    assert FeatureStore.open(out).utterances.text[0] == "other words"
    assert verify(out) == []


@pytest.mark.parametrize("max_bytes", [None, 1 << 20], ids=["in one file", "in parts"])
def test_packing_reports_the_bytes_of_what_is_chosen(make_cache: Cache, tmp_path: Path, max_bytes: int | None) -> None:
    seen: list[tuple[int, int | None]] = []
    options = PackOptions("MIT", sets=("audio",), splits=("train",), dtype="float32", max_bytes=max_bytes)
    out = pack(make_cache(), tmp_path / "out.h5", options, lambda *one: seen.append(one))[0]
    store = FeatureStore.open(out)
    total = store.load(store.pick("audio")).values.nbytes
    assert seen[-1] == (total, total)


def test_what_is_no_pack_is_not_packed_over(make_cache: Cache, tmp_path: Path) -> None:
    source, notes = make_cache(), tmp_path / "notes.h5"
    notes.write_text("mine")
    with pytest.raises(MerError, match=r"notes\.h5 is there already"):
        pack(source, notes, PackOptions("MIT"))
    assert notes.read_text() == "mine"
    for overwrite in (False, True):
        with pytest.raises(MerError, match="is a folder; name the"):
            pack(source, tmp_path, PackOptions("MIT"), overwrite=overwrite)


def test_packing_over_a_link_writes_the_file_it_leads_to(make_cache: Cache, tmp_path: Path) -> None:
    source, out, link = make_cache(), tmp_path / "out.h5", tmp_path / "link.h5"
    pack(source, out, PackOptions("MIT"))
    link.symlink_to(out)
    pack(source, link, PackOptions("CC0-1.0"), overwrite=True)
    assert link.readlink() == out
    assert FeatureStore.open(out).catalogue.datasheet["license"] == "CC0-1.0"
    with pytest.raises(MerError, match="cannot be packed onto itself"):
        pack(out, link, PackOptions("MIT"), overwrite=True)


def test_a_missing_plugin_is_told(make_cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_cache()
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(MerError, match=r"pip install 'mer-toolkit\[zstd\]'"):
        pack(source, tmp_path / "p.h5", PackOptions("MIT", compression="zstd"))


def test_a_pack_compressed_beyond_belief_is_not_made(make_cache: Cache, tmp_path: Path) -> None:
    source = make_cache(["a"], [SPEC], rows=[[ok_row("a", np.zeros((200_000, 4)))]])
    with pytest.raises(MerError, match="--compression none"):
        pack(source, tmp_path / "p.h5", PackOptions("MIT", compression="zstd"))
