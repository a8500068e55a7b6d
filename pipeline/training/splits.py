"""Who trains, who validates, who is tested: the protocols, the validation part, and the check for leaks.

| protocol | test rows of a fold | must not cross from training or validation to test |
|---|---|---|
| `official` | the corpus' `test` split | dialogue, copies |
| `session-folds`, `emobox-folds` | one value of `session` | speaker, dialogue, copies |
| `session5-test` | the last session | speaker, dialogue, copies |
| `speaker-folds` | one speaker | speaker, dialogue, copies |
| `kfold` | one of k parts of grouped, stratified rows | what the groups keep together, copies |

A copy is an utterance whose text and media digest are both those of another; one that the corpus declares to have been
published twice (`CorpusInfo.known_copies`, MELD has one) is noted and let through. Validation comes from the training
side, by dialogue where dialogues are known, else by speaker, else by row; it is never the test set, and what had to be
torn apart for it is noted. Under `speaker-folds`, rows of other speakers that share a dialogue with the test speaker
take no part in that fold.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mer.cache import FeatureStore, LabelColumn, MerError, UtteranceTable
from mer.stages.registry import suggest

from .folds import Fold, Groups, RowIndices, SplitRequest, Splits
from .leaks import copies_of, find_leaks, known_copies
from .load import Loaded
from .settings import TrainOptions

Made = tuple[list[Fold], list[str], tuple[str, ...]]
"""Folds without their validation part, notes, and what must not cross to test besides copies."""


def split(loaded: Loaded, options: TrainOptions) -> Splits:
    """Make the folds of the protocol that was asked for, or of the corpus' own."""
    store, label = loaded.store, loaded.label
    table = store.utterances
    request = SplitRequest(
        table=table,
        label=label,
        copies=copies_of(_input_digests(store), len(table)),
        known_copies=frozenset((first, second) for first, second in store.corpus.get("known_copies") or ()),
        folds=options.folds,
        group_by=options.group_by,
        val_fraction=options.recipe.val_fraction,
        seed=options.split_seed,
    )
    protocol = options.protocol or str((store.corpus.get("protocols") or ["official"])[0])
    return make_splits(protocol, request, options.allow_leak)


def _input_digests(store: FeatureStore) -> dict[str, list[bytes]]:
    """Per modality the digest of every utterance's input, empty where no features came of it.

    Clips whose file is not there have equal digests and are no copies of each other for it.
    """
    digests: dict[str, list[bytes]] = {}
    for index in store.sets.values():
        known = digests.setdefault(index.spec.modality, [b""] * len(index.fates))
        for row in np.flatnonzero(index.ok & index.sources.any(1)):
            known[row] = index.sources[row].tobytes()
    return digests


def make_splits(protocol: str, request: SplitRequest, allow_leak: bool = False) -> Splits:
    """Build, validate and leak-check the folds of a protocol.

    Raises
    ------
    MerError
        If the protocol is unknown or does not fit the corpus, a part is empty, or something crosses that must not.
    """
    if protocol not in MAKERS:
        raise MerError(f"unknown protocol {protocol!r}; {suggest(protocol, list(MAKERS))}")
    if not len(request.rows):
        raise MerError("no utterance has a label for this target; choose another with --target")
    _refuse_idle(protocol, request)
    folds, notes, apart = MAKERS[protocol](request)
    for number, fold in enumerate(folds):
        folds[number], torn = _with_validation(fold, request)
        notes += torn
        _check_parts(folds[number])
        check_classes(folds[number], request.label)
    leaks = find_leaks(request, folds, (*apart, "copy"))
    notes += known_copies(request, folds)
    if leaks and not allow_leak:
        more = f" (and {len(leaks) - 1} more)" if len(leaks) > 1 else ""
        raise MerError(f"{leaks[0]}{more}; choose another --protocol, or accept it with --allow-leak")
    return Splits(protocol, tuple(folds), (*notes, *leaks), (*apart, "copy"))


