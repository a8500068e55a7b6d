"""Files that were damaged, or made to do harm: refused with a sentence or read correctly."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mer.cache import (
    DamagedError,
    FeatureSpec,
    FeatureStore,
    FormatError,
    MerError,
    PackOptions,
    inspection,
    pack,
    verify,
)
from mer.cache.hdf_writing import put_attributes
from mer.cache.seal import read_seal, write_seal
from mer.cache.shard import checksum
from mer.cache.source import FileReader

Cache = Callable[..., Path]

FORGING = Path(__file__).with_name("forging.py")
FORGER = """
import json, os, resource, sys
from pathlib import Path
import numpy as np
from mer.cache import FeatureStore, MerError
from mer.cache.hdf_writing import put_attributes
from mer.cache.seal import read_seal, write_seal
from mer.cache.source import FileReader

source, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
original = source.read_bytes()
with FileReader(source) as reader:
    seal = read_seal(reader)
guarded = np.ones(len(original), bool)
guarded[:seal.block] = False
for at, length in [*seal.plain.values(), *(place for places in seal.packed.values() for place in places)]:
    guarded[at:at + length] = False
places = np.flatnonzero(guarded)
os.fsync = lambda handle: None
target = source.with_name("forged.h5")
resource.setrlimit(resource.RLIMIT_AS, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + (1 << 30),) * 2)
outcomes = {"refused": 0, "read": 0}
for number in range(first, first + count):
    rng = np.random.default_rng(number)
    forged = bytearray(original)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.choice(places))
        kind = rng.integers(3)
        if kind == 0:
            forged[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            forged[place] = int(rng.integers(256))
        else:
            forged[place:place + 8] = bytes([255] * 8)[:len(forged) - place]
    target.write_bytes(forged)
    write_seal(target, seal.block, seal.plain, seal.packed)
    try:
        store = FeatureStore.open(target)
        for name in store.sets:
            store.load(name, verify=True)
            store.all_notes(name)
        outcomes["read"] += 1
    except MerError as error:
        assert "\\n" not in str(error) and str(target) in str(error), error
        outcomes["refused"] += 1
print(json.dumps(outcomes))
"""


@pytest.fixture(params=["none", "zstd"])
def packed(request: pytest.FixtureRequest, make_cache: Cache, tmp_path: Path) -> Path:
    """A pack with and without compression."""
    path = tmp_path / "pack.h5"
    spec = FeatureSpec("audio", "tiny", {"checkpoint": "local"}, 4)
    pack(make_cache(["a", "b", "c", "d", "e"], [spec]), path, PackOptions("CC0-1.0", compression=request.param))
    return path


def features(path: Path) -> dict[str, bytes]:
    """All features of a file as bytes, every checksum compared."""
    store = FeatureStore.open(path)
    blocks = {name: store.load(name, verify=True) for name in store.sets}
    return {name: b.values.tobytes() + b.times.tobytes() + b.valid.tobytes() for name, b in blocks.items()}


def features_after(path: Path, content: bytes) -> dict[str, bytes]:
    path.write_bytes(content)
    return features(path)


def mutate(original: bytes, rng: np.random.Generator) -> bytes:
    """Damage as disks and networks do it: flipped bits, lost, zeroed, doubled and swapped pieces."""
    changed, size = bytearray(original), len(original)
    kind = rng.integers(6)
    if kind == 0:
        for place in rng.integers(size, size=int(rng.integers(1, 9))).tolist():
            changed[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del changed[int(rng.integers(size)) :]
    elif kind == 2:
        changed += bytes(rng.integers(256, size=int(rng.integers(1, 5000)), dtype=np.uint8))
    else:
        length = int(rng.integers(1, 600))
        here, there = (int(place) for place in rng.integers(size - length, size=2))
        if kind == 3:
            changed[here : here + length] = bytes(length)
        elif kind == 4:
            changed[here : here + length] = original[there : there + length]
        else:
            del changed[here : here + length]
    return bytes(changed)


def test_accidental_damage_is_refused(packed: Path) -> None:
    """750 damaged copies of each pack: not one byte can change unnoticed."""
    original, expected, refused = packed.read_bytes(), features(packed), 0
    for number in range(750):
        changed = mutate(original, np.random.default_rng(number))
        packed.write_bytes(changed)
        if changed == original:
            continue
        with pytest.raises(MerError) as told:
            features(packed)
        assert str(packed) in str(told.value)
        assert "\n" not in str(told.value)
        refused += 1
    assert features_after(packed, original) == expected
    assert refused > 550


def test_forged_metadata_are_refused_or_harmless(packed: Path) -> None:
    """250 forgeries of each pack with a valid seal, in a process that may take 1 GB and must not crash."""
    done = subprocess.run(
        [sys.executable, "-c", FORGER, packed, "0", "250"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout)
    assert outcomes["refused"] > 150
    assert sum(outcomes.values()) == 250


@pytest.mark.skipif(sys.platform != "linux", reason="the bounds of the helper process are Linux's")
def test_forgeries_with_fitting_checksums_cannot_crash_their_reader(packed: Path) -> None:
    """Forgery 106 ends a process that opens it, 35 makes it compute for ever; both are told, and reading goes on."""
    endless = [] if packed.read_bytes().find(b'"packed":{}') < 0 else [(35, 1)]  # five seconds: once is enough
    for first, count in ((100, 20), *endless):
        done = subprocess.run(
            [sys.executable, FORGING, packed, str(first), str(count)],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        outcomes = json.loads(done.stdout)
        assert outcomes["refused"] + outcomes["read"] == count
        assert outcomes["not told"] == 0
        assert outcomes["would have crashed"] == len(outcomes["crashing"])


def test_a_file_made_here_or_seen_before_needs_no_helper(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy is opened as it is; one whose seal nobody knows is looked through once, and then known by its place."""
    inspected: list[str] = []
    look = inspection._look_through
    monkeypatch.setattr(inspection, "_look_through", lambda reader: (inspected.append(reader.location), look(reader)))
    features(shutil.copy(packed, tmp_path / "copy.h5"))
    assert not inspected
    monkeypatch.setattr(inspection, "_known", set())
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "another user's"))
    first = features(packed)
    assert inspected == [str(packed)]
    assert features(packed) == first
    monkeypatch.setattr(inspection, "_known", set())
    assert features(packed) == first
    assert inspected == [str(packed)]
    os.utime(packed, ns=(1, 1))
    assert features(packed) == first
    assert inspected == [str(packed)] * 2


