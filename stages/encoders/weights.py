"""Weight files of a checkpoint folder: found, checked for truncation and NaN, and hashed, without torch.

What one reading of a file found is remembered in the user's cache by path, size and modification time.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mer.cache import MerError, atomic_write
from mer.cache.user_cache import user_cache

SINGLE = ("model.safetensors", "pytorch_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_BFLOAT16_EXPONENT = 0x7F80
_BLOCK = 1 << 24


@dataclass(frozen=True)
class WeightScan:
    """What reading one weight file found."""

    path: str
    size: int
    mtime_ns: int
    sha256: str
    not_finite: str
    """Name of the first tensor that holds NaN or infinity, or the empty string. Always empty for `.bin` files."""


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Find the weight files of a checkpoint folder; safetensors are preferred to pickled ones.

    Raises
    ------
    MerError
        If there are none, or a shard that the index lists is not there.
    """
    for single, index in zip(SINGLE, INDEXES, strict=True):
        if (folder / single).is_file():
            return (folder / single,)
        if (folder / index).is_file():
            return _sharded(folder, folder / index)
    pickled = sorted(folder.glob("*.pt")) if (folder / "config.yaml").is_file() else []
    if len(pickled) == 1:
        return (pickled[0],)
    raise MerError(
        f"checkpoint folder {folder} has no weights ({' or '.join(SINGLE)}); copy the weight file into it, "
        "or name a checkpoint that has PyTorch weights"
    )


def _sharded(folder: Path, index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MerError(f"{index} is not an index of weight files ({error}); fetch it again") from error
    for name in names:
        if Path(name).name != name:
            raise MerError(f"{index} lists {name!r}, which is not a file of its folder; do not use this checkpoint")
        if not (folder / name).is_file():
            raise MerError(f"checkpoint folder {folder} lacks the weight file {name}; fetch it again")
    return tuple(folder / name for name in names)


def scan_weights(files: tuple[Path, ...]) -> str:
    """Check every weight file and return one SHA-256 over the digests of all, as hex.

    Raises
    ------
    MerError
        If a file is truncated or a tensor holds NaN or infinity.
    """
    scans = [_remembered(path) or _scan(path) for path in files]
    for scan in scans:
        if scan.not_finite:
            raise MerError(f"weights {scan.path} hold NaN or infinity in {scan.not_finite}; fetch or train them again")
    if len(scans) == 1:
        return scans[0].sha256
    return hashlib.sha256("".join(scan.sha256 for scan in scans).encode()).hexdigest()


def _memo(path: Path) -> Path:
    return user_cache("weights", f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json")


def _remembered(path: Path) -> WeightScan | None:
    stat = path.stat()
    try:
        scan = WeightScan(**json.loads(_memo(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return scan if (scan.size, scan.mtime_ns) == (stat.st_size, stat.st_mtime_ns) else None


def _scan(path: Path) -> WeightScan:
    stat = path.stat()
    if stat.st_size == 0:
        raise MerError(f"weight file {path} is empty; fetch it again")
    not_finite = ""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if path.suffix == ".safetensors":
            not_finite = _first_not_finite(mapped, read_safetensors_header(path))
        digest = hashlib.sha256()
        for start in range(0, stat.st_size, _BLOCK):
            digest.update(mapped[start : start + _BLOCK])
    scan = WeightScan(str(path), stat.st_size, stat.st_mtime_ns, digest.hexdigest(), not_finite)
    memo = _memo(path)
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(memo) as temporary:
            temporary.write_text(json.dumps(asdict(scan)), encoding="utf-8")
    except OSError:
        pass  # a cache folder that cannot be written costs a second reading next time, nothing else
    return scan


def read_safetensors_header(path: Path) -> dict[str, tuple[str, int, int]]:
    """Read tensor names with dtype and absolute byte range [start, stop) of a safetensors file.

    Raises
    ------
    MerError
        If the header cannot be read or the file's size is not what the header says.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise ValueError("it ends inside its header")
            header: dict[str, Any] = json.loads(file.read(length))
        base = 8 + length
        tensors = {
            name: (str(entry["dtype"]), base + int(entry["data_offsets"][0]), base + int(entry["data_offsets"][1]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, IndexError, struct.error) as error:
        raise MerError(f"weight file {path} is not a readable safetensors file ({error}); fetch it again") from error
    expected = max((stop for _, _, stop in tensors.values()), default=base)
    if expected != size:
        state = "is truncated" if size < expected else "has trailing bytes"
        raise MerError(f"weight file {path} {state}: {size} bytes where its header says {expected}; fetch it again")
    return tensors


def _first_not_finite(mapped: mmap.mmap, tensors: dict[str, tuple[str, int, int]]) -> str:
    for name, (kind, start, stop) in tensors.items():
        dtype = _FLOATS.get(kind)
        if dtype is None:
            continue
        step = _BLOCK * dtype.itemsize
        for offset in range(start, stop, step):
            block = np.frombuffer(mapped[offset : min(stop, offset + step)], dtype)
            finite = (block & _BFLOAT16_EXPONENT) != _BFLOAT16_EXPONENT if kind == "BF16" else np.isfinite(block)
            if not finite.all():
                return name
    return ""
