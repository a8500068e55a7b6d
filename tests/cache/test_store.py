"""Catalogue and store: reading single utterances, bulk, masks, errors."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from mer.cache import (
    Catalogue,
    DamagedError,
    Fate,
    FeatureSequence,
    FeatureSpec,
    FeatureStore,
    FormatError,
    LabelColumn,
    MerError,
    PackOptions,
    ShardRow,
    UtteranceTable,
    pack,
    read_catalogue,
    shard_folder,
    verify,
    write_catalogue,
)

Cache = Callable[..., Path]


def shards(path: Path) -> list[Path]:
    return sorted((path.parent / f"{path.stem}.shards").glob("*/*.h5"))


def test_a_catalogue_reads_back_as_written(make_cache: Cache) -> None:
    path = make_cache()
    first = read_catalogue(path)
    table = first.utterances
    assert table.keys[4] == "train/dia1_utt1"
    assert table.text[0] == "words 0 — ünï\0code"
    assert table.text[5:7] == ["", None]
    assert table.turn.tolist()[:5] == [0, 1, 2, 3, 0]
    assert np.isnan(table.start_seconds).all()
    assert table.labels["emotion"].classes == ("neutral", "joy", "sadness")
    assert table.labels["emotion"].values.tolist()[:5] == [-1, 0, 1, 2, -1]
    assert list(table.labels) == ["emotion", "valence/arousal", "tags"]
    assert np.isnan(table.labels["tags"].values[0]).all()
    assert first.corpus["title"] == "Tiny corpus"
    index = next(iter(first.sets.values()))
    assert index.reasons[2:4] == ["no sound stream", "truncated file"]
    again = path.with_name("again.h5")
    write_catalogue(again, first)
    assert again.read_bytes() == path.read_bytes()


def test_bulk_and_single_reads_agree(make_cache: Cache) -> None:
    store = FeatureStore.open(make_cache())
    for name in store.set_names():
        block = store.load(name, verify=True)
        assert len(block) == 13
        assert block.values.dtype == store.sets[name].spec.dtype
        for row, key in enumerate(store.utterances.keys):
            part = slice(block.offsets[row], block.offsets[row + 1])
            if block.fates[row] != Fate.OK:
                assert part.start == part.stop
                continue
            sequence = store.read(name, key)
            np.testing.assert_array_equal(sequence.values, block.values[part])
            np.testing.assert_array_equal(sequence.times, block.times[part])
            np.testing.assert_array_equal(sequence.valid, block.valid[part])


def test_rows_come_in_the_order_asked_for(make_cache: Cache) -> None:
    store = FeatureStore.open(make_cache(per_shard=3))
    name = store.pick("audio")
    order = np.array([12, 0, 7, 7, 2, 1, 5, 6, 4])
    block = store.load(name, order)
    expected = [store.raw(name, row)[0] for row in order.tolist()]
    np.testing.assert_array_equal(block.values, np.concatenate(expected))
    assert np.diff(block.offsets).tolist() == [len(part) for part in expected]
    assert len(store.load(name, np.zeros(0, np.int64))) == 0


def test_means_use_only_valid_steps(make_cache: Cache) -> None:
    store = FeatureStore.open(make_cache())
    name = store.pick("audio")
    vectors = store.vectors(name)
    assert vectors.dtype == np.float32
    for row, key in enumerate(store.utterances.keys):
        if store.sets[name].fates[row] != Fate.OK or not store.read(name, key).valid.any():
            assert np.isnan(vectors[row]).all()
            continue
        sequence = store.read(name, key)
        expected = sequence.values[sequence.valid].astype(np.float64).mean(0)
        np.testing.assert_allclose(vectors[row], expected, rtol=1e-5, atol=1e-6)


def test_an_utterance_without_features_says_why(make_cache: Cache) -> None:
    store = FeatureStore.open(make_cache())
    name = store.pick("audio")
    with pytest.raises(MerError, match=r"'train/dia0_utt2' has no features .* missing \(no sound stream\)"):
        store.read(name, "train/dia0_utt2")
    with pytest.raises(MerError, match="no utterance 'nobody'"):
        store.read(name, "nobody")


def test_notes_are_kept(make_cache: Cache) -> None:
    store = FeatureStore.open(make_cache())
    assert store.notes(store.pick("audio"), "train/dia1_utt1") == {"index": 4}
    assert store.notes(store.pick("audio"), "train/dia0_utt2") == {}


def test_sets_are_picked_by_modality_and_name(make_cache: Cache) -> None:
    store = FeatureStore.open(make_cache())
    audio, text = store.set_names()
    assert store.pick("audio") == store.pick("audio", "tiny") == store.pick("audio", audio) == audio
    assert store.set_names("text") == [text]
    with pytest.raises(MerError, match=f"no face features; it has: {audio}, {text}"):
        store.pick("face")
    with pytest.raises(MerError, match="no audio features 'big'"):
        store.pick("audio", "big")
    with pytest.raises(MerError, match="no feature set 'nothing'"):
        store.load("nothing")


def test_a_missing_shard_names_the_file_and_the_command(make_cache: Cache) -> None:
    path = make_cache()
    store = FeatureStore.open(path)
    name = store.pick("audio")
    victim = shard_folder(path, name) / f"{store.sets[name].shards[1].name}.h5"
    victim.unlink()
    with pytest.raises(DamagedError, match=rf"{victim.name} is missing.*mer extract --corpus tiny --out tiny.h5"):
        store.load(name)
    assert len(store.read(name, "train/dia0_utt0").values) == 5
    problems = verify(path)
    assert [p.key for p in problems] == store.utterances.keys[4:8]
    assert all(p.set_name == name and "is missing" in p.what for p in problems)


def test_verify_reports_every_byte_of_values(make_cache: Cache) -> None:
    path = make_cache()
    seen: list[tuple[int, int | None]] = []
    verify(path, lambda *one: seen.append(one))
    store = FeatureStore.open(path)
    total = sum(store.load(name).values.nbytes for name in store.sets)
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_a_link_reads_what_it_leads_to(make_cache: Cache, tmp_path: Path) -> None:
    path, link = make_cache(), tmp_path / "away" / "link.h5"
    link.parent.mkdir()
    link.symlink_to(path)
    store = FeatureStore.open(link)
    name = store.pick("audio")
    assert np.array_equal(store.load(name, verify=True).values, FeatureStore.open(path).load(name).values)
    assert verify(link) == []
    made = pack(link, tmp_path / "pack.h5", PackOptions("MIT"))[0]
    link.with_name("packed.h5").symlink_to(made)
    assert verify(link.with_name("packed.h5")) == []


def test_shards_beside_a_link_come_before_those_of_its_file(make_cache: Cache, tmp_path: Path) -> None:
    """As in the Hub's own cache, where every file is a link to one named by its hash."""
    path = make_cache()
    blob = tmp_path / "blobs" / "0123abcd"
    blob.parent.mkdir()
    path.rename(blob)
    path.symlink_to(blob)
    assert verify(path) == []


