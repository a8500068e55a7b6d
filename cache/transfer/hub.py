"""Hugging Face Hub repositories of data sets and models: addresses and uploads, through huggingface_hub's client."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MerError

ADDRESS = re.compile(
    r"hf://(?P<prefix>datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./%-]+?))?(?:/(?P<file>[^@?#]+))?/?",
    re.ASCII,
)


@dataclass(frozen=True)
class HubAddress:
    """A repository, or one file of it, at one revision."""

    repo: str
    revision: str | None
    file: str | None
    kind: str = "dataset"
    """`dataset` or `model`."""

    @classmethod
    def parse(cls, url: str, revision: str | None = None, kind: str = "dataset") -> HubAddress:
        """Read `hf://datasets/ORG/NAME[@REVISION][/FILE]`; for a `model` without `datasets/`.

        Raises
        ------
        MerError
            If it is not of that form, or names two revisions.
        """
        head, at, tail = url.partition("@")
        match = ADDRESS.fullmatch(url) if not at else ADDRESS.fullmatch(f"{head}@{_one_part(tail)}")
        if match is None or ".." in url or bool(match["prefix"]) != (kind == "dataset"):
            form = "hf://datasets/ORG/NAME[@REVISION][/FILE]"
            if kind == "model":
                raise MerError(f"{url}: a Hub address of a model is hf://ORG/NAME[@REVISION]; features are at {form}")
            raise MerError(f"{url}: a Hub address is {form}")
        named = match["revision"].replace("%2F", "/") if match["revision"] else None
        if named and revision and named != revision:
            raise MerError(f"{url}: names revision {named!r}, and --revision asks for {revision!r}; give one")
        return cls(match["repo"], named or revision, match["file"], kind)

    def url(self, file: str) -> str:
        """Address of one file in the form fsspec reads."""
        at = f"@{self.revision.replace('/', '%2F')}" if self.revision else ""
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.repo}{at}/{file}"


def _one_part(tail: str) -> str:
    """Revisions such as `refs/pr/1` contain slashes: keep the first three parts of those together."""
    if tail.startswith("refs/"):
        parts = tail.split("/")
        return "%2F".join(parts[:3]) + "".join(f"/{part}" for part in parts[3:])
    return tail


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


def only_file(address: HubAddress) -> str:
    """Name of the one `.h5` file of a repository.

    Raises
    ------
    MerError
        If it has none or several (the message lists them), or cannot be reached.
    """
    try:
        files = _api().list_repo_files(address.repo, repo_type="dataset", revision=address.revision)
    except Exception as error:  # the client's many errors all mean that the repository cannot be read
        raise MerError(f"{address.url('')}: the repository cannot be read ({_line(error)})") from error
    packs = [name for name in files if name.endswith(".h5") and ".shards/" not in name]
    if len(packs) != 1:
        raise MerError(f"{address.url('')}: holds {len(packs)} .h5 files; name one of: {', '.join(packs[:20]) or '-'}")
    return str(packs[0])


def download(address: HubAddress, folder: Path, ending: str) -> None:
    """Fetch the files of a repository that end so, under the folder of the address if it names one.

    Raises
    ------
    MerError
        With what the Hub said, or if there are none.
    """
    under = f"{address.file.rstrip('/')}/" if address.file else ""
    try:
        files = _api().list_repo_files(address.repo, repo_type="dataset", revision=address.revision)
        chosen = [name for name in files if name.endswith(ending) and (not under or f"{name}/".startswith(under))]
        for name in chosen:
            if ".." in name.split("/") or name.startswith("/"):
                raise MerError(f"{address.url(name)}: the name leads outside the repository")
            _api().hf_hub_download(
                address.repo, name, repo_type="dataset", revision=address.revision, local_dir=str(folder)
            )
    except MerError:
        raise
    except Exception as error:  # the client's many errors all mean that the repository cannot be read
        raise MerError(f"{address.url('')}: the repository cannot be read ({_line(error)})") from error
    if not chosen:
        raise MerError(f"{address.url('')}: holds no {ending} files")
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's own notes, with clocks in them


def upload(address: HubAddress, files: dict[str, Path | bytes], message: str, private: bool) -> str:
    """Create the repository where it is missing and put the files into it as one commit.

    Parameters
    ----------
    files
        Path in the repository to a local path or the content.

    Returns
    -------
    str
        Commit id.

    Raises
    ------
    MerError
        With what the Hub said.
    """
    from huggingface_hub import CommitOperationAdd

    api = _api()
    operations = [
        CommitOperationAdd(name, str(content) if isinstance(content, Path) else content)
        for name, content in files.items()
    ]
    try:
        api.create_repo(address.repo, repo_type=address.kind, private=private, exist_ok=True)
        commit = api.create_commit(
            address.repo, operations, commit_message=message, repo_type=address.kind, revision=address.revision
        )
    except Exception as error:  # authentication, quota, network: the Hub's sentence says which
        raise MerError(
            f"{address.url('')}: the Hub refused the upload ({_line(error)}); see `hf auth login`"
        ) from error
    return str(commit.oid)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
