"""Where a corpus lies: named, remembered, or in the usual places; and folders named in place of a corpus."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mer.cache import MerError, atomic_write
from mer.cache.user_cache import user_cache
from mer.stages.corpora.releases import release_of
from mer.stages.registry import names

from .local_state import noted_root

logger = logging.getLogger("mer.extract")

OWN = "folder"
"""Corpus of a folder of one's own: it lies anywhere, so nothing is remembered of it."""


def is_folder(corpus: str) -> bool:
    """Whether `--corpus` names a folder: by its form, or because it is one and no corpus has the name."""
    if corpus in names("corpus"):
        return False
    looks = corpus.startswith((".", "~")) or "/" in corpus or os.sep in corpus
    return (looks and ":" not in corpus.partition(os.sep)[0]) or Path(corpus).is_dir()


def named_corpus(corpus: str, root: Path | None) -> tuple[str, Path | None]:
    """Return the corpus and its root; a folder in place of a corpus is one of the user's own.

    Raises
    ------
    MerError
        If the folder is not there, or a root is given beside it.
    """
    if not is_folder(corpus):
        return corpus, root
    folder = Path(corpus).expanduser()
    if root is not None:
        raise MerError(f"--corpus {corpus} is a folder already; leave --root out")
    if not folder.is_dir():
        raise MerError(f"{folder}: no such folder; name a folder of clips, or a corpus that `mer corpora` lists")
    return OWN, folder


def find_root(corpus: str, catalogue: Path | None = None) -> Path:
    """Return the folder of a corpus whose root was not named, and say in one line where it was found.

    Looked at, in this order: what is remembered beside the catalogue, what was used last, `$MER_DATA/CORPUS`, and
    `./data/` with the name that the release itself has.

    Raises
    ------
    MerError
        If there is none; the message names the places and the command that brings the data.
    """
    looked: list[str] = []
    for place, how in _places(corpus, catalogue):
        if place.is_dir():
            logger.info("corpus %s: %s (%s)", corpus, place, how)
            return place
        if str(place) not in looked:
            looked.append(str(place))
    if corpus == OWN:
        raise MerError("corpus 'folder' needs its folder; add --root DIR, or name the folder itself: --corpus ./DIR")
    hint = "" if os.environ.get("MER_DATA") else "; $MER_DATA is not set"
    raise MerError(
        f"corpus {corpus!r} needs its folder. Looked at: {', '.join(looked)}{hint}. Get it: mer corpora get {corpus};"
        " or name it: --root DIR"
    )


def _places(corpus: str, catalogue: Path | None) -> Iterator[tuple[Path, str]]:
    if catalogue is not None and (noted := noted_root(catalogue)) is not None:
        yield noted, f"remembered beside {catalogue}"
    if corpus == OWN:
        return
    if (last := _memory().get(corpus)) is not None:
        yield Path(last), "remembered from last time"
    own, release = corpus.rpartition(":")[2], release_of(corpus).folder
    if data := os.environ.get("MER_DATA"):
        for name in dict.fromkeys((own, release)):
            yield Path(data).expanduser() / name, "$MER_DATA"
    for name in dict.fromkeys((release, own)):
        yield Path("data") / name, "./data"


def remember(corpus: str, root: Path) -> None:
    """Write down where a corpus was found, for all caches of this user, if that can be written."""
    if corpus == OWN or _memory().get(corpus) == str(root.resolve()):
        return
    path = _memory_path()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(_memory() | {corpus: str(root.resolve())}, indent=1), encoding="utf-8")


def _memory_path() -> Path:
    return user_cache("corpus-folders.json")


def _memory() -> dict[str, str]:
    try:
        return {str(name): str(place) for name, place in json.loads(_memory_path().read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        return {}