def _refuse_idle(protocol: str, request: SplitRequest) -> None:
    """Refuse options that cannot have an effect under a protocol."""
    if request.folds is not None and protocol in ("official", "session5-test"):
        raise MerError(f"protocol {protocol!r} has one fold; leave --folds out, or choose --protocol kfold")
    if request.group_by != "auto" and protocol != "kfold":
        raise MerError(f"protocol {protocol!r} knows no --group-by; leave it out, or choose --protocol kfold")


def _official(request: SplitRequest) -> Made:
    split = np.asarray(request.table.split, dtype=object)[request.rows]
    parts = {name: request.rows[split == name] for name in ("train", "val", "test")}
    if not len(parts["test"]) or not len(parts["train"]):
        empty = "test" if not len(parts["test"]) else "train"
        raise MerError(
            f"protocol 'official' needs labelled utterances in the {empty} split and there are none; "
            "use --protocol kfold, session-folds or speaker-folds"
        )
    others = sorted({str(name) for name in split} - set(parts))
    notes = (
        [f"{int(np.isin(split, others).sum())} utterances are in no official split and are left out"] if others else []
    )
    return [Fold("official", parts["train"], parts["val"], parts["test"])], notes, ("dialogue",)


def _leave_out(kind: str) -> Callable[[SplitRequest], Made]:
    """Return the maker of leave-one-out folds over `session` or `speaker`."""

    def make(request: SplitRequest) -> Made:
        values = np.asarray(getattr(request.table, kind), dtype=object)
        names = sorted({str(values[row]) for row in request.rows} - {""}, key=_natural)
        if len(names) < 2:
            raise MerError(
                f"protocol '{kind}-folds' needs at least two {kind}s and the corpus names {len(names)}; use kfold"
            )
        known = request.rows[values[request.rows] != ""]
        parts = _share_out(names, values[known], request.folds, kind)
        folds, dropped = [], 0
        for part in parts:
            inside = np.isin(values[known], part)
            test, rest = known[inside], known[~inside]
            if kind == "speaker":
                alone = ~_shares_dialogue(request.table, rest, test)
                dropped += int((~alone).sum())
                rest = rest[alone]
            folds.append(Fold(_safe(f"{kind}-{'+'.join(part)}"), rest, rest[:0], test))
        notes = []
        if len(known) < len(request.rows):
            notes.append(f"{len(request.rows) - len(known)} utterances name no {kind} and are left out")
        if dropped:
            notes.append(
                f"{dropped} rows (over all folds) share a dialogue with the test speaker and are left out there"
            )
        return folds, notes, ("speaker", "dialogue")

    return make


def _last_session(request: SplitRequest) -> Made:
    folds, notes, apart = _leave_out("session")(request)
    return folds[-1:], notes, apart


def _kfold(request: SplitRequest) -> Made:
    """Return grouped stratified folds; what the groups keep together must not cross."""
    from sklearn.model_selection import StratifiedGroupKFold

    count = request.folds or 5
    if count < 2:
        raise MerError(f"kfold needs at least 2 folds and {count} was asked for; raise --folds")
    rows = request.rows
    kinds, notes = _grouping(request, count)
    groups = components(request, rows, kinds)
    if len(np.unique(groups)) < count:
        other = ", or give up keeping them together with --group-by none" if kinds else ""
        raise MerError(
            f"{count} folds were asked for but there are only {len(np.unique(groups))} groups of "
            f"{' and '.join(kinds) or 'rows'}; lower --folds{other}"
        )
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=request.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer members than folds: checked below by us
        parts = list(splitter.split(rows, strata(request.label, rows), groups))
    folds = [Fold(f"fold-{n + 1}", rows[a], rows[:0], rows[b]) for n, (a, b) in enumerate(parts)]
    return folds, notes, kinds