def test_a_cache_renamed_without_its_shards_says_which_folder_to_rename(make_cache: Cache, tmp_path: Path) -> None:
    renamed = make_cache().rename(tmp_path / "other.h5")
    store = FeatureStore.open(renamed)
    for attempt in (lambda: verify(renamed), lambda: store.load(store.pick("audio"))):
        with pytest.raises(DamagedError, match=r"lie in .*/tiny\.shards; rename that folder to other\.shards"):
            attempt()
    (tmp_path / "tiny.shards").rename(tmp_path / "other.shards")
    assert verify(renamed) == []


def test_a_cache_moved_without_its_shards_says_which_folder_is_missing(make_cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    moved = make_cache().rename(tmp_path / "away" / "tiny.h5")
    told = r"not in .*away/tiny\.shards; .* takes this folder along, .*; if it is lost, run: mer extract"
    with pytest.raises(DamagedError, match=told):
        verify(moved)
    with pytest.raises(DamagedError, match=told):
        FeatureStore.open(moved).read(FeatureStore.open(moved).pick("audio"), "train/dia0_utt0")


def test_a_damaged_utterance_is_found_on_reading_and_named_by_verify(make_cache: Cache) -> None:
    path = make_cache()
    store = FeatureStore.open(path)
    name = store.pick("audio")
    victim = Path(store.shard_location(name, 0))
    with h5py.File(victim) as file:
        at = file["values"].id.get_offset()
    content = bytearray(victim.read_bytes())
    content[at] ^= 16
    victim.write_bytes(content)
    told = r"'train/dia0_utt0' .* does not match its checksum \(mer verify .*\); remove the file and run"
    with pytest.raises(DamagedError, match=told):
        store.read(name, "train/dia0_utt0")
    with pytest.raises(DamagedError, match="train/dia0_utt0"):
        store.load(name, verify=True)
    assert len(store.read(name, "train/dia0_utt0", verify=False)) == 5
    assert [(p.key, p.what) for p in verify(path)] == [("train/dia0_utt0", "its features do not match their checksum")]


def test_a_shard_swapped_for_another_is_refused(make_cache: Cache) -> None:
    path = make_cache()
    store = FeatureStore.open(path)
    name = store.pick("audio")
    first, second = (Path(store.shard_location(name, i)) for i in (0, 1))
    first.write_bytes(second.read_bytes())
    with pytest.raises(DamagedError, match="is not the one the catalogue names"):
        store.read(name, "train/dia0_utt0")
    assert {p.key for p in verify(path)} == set(store.utterances.keys[:4])


def test_a_shard_made_anew_with_other_numbers_is_refused(make_cache: Cache, tmp_path: Path) -> None:
    """Same name, same size, same modification time: the seal that the catalogue holds tells them apart."""
    spec = FeatureSpec("audio", "tiny", {}, 2)

    def cache(name: str, value: float) -> Path:
        sequence = FeatureSequence.of(np.full((3, 2), value, np.float32), np.arange(3))
        rows = [ShardRow(key, bytes(16), Fate.OK, "", sequence) for key in "abc"]
        return make_cache([*"abc"], [spec], tmp_path / f"{name}.h5", per_shard=2, rows=[rows])

    path = cache("first", 1.0)
    store = FeatureStore.open(path)
    victim = Path(store.shard_location(spec.set_name, 0))
    other = shards(cache("second", 2.0))[shards(path).index(victim)]
    before = victim.stat()
    assert (other.name, other.stat().st_size) == (victim.name, before.st_size)
    victim.write_bytes(other.read_bytes())
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DamagedError, match="is not the one the catalogue names"):
        store.read(spec.set_name, "a")
    told = f"{victim} is not the shard the catalogue names"
    assert [(problem.key, problem.what) for problem in verify(path)] == [("a", told), ("b", told)]


