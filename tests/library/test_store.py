"""A store as Python programs use it: tables, sequences, arrays for scikit-learn, batches for torch."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training.toy import CLASSES, load_benchmark, toy_utterances, write_toy

import mer
from mer.cache import FeatureStore, MerError

LOADED = "print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("library") / "toy.h5", load_benchmark("caches").write_cache)


@pytest.fixture
def store(cache: Path) -> mer.Store:
    return mer.open(cache)


def test_the_door_loads_nothing_until_a_name_is_used() -> None:
    code = f"import sys, mer; names = dir(mer); {LOADED}"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "torch", "h5py", "pandas", "typer", "rich"} & set(loaded)
    code = f"import sys, mer; mer.open; mer.extract; {LOADED}"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pandas", "transformers", "sklearn"} & set(loaded)


def test_every_name_is_there_and_documented() -> None:
    for name in mer.__all__:
        assert getattr(mer, name).__doc__ or name == "__version__"
    with pytest.raises(AttributeError, match="module 'mer' has no attribute 'opn'"):
        mer.opn  # noqa: B018


def test_a_store_is_a_collection_of_keys(store: mer.Store) -> None:
    utterances = toy_utterances()
    assert len(store) == len(utterances)
    assert list(store) == [u.key for u in utterances]
    assert utterances[3].key in store
    assert "nobody" not in store
    assert store.modalities == ["text", "audio"]


def test_sequences_by_key(store: mer.Store, cache: Path) -> None:
    audio, plain = store["audio"], FeatureStore.open(cache)
    name = plain.pick("audio")
    assert audio.name == name
    assert (len(audio), audio.dim) == (int(plain.index(name).ok.sum()), plain.index(name).spec.dim)
    key = next(iter(audio))
    np.testing.assert_array_equal(audio[key].values, plain.read(name, key).values)
    assert store[name].name == name
    with pytest.raises(MerError, match="has no features 'adio'; did you mean 'audio'"):
        store["adio"]
    with pytest.raises(KeyError):
        audio["nobody"]
    assert set(audio.fates.values()) <= {"ok", "missing", "failed", "pending"}


def test_the_table_has_one_row_per_utterance(store: mer.Store) -> None:
    pytest.importorskip("pandas")
    frame, utterances = store.table(), toy_utterances()
    assert list(frame.index) == [u.key for u in utterances]
    assert frame.loc[utterances[5].key, "speaker"] == utterances[5].speaker
    assert list(frame["emotion"].cat.categories) == list(CLASSES)
    assert [None if isinstance(v, float) else v for v in frame["emotion"]] == [u.labels["emotion"] for u in utterances]
    assert list(frame["tags"]) == [u.labels["tags"] for u in utterances]
    np.testing.assert_allclose(frame["valence"], [u.labels["valence"] for u in utterances])
    assert (frame[f"fate {store.set_name('audio')}"] == "ok").sum() == len(store["audio"])


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_arrays_are_pooled_over_valid_steps_and_keep_what_has_a_label(store: mer.Store, pool: str) -> None:
    X, y = store.arrays("audio", split="train", pool=pool)
    kept = [u for u in toy_utterances() if u.split == "train" and u.labels["emotion"] and u.key in store["audio"]]
    assert X.shape == (len(kept), store["audio"].dim)
    assert X.dtype == np.float32
    assert list(y) == [u.labels["emotion"] for u in kept]
    sequence = store["audio"][kept[7].key]
    expected = getattr(sequence.values[sequence.valid].astype(np.float64), pool)(axis=0)
    np.testing.assert_allclose(X[7], expected, rtol=1e-5)


def test_arrays_of_several_sets_and_other_targets(store: mer.Store) -> None:
    X, y = store.arrays(["text", "audio"], target="valence")
    assert X.shape[1] == store["text"].dim + store["audio"].dim
    assert y.dtype == np.float64
    _, tags = store.arrays("text", target="tags")
    both = [u for u in toy_utterances() if u.key in store["text"]]
    assert tags.tolist() == [[int("loud" in u.labels["tags"]), int("fast" in u.labels["tags"])] for u in both]


def test_scikit_learn_takes_them(store: mer.Store) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(*store.arrays("audio", split="train"))
    assert model.score(*store.arrays("audio", split="test")) > 0.6  # three classes that features were made of


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"split": "trian"}, "has no split 'trian'; its splits: test, train, val"),
        ({"pool": "median"}, "pool 'median' is not known; use mean or max"),
        ({"target": "emotoin"}, "has no target 'emotoin'; did you mean 'emotion'"),
    ],
)
def test_what_is_not_there_is_told(store: mer.Store, asked: dict[str, str], what: str) -> None:
    with pytest.raises(MerError, match=what):
        store.arrays("audio", **asked)  # type: ignore[arg-type]


def test_batches_are_padded_and_masked(store: mer.Store) -> None:
    import torch
    from torch.utils.data import DataLoader

    dataset = store.torch_dataset("train")
    kept = [u for u in toy_utterances() if u.split == "train" and u.labels["emotion"]]
    assert dataset.keys == [u.key for u in kept]
    assert dataset.classes == CLASSES
    batch = next(iter(DataLoader(dataset, batch_size=8, collate_fn=dataset.collate)))
    assert batch["keys"] == dataset.keys[:8]
    assert batch["label"].tolist() == [CLASSES.index(str(u.labels["emotion"])) for u in kept[:8]]
    for name in ("text", "audio"):
        lengths = [int(store[name][key].valid.sum()) if key in store[name] else 0 for key in batch["keys"]]
        assert batch[name].shape == (8, max(lengths), store[name].dim)
        assert batch[f"{name}_mask"].sum(1).tolist() == lengths
        assert torch.all(batch[name][~batch[f"{name}_mask"]] == 0)
        first = store[name][batch["keys"][0]]
        np.testing.assert_array_equal(batch[name][0][: lengths[0]].numpy(), first.values[first.valid])


def test_worker_processes_read_the_same(store: mer.Store) -> None:
    import torch
    from torch.utils.data import DataLoader

    dataset = store.torch_dataset("val", features=["audio"])
    spawned = DataLoader(
        dataset, batch_size=16, collate_fn=dataset.collate, num_workers=1, multiprocessing_context="spawn"
    )
    for here, there in zip(DataLoader(dataset, batch_size=16, collate_fn=dataset.collate), spawned, strict=True):
        assert torch.equal(here["audio"], there["audio"])
        assert torch.equal(here["audio_mask"], there["audio_mask"])


def test_with_lets_go_of_files_and_pickling_keeps_the_class(store: mer.Store) -> None:
    with store as opened:
        key = next(iter(opened["audio"]))
        before = opened["audio"][key].values
    assert not store._files
    again = pickle.loads(pickle.dumps(store))
    assert isinstance(again, mer.Store)
    np.testing.assert_array_equal(again["audio"][key].values, before)


def test_a_notebook_shows_a_page_without_foreign_markup(cache: Path) -> None:
    store = mer.open(cache)
    store.catalogue.corpus["title"] = "<script>alert(1)</script>"
    page = store._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert f"<td>{len(store['audio']):,}</td>" in page


def test_tables_name_the_extra_where_pandas_is_missing(store: mer.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MerError, match=r"tables need pandas: pip install 'mer-toolkit\[pandas\]'"):
        store.table()


def test_what_is_no_cache_is_told(tmp_path: Path) -> None:
    with pytest.raises(MerError):
        mer.open(tmp_path / "nowhere.h5")
