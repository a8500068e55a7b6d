"""Where the published corpora come from, and what their folders are called: the facts behind `mer corpora get`.

None of the addresses was tried by the authors of this file: they are those that the corpora's own pages and several
public projects name.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from ..registry import find, names


@dataclass(frozen=True)
class Download:
    """One file to fetch."""

    url: str
    about_bytes: int = 0
    """Roughly its size, for the question before the download; 0 for little files."""
    digest: str = ""
    """`md5:…` or `sha256:…` as published; empty where none is, so that the first download is trusted."""
    unpack: bool = False
    """Whether it is an archive to unpack into the corpus folder."""


@dataclass(frozen=True)
class Release:
    """How a corpus is published."""

    folder: str
    """Name of its folder, as the release itself calls it."""
    downloads: tuple[Download, ...] = ()
    """Empty where the data have to be asked for."""
    inner: tuple[str, ...] = ()
    """Archives inside the archive, unpacked where they lie."""
    listed: tuple[str, str, str] = ("", "", "")
    """A downloaded table with a column `Filename`, and before and after each name the rest of an address."""
    listed_count: int = 0
    listed_bytes: int = 0
    unpacked_bytes: int = 0
    """Roughly what the archives hold; more than twice as much is refused."""


GIB = 1 << 30
MIB = 1 << 20
MELD = "https://raw.githubusercontent.com/declare-lab/MELD/master/data/"
MELD_RAW = "https://huggingface.co/datasets/declare-lab/MELD/resolve/main/MELD.Raw.tar.gz"
CREMA_D = "CheyneyComputerScience/CREMA-D/master/"

RELEASES: dict[str, Release] = {
    "meld": Release(
        "MELD.Raw",
        (Download(MELD_RAW, 10 * GIB, unpack=True),),
        inner=("train.tar.gz", "dev.tar.gz", "test.tar.gz"),
        unpacked_bytes=24 * GIB,
    ),
    "ravdess": Release(
        "RAVDESS",
        (
            Download(
                "https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip",
                199 * MIB,
                "md5:bc696df654c87fed845eb13823edef8a",
                unpack=True,
            ),
        ),
        unpacked_bytes=600 * MIB,
    ),
    "crema-d": Release(
        "CREMA-D",
        (Download(f"https://raw.githubusercontent.com/{CREMA_D}SentenceFilenames.csv"),),
        listed=("SentenceFilenames.csv", f"https://media.githubusercontent.com/media/{CREMA_D}AudioWAV/", ".wav"),
        listed_count=7442,
        listed_bytes=600 * MIB,
    ),
    "emodb": Release(
        "EmoDB",
        (Download("http://emodb.bilderbar.info/download/download.zip", 39 * MIB, unpack=True),),
        unpacked_bytes=80 * MIB,
    ),
    "emorynlp": Release(
        "EmoryNLP",
        tuple(Download(f"{MELD}emorynlp/emorynlp_{split}_final.csv") for split in ("train", "dev", "test")),
    ),
    "meld-dyadic": Release("MELD.Raw"),
    "iemocap": Release("IEMOCAP_full_release"),
    "m3ed": Release("M3ED"),
    "cmu-mosi": Release("MOSI"),
    "cmu-mosei": Release("MOSEI"),
    "ch-sims": Release("SIMS"),
    "ch-sims-v2": Release("CH-SIMS v2(s)"),
    "mer2023": Release("mer2023"),
    "mer2024": Release("mer2024"),
    "mer2025": Release("mer2025"),
    "mer2026": Release("mer2026"),
    "msp-improv": Release("MSP-IMPROV"),
}  # fmt: skip


def release_of(name: str) -> Release:
    """Return how a corpus is published; for one that is added by a plug-in, a folder of its own name."""
    return RELEASES.get(name) or Release(name.rpartition(":")[2])


def paragraph(name: str, title: str) -> str:
    """Return a section of an adapter's own documentation, such as `Layout`, in one line; empty where it has none."""
    if name not in names("corpus"):
        return ""
    module = inspect.getmodule(find("corpus", name))
    match = re.search(
        rf"^{re.escape(title)}\n((?:    .*\n|\n(?=    ))+)", (module.__doc__ if module else "") or "", re.M
    )
    return " ".join(match[1].split()) if match else ""