def _grouping(request: SplitRequest, count: int) -> tuple[tuple[str, ...], list[str]]:
    """Choose what stays together, and say what was given up for it.

    `auto` keeps what the corpus names. Only where speakers and dialogues together hang in fewer than `count` groups, as
    in a series with the same cast throughout, it keeps the dialogues alone.
    """
    rows = request.rows
    if request.group_by == "none":
        return (), []
    if request.group_by != "auto":
        if not request.names(request.group_by, rows).any():
            raise MerError(
                f"no labelled utterance names a {request.group_by} for --group-by to keep together; "
                "use --group-by auto or none"
            )
        return (request.group_by,), []
    named = tuple(kind for kind in ("speaker", "dialogue") if request.names(kind, rows).any())
    number = len(np.unique(components(request, rows, named)))
    if len(named) < 2 or number >= count:
        return named, []
    return ("dialogue",), [
        f"a speaker may be in several folds: speakers and their dialogues make only {number} groups for {count} folds"
    ]


MAKERS: Mapping[str, Callable[[SplitRequest], Made]] = {
    "official": _official,
    "session-folds": _leave_out("session"),
    "speaker-folds": _leave_out("speaker"),
    "session5-test": _last_session,
    "emobox-folds": _leave_out("session"),
    "kfold": _kfold,
}


def components(request: SplitRequest, rows: RowIndices, kinds: Sequence[str]) -> Groups:
    """Number the groups of rows that are joined by any of `kinds` or by being copies; shape (len(rows),)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    links: dict[tuple[str, object], int] = {}
    edges: list[tuple[int, int]] = []
    for index, row in enumerate(rows):
        marks: list[tuple[str, object]] = [(kind, getattr(request.table, kind)[row]) for kind in kinds]
        marks.append(("copy", int(request.copies[row]) if request.copies[row] >= 0 else ""))
        edges.extend((index, links.setdefault(mark, len(links))) for mark in marks if mark[1] != "")
    nodes = len(rows) + len(links)
    a = np.array([edge[0] for edge in edges], dtype=np.int64)
    b = np.array([edge[1] for edge in edges], dtype=np.int64) + len(rows)
    graph = coo_matrix((np.ones(len(edges)), (a, b)), shape=(nodes, nodes))
    return np.asarray(connected_components(graph, directed=False)[1][: len(rows)], dtype=np.int64)


def strata(label: LabelColumn, rows: RowIndices) -> RowIndices:
    """Return classes to stratify by: the class, the rarest label of a set, or the sign of a number.

    Numbers that are all on one side of 0 are told apart by their median.
    """
    values = label.values[rows]
    if label.kind == "class":
        return np.asarray(values, dtype=np.int64)
    if label.kind == "real":
        middle = 0.0 if values.min() < 0 < values.max() else np.median(values)
        return np.asarray(np.sign(values - middle) + 1, dtype=np.int64)
    rare = np.argsort(label.values[rows].sum(0), kind="stable")
    first = (values[:, rare] > 0.5).argmax(1)
    return np.where((values > 0.5).any(1), rare[first], len(rare)).astype(np.int64)


def _with_validation(fold: Fold, request: SplitRequest) -> tuple[Fold, list[str]]:
    """Hold out part of the training side when the fold has no validation part, and say what was torn apart for it."""
    if len(fold.val):
        return fold, []
    from sklearn.model_selection import StratifiedGroupKFold  # takes seconds to import

    parts = round(1 / request.val_fraction)
    groups, notes = _validation_groups(fold, request, min(parts, 3))
    classes = strata(request.label, fold.train)
    # In a handful of clips no class has one for each part.
    number = min(len(np.unique(groups)), int(np.unique(classes, return_counts=True)[1].max(initial=0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes rarer than the number of parts are fine here
        try:
            splitter = StratifiedGroupKFold(min(parts, number), shuffle=True, random_state=request.seed)
            keep, held = next(splitter.split(fold.train, classes, groups))
        except ValueError as error:
            raise MerError(
                f"fold {fold.name}: {len(fold.train)} training utterances are too few to hold out a validation part; "
                "use fewer --folds or more data"
            ) from error
    return replace(fold, train=np.sort(fold.train[keep]), val=np.sort(fold.train[held])), notes


def _validation_groups(fold: Fold, request: SplitRequest, least: int) -> tuple[Groups, list[str]]:
    """Group the training side by the first of dialogue, speaker and row that makes at least `least` groups."""
    notes = []
    for kind in ("dialogue", "speaker"):
        known = request.names(kind, fold.train)
        if not known.any():
            continue
        groups = components(request, fold.train, (kind,))
        number = len(np.unique(groups))
        if number >= least:
            if not known.all():
                notes.append(
                    f"fold {fold.name}: {int((~known).sum())} training utterances name no {kind} and are held out for "
                    "validation one by one"
                )
            return groups, notes
        notes.append(
            f"fold {fold.name}: {number} {kind}s are too few to hold one out for validation; the same {kind} may be in "
            "training and validation"
        )
    return components(request, fold.train, ()), notes


def _check_parts(fold: Fold) -> None:
    """Refuse empty parts and a row in two parts."""
    for name in ("train", "val", "test"):
        if not len(getattr(fold, name)):
            raise MerError(
                f"fold {fold.name}: no labelled utterances are left for {name}; use another --protocol or --folds"
            )
    together = np.concatenate([fold.train, fold.val, fold.test])
    if len(np.unique(together)) < len(together):
        raise MerError(
            f"fold {fold.name}: an utterance is in two parts; this is a fault of the protocol, please report it"
        )


def check_classes(fold: Fold, label: LabelColumn) -> None:
    """Refuse a single class, set or number, and test classes nobody can learn."""
    train, test = label.values[fold.train], label.values[fold.test]
    if (train == train[0]).all():
        if label.kind == "class":
            only = label.classes[train[0]]
            raise MerError(f"fold {fold.name}: all training utterances are {only!r}; a head needs at least two classes")
        alike = "number" if label.kind == "real" else "set of labels"
        raise MerError(f"fold {fold.name}: all training utterances have the same {alike}; there is nothing to learn")
    if label.kind == "real":
        return
    trained, tested = (
        set(part.tolist()) if label.kind == "class" else set(np.flatnonzero((part > 0.5).any(0)).tolist())
        for part in (train, test)
    )
    unseen = sorted(tested - trained)
    if unseen:
        names = ", ".join(repr(label.classes[code]) for code in unseen)
        raise MerError(
            f"fold {fold.name}: class {names} is tested but absent from its training part; "
            "use fewer --folds, another --protocol, or --group-by"
        )


def splits_digest(table: UtteranceTable, splits: Splits) -> str:
    """First 16 hex digits of the SHA-256 over the protocol and every fold's keys."""
    digest = hashlib.sha256(splits.protocol.encode())
    for fold in splits.folds:
        for part in ("train", "val", "test"):
            digest.update(f"\n{fold.name}/{part}\n".encode())
            digest.update("\n".join(str(table.keys[row]) for row in getattr(fold, part)).encode())
    return digest.hexdigest()[:16]


