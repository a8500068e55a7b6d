"""The published format: the document's own reader, the archived files, and what other tools make of them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash

from mer.cache import FeatureStore, check_shard, read_catalogue, verify
from mer.cache.hdf import FORMAT_VERSION

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = ROOT / "tests" / "data" / "format-1"
DOCUMENT = (ROOT / "docs" / "format.md").read_text()
AUDIO = "audio-tiny-40b5f0d1"
TEXT = "text-words-69859537"
FIRST_AUDIO = [0.72314453125, 2.607421875, 1.89453125, -1.4072265625]
FIRST_VALID = [True, True, True, True, False]


@pytest.mark.parametrize("name", ["cache.h5", "pack.h5"])
def test_archived_files_are_read_for_ever(name: str) -> None:
    """Numbers as they were written by the first version."""
    assert verify(ARCHIVE / name) == []
    store = FeatureStore.open(ARCHIVE / name)
    assert store.utterances.keys == ["train/a", "val/b ü", "test/c", "d"]
    assert store.utterances.text[:2] == ["words 0 — ünï\0code", "words 1 — ünï\0code"]
    assert store.utterances.labels["emotion"].values.tolist() == [-1, 0, 1, 2]
    assert store.set_names() == [AUDIO, TEXT]
    assert [index.fates.tolist() for index in store.sets.values()] == [[1, 1, 2, 3]] * 2
    audio = store.read(AUDIO, "train/a")
    assert audio.values.dtype == np.float16
    assert audio.values[0].tolist() == FIRST_AUDIO
    assert audio.times.tolist() == pytest.approx([0.01, 0.03, 0.05, 0.07, 0.09])
    assert audio.valid.tolist() == FIRST_VALID
    assert store.read(TEXT, "val/b ü").values.dtype == np.float32
    assert store.notes(AUDIO, "val/b ü") == {"index": 1}
    assert store.sets[AUDIO].reasons == ["", "", "no sound stream", "truncated file"]


def test_archived_shards_are_whole() -> None:
    shards = sorted(ARCHIVE.glob("cache.shards/*/*.h5"))
    assert len(shards) == 2
    for path in shards:
        check_shard(path, deep=True)
    assert read_catalogue(ARCHIVE / "pack.h5").datasheet["license"] == "CC0-1.0"


def test_the_reader_of_the_document_works() -> None:
    listing = re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert listing is not None
    scope: dict[str, object] = {}
    exec(compile(listing[1], "docs/format.md", "exec"), scope)
    assert len([line for line in listing[1].splitlines() if line.strip()]) <= 15
    read_utterance = scope["read_utterance"]
    values, times, valid = read_utterance(ARCHIVE / "pack.h5", AUDIO, "train/a")  # type: ignore[operator]
    ours = FeatureStore.open(ARCHIVE / "pack.h5").read(AUDIO, "train/a")
    np.testing.assert_array_equal(values, ours.values)
    np.testing.assert_array_equal(times, ours.times)
    np.testing.assert_array_equal(valid, ours.valid)
    with pytest.raises(KeyError, match="test/c has no features"):
        read_utterance(ARCHIVE / "pack.h5", AUDIO, "test/c")  # type: ignore[operator]


@pytest.mark.parametrize("name", ["cache.h5", "pack.h5", f"cache.shards/{AUDIO}/*.h5"])
def test_the_seal_is_as_the_document_says(name: str) -> None:
    """A second implementation of section 3, from the document alone."""
    content = next(ARCHIVE.glob(name)).read_bytes()
    header, _, rest = content.partition(b"\n")
    word, version, block, length = header.split()
    assert (word, version) == (b"mer-seal", b"1")
    seal = json.loads(rest[: int(length)])
    assert rest[int(length) : int(block) - len(header) - 1].strip(b"\0") == b""
    assert content[int(block) :].startswith(b"\x89HDF\r\n\x1a\n")
    assert seal["size"] == len(content)
    digest, position = hashlib.sha256(), int(block)
    for at, size in sorted(seal["plain"].values()):
        digest.update(content[position:at])
        position = at + size
    digest.update(content[position:])
    assert seal["sha256"] == digest.hexdigest()


def test_checksums_and_coverage_are_as_the_document_says() -> None:
    with h5py.File(ARCHIVE / "pack.h5") as file:
        group = file["sets"][AUDIO]
        offsets = group["offsets"][:]
        for row in np.flatnonzero(group["fates"][:] == 1).tolist():
            part = slice(offsets[row], offsets[row + 1])
            stored = b"".join(group[name][part].tobytes() for name in ("values", "times", "valid"))
            assert group["checksums"][row] == xxhash.xxh3_64_intdigest(stored)
            assert group["coverage"][row] == pytest.approx(group["valid"][part].mean() if len(stored) else 0)


@pytest.mark.parametrize("name", ["cache.h5", "pack.h5", f"cache.shards/{AUDIO}/*.h5"])
def test_every_name_in_a_file_is_documented(name: str) -> None:
    names: set[str] = set()

    def note(path: str, item: h5py.Group | h5py.Dataset) -> None:
        names.update({path.rsplit("/", 1)[-1], *item.attrs})
        if isinstance(item, h5py.Dataset):
            assert item.chunks is None
            assert item.dtype.kind in "iufS"

    with h5py.File(next(ARCHIVE.glob(name))) as file:
        file.visititems(note)
        names |= set(file.attrs)
    own = {"emotion", "valence%2Farousal", "tags", AUDIO, TEXT}
    assert {word for word in names - own if not re.search(rf"\b{word}\b", DOCUMENT)} == set()
    assert f"| {FORMAT_VERSION} |" in DOCUMENT


@pytest.mark.parametrize("tool", ["h5ls", "h5dump"])
def test_the_hdf_group_tools_read_it(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (Debian: hdf5-tools)")
    options = ["-r"] if tool == "h5ls" else ["-H"]
    done = subprocess.run([tool, *options, ARCHIVE / "pack.h5"], capture_output=True, text=True, check=True)
    for name in ("checksums", "values", "machine_text"):
        assert name in done.stdout
