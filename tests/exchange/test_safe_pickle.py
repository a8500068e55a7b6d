"""The restricted unpickler: reads what the field's pickles hold, refuses the rest by name, never runs anything."""

import collections
import datetime as dt
import fractions
import io
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mer.cache import MerError
from mer.cache.exchange.safe_names import UnsafePickleError
from mer.cache.exchange.safe_npy import read_npy, read_npz
from mer.cache.exchange.safe_pickle import load, loads

PROTOCOLS = range(6)


def same(left, right):
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and _equal_arrays(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return left == right and (type(left) is type(right) or isinstance(right, memoryview))


def _equal_arrays(left, right):
    if left.dtype.kind == "O":
        return all(map(same, left.ravel(), right.ravel()))
    return left.tobytes() == right.tobytes()


arrays = hnp.arrays(
    st.sampled_from(["f4", "f8", "f2", "i8", "u1", "?", ">f4", "<U3", "S4"]), hnp.array_shapes(min_dims=0, min_side=0)
)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text() | st.binary()
)
plain = st.recursive(
    scalars | arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(st.integers(), max_size=3)
        | st.frozensets(st.text(), max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plain, st.sampled_from(PROTOCOLS))
def test_plain_data_survives_every_protocol(value, protocol):
    assert same(value, loads(pickle.dumps(value, protocol)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars_orders_and_object_arrays(protocol):
    mixed = np.array([np.arange(3.0), "a", {"k": 1}], dtype=object)
    value = {
        "scalar": np.float32(2.5),
        "flag": np.bool_(True),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "objects": mixed,
        "od": collections.OrderedDict([("b", 1), ("a", 2)]),
        "dd": collections.defaultdict(list, {"x": [1]}),
    }
    got = loads(pickle.dumps(value, protocol))
    assert got["scalar"] == np.float32(2.5)
    assert got["scalar"].dtype == np.float32
    assert bool(got["flag"]) is True
    np.testing.assert_array_equal(got["fortran"], value["fortran"])
    np.testing.assert_array_equal(got["objects"][0], [0.0, 1.0, 2.0])
    assert list(got["od"].items()) == [("b", 1), ("a", 2)]
    assert got["dd"]["x"] == [1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("array", "listed"),
    [
        (np.array([[1, 2, 3], [4, 5, 6]], "<f4", order="F"), [[1, 2, 3], [4, 5, 6]]),
        (np.array([[1, 2, 3], [4, 5, 6]], ">i2", order="F"), [[1, 2, 3], [4, 5, 6]]),
        (np.array([[1, 2, 3], [4, 5, 6]], ">f8"), [[1, 2, 3], [4, 5, 6]]),
        (np.array([[1, 2], [3, None], ["a", 0.5]], object, order="F"), [[1, 2], [3, None], ["a", 0.5]]),
        (np.arange(12).reshape(2, 3, 2).transpose(2, 0, 1), [[[0, 2, 4], [6, 8, 10]], [[1, 3, 5], [7, 9, 11]]]),
        (np.arange(6)[::-2], [5, 3, 1]),
        (np.array(3.5), 3.5),
        (np.array(-7, ">i4"), -7),
        (np.array({"a": [1]}, object), {"a": [1]}),
        (np.array(["ab", "c"], ">U3"), ["ab", "c"]),
        (np.zeros((3, 0), order="F"), [[], [], []]),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_arrays_of_any_order_keep_their_elements_in_place(protocol, array, listed):
    got = loads(pickle.dumps(array, protocol))
    assert got.tolist() == listed
    assert (got.dtype, got.shape) == (array.dtype, array.shape)


def test_the_same_array_twice_stays_one_array():
    array = np.arange(4)
    first, second = loads(pickle.dumps([array, array], 2))
    assert first is second


def test_python_2_pickle_with_numpy_1_names():
    r"""As Python 2's cPickle wrote `{'a': array([1., 2.], float32), 'caf\xc3\xa9': u'x'}` with protocol 2."""
    raw = np.array([1, 2], "<f4").tobytes()
    stream = (
        b"\x80\x02}q\x01(U\x01aq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85q\x05U\x01b\x87q\x06R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(raw)])
        + raw
        + b"tbU\x05caf\xc3\xa9X\x01\x00\x00\x00xu."
    )
    got = loads(stream)
    np.testing.assert_array_equal(got["a"], np.array([1, 2], np.float32))
    assert got["café"] == "x"
    expected = pickle.loads(stream, encoding="latin1")  # the array bytes read as the standard unpickler reads them
    np.testing.assert_array_equal(got["a"], expected["a"])


def test_python_2_protocol_0_strings():
    assert loads(b"(lp0\nS'a\\x00\\'b'\np1\naI01\naL12L\na.") == ["a\x00'b", True, 12]


class Boom:
    def __reduce__(self):
        return os.system, ("touch /nonexistent/boom",)


class Stateful:
    def __init__(self):
        self.x = 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Boom(), "system"),
        (Stateful(), "refused"),
        (dt.date(2020, 1, 1), "datetime"),
        (fractions.Fraction(1, 3), "Fraction"),
        (np.ma.masked_array([1, 2]), "numpy.ma"),
        (np.zeros(2, [("a", "f4")]), "dtype"),
        (np.datetime64("2020-01-01"), "dtype"),
        (complex, "complex"),
        (collections.Counter("aab"), "Counter"),
        (collections.defaultdict(Boom), "Boom"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_everything_else_is_refused_by_name(protocol, value, named):
    with pytest.raises(UnsafePickleError, match=named) as caught:
        loads(pickle.dumps(value, protocol))
    assert "\n" not in str(caught.value)


HOSTILE = {
    "INST": b"(S'true'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'true'\no.",
    "GLOBAL": b"cos\nsystem\n(S'true'\ntR.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.tofile\x93.",
    "EXT1": b"\x82\x01.",
    "EXT4": b"\x84\x01\x00\x00\x00.",
    "PERSID": b"Pid\n.",
    "BINPERSID": b"K\x01Q.",
    "NEWOBJ": b"cnumpy\nndarray\n)\x81.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "build on list": b"](K\x01K\x02tb.",
    "build on dict": b"}}b.",
    "bare name": b"cnumpy\nndarray\n.",
    "unfinished array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR.",
    "call a list": b"])R.",
    "huge string": b"X\xff\xff\xff\xff.",
    "huge bytes": b"\x8e" + (2**60).to_bytes(8, "little") + b".",
    "huge bytearray": b"\x96" + (2**60).to_bytes(8, "little") + b".",
    "huge frame": b"\x80\x04\x95" + (2**60).to_bytes(8, "little") + b"N.",
    "huge whole number": b"\x8b\xff\xff\xff\x7f.",
    "long decimal": b"I" + b"9" * 5000 + b"\n.",
    "unknown memo": b"j\xff\xff\xff\xff.",
    "underflow": b"R.",
    "no stop": b"]",
    "empty": b"",
    "unopened mark": b"t.",
    "cycle": b"]q\x00h\x00a.",
    "deep": b"]" * 200_000 + b"a" * 199_999 + b".",
    "deep tuples as key": b"}" + b")" + b"\x85" * 200_000 + b"Ns.",
    "list as key": b"}]Ns.",
    "odd dict": b"(K\x01d.",
    "newer protocol": b"\x80\x09N.",
    "big-endian trick": b"cnumpy\ndtype\n(U\x03f4,K\x00K\x01tR.",
    "void dtype": b"cnumpy\ndtype\n(U\x04V999K\x00K\x01tR.",
    "many empty lists": b"(" + b"]" * 2_000_000 + b"l.",
    "copied container": b"(" + b"K\x01" * 200_000 + b"lq\x00" + b"c__builtin__\nlist\n(h\x00tR" * 1_000 + b".",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_streams_are_refused(name):
    with pytest.raises(UnsafePickleError) as caught:
        loads(HOSTILE[name])
    assert "\n" not in str(caught.value)


def state(shape, code=b"f4", raw=b"", size=-1):
    """An array whose state claims `shape` over `raw`."""
    out = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR(K\x01("
    out += b"".join(b"\x8a\x09" + n.to_bytes(9, "little", signed=True) for n in shape)
    out += b"tcnumpy\ndtype\n(X" + len(code).to_bytes(4, "little") + code + b"K\x00K\x01tR\x89B"
    return out + len(raw).to_bytes(4, "little") + raw + b"tb."


@pytest.mark.parametrize(
    "stream",
    [
        state((2**40,)),
        state((2**32, 2**32)),
        state((0, 2**60)),
        state((-1,), raw=b"1234"),
        state((3,), raw=b"1234" * 2),
        state((2**39,), code=b"U0"),
        state((1,), code=b"O", raw=b"12345678"),
        state((1,) * 40, raw=b"1234"),
    ],
)
def test_array_claims_are_checked_before_allocation(stream):
    tracemalloc.start()
    try:
        with pytest.raises(UnsafePickleError):
            loads(stream)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def refusal(read, *arguments) -> str:
    """The one line a reader refuses with, or the empty string when it reads."""
    try:
        read(*arguments)
    except MerError as error:
        return str(error)
    return ""


def mutate(blob: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, cut, swap, repeat or overwrite a few bytes."""
    data = bytearray(blob)
    kind = rng.integers(5)
    at = int(rng.integers(len(data)))
    if kind == 0:
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        other = int(rng.integers(len(data)))
        data[at], data[other] = data[other], data[at]
    elif kind == 3:
        data[at:at] = data[at : at + int(rng.integers(1, 40))]
    else:
        data[at : at + 4] = rng.bytes(4)
    return bytes(data)


def sample() -> dict:
    rng = np.random.default_rng(0)
    return {
        "train": {
            "id": np.array(["a$_$1", "b$_$2"]),
            "text": rng.normal(size=(2, 5, 3)).astype(np.float32),
            "audio_lengths": [3, 5],
            "raw_text": ["hello", "wörld"],
            "regression_labels": rng.normal(size=2),
            "objects": np.array([{"emo": 1, "val": np.float64(0.5)}, None], dtype=object),
        }
    }


def test_two_thousand_mutated_pickles():
    """Each is read or refused with one line, within twice its own size and a small constant."""
    rng = np.random.default_rng(7)
    sources = [pickle.dumps(sample(), protocol) for protocol in PROTOCOLS]
    refusals = []
    tracemalloc.start()
    try:
        for index in range(2000):
            blob = mutate(sources[index % len(sources)], rng)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            refusals.append(refusal(loads, blob))
            assert tracemalloc.get_traced_memory()[1] - before < 2 * len(blob) + (1 << 18)
    finally:
        tracemalloc.stop()
    assert not any("\n" in line for line in refusals)
    assert 500 < sum(map(bool, refusals)) < 2000


def test_large_arrays_are_views_of_the_file(tmp_path):
    value = {"x": np.ones((1000, 1000), np.float32), "y": np.zeros((500, 1000))}
    for protocol in (4, 5):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps(value, protocol))
        tracemalloc.start()
        got = load(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20
        np.testing.assert_array_equal(got["x"], value["x"])


def test_refusal_names_the_file(tmp_path):
    path = tmp_path / "bad.pkl"
    path.write_bytes(b"cos\nsystem\n.")
    with pytest.raises(MerError, match=r"bad\.pkl.*os\.system"):
        load(path)
    with pytest.raises(MerError, match=r"none\.pkl"):
        load(tmp_path / "none.pkl")
    (tmp_path / "empty.pkl").write_bytes(b"")
    with pytest.raises(MerError, match="empty"):
        load(tmp_path / "empty.pkl")


# npy and npz ---------------------------------------------------------------------------------------------------------


def test_label_file_of_merbench(shared_data: Path):
    tables = read_npz(shared_data / "annotations/merbench/cmumosi/label.npz")
    train = tables["train_corpus"].item()
    assert len(train) == 1284
    assert train["OQvJTdtJ2H4_2"] == {"emo": 0, "val": np.float64(-0.8)}
    four = read_npz(shared_data / "annotations/merbench/iemocap/label_4way.npz")["whole_corpus"].item()
    assert len(four) == 5531


def test_plain_npz_equals_numpy(shared_data: Path):
    path = shared_data / "features/mosi_poria2017_trimodal.npz"
    with np.load(path, allow_pickle=False) as reference:
        ours = read_npz(path)
        assert sorted(ours) == sorted(reference.files)
        for name in reference.files:
            np.testing.assert_array_equal(ours[name], reference[name])


@pytest.mark.parametrize(
    "array",
    [
        np.array([[0.0, 1, 2], [3, 4, 5]], order="F"),
        np.array([[0, 1, 2], [3, 4, 5]], ">i4"),
        np.array([[0, None], ["a", {}]], object, order="F"),
        np.array(5),
        np.array(["a", "bé"]),
    ],
)
def test_npy_reads_back(tmp_path, array):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    got = read_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(got, array)
    assert got.dtype == array.dtype


def test_npy_with_a_hostile_object_is_refused(tmp_path):
    hostile = np.empty(1, object)
    hostile[0] = Boom()
    np.save(tmp_path / "a.npy", hostile, allow_pickle=True)
    with pytest.raises(UnsafePickleError, match=r"a\.npy.*system"):
        read_npy(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", x=hostile)
    with pytest.raises(UnsafePickleError, match=r"a\.npz.*system"):
        read_npz(tmp_path / "a.npz")


def test_npz_that_unpacks_to_too_much_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as stream:
        for _ in range(80):
            stream.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(UnsafePickleError, match="unpack"):
        read_npz(path)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_mutated_npz_are_read_or_refused(tmp_path):
    rng = np.random.default_rng(3)
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(20.0), b=np.array({"x": {"emo": 1}}, dtype=object))
    path = tmp_path / "m.npz"
    refusals = []
    for _ in range(300):
        path.write_bytes(mutate(buffer.getvalue(), rng))
        refusals.append(refusal(read_npz, path))
    assert not any("\n" in line for line in refusals)
    assert 30 < sum(map(bool, refusals)) < 300
