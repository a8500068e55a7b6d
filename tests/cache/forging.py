"""Forges packs as who means harm would: metadata are changed, and every checksum over them is made to fit again.

Usage: python forging.py PACK FIRST COUNT. It opens and reads each forgery and prints how many were refused and read.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mer.cache import FeatureStore, MerError
from mer.cache.seal import Seal, read_seal, write_seal
from mer.cache.source import FileReader

SIGNATURES = (
    b"OHDR",
    b"OCHK",
    b"FRHP",
    b"FHDB",
    b"FHIB",
    b"FSHD",
    b"FSSE",
    b"BTHD",
    b"BTLF",
    b"BTIN",
    b"FAHD",
    b"FADB",
)
SUPERBLOCK = b"\x89HDF\r\n\x1a\n"
MASK = 0xFFFFFFFF
LAST_ROUNDS = (
    ("c", "b", 14),
    ("a", "c", 11),
    ("b", "a", 25),
    ("c", "b", 16),
    ("a", "c", 4),
    ("b", "a", 14),
    ("c", "b", 24),
)


def lookup3(content: bytes) -> int:
    """Bob Jenkins' lookup3 with initial value 0: the checksum of HDF5's metadata (his `hashlittle`)."""

    def turned(value: int, by: int) -> int:
        return ((value << by) | (value >> (32 - by))) & MASK

    a = b = c = (0xDEADBEEF + len(content)) & MASK
    at, left = 0, len(content)
    while left > 12:
        a, b, c = (
            (x + int.from_bytes(content[at + k : at + k + 4], "little")) & MASK for x, k in ((a, 0), (b, 4), (c, 8))
        )
        a = ((a - c) & MASK) ^ turned(c, 4)
        c = (c + b) & MASK
        b = ((b - a) & MASK) ^ turned(a, 6)
        a = (a + c) & MASK
        c = ((c - b) & MASK) ^ turned(b, 8)
        b = (b + a) & MASK
        a = ((a - c) & MASK) ^ turned(c, 16)
        c = (c + b) & MASK
        b = ((b - a) & MASK) ^ turned(a, 19)
        a = (a + c) & MASK
        c = ((c - b) & MASK) ^ turned(b, 4)
        b = (b + a) & MASK
        at, left = at + 12, left - 12
    if not left:
        return c
    tail = content[at:].ljust(12, b"\0")
    a, b, c = ((x + int.from_bytes(tail[k : k + 4], "little")) & MASK for x, k in ((a, 0), (b, 4), (c, 8)))
    for this, other, by in LAST_ROUNDS:
        value = {"a": a, "b": b, "c": c}
        value[this] = ((value[this] ^ value[other]) - turned(value[other], by)) & MASK
        a, b, c = value["a"], value["b"], value["c"]
    return c


def checksummed(content: bytes) -> list[tuple[int, int]]:
    """Start and end of every stretch of metadata behind which its checksum lies."""
    starts = sorted(
        place
        for signature in (*SIGNATURES, SUPERBLOCK)
        for place in range(len(content))
        if content.startswith(signature, place)
    )
    found = []
    for start, after in zip(starts, [*starts[1:], len(content)], strict=True):
        for end in range(start + 8, min(after, start + 4096) - 3):
            if int.from_bytes(content[end : end + 4], "little") == lookup3(content[start:end]):
                found.append((start, end))
                break
    return found


def metadata_places(content: bytes, seal: Seal) -> np.ndarray:
    """Offsets of all bytes that the seal's digest covers."""
    guarded = np.ones(len(content), bool)
    guarded[: seal.block] = False
    for at, length in [*seal.plain.values(), *(place for places in seal.packed.values() for place in places)]:
        guarded[at : at + length] = False
    return np.flatnonzero(guarded)


def forge(original: bytes, stretches: Sequence[tuple[int, int]], places: np.ndarray, number: int) -> bytes:
    """One forgery: some bytes inside checksummed metadata, or anywhere in the metadata, are others."""
    rng = np.random.default_rng(number)
    forged = bytearray(original)
    for _ in range(int(rng.integers(1, 5))):
        if rng.integers(4):
            start, end = stretches[int(rng.integers(len(stretches)))]
            place = int(rng.integers(start + 4, end))
        else:
            place = int(rng.choice(places))
        kind = rng.integers(4)
        if kind == 0:
            forged[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            forged[place] = int(rng.integers(256))
        elif kind == 2:
            forged[place : place + 8] = b"\xff" * len(forged[place : place + 8])
        else:
            forged[place : place + 8] = original[(other := int(rng.choice(places))) : other + 8][
                : len(original) - place
            ]
    for start, end in stretches:
        if forged[start:end] != original[start:end]:
            forged[end : end + 4] = lookup3(bytes(forged[start:end])).to_bytes(4, "little")
    return bytes(forged[: len(original)])


def main() -> None:
    """Open forgeries one after the other, in at most 1 GB more than this process has."""
    source, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    original = source.read_bytes()
    with FileReader(source) as reader:
        seal = read_seal(reader)
    stretches, places = checksummed(original), metadata_places(original, seal)
    target = source.with_name("forged.h5")
    os.fsync = lambda handle: None
    resource.setrlimit(resource.RLIMIT_AS, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + (1 << 30),) * 2)
    outcomes = {"stretches": len(stretches), "refused": 0, "read": 0, "would have crashed": 0, "not told": 0}
    crashing: list[int] = []
    for number in range(first, first + count):
        target.write_bytes(forge(original, stretches, places, number))
        write_seal(target, seal.block, seal.plain, seal.packed)
        try:
            store = FeatureStore.open(target)
            for name in store.sets:
                store.load(name, verify=True)
                store.all_notes(name)
            outcomes["read"] += 1
        except MerError as error:
            told = str(error)
            outcomes["refused"] += 1
            outcomes["not told"] += "\n" in told or str(target) not in told
            if "does not survive" in told:
                outcomes["would have crashed"] += 1
                crashing.append(number)
    print(json.dumps(outcomes | {"crashing": crashing}))


if __name__ == "__main__":
    main()
