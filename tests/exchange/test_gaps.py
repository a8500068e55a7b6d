"""Gaps are gaps: empty cells, NaN and infinity are counted, kept, and take the training mean when a head is trained."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from mer.cache import FeatureBlock, FeatureStore, MerError, verify
from mer.cache.exchange import import_features
from mer.cache.pack import PackOptions, pack
from mer.pipeline.training.pooling import pool_steps
from mer.pipeline.training.run import train
from mer.pipeline.training.settings import build_options
from mer.pipeline.training.tensors import Flat, Normaliser, Source

HEADER = "id,split,speaker,emotion,audio_0,audio_1,audio_2"


def voice_table(path: Path, rows: int = 40) -> Path:
    """Measures of voices as they are published: the third column is empty in three of four rows."""
    lines = [HEADER]
    for row in range(rows):
        split = "test" if row % 5 == 0 else "val" if row % 5 == 1 else "train"
        third = f"{row * 2}" if row % 4 == 0 else ""
        second = "inf" if row == 2 else "NaN" if row == 3 else str(row % 7)
        lines.append(f"u{row:02d},{split},s{row % 6},{('calm', 'angry')[row % 2]},{row},{second},{third}")
    path.write_text("\n".join(lines) + "\n")
    return path


def import_voice(tmp_path: Path) -> list[str]:
    mapping = {"label:emotion": "emotion"}
    return import_features(None, voice_table(tmp_path / "voice.csv"), tmp_path / "v.h5", mapping=mapping)


def test_gaps_are_counted_per_column_and_no_row_is_lost(tmp_path):
    told = import_features(
        None, voice_table(tmp_path / "voice.csv"), tmp_path / "v.h5", mapping={"label:emotion": "emotion"}
    )
    note = next(line for line in told if "empty, NaN or infinite" in line)
    # by hand: 30 empty thirds, an inf and a NaN in the second column, of 40 rows of three
    assert "32 of 120 values" in note
    assert "in 32 of 40 utterances" not in note  # rows 2 and 3 lack the third column too
    assert "in 30 of 40 utterances" in note
    assert "audio_2 30 (75%), audio_1 2 (5%)" in note
    assert "mostly gaps: audio_2; look at the source, or leave them out" in told
    store = FeatureStore.open(tmp_path / "v.h5")
    assert verify(tmp_path / "v.h5") == []
    name = store.pick("audio")
    assert int(store.sets[name].ok.sum()) == 40
    assert store.read(name, "u02").values[0].tolist()[0] == 2
    assert np.isnan(store.read(name, "u02").values[0]).tolist() == [False, True, True]
    assert store.read(name, "u04").values[0].tolist() == [4, 4, 8]


def test_the_table_is_trained_on_with_the_training_mean_in_the_gaps(tmp_path):
    import_voice(tmp_path)
    store = FeatureStore.open(tmp_path / "v.h5")
    source = Source.open(store, {"audio": store.pick("audio")}, {"audio": 0}, {"audio": 1})
    assert source.present["audio"].all()
    train_rows = np.flatnonzero(np.array(store.utterances.split) == "train")
    normaliser = source.statistics([train_rows])["audio"][0]
    table = np.array([[row, row % 7, row * 2 if row % 4 == 0 else np.nan] for row in range(40)], float)
    table[[2, 3], 1] = np.nan
    np.testing.assert_allclose(normaliser.mean.numpy(), np.nanmean(table[train_rows], 0), rtol=1e-6)
    np.testing.assert_allclose(1 / normaliser.scale.numpy(), np.nanstd(table[train_rows], 0), rtol=1e-6)
    window = source.window(torch.device("cpu"))
    values, mask = window.flats["audio"].gather(torch.arange(40), 1, normaliser)
    assert mask.all()
    assert (values[:, 0][torch.from_numpy(np.isnan(table))] == 0).all()  # a z-score of 0 is the training mean
    wanted = (table[4] - normaliser.mean.numpy()) * normaliser.scale.numpy()
    np.testing.assert_allclose(values[4, 0].numpy(), wanted, rtol=1e-5)
    given = {"features": tmp_path / "v.h5", "out": tmp_path / "run", "head": "late", "device": "cpu", "seeds": 1}
    run = train(build_options({**given, "train.epochs": 2})).run
    predicted = run.predictions(run.members[0]["name"])
    assert len(predicted.split) == 40 - len(train_rows)  # validation and test rows, none without an answer of its own
    assert np.isfinite(predicted.outputs).all()


def test_features_with_gaps_refuse_to_be_used_without_the_training_mean(tmp_path):
    flat = Flat(torch.tensor([[1.0, torch.nan]]), torch.tensor([True]), torch.tensor([0]), torch.tensor([1]), gaps=True)
    with pytest.raises(MerError, match="normalise = true"):
        flat.gather(torch.tensor([0]), 1, None)
    values, _ = flat.gather(torch.tensor([0]), 1, Normaliser(torch.tensor([0.0, 5.0]), torch.ones(2)))
    assert values.tolist() == [[[1.0, 0.0]]]


def test_averaged_steps_are_means_of_the_values_there_are():
    nan = np.nan
    values = np.array([[1, nan], [3, nan], [5, 2], [7, 4], [9, nan]], np.float32)
    block = FeatureBlock(
        values, np.arange(5, dtype=np.float32), np.array([1, 1, 1, 0, 1], bool), np.array([0, 5]), np.array([1])
    )
    pooled = pool_steps(block, np.array([5]), 0, 2, gaps=True)
    # by hand: steps 0 and 1; 2 alone, for 3 is not valid; 4 alone
    np.testing.assert_array_equal(pooled.values, [[2, nan], [5, 2], [9, nan]])
    assert pooled.valid.tolist() == [True, True, True]


def test_an_utterance_of_nothing_but_gaps_has_no_features(tmp_path):
    np.savez(
        tmp_path / "a.npz", audio=np.array([[1, np.nan], [np.nan, np.inf], [3, 4.0]]), id=np.array(["a", "b", "c"])
    )
    import_features("npz", tmp_path / "a.npz", tmp_path / "a.h5")
    store = FeatureStore.open(tmp_path / "a.h5")
    assert store.sets[store.pick("audio")].ok.tolist() == [True, False, True]
    assert verify(tmp_path / "a.h5") == []


def test_a_pack_keeps_the_gaps_and_says_so(tmp_path):
    import_voice(tmp_path)
    store = FeatureStore.open(tmp_path / "v.h5")
    made = pack(store, tmp_path / "p.h5", PackOptions("CC0-1.0", dtype="float16"))[0]
    assert verify(made) == []
    packed = FeatureStore.open(made)
    name = packed.pick("audio")
    np.testing.assert_array_equal(packed.load(name).values, store.load(store.pick("audio")).values.astype(np.float16))
    assert f"{name}: NaN stands for values that the source does not have" in packed.catalogue.datasheet["gaps"]
    large = tmp_path / "large.csv"
    large.write_text("id,audio_0,audio_1\na,,70000\nb,1,2\n")
    import_features(None, large, tmp_path / "l.h5")
    small = FeatureStore.open(pack(tmp_path / "l.h5", tmp_path / "q.h5", PackOptions("CC0-1.0", dtype="float16"))[0])
    (index,) = small.sets.values()
    assert index.ok.tolist() == [False, True]  # the number beside the gap does not fit
    assert "70000" in index.reasons[0]


def test_files_without_gaps_keep_their_identity(tmp_path):
    np.savez(tmp_path / "a.npz", audio=np.ones((3, 2), np.float32))
    import_features("npz", tmp_path / "a.npz", tmp_path / "a.h5")
    (spec,) = [index.spec for index in FeatureStore.open(tmp_path / "a.h5").sets.values()]
    assert "gaps" not in spec.encoder
    assert not spec.has_gaps


@pytest.mark.parametrize("cell", ["", "nan", "NA", "N/A", "--undefined--", "?", "-inf", "1e999"])
def test_what_tools_write_for_a_missing_value_is_a_gap(tmp_path, cell):
    (tmp_path / "t.csv").write_text(f"id,audio_0,audio_1\na,1,2\nb,3,{cell}\n")
    import_features(None, tmp_path / "t.csv", tmp_path / "t.h5")
    store = FeatureStore.open(tmp_path / "t.h5")
    np.testing.assert_array_equal(store.read(store.pick("audio"), "b").values, [[3, np.nan]])


def test_errors_keep_line_and_column(tmp_path):
    (tmp_path / "t.csv").write_text("id,audio_0,audio_1\na,1,2\nb,3,loud\n")
    with pytest.raises(MerError, match=r"t\.csv: line 3, column 'audio_1': 'loud' is not a number"):
        import_features(None, tmp_path / "t.csv", tmp_path / "t.h5")


HOSTILE_TABLES = {
    "a text": "id,audio_0\na,loud\n",
    "few fields": "id,audio_0,audio_1\na,1\n",
    "many fields": "id,audio_0\na,1,2\n",
    "a column twice": "id,audio_0,audio_0\na,1,2\n",
    "no rows": "id,audio_0\n",
    "nothing": "",
    "an id twice": "id,audio_0\na,1\na,2\n",
    "a long id": f"id,audio_0\n{'a' * 2000},1\n",
    "many columns": ",".join(f"audio_{at}" for at in range(100_001)) + "\n1\n",
    "a long line": "id,audio_0\na," + "1" * (9 << 20) + "\n",
    "a wide cell": 'id,audio_0\na,"' + "1" * 200_000 + '"\n',
    "an open quote": 'id,audio_0\n"a,1\n',
    "no features": "id,note\na,b\n",
    "no number for a turn": "id,turn,audio_0\na,first,1\n",
}


@pytest.mark.parametrize("name", HOSTILE_TABLES)
def test_hostile_tables_are_refused_in_one_line(tmp_path, name):
    (tmp_path / "t.csv").write_text(HOSTILE_TABLES[name])
    tracemalloc.start()
    try:
        with pytest.raises(MerError) as caught:
            import_features(None, tmp_path / "t.csv", tmp_path / "t.h5")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t.h5").exists()
