"""The check that no speaker, dialogue or copied utterance crosses from training or validation to test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .folds import Fold, Groups, RowIndices, SplitRequest


def find_leaks(request: SplitRequest, folds: Sequence[Fold], kinds: Sequence[str]) -> list[str]:
    """Say, one line per fold and kind, what occurs both in training or validation and in test."""
    leaks = []
    for fold in folds:
        seen = np.concatenate([fold.train, fold.val])
        for kind in kinds:
            shared = _shared(request, kind, seen, fold.test)
            if shared:
                noun = {"copy": "identical text and media"}.get(kind, kind)
                leaks.append(
                    f"leak in fold {fold.name}: {len(shared)} x {noun} in both training and test, e.g. {shared[0]}"
                )
    return leaks


def known_copies(request: SplitRequest, folds: Sequence[Fold]) -> list[str]:
    """Say which pairs known to be published twice stand on both sides."""
    keys = request.table.keys
    notes = []
    for fold in folds:
        seen, test = ({keys[row] for row in rows} for rows in (np.concatenate([fold.train, fold.val]), fold.test))
        notes += [
            f"fold {fold.name}: {second} is the same clip as {first}, as the corpus was published"
            for first, second in sorted(request.known_copies)
            if first in seen and second in test
        ]
    return notes


def _shared(request: SplitRequest, kind: str, seen: RowIndices, test: RowIndices) -> list[str]:
    table = request.table
    if kind == "copy":
        numbers = set(request.copies[seen].tolist()) - {-1}
        hits = [row for row in test if request.copies[row] in numbers]
        rows = {int(request.copies[row]): row for row in seen[::-1]}
        pairs = [(table.keys[rows[int(request.copies[row])]], table.keys[row]) for row in hits]
        return [f"{second} = {first}" for first, second in pairs if (first, second) not in request.known_copies]
    values = getattr(table, kind)
    return sorted(({values[row] for row in seen} & {values[row] for row in test}) - {""})


def copies_of(digests: Mapping[str, Sequence[bytes]], rows: int) -> Groups:
    """Number utterances by the digests of their inputs; equal numbers mean equal in every modality.

    Parameters
    ----------
    digests : mapping
        Per modality one digest per utterance, empty where there was no input. An utterance is compared only when
        it has media (`audio` or `face`): equal transcripts alone, such as "yeah", are no copies.
    rows : int
        Number of utterances.

    Returns
    -------
    array of shape (rows,)
        -1 where nothing can be said.
    """
    names = sorted(digests)
    numbers: dict[tuple[bytes, ...], int] = {}
    result = np.full(rows, -1, dtype=np.int64)
    for row in range(rows):
        key = tuple(bytes(digests[name][row]) for name in names)
        if any(part for name, part in zip(names, key, strict=True) if name != "text"):
            result[row] = numbers.setdefault(key, len(numbers))
    return result
