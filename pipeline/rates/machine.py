"""What `mer doctor` tells: what this machine and this environment have, and what is missing for what."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mer.cache.release import DISTRIBUTION, clash, install_line, program_version
from mer.cache.user_cache import user_cache

LIBRARIES = ("torch", "transformers", "numpy", "h5py", "av", "librosa", "dask")
DECODERS = ("h264", "hevc", "mpeg4", "vp9", "flv", "aac", "mp3", "flac", "opus", "pcm_s16le")
EXTRAS = {
    "listen": ("jiwer", "mer corpora check --listen: word error rates"),
    "opensmile": ("opensmile", "eGeMAPS and ComParE sound features (research only)"),
    "pandas": ("pandas", "store.table(), run.predictions(), mer.compare() in Python"),
    "parquet": ("pyarrow", "Parquet and Arrow files, in and out"),
    "remote": ("s3fs", "mer push and mer pull with s3://, gs://, ssh://"),
    "sweep": ("optuna", 'mer train --sweep with method = "tpe"'),
    "tensorboard": ("tensorboard", "mer train --tensorboard"),
    "timm": ("timm", "face encoders timm/NAME"),
    "timeline": ("pysubs2", "mer predict over time: subtitles, ELAN and Praat files"),
    "vad": ("silero_vad", "--transcribe: tells speech from music and noise"),
    "zstd": ("hdf5plugin", "packs with --compression zstd, and reading them"),
}
"""Extra to the module that tells whether it is there, and what it gives."""
HUB = "https://huggingface.co"
HUB_SECONDS = 2.0
LEAST_FREE_BYTES = 5 << 30


@dataclass(frozen=True)
class Finding:
    """One fact about the machine."""

    group: str
    name: str
    value: str
    good: bool = True
    """False where something will not work."""


def examine(online: bool = False) -> list[Finding]:
    """Look at this machine; the network is touched only where `online` asks for it."""
    looks: list[Callable[[], Iterator[Finding]]] = [_versions, _devices, _codecs, _hub_cache, _places, _extras]
    found = [finding for look in looks for finding in look()]
    return [*found, *(_hub() if online else ())]


def _versions() -> Iterator[Finding]:
    yield Finding("versions", DISTRIBUTION, program_version())
    yield Finding("versions", "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in LIBRARIES:
        try:
            yield Finding("versions", name, version(name))
        except PackageNotFoundError:
            yield Finding("versions", name, "not installed", False)
    if told := clash():
        yield Finding("versions", "the other mer", told, False)


def _devices() -> Iterator[Finding]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    yield Finding(
        "hardware", "CPU", f"{os.cpu_count()} cores, {_sized(memory.available)} of {_sized(memory.total)} free"
    )
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"no usable device (PyTorch was built for CUDA {built})" if built else "PyTorch was built without CUDA"
        yield Finding("hardware", "GPU", f"{why}: work is done on the CPU")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Finding("hardware", f"cuda:{index}", f"{name}, {_sized(free)} of {_sized(total)} free")


def _codecs() -> Iterator[Finding]:
    import av

    absent = []
    for name in DECODERS:
        try:
            av.Codec(name, "r")
        except av.error.FFmpegError:
            absent.append(name)
    there = ", ".join(name for name in DECODERS if name not in absent)
    yield Finding("media", "decoders", there + (f"; missing: {', '.join(absent)}" if absent else ""), not absent)


def _hub_cache() -> Iterator[Finding]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.constants import HF_HUB_CACHE

    from mer.stages.encoders.catalog import ENCODERS, PRESETS

    sizes: dict[str, int] = {}
    with suppress(Exception):  # no cache yet, or one that is damaged: there is nothing in it for us
        sizes = {repo.repo_id: repo.size_on_disk for repo in scan_cache_dir().repos if repo.repo_type == "model"}
    known = {entry.checkpoint: name for name, entry in ENCODERS.items() if entry.checkpoint}
    here = [f"{known.get(repo, repo)} ({_sized(size)})" for repo, size in sorted(sizes.items())]
    yield Finding("encoders", "in the hub's cache", ", ".join(here) or f"none in {HF_HUB_CACHE}")
    for preset, chosen in PRESETS.items():
        wanted = [name for name in vars(chosen).values() if isinstance(name, str) and name in ENCODERS]
        on_hub = {name: ENCODERS[name].checkpoint for name in wanted if "/" in (ENCODERS[name].checkpoint or "")}
        absent = [name for name, checkpoint in on_hub.items() if checkpoint not in sizes]
        state = "is downloaded at first use: " + ", ".join(absent) if absent else "nothing to download"
        yield Finding("encoders", f"--preset {preset}", state)


def _places() -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    for name, folder in (("here", Path.cwd()), ("mer's cache", user_cache()), ("hub's cache", Path(HF_HUB_CACHE))):
        there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
        free = shutil.disk_usage(there).free
        writable = os.access(there, os.W_OK)
        told = f"{folder}: {_sized(free)} free" + ("" if writable else ", not writable")
        yield Finding("disk", name, told, writable and free > LEAST_FREE_BYTES)
    yield _locks(Path.cwd())


def _locks(folder: Path) -> Finding:
    """Whether files can be locked here, which keeps two runs from writing one catalogue at once."""
    try:
        import fcntl

        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        return Finding("disk", "file locks", f"do not work here ({error}): start one run at a time", False)
    return Finding("disk", "file locks", "work here")


def _extras() -> Iterator[Finding]:
    for extra, (module, what) in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        yield Finding("extras", extra, what if there else f"missing: {what}; {install_line(extra)}")


def _hub() -> Iterator[Finding]:
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    address = os.environ.get("HF_ENDPOINT", HUB)
    if not address.startswith(("https://", "http://")):
        yield Finding("network", "hub", f"HF_ENDPOINT {address!r} is no address", False)
        return
    try:
        with urlopen(Request(address, method="HEAD"), timeout=HUB_SECONDS):
            pass
    except HTTPError:
        pass  # it answers
    except OSError as error:
        why = getattr(error, "reason", error)
        yield Finding("network", "hub", f"{address} does not answer within {HUB_SECONDS:.0f} s ({why})", False)
        return
    yield Finding("network", "hub", f"{address} answers")


def _sized(count: float) -> str:
    from ..terminal.console import sized

    return sized(count)
