"""Fetching a checkpoint from the Hugging Face hub: only the files that are needed, pinned to one commit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mer.cache import MerError

from .config_files import FUNASR_SETTINGS, SETTINGS, read_config
from .families import FAMILIES, model_type_of
from .preprocessing import find_preprocessing
from .weights import weight_files

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
TIMEOUT_SECONDS = 10.0
"""A hub that does not answer within this is taken for unreachable."""


def fetch_checkpoint(repository: str, revision: str = "", with_code: bool = False) -> tuple[Path, str]:
    """Return the local folder of a hub checkpoint and the commit it is pinned to.

    A snapshot that is already on this machine is used as it is, without asking the hub: a checkpoint resolved once
    stays the same until another revision is named.

    Raises
    ------
    MerError
        If the hub has no such checkpoint, asks for permission, cannot be reached, or the disk is full.
    """
    local = _local_snapshot(repository, revision, with_code)
    if local is not None:
        return local, local.name
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    try:
        info = HfApi().model_info(repository, revision=revision or None, timeout=TIMEOUT_SECONDS)
        names = [sibling.rfilename for sibling in info.siblings or []]
        wanted = files_needed(names, with_code)
        if not wanted:
            raise MerError(f"hub checkpoint {repository} has no PyTorch weights; name one that has model.safetensors")
        disable_progress_bars()
        try:
            folder = snapshot_download(
                repository, revision=revision or None, allow_patterns=wanted, etag_timeout=TIMEOUT_SECONDS
            )
        finally:
            enable_progress_bars()
    except MerError:
        raise
    except Exception as error:  # the hub's client raises errors of several libraries
        raise MerError(_told_why(repository, revision, error)) from error
    return Path(folder), Path(folder).name


def files_needed(names: Sequence[str], with_code: bool = False) -> list[str]:
    """Choose from a repository's files: settings, tokenizer, one set of weights. Empty without weights."""
    present = set(names)
    pickled = sorted(name for name in present if name.endswith(".pt") and "/" not in name)
    if "config.json" not in present and "config.yaml" in present and len(pickled) == 1:
        return [*FUNASR_SETTINGS, *pickled]
    weights: list[str] = []
    for single, index, shard in (
        ("model.safetensors", "model.safetensors.index.json", r"model-\d+-of-\d+\.safetensors"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json", r"pytorch_model-\d+-of-\d+\.bin"),
    ):
        if single in present:
            weights = [single]
        elif index in present:
            weights = [index, *sorted(name for name in present if re.fullmatch(shard, name))]
        if weights:
            break
    if not weights:
        return []
    code = sorted(name for name in present if name.endswith(".py")) if with_code else []
    return [name for name in SETTINGS if name in present] + weights + code


def _local_snapshot(repository: str, revision: str, with_code: bool) -> Path | None:
    """Folder of a snapshot that an earlier run fetched completely, or None."""
    from huggingface_hub import snapshot_download

    try:
        wanted = [*SETTINGS, *FUNASR_SETTINGS, *(["*.py"] if with_code else [])]
        folder = Path(
            snapshot_download(repository, revision=revision or None, local_files_only=True, allow_patterns=wanted)
        )
        weight_files(folder)
        family = FAMILIES.get(model_type_of(read_config(folder)))
        if family and family.prepared_by and find_preprocessing(folder, family.prepared_by) is None:
            return None  # another program fetched configuration and weights alone
    except Exception:  # anything missing or unreadable: ask the hub
        return None
    return folder


def _told_why(repository: str, revision: str, error: Exception) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    wanted = f"{repository}@{revision}" if revision else repository
    if "GatedRepoError" in kinds:
        return (
            f"hub checkpoint {repository} is gated: accept its terms at https://huggingface.co/{repository}, "
            "then run `hf auth login`"
        )
    if "RevisionNotFoundError" in kinds:
        return f"hub checkpoint {repository} has no revision {revision!r}; leave it out or name a commit of it"
    if kinds & {"RepositoryNotFoundError", "HFValidationError"}:
        return f"the hub has no checkpoint {repository!r} (or it is private: `hf auth login`); check the name"
    if isinstance(error, OSError) and error.errno is not None and not kinds & {"ConnectionError", "TimeoutError"}:
        return f"checkpoint {wanted} cannot be stored: {error.strerror or error}; free space or set HF_HOME elsewhere"
    return (
        f"checkpoint {wanted} is not, or not wholly, on this machine and the hub cannot be reached "
        f"({type(error).__name__}); where there is a network run `hf download {repository} --local-dir DIR`, copy DIR "
        "here and name DIR instead"
    )