def test_a_catalogue_that_names_another_spec_is_told(make_cache: Cache, tmp_path: Path) -> None:
    made, claimed = (FeatureSpec("audio", "tiny", {"layers": layers}, 4) for layers in ("first", "last"))
    path = make_cache([*"ab"], [made])
    catalogue = read_catalogue(path)
    (index,) = catalogue.sets.values()
    index.spec = claimed
    shard_folder(path, made.set_name).rename(shard_folder(path, claimed.set_name))
    write_catalogue(path, Catalogue({}, catalogue.utterances, {claimed.set_name: index}, {}))
    assert {problem.key for problem in verify(path)} == {"a", "b"}
    assert all("holds features of another spec" in problem.what for problem in verify(path))


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [("fates", 2, Fate.FAILED), ("checksums", 0, 1), ("sources", 0, 7), ("coverage", 0, 0.25)],
)
def test_a_catalogue_that_contradicts_its_shards_is_told(
    make_cache: Cache, column: str, row: int, value: float
) -> None:
    path = make_cache([*"abcd"], per_shard=4)
    catalogue = read_catalogue(path)
    name, index = next(iter(catalogue.sets.items()))
    getattr(index, column)[row] = value
    write_catalogue(path, catalogue)
    told = f"{column} in {FeatureStore.open(path).shard_location(name, 0)} differ from the catalogue"
    assert [(problem.key, problem.what) for problem in verify(path)] == [(key, told) for key in "abcd"]


