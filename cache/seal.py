"""The seal: a header before the HDF5 content that shows damage before the HDF5 library meets it.

The HDF5 library is not safe on damaged metadata: a flipped bit may crash it or make it ask for terabytes. Every file of
`mer` therefore starts with a user block (which HDF5 readers skip) that says how long the file is, where its feature
arrays lie, and the SHA-256 of all other bytes. Those are few, so opening stays cheap; the feature arrays have
checksums of their own, one per utterance. The seal finds accidents; who forges a file can forge its seal, so everything
read after it is still checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import DamagedError, FormatError
from .release import UPGRADE
from .source import FileReader
from .spec import canonical_json

SEAL_VERSION = 1
SMALLEST_BLOCK = 1024
LARGEST_BLOCK = 1 << 20
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
HEADER = re.compile(rb"mer-seal (\d{1,9}) (\d{1,9}) (\d{1,9})\n")
PIECE = 1 << 20

Extent = tuple[int, int]


@dataclass(frozen=True)
class Seal:
    """What the header of a file says."""

    size: int
    """Length of the file in bytes."""
    block: int
    """Length of the user block; the HDF5 content starts here."""
    plain: Mapping[str, Extent]
    """HDF5 path of each uncompressed feature array, with (offset in the file, bytes)."""
    packed: Mapping[str, tuple[Extent, ...]]
    """HDF5 path of each compressed feature array, with the extents of its chunks that the digest leaves out."""
    digest: str
    """SHA-256, in hex, of everything after the user block except those extents."""


def block_size(arrays: int) -> int:
    """Size of the user block for so many feature arrays: a power of two, as HDF5 asks."""
    return 1 << (max(SMALLEST_BLOCK, 512 + 256 * arrays) - 1).bit_length()


def write_seal(
    path: Path, block: int, plain: Mapping[str, Extent], packed: Mapping[str, tuple[Extent, ...]] | None = None
) -> Seal:
    """Seal a finished HDF5 file that was created with a user block of `block` bytes.

    Extents of compressed arrays that find no room in the block are left to the digest, smallest first.
    """
    packed = _fitting(packed or {}, block)
    size = os.path.getsize(path)
    with FileReader(path) as reader:
        digest = _digest(reader, block, size, _holes(plain, packed, block, size, str(path)))
    seal = Seal(size, block, dict(plain), packed, digest)
    body = _body(seal)
    header = f"mer-seal {SEAL_VERSION} {block} {len(body)}\n".encode() + body
    if len(header) > block:
        raise FormatError(f"{path}: the user block of {block} bytes is too small for its seal of {len(header)}")
    with open(path, "r+b") as file:
        file.write(header)
        os.fsync(file.fileno())
    return seal


def _body(seal: Seal) -> bytes:
    return canonical_json(
        {
            "size": seal.size,
            "plain": {name: list(extent) for name, extent in seal.plain.items()},
            "packed": {name: [list(extent) for extent in extents] for name, extents in seal.packed.items()},
            "sha256": seal.digest,
        }
    ).encode()


def _fitting(packed: Mapping[str, tuple[Extent, ...]], block: int) -> dict[str, tuple[Extent, ...]]:
    room = block // 128  # a quarter of the block, at most 32 bytes an entry
    ordered = sorted(((length, name, at) for name, extents in packed.items() for at, length in extents), reverse=True)
    kept: dict[str, list[Extent]] = {name: [] for name in packed}
    for length, name, at in ordered[:room]:
        kept[name].append((at, length))
    return {name: tuple(sorted(extents)) for name, extents in kept.items()}


def read_seal(reader: FileReader) -> Seal:
    """Read and check the seal of a file: its form, the file's length, and the digest.

    Raises
    ------
    FormatError
        If the file is not one of `mer`, or is of a newer major version.
    DamagedError
        If the file is truncated or its metadata changed.
    """
    start = reader.read(0, 64)
    match = HEADER.match(start)
    if match is None:
        raise _not_ours(reader.location, start)
    version, block, length = (int(group) for group in match.groups())
    if version > SEAL_VERSION:
        raise FormatError(
            f"{reader.location} was written by a newer mer (seal version {version}, this one reads {SEAL_VERSION}); "
            f"upgrade with: {UPGRADE}"
        )
    if version < 1 or not 512 <= block <= LARGEST_BLOCK or block & (block - 1) or length > block - match.end():
        raise DamagedError(f"{reader.location}: the header is damaged; fetch or make the file again")
    content = reader.read(match.end(), block - match.end())
    seal = _parse(reader.location, content[:length], block)
    if seal.size != reader.size:
        raise DamagedError(
            f"{reader.location} has {reader.size:,} bytes instead of {seal.size:,}; it was truncated or changed"
        )
    holes = _holes(seal.plain, seal.packed, block, seal.size, reader.location)
    if content[length:].strip(b"\0") or _digest(reader, block, seal.size, holes) != seal.digest:
        raise DamagedError(f"{reader.location}: the metadata do not match their checksum; fetch or make the file again")
    return seal


def _parse(location: str, body: bytes, block: int) -> Seal:
    try:
        fields = json.loads(body)
        seal = Seal(
            int(fields["size"]),
            block,
            {str(name): (int(at), int(length)) for name, (at, length) in fields["plain"].items()},
            {
                str(name): tuple((int(at), int(length)) for at, length in extents)
                for name, extents in fields["packed"].items()
            },
            str(fields["sha256"]),
        )
    except (ValueError, OverflowError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{location}: the header is damaged; fetch or make the file again") from error
    return seal


def _not_ours(location: str, start: bytes) -> FormatError:
    if not start:
        return FormatError(f"{location} is empty; fetch or make the file again")
    if start.startswith(HDF5_SIGNATURE):
        return FormatError(
            f"{location} is an HDF5 file but not one of mer's; see `mer import --help` for other formats"
        )
    return FormatError(f"{location} is not a feature file of mer; see `mer import --help` for other formats")


def _holes(
    plain: Mapping[str, Extent], packed: Mapping[str, tuple[Extent, ...]], block: int, size: int, location: str
) -> list[Extent]:
    """All extents that the digest leaves out, in order; they lie inside the file and do not overlap."""
    holes = sorted([*plain.values(), *(extent for extents in packed.values() for extent in extents)])
    position = block + len(HDF5_SIGNATURE)
    for at, length in holes:
        if at < position or length < 0 or at + length > size:
            raise DamagedError(f"{location}: the header is damaged; fetch or make the file again")
        position = at + length
    return holes


def _digest(reader: FileReader, block: int, size: int, holes: list[Extent]) -> str:
    digest = hashlib.sha256()
    for start, end in _between(block, size, holes):
        for at in range(start, end, PIECE):
            digest.update(reader.read(at, min(PIECE, end - at)))
    return digest.hexdigest()


def _between(start: int, end: int, holes: list[Extent]) -> Iterator[tuple[int, int]]:
    for at, length in holes:
        yield start, at
        start = at + length
    yield start, end