def test_a_seal_with_an_infinite_size_is_told(packed: Path) -> None:
    content = re.sub(rb'"size":\d{5}', b'"size":1e999', packed.read_bytes(), count=1)
    with pytest.raises(DamagedError, match="the header is damaged"):
        features_after(packed, content)


def reseal(path: Path, change: Callable[[h5py.File], None]) -> None:
    """Change a pack through h5py as a forger would, and give it a valid seal."""
    with FileReader(path) as reader:
        seal = read_seal(reader)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        change(file)
    write_seal(path, seal.block, seal.plain, seal.packed)


def external_link(file: h5py.File) -> None:
    file["sets/evil"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(file: h5py.File) -> None:
    file["sets/evil"] = h5py.SoftLink("/utterances")


def hard_link_cycle(file: h5py.File) -> None:
    file["sets/evil"] = file["/utterances"]


def external_storage(file: h5py.File) -> None:
    file.create_dataset("evil", (10,), "u1", external=[("/etc/passwd", 0, 10)])


def virtual_dataset(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((10,), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (10,))
    file.create_virtual_dataset("evil", layout)


def object_reference(file: h5py.File) -> None:
    file.create_dataset("evil", data=file["utterances"].ref, dtype=h5py.ref_dtype)


def reference_attribute(file: h5py.File) -> None:
    file.attrs["evil"] = file["utterances"].ref


def variable_attribute(file: h5py.File) -> None:
    file.attrs["evil"] = "text in the global heap"


def variable_strings(file: h5py.File) -> None:
    file.create_dataset("evil", data=["a", "b"], dtype=h5py.string_dtype())


def compound_type(file: h5py.File) -> None:
    file.create_dataset("evil", data=np.zeros(3, [("a", "u1"), ("b", "f4")]))


def absurd_size(file: h5py.File) -> None:
    file.create_dataset("evil", (1 << 50,), "u1")


def bomb(file: h5py.File) -> None:
    file.create_dataset("evil", data=np.zeros(1 << 20, "u1"), chunks=(1 << 20,), compression="gzip")


def unknown_filter(file: h5py.File) -> None:
    file.create_dataset("evil", data=np.arange(100), compression="lzf")


def named_type(file: h5py.File) -> None:
    file["evil"] = np.dtype("f8")


def deep_groups(file: h5py.File) -> None:
    file.create_group("/".join("abcdefghijkl"))


HOSTILE = [
    (external_link, "soft or external link"),
    (soft_link, "soft or external link"),
    (hard_link_cycle, "linked twice"),
    (external_storage, "outside the file"),
    (virtual_dataset, "outside the file"),
    (object_reference, "a type the format does not allow"),
    (reference_attribute, "a type the format does not allow"),
    (variable_attribute, "a type the format does not allow"),
    (variable_strings, "a type the format does not allow"),
    (compound_type, "a type the format does not allow"),
    (absurd_size, "claims 1,125,899,906,842,624 bytes"),
    (bomb, "decompression bomb"),
    (unknown_filter, "compressed with filter"),
    (named_type, "neither a group nor a dataset"),
    (deep_groups, "nested too deep"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE, ids=lambda value: getattr(value, "__name__", ""))
def test_hostile_structures_are_refused(
    make_cache: Cache, tmp_path: Path, change: Callable[..., None], message: str
) -> None:
    path = tmp_path / "pack.h5"
    pack(make_cache(keys=["a"]), path, PackOptions("CC0-1.0"))
    reseal(path, change)
    with pytest.raises(FormatError, match=message):
        FeatureStore.open(path)


def _first_set(file: h5py.File) -> h5py.Group:
    return next(iter(file["sets"].values()))


def swapped_offsets(file: h5py.File) -> None:
    offsets = _first_set(file)["offsets"]
    offsets[1:3] = offsets[1:3][::-1]


def huge_offset(file: h5py.File) -> None:
    _first_set(file)["offsets"][-1] = 1 << 62


def negative_start(file: h5py.File) -> None:
    _first_set(file)["start"][0] = -8


def overlapping(file: h5py.File) -> None:
    group = _first_set(file)
    group["start"][1] = 0


def long_length(file: h5py.File) -> None:
    _first_set(file)["length"][0] = (1 << 63) - 1


def listed_nowhere(file: h5py.File) -> None:
    _first_set(file)["shard"][0] = 7


def escaping_shard(file: h5py.File) -> None:
    shards = _first_set(file)["shards"]
    del shards["names"]
    shards["names"] = np.array([b"../../etc/passwd"], h5py.string_dtype("utf-8", 16))


def control_key(file: h5py.File) -> None:
    keys = file["utterances/keys"]
    keys[0] = np.array(b"a\nb", keys.dtype)


def doubled_key(file: h5py.File) -> None:
    keys = file["utterances/keys"]
    keys[0] = keys[1]


def escaping_set_name(file: h5py.File) -> None:
    put_attributes(file["sets"], {"order": json.dumps(["../../etc"])})


def other_spec(file: h5py.File) -> None:
    group = _first_set(file)
    put_attributes(group, {"spec": group.attrs["spec"].decode().replace("tiny", "huge")})


def newer_version(file: h5py.File) -> None:
    put_attributes(file, {"encoding-version": "2.0.0"})


def newer_group(file: h5py.File) -> None:
    put_attributes(_first_set(file), {"encoding-version": "2.1.0"})


def no_version(file: h5py.File) -> None:
    put_attributes(file, {"encoding-version": "latest"})


def broken_json(file: h5py.File) -> None:
    put_attributes(file, {"corpus": "[" * 100_000})


def lost_column(file: h5py.File) -> None:
    del file["utterances/turn"]


def wrong_type(file: h5py.File) -> None:
    del file["utterances/turn"]
    file["utterances/turn"] = np.zeros(13, np.float32)


WRONG = [
    (swapped_offsets, "do not rise"),
    (huge_offset, "do not rise"),
    (negative_start, "do not agree"),
    (overlapping, "do not agree"),
    (long_length, "do not agree"),
    (listed_nowhere, "a shard that is not listed"),
    (escaping_shard, "bytes"),
    (control_key, "is not allowed"),
    (doubled_key, "holds an id twice"),
    (escaping_set_name, "is not allowed"),
    (other_spec, "the fingerprint is not the spec's"),
    (newer_version, "written by a newer mer .*; upgrade"),
    (newer_group, "written by a newer mer .*; upgrade"),
    (no_version, "is not a version"),
    (broken_json, "is not JSON"),
    (lost_column, "'turn' is missing"),
    (wrong_type, "expected int64"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_content_that_breaks_the_format_is_refused(
    make_cache: Cache, tmp_path: Path, change: Callable[..., None], message: str
) -> None:
    path = tmp_path / "pack.h5"
    pack(make_cache(), path, PackOptions("CC0-1.0"))
    reseal(path, change)
    with pytest.raises(FormatError, match=message):
        FeatureStore.open(path)


def test_a_forged_checksum_of_features_is_found_on_reading(make_cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "pack.h5"
    pack(make_cache(), path, PackOptions("CC0-1.0"))
    reseal(path, lambda file: _first_set(file)["values"].write_direct(np.zeros((1, 4), "f2"), None, np.s_[0:1]))
    store = FeatureStore.open(path)
    with pytest.raises(FormatError, match=r"'train/dia0_utt0' .* does not match its checksum"):
        store.read(store.pick("audio"), "train/dia0_utt0")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("values", np.nan, "values or times are not finite"),
        ("times", np.inf, "values or times are not finite"),
        ("valid", 2, "a step that is not valid holds values"),
        ("valid", 0, "a step that is not valid holds values"),
        ("coverage", 0.25, "its coverage is 0.800000 but the catalogue says 0.250000"),
    ],
)
def test_features_that_break_the_format_are_named_though_their_checksum_fits(
    make_cache: Cache, tmp_path: Path, name: str, value: float, message: str
) -> None:
    path = tmp_path / "pack.h5"
    pack(make_cache(), path, PackOptions("CC0-1.0"))

    def forge(file: h5py.File) -> None:
        group = _first_set(file)
        group[name][0] = value  # the first utterance has five steps, of which the last is not valid
        group["checksums"][0] = checksum(*(group[array][:5] for array in ("values", "times", "valid")))

    reseal(path, forge)
    assert [(problem.key, problem.what) for problem in verify(path)] == [("train/dia0_utt0", message)]


def test_a_catalogue_cannot_point_outside_its_folder(make_cache: Cache) -> None:
    path = make_cache()

    def escape(file: h5py.File) -> None:
        shards = _first_set(file)["shards"]
        del shards["names"]
        names = [b"../../../../etc/passwd", b"a" * 22, b"b" * 22, b"c" * 22]
        shards["names"] = np.array(names, h5py.string_dtype("utf-8", 22))

    reseal(path, escape)
    with pytest.raises(FormatError, match="a shard name is not hex"):
        FeatureStore.open(path)