def test_a_catalogue_whose_shard_holds_other_utterances_is_told(make_cache: Cache) -> None:
    path = make_cache([*"abcd"], per_shard=4)
    catalogue = read_catalogue(path)
    catalogue.utterances.keys[1] = "z"
    write_catalogue(path, catalogue)
    problems = verify(path)
    assert {problem.key for problem in problems} == {*"azcd"}
    assert all(problem.what.endswith("does not hold 'z'") for problem in problems)


def test_an_intact_cache_has_no_problems(make_cache: Cache) -> None:
    assert verify(make_cache()) == []
    assert verify(make_cache(keys=[], path=make_cache().with_name("none.h5"))) == []


def test_a_store_crosses_processes(make_cache: Cache) -> None:
    store = FeatureStore.open(make_cache())
    assert len(store.read(store.pick("audio"), "train/dia0_utt0")) == 5
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert len(pool.apply(FeatureStore.read, (store, store.pick("audio"), "train/dia0_utt0"))) == 5
    again = pickle.loads(pickle.dumps(store))
    assert len(again.read(again.pick("audio"), "train/dia0_utt0")) == 5


def test_threads_read_more_files_than_may_be_open(make_cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mer.cache.store.MOST_HANDLES", 2)
    usual = sys.getswitchinterval()
    store = FeatureStore.open(make_cache([f"u{i}" for i in range(80)]))
    name = store.pick("audio")
    whole = store.load(name, range(80))

    def read(first: int) -> None:
        for place in range(400):
            row = (first * 20 + place * 7) % 80
            found = store.load(name, [row]).values
            np.testing.assert_array_equal(found, whole.values[whole.offsets[row] : whole.offsets[row + 1]])

    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(read, range(4)))
    finally:
        sys.setswitchinterval(usual)


