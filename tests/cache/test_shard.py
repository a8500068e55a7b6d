"""Shards: what is written is what is read, by us and by plain h5py."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash

from mer.cache import (
    DamagedError,
    Fate,
    FeatureSequence,
    FeatureSpec,
    FormatError,
    ShardRow,
    check_shard,
    read_shard_index,
    shard_name,
    write_shard,
)

SPEC = FeatureSpec("audio", "tiny", {"checkpoint": "local"}, 2)


def row(key: str, values: list[list[float]], valid: list[bool] | None = None) -> ShardRow:
    array = np.array(values, np.float32).reshape(-1, 2)
    steps = len(array)
    times = np.arange(steps, dtype=np.float32) / 50
    sequence = FeatureSequence(array, times, np.array(valid if valid is not None else [True] * steps, np.bool_))
    return ShardRow(key, b"\x01" * 16, Fate.OK, "", sequence)


def test_plain_h5py_reads_an_utterance(tmp_path: Path) -> None:
    rows = [row("a", [[1, 2], [3, 4]]), ShardRow("b", b"\x02" * 16, Fate.MISSING, "no sound"), row("ü/c", [[5, 6]])]
    info = write_shard(tmp_path, SPEC, rows)
    with h5py.File(tmp_path / f"{info.name}.h5") as file:
        offsets = file["offsets"][:]
        assert file["values"][offsets[2] : offsets[3]].tolist() == [[5, 6]]
        assert file["values"].dtype == np.float16
        assert file["values"].chunks is None
        assert file["times"][:].tolist() == pytest.approx([0, 0.02, 0])
        assert file["keys"].asstr()[:].tolist() == ["a", "b", "ü/c"]
        assert file["fates"][:].tolist() == [1, 2, 1]
        assert file.attrs["fingerprint"].decode() == SPEC.fingerprint
        assert file.attrs["encoding-type"].decode() == "mer-feature-shard"


def test_the_index_has_everything_but_the_values(tmp_path: Path) -> None:
    rows = [row("a", [[1, 2], [9, 9]], [True, False]), ShardRow("b", b"\x02" * 16, Fate.FAILED, "torn\n  file")]
    info = write_shard(tmp_path, SPEC, [*rows, ShardRow("c", bytes(16), Fate.MISSING, note={"why": np.float32("nan")})])
    index = read_shard_index(tmp_path / f"{info.name}.h5")
    assert index.info == info
    assert index.spec == SPEC
    assert index.keys == ["a", "b", "c"]
    assert index.fates.tolist() == [Fate.OK, Fate.FAILED, Fate.MISSING]
    assert index.reasons == ["", "torn file", ""]
    assert index.notes == ["", "", '{"why":null}']
    assert index.offsets.tolist() == [0, 2, 2, 2]
    assert index.sources[1].tolist() == [2] * 16
    assert index.coverage.tolist() == [0.5, 0, 0]
    stored = struct.pack("<4e", 1, 2, 0, 0) + struct.pack("<2f", 0, 0.02) + bytes([1, 0])
    assert int(index.checksums[0]) == xxhash.xxh3_64_intdigest(stored)


def test_equal_rows_give_equal_bytes_in_another_process(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
import numpy as np
from mer.cache import *
steps = [FeatureSequence.of(np.full((i, 2), i, np.float32), np.arange(i)) for i in range(30)]
rows = [ShardRow(f"k{i}", bytes([i]) * 16, Fate.OK, "", steps[i]) for i in range(30)]
write_shard(Path(sys.argv[1]), FeatureSpec("audio", "tiny", {"checkpoint": "local"}, 2), rows)
"""
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], check=True)
    first, second = (next((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_the_name_follows_from_spec_keys_and_sources() -> None:
    name = shard_name(SPEC, ["a", "b"], [bytes(16), bytes(16)])
    assert len(name) == 32
    others = [
        shard_name(SPEC, ["a", "c"], [bytes(16), bytes(16)]),
        shard_name(SPEC, ["a", "b"], [bytes(16), b"\x01" * 16]),
        shard_name(FeatureSpec("audio", "tiny", {"checkpoint": "other"}, 2), ["a", "b"], [bytes(16), bytes(16)]),
        shard_name(SPEC, ["ab"], [bytes(32)]),
    ]
    assert len({name, *others}) == 5


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([[1.0, np.nan]], "1 feature values are NaN or infinite"),
        ([[np.inf, np.nan]], "2 feature values are NaN or infinite"),
        ([[1.0, -70000.0]], "feature values up to 70000 do not fit float16; extract with --dtype float32"),
    ],
)
def test_features_that_cannot_be_stored_fail_alone(tmp_path: Path, values: list[list[float]], reason: str) -> None:
    info = write_shard(tmp_path, SPEC, [row("good", [[1, 2]]), row("bad", values)])
    index = read_shard_index(tmp_path / f"{info.name}.h5")
    assert index.fates.tolist() == [Fate.OK, Fate.FAILED]
    assert index.reasons == ["", reason]
    assert index.offsets.tolist() == [0, 1, 1]


def test_large_values_are_kept_in_float32_and_invalid_steps_are_zeroed(tmp_path: Path) -> None:
    wide = FeatureSpec("audio", "tiny", {}, 2, dtype="float32")
    info = write_shard(tmp_path, wide, [row("a", [[70000, 1], [np.nan, np.inf]], [True, False])])
    with h5py.File(tmp_path / f"{info.name}.h5") as file:
        assert file["values"][:].tolist() == [[70000, 1], [0, 0]]


@pytest.mark.parametrize("key", ["", "a\0b", "a\nb", "\x85", "x" * 1025, "\ud800"])
def test_ids_that_could_do_harm_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(FormatError, match="is not allowed"):
        write_shard(tmp_path, SPEC, [row(key, [[1, 2]])])
    assert list(tmp_path.iterdir()) == []


def test_ids_never_become_paths(tmp_path: Path) -> None:
    write_shard(tmp_path / "in", SPEC, [row("../../etc/passwd", [[1, 2]]), row("/abs", [[1, 2]])])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    info = write_shard(tmp_path, SPEC, [row("a", [[1, 2], [3, 4]]), row("b", [[5, 6]])])
    path = tmp_path / f"{info.name}.h5"
    original = path.read_bytes()
    check_shard(path, deep=True)
    for position in np.random.default_rng(0).choice(len(original), 150, replace=False).tolist():
        changed = bytearray(original)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        with pytest.raises(FormatError):
            check_shard(path, deep=True)


@pytest.mark.parametrize("size", [0, 1, 40, 1000, 5000, -1])
def test_a_truncated_shard_is_damaged(tmp_path: Path, size: int) -> None:
    info = write_shard(tmp_path, SPEC, [row("a", [[1, 2]] * 1000)])
    path = tmp_path / f"{info.name}.h5"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(FormatError, match=info.name):
        check_shard(path)


def test_a_renamed_or_missing_shard_is_damaged(tmp_path: Path) -> None:
    info = write_shard(tmp_path, SPEC, [row("a", [[1, 2]])])
    (tmp_path / f"{info.name}.h5").rename(tmp_path / f"{'0' * 32}.h5")
    with pytest.raises(DamagedError, match=f"belongs to {info.name}.h5"):
        check_shard(tmp_path / f"{'0' * 32}.h5")
    with pytest.raises(DamagedError, match="is missing"):
        check_shard(tmp_path / f"{info.name}.h5")


def test_contradictory_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"needs features of shape \(T, 2\)"):
        write_shard(tmp_path, SPEC, [ShardRow("a", bytes(16), Fate.OK)])
    with pytest.raises(FormatError, match="pending"):
        write_shard(tmp_path, SPEC, [ShardRow("a", bytes(16), Fate.PENDING)])
    with pytest.raises(FormatError, match="16 bytes"):
        write_shard(tmp_path, SPEC, [ShardRow("a", b"", Fate.MISSING)])
