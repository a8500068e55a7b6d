"""What earlier runs left in the catalogue that a run adds to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mer.cache import Catalogue, DamagedError, MerError, check_not_renamed, read_catalogue
from mer.stages.utterance import Utterance


def read_previous(catalogue: Path, corpus: str) -> Catalogue | None:
    """Read the catalogue that is there, if this run may add to it."""
    if not catalogue.exists():
        return None
    try:
        found = read_catalogue(catalogue)
    except DamagedError as error:
        raise DamagedError(f"{error} (remove it and run this again; finished shards are found by name)") from error
    except MerError as error:
        raise MerError(f"{error}; choose another file with --out") from error
    if found.packed or found.datasheet:
        raise MerError(f"{catalogue} is a pack, to which nothing is added; choose another file with --out")
    check_not_renamed(catalogue, found)
    if found.corpus.get("name") != corpus:
        raise MerError(
            f"{catalogue} holds corpus {found.corpus.get('name')!r}, not {corpus!r}; choose another file with --out"
        )
    return found


def with_machine_texts(utterances: Sequence[Utterance], catalogue: Catalogue | None) -> list[Utterance]:
    """Keep the transcripts that an earlier run made for utterances whose corpus has none."""
    if catalogue is None:
        return list(utterances)
    table = catalogue.utterances
    texts = {key: text for key, text, made in zip(table.keys, table.text, table.machine_text, strict=True) if made}
    return [
        replace(one, text=texts[one.key], machine_text=True) if one.text is None and one.key in texts else one
        for one in utterances
    ]