def _shares_dialogue(table: UtteranceTable, rows: RowIndices, test: RowIndices) -> npt.NDArray[np.bool_]:
    tested = {table.dialogue[row] for row in test} - {""}
    return np.array([table.dialogue[row] in tested for row in rows], dtype=np.bool_)


def _share_out(names: list[str], values: npt.NDArray[np.object_], count: int | None, kind: str) -> list[list[str]]:
    """Share groups out over `count` parts of about equal size, largest group first; one part each by default."""
    if count is None or count == len(names):
        return [[name] for name in names]
    if count > len(names) or count < 2:
        raise MerError(
            f"{count} folds were asked for but there are {len(names)} {kind}s; use --folds 2 to {len(names)}"
        )
    sizes = {name: int((values == name).sum()) for name in names}
    parts: list[list[str]] = [[] for _ in range(count)]
    for name in sorted(names, key=lambda n: (-sizes[n], _natural(n))):
        min(parts, key=lambda part: sum(sizes[n] for n in part)).append(name)
    return [sorted(part, key=_natural) for part in parts]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which 2 comes before 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _safe(name: str) -> str:
    """Return a name fit for a file: letters, digits, `-`, `+`, `_`; long ones are cut and get a digest."""
    clean = re.sub(r"[^\w+-]", "_", name)
    return clean if len(clean) <= 60 else f"{clean[:50]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
