"""Any utterances survive writing, packing, splitting into parts and reading, to the precision of the stored dtype."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mer.cache import (
    Catalogue,
    Fate,
    FeatureSequence,
    FeatureSpec,
    FeatureStore,
    LabelColumn,
    PackOptions,
    SetIndex,
    ShardRow,
    UtteranceTable,
    pack,
    read_shard_index,
    shard_folder,
    verify,
    write_catalogue,
    write_shard,
)

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=12)
TEXTS = st.none() | st.text(max_size=20)
FLOATS = st.floats(-60000, 60000, width=16)


@dataclass
class Drawn:
    """A cache as it should read back."""

    table: UtteranceTable
    rows: list[tuple[FeatureSpec, list[ShardRow]]]


@st.composite
def sequences(draw: st.DrawFn, dim: int) -> FeatureSequence:
    steps = draw(st.integers(0, 4))
    values = draw(hnp.arrays(np.float32, (steps, dim), elements=FLOATS))
    valid = draw(hnp.arrays(np.bool_, steps))
    times = draw(hnp.arrays(np.float32, steps, elements=st.floats(0, 1000, width=32)))
    return FeatureSequence(values, times, valid)


@st.composite
def labels(draw: st.DrawFn, count: int) -> LabelColumn:
    kind = draw(st.sampled_from(["class", "multi", "real"]))
    if kind == "real":
        return LabelColumn(
            kind, (), draw(hnp.arrays(np.float64, count, elements=st.floats(-1e9, 1e9) | st.just(np.nan)))
        )
    classes = tuple(draw(st.lists(st.text(max_size=8), min_size=1, max_size=4, unique=True)))
    if kind == "class":
        return LabelColumn(kind, classes, draw(hnp.arrays(np.int64, count, elements=st.integers(-1, len(classes) - 1))))
    return LabelColumn(
        kind, classes, draw(hnp.arrays(np.float32, (count, len(classes)), elements=st.sampled_from([0, 1])))
    )


@st.composite
def caches(draw: st.DrawFn) -> Drawn:
    keys = draw(st.lists(NAMES, max_size=5, unique=True))
    count = len(keys)

    def column(of: st.SearchStrategy[object]) -> list[object]:
        return draw(st.lists(of, min_size=count, max_size=count))

    names = draw(st.lists(NAMES, max_size=2, unique=True))
    table = UtteranceTable.of(
        keys,
        {name: draw(labels(count)) for name in names},
        text=column(TEXTS),
        speaker=column(st.text(max_size=5)),
        split=column(st.sampled_from(["train", "val", "test", ""])),
        turn=column(st.integers(-1, 1 << 40)),
        start_seconds=column(st.floats(0, 1e6) | st.just(np.nan)),
    )
    rows: list[tuple[FeatureSpec, list[ShardRow]]] = []
    for modality in draw(st.lists(st.sampled_from(["text", "audio", "face"]), min_size=1, max_size=3, unique=True)):
        spec = FeatureSpec(
            modality, draw(NAMES), {}, draw(st.integers(1, 3)), dtype=draw(st.sampled_from(["float16", "float32"]))
        )
        rows.append((spec, [draw(shard_rows(key, spec.dim)) for key in keys]))
    return Drawn(table, rows)


@st.composite
def shard_rows(draw: st.DrawFn, key: str, dim: int) -> ShardRow:
    fate = draw(st.sampled_from([Fate.OK, Fate.OK, Fate.MISSING, Fate.FAILED]))
    source = draw(st.binary(min_size=16, max_size=16))
    note = draw(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5), max_size=2))
    if fate is Fate.OK:
        return ShardRow(key, source, fate, "", draw(sequences(dim)), note)
    return ShardRow(key, source, fate, draw(st.text(max_size=10)), None, note)


def write(drawn: Drawn, path: Path) -> None:
    sets = {}
    for spec, rows in drawn.rows:
        folder = shard_folder(path, spec.set_name)
        info = write_shard(folder, spec, rows)
        made = read_shard_index(folder / f"{info.name}.h5")
        shard = np.zeros(len(rows), np.int32)
        sets[spec.set_name] = SetIndex(
            spec, made.fates, made.reasons, shard, made.offsets[:-1], np.diff(made.offsets),
            made.checksums, made.sources, made.coverage, [info],
        )  # fmt: skip
    write_catalogue(path, Catalogue({"name": "drawn"}, drawn.table, sets, {}))


def check(drawn: Drawn, path: Path) -> None:
    store = FeatureStore.open(path)
    table = store.utterances
    assert table.keys == drawn.table.keys
    assert (table.text, table.speaker, table.split) == (drawn.table.text, drawn.table.speaker, drawn.table.split)
    np.testing.assert_array_equal(table.turn, drawn.table.turn)
    np.testing.assert_array_equal(table.start_seconds, drawn.table.start_seconds)
    assert list(table.labels) == list(drawn.table.labels)
    for name, label in drawn.table.labels.items():
        assert (table.labels[name].kind, table.labels[name].classes) == (label.kind, label.classes)
        np.testing.assert_array_equal(table.labels[name].values, label.values)
    assert list(store.sets) == [spec.set_name for spec, _ in drawn.rows]
    for spec, rows in drawn.rows:
        block, notes = store.load(spec.set_name, verify=True), store.all_notes(spec.set_name)
        assert block.fates.tolist() == [row.fate for row in rows]
        for position, row in enumerate(rows):
            assert (json.loads(notes[position]) if notes[position] else {}) == dict(row.note)
            assert store.sets[spec.set_name].reasons[position] == " ".join(row.reason.split())
            part = slice(block.offsets[position], block.offsets[position + 1])
            if row.sequence is None:
                assert part.start == part.stop
                continue
            expected = np.where(row.sequence.valid[:, None], row.sequence.values, 0).astype(spec.dtype)
            np.testing.assert_array_equal(block.values[part], expected)
            np.testing.assert_array_equal(block.times[part], row.sequence.times)
            np.testing.assert_array_equal(block.valid[part], row.sequence.valid)
    assert verify(path) == []


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=caches(), compression=st.sampled_from(["none", "zstd"]))
def test_written_packed_split_and_read_unchanged(drawn: Drawn, compression: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(drawn, folder / "a.h5")
        check(drawn, folder / "a.h5")
        pack(folder / "a.h5", folder / "b.h5", PackOptions("MIT", compression=compression))
        check(drawn, folder / "b.h5")
        pack(folder / "b.h5", folder / "c.h5", PackOptions("MIT", max_bytes=1 << 20))
        check(drawn, folder / "c.h5")
