"""Any set of utterances survives write, export and import, to the precision the format states."""

import importlib.util
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mer.cache import FeatureSequence, FeatureStore, LabelColumn, UtteranceTable
from mer.cache.exchange import export_features, import_features
from mer.cache.exchange.pack import PackSet, clean_key, file_name, key_of_file
from mer.cache.hdf import FORBIDDEN_IN_KEY

_spec = importlib.util.spec_from_file_location("making", Path(__file__).parent / "making.py")
making = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(making)

plain_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
keys = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=30) | st.sampled_from(
    ["a/b", "..", ".", "../../etc/x", "a$_$1", "a$_$0", "a", "%2F", "CON", "x" * 300, "vid[0]", "späß", "-"]
)
finite = st.floats(-1e4, 1e4, width=32)


@st.composite
def label_columns(draw, count):
    kind = draw(st.sampled_from(["class", "multi", "real"]))
    if kind == "real":
        return LabelColumn.of("real", (), draw(st.lists(st.none() | finite, min_size=count, max_size=count)))
    classes = draw(st.lists(plain_text.filter(bool), min_size=1, max_size=4, unique=True))
    if kind == "class":
        one = st.none() | st.sampled_from(classes)
    else:
        one = st.none() | st.lists(st.sampled_from(classes), unique=True).map(tuple)
    return LabelColumn.of(kind, tuple(classes), draw(st.lists(one, min_size=count, max_size=count)))


@st.composite
def sequences(draw, dim):
    """Features with any number of steps, zero rows and masked steps included; None where missing."""
    steps = draw(st.none() | st.integers(0, 4))
    if steps is None:
        return None
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.normal(size=(steps, dim)).astype(np.float32) * draw(st.sampled_from([0, 1]))
    valid = np.array(draw(st.lists(st.booleans(), min_size=steps, max_size=steps)), np.bool_)
    values[~valid] = 0
    return FeatureSequence(values, np.sort(rng.uniform(0, 9, steps)).astype(np.float32), valid)


@st.composite
def packs(draw, needs_class=False):
    ids = draw(st.lists(keys, min_size=1, max_size=5, unique=True))
    count = len(ids)
    modalities = draw(st.lists(st.sampled_from(["text", "audio", "face"]), min_size=1, max_size=3, unique=True))
    names = draw(st.lists(plain_text.filter(lambda name: bool(name) and name != "emotion"), max_size=3, unique=True))
    labels = {name: draw(label_columns(count)) for name in names}
    if needs_class:
        codes = draw(st.lists(st.integers(-1, 1), min_size=count, max_size=count))
        labels["emotion"] = LabelColumn("class", ("x", "y"), np.array(codes))

    def column(one):
        return draw(st.lists(one, min_size=count, max_size=count))

    table = UtteranceTable.of(
        ids,
        text=column(st.none() | plain_text),
        speaker=column(st.sampled_from(["", "Ann", "bób"])),
        dialogue=column(st.sampled_from(["", "d1", "d/2"])),
        split=column(st.sampled_from(["train", "val", "test", "", "extra"])),
        turn=np.array(column(st.integers(-1, 3))),
        labels=labels,
    )
    sets = []
    for modality in modalities:
        dim = draw(st.integers(1, 3))
        sets.append(PackSet(modality, f"enc-{modality}", dim, [draw(sequences(dim)) for _ in ids]))
    return table, sets


def round_trip(form, suffix, table, sets, **options):
    """Write, export, import; return both stores and the folder that keeps them."""
    folder = tempfile.TemporaryDirectory()
    home = Path(folder.name)
    before = making.store(home / "a.h5", table, sets)
    chosen = [before.pick(sets[0].modality)] if form == "emotion2vec" else []
    export_features(form, before.path, home / "sub" / f"out{suffix}", sets=chosen, **options)
    import_features(form, home / "sub" / f"out{suffix}", home / "b.h5")
    assert sorted(path.name for path in home.iterdir()) == ["a.h5", "a.shards", "b.h5", "b.shards", "sub"]
    return before, FeatureStore.open(home / "b.h5"), folder


hurried = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize(
    ("form", "suffix"), [("mmsa", ".pkl"), ("csd", ""), ("merbench", ""), ("lhotse", ""), ("emotion2vec", "")]
)
@hurried
@given(packs())
def test_formats_of_sequences(form, suffix, made):
    """Exact in float32: everything comes back."""
    before, after, folder = round_trip(form, suffix, *made)
    with folder:
        making.same_tables(before.utterances, after.utterances)
        modalities = {index.spec.modality for index in after.sets.values()}
        assert len(modalities) == (1 if form == "emotion2vec" else len(made[1]))
        for modality in modalities:
            making.same_features(before, before.pick(modality), after, after.pick(modality))


@pytest.mark.parametrize("layout", ["iemocap", "mmgcn-meld", "cosmic-iemocap"])
@hurried
@given(packs(needs_class=True))
def test_formats_of_vectors(layout, made):
    """The mean over valid steps comes back, for the modalities the layout has; the table comes back whole."""
    before, after, folder = round_trip_of_vectors(layout, made)
    if after is None:
        return
    with folder:
        making.same_tables(before.utterances, after.utterances)
        for index in after.sets.values():
            modality = index.spec.modality
            np.testing.assert_allclose(
                before.vectors(before.pick(modality)), after.vectors(after.pick(modality)), rtol=1e-5, atol=1e-6
            )
            np.testing.assert_array_equal(before.sets[before.pick(modality)].fates, index.fates)


def round_trip_of_vectors(layout, made):
    table, sets = made
    if layout.startswith("cosmic") and not any(one.modality == "text" for one in sets):
        return None, None, None
    return round_trip("dialoguernn", ".pkl", table, sets, layout=layout, label="emotion")


@settings(max_examples=300, deadline=None)
@given(st.text(min_size=1, max_size=80) | keys)
def test_ids_become_file_names_and_back(raw):
    name = file_name(raw)
    assert name not in (".", "..")
    assert not set(name) & set('/\\\0:*?"<>|\n\r\t ')
    assert len(name) <= 200
    if "~" not in name and not FORBIDDEN_IN_KEY.search(raw):
        assert key_of_file(name) == raw


@settings(max_examples=300, deadline=None)
@given(st.text(min_size=1, max_size=80))
def test_cleaned_ids_are_accepted_by_the_store(raw):
    assert UtteranceTable.of([clean_key(raw)]).keys == [clean_key(raw)]


@settings(parent=hurried, max_examples=6)
@given(packs())
def test_the_whole_way(made):
    """Write, pack, push, pull, read, export, import."""
    from mer.cache.pack import PackOptions, pack
    from mer.cache.transfer import pull, push

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        before = making.store(home / "a.h5", *made)
        file = pack(before, home / "p.h5", PackOptions("CC0-1.0"))[0]
        url = push(file, f"file://{home}/shared/").url
        pulled = FeatureStore.open(pull(url, home / "got.h5").path)
        export_features("mmsa", pulled.path, home / "m.pkl")
        import_features("mmsa", home / "m.pkl", home / "b.h5")
        after = FeatureStore.open(home / "b.h5")
        for store in (pulled, after):
            making.same_tables(before.utterances, store.utterances)
            for modality in {index.spec.modality for index in before.sets.values()}:
                making.same_features(before, before.pick(modality), store, store.pick(modality))