def test_a_forked_child_opens_its_own_files(make_cache: Cache) -> None:
    """In a process of its own, because a fork beside the threads of other tests may deadlock."""
    program = """
import os, sys
from mer.cache import FeatureStore
store = FeatureStore.open(sys.argv[1])
name = store.pick("audio")
store.read(name, "train/dia0_utt0")
before = set(store._files.values())
child = os.fork()
if child == 0:
    fresh = len(store.read(name, "train/dia0_utt0")) == 5 and not before & set(store._files.values())
    os._exit(0 if fresh else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or len(store.read(name, "train/dia0_utt0")) != 5)
"""
    subprocess.run([sys.executable, "-c", program, make_cache()], check=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.h5", b"", "is empty"),
        ("text.h5", b"hello" * 500, "is not a feature file of mer"),
        (
            "newer.h5",
            b"mer-seal 2 1024 10\n" + bytes(2000),
            "written by a newer mer .* pip install --upgrade mer-toolkit",
        ),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        FeatureStore.open(tmp_path / name)


def test_missing_files_folders_shards_and_foreign_hdf5_are_refused(make_cache: Cache, tmp_path: Path) -> None:
    path = make_cache()
    with pytest.raises(MerError, match=r"nothing\.h5 does not exist"):
        FeatureStore.open(tmp_path / "nothing.h5")
    with pytest.raises(MerError, match="is a folder"):
        FeatureStore.open(tmp_path)
    with pytest.raises(FormatError, match="is a 'mer-feature-shard' file, not a feature cache or pack"):
        FeatureStore.open(shards(path)[0])
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(FormatError, match="an HDF5 file but not one of mer's"):
        FeatureStore.open(tmp_path / "foreign.h5")


def test_a_catalogue_that_contradicts_itself_is_not_written(make_cache: Cache, tmp_path: Path) -> None:
    catalogue = read_catalogue(make_cache())
    index = next(iter(catalogue.sets.values()))
    index.start[1] = 0
    with pytest.raises(FormatError, match="utterances overlap"):
        write_catalogue(tmp_path / "bad.h5", catalogue)
    index.fates[0] = 9
    with pytest.raises(FormatError, match="a fate is not one of 0 to 3"):
        write_catalogue(tmp_path / "bad.h5", catalogue)


def test_tables_refuse_what_does_not_fit() -> None:
    with pytest.raises(FormatError, match="'b' occurs twice"):
        UtteranceTable.of(["a", "b", "b"])
    with pytest.raises(FormatError, match="column 'text' has 1 rows, expected 2"):
        UtteranceTable.of(["a", "b"], text=["x"])
    with pytest.raises(FormatError, match="label codes"):
        LabelColumn("class", ("a",), np.array([1]))
    with pytest.raises(FormatError, match="'c' is not one of the classes a, b"):
        LabelColumn.of("class", ("a", "b"), ["a", "c"])


def test_label_columns_from_names() -> None:
    assert LabelColumn.of("class", ("a", "b"), ["b", None]).values.tolist() == [1, -1]
    several = LabelColumn.of("multi", ("a", "b"), [("b",), (), None])
    assert several.values[:2].tolist() == [[0, 1], [0, 0]]
    assert several.labelled.tolist() == [True, True, False]
    assert LabelColumn.of("real", (), [0.5, None]).labelled.tolist() == [True, False]


def test_selecting_rows_of_a_table(make_cache: Cache) -> None:
    table = read_catalogue(make_cache()).utterances
    picked = table.select(np.array([3, 0]))
    assert picked.keys == [table.keys[3], table.keys[0]]
    assert picked.labels["emotion"].values.tolist() == [2, -1]
    assert table.select(np.array([s == "val" for s in table.split])).split == ["val"] * 4
    assert table.rows(picked.keys).tolist() == [3, 0]
    assert table.keys[3] in table


def test_fourteen_thousand_utterances_round_trip(tmp_path: Path) -> None:
    keys = [f"train/dia{i // 12}_utt{i % 12}" for i in range(14_000)]
    table = UtteranceTable.of(keys, text=["some words that were said"] * len(keys))
    write_catalogue(tmp_path / "big.h5", Catalogue({}, table, {}, {}))
    assert FeatureStore.open(tmp_path / "big.h5").utterances.keys == keys


@pytest.fixture
def in_memory(make_cache: Cache, tmp_path: Path) -> str:
    """A cache and a pack behind a URL that only fsspec can open."""
    fsspec = pytest.importorskip("fsspec")
    source = make_cache()
    pack(source, tmp_path / "pack.h5", PackOptions("CC0-1.0"))
    pack(source, tmp_path / "zstd.h5", PackOptions("CC0-1.0", compression="zstd"))
    memory = fsspec.filesystem("memory")
    for path in tmp_path.rglob("*.h5"):
        memory.pipe_file(f"/store/{path.relative_to(tmp_path)}", path.read_bytes())
    return "memory://store"


@pytest.mark.parametrize("name", ["tiny.h5", "pack.h5", "zstd.h5"])
def test_a_url_is_read_in_place(in_memory: str, tmp_path: Path, name: str) -> None:
    here, there = FeatureStore.open(tmp_path / name), FeatureStore.open(f"{in_memory}/{name}")
    for made in here.sets:
        np.testing.assert_array_equal(there.load(made, verify=True).values, here.load(made).values)
        sequence = there.read(made, "train/dia0_utt0")
        np.testing.assert_array_equal(sequence.values, here.read(made, "train/dia0_utt0").values)
    assert there.notes(there.pick("audio"), "train/dia1_utt1") == {"index": 4}
    assert verify(f"{in_memory}/{name}") == []
    with pytest.raises(MerError, match=r"memory://store/none\.h5 does not exist"):
        FeatureStore.open(f"{in_memory}/none.h5")
