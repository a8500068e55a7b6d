"""Publishing and fetching packs, over real HTTP, s3 calls, folders and the Hub's own client; all on this machine."""

import hashlib
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from mer.cache import FeatureStore, MerError, verify
from mer.cache.transfer import Patience, pull, push, remote, resolve_features
from mer.cache.transfer.card import hub_page
from mer.cache.transfer.files import pull_files, push_files
from mer.cache.transfer.hub import HubAddress

_spec = importlib.util.spec_from_file_location("servers", Path(__file__).parent / "servers.py")
servers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(servers)


def hurried() -> Patience:
    """Retries without waiting."""
    return Patience(pause_seconds=0.001)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(remote, "BLOCK_BYTES", 64 << 10)


@pytest.fixture
def site(tmp_path, pack):
    """A folder for a web server with the pack and its sha256."""
    folder = tmp_path / "site"
    folder.mkdir()
    shutil.copy(pack, folder / "pack.h5")
    (folder / "pack.h5.sha256").write_text(remote.sidecar_line(remote.sha256_of(pack), "pack.h5"))
    return folder


def nothing_left(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if ".partial" in path.name or ".uploading" in path.name]


# folders and web servers ---------------------------------------------------------------------------------------------


def test_push_to_a_folder_and_pull_back(tmp_path, pack):
    made = push(pack, f"file://{tmp_path}/shared/")
    assert made.url.endswith("/shared/pack.h5")
    line = (tmp_path / "shared/pack.h5.sha256").read_text()
    assert line == f"{hashlib.sha256(pack.read_bytes()).hexdigest()}  pack.h5\n"
    got = pull(made.url, tmp_path / "got.h5")
    assert got.path.read_bytes() == pack.read_bytes()
    assert got.vouched
    assert (tmp_path / "got.h5.sha256").exists()
    assert nothing_left(tmp_path)


def test_push_twice_uploads_once(tmp_path, pack):
    push(pack, f"file://{tmp_path}/shared/pack.h5")
    stamp = (tmp_path / "shared/pack.h5").stat().st_mtime_ns
    push(pack, f"file://{tmp_path}/shared/pack.h5")
    assert (tmp_path / "shared/pack.h5").stat().st_mtime_ns == stamp


def test_pull_over_http(tmp_path, site, pack):
    seen = []
    with servers.serving(servers.Files, folder=site) as server:
        got = pull(f"{server.url}/pack.h5", tmp_path / "got.h5", on_progress=lambda *one: seen.append(one))
        ranges = [one for one in server.requests if one[2] and one[1] == "/pack.h5"]
    assert len(ranges) == -(-pack.stat().st_size // remote.BLOCK_BYTES)
    assert got.path.read_bytes() == pack.read_bytes()
    assert seen[-1] == (pack.stat().st_size, pack.stat().st_size)
    assert verify(got.path) == []


def test_another_file_is_replaced_only_when_asked_for(tmp_path, site, pack):
    target = tmp_path / "got.h5"
    target.write_text("mine")
    with servers.serving(servers.Files, folder=site) as server:
        url = f"{server.url}/pack.h5"
        with pytest.raises(MerError, match=r"got\.h5 is there already and is not what http.* has; .*--overwrite"):
            pull(url, target)
        assert server.sent < 1000  # the sha256 only
        assert target.read_text() == "mine"
        pull(url, target, overwrite=True)
        assert target.read_bytes() == pack.read_bytes()
        assert pull(url, target).path == target  # the very bytes are no other file
        (site / "pack.h5.sha256").unlink()
        with pytest.raises(MerError, match="has no sha256 to compare it with"):
            pull(url, target)
    assert nothing_left(tmp_path)


def test_a_link_is_pulled_to_where_it_leads(tmp_path, parts):
    push(parts, f"file://{tmp_path}/shared/meld.h5")
    link = tmp_path / "link.h5"
    link.symlink_to(tmp_path / "kept/got.h5")
    (tmp_path / "kept").mkdir()
    pull(f"file://{tmp_path}/shared/meld.h5", link)
    assert link.is_symlink()
    assert verify(link) == verify(tmp_path / "kept/got.h5") == []


def test_five_dropped_connections(tmp_path, site, pack):
    with servers.serving(servers.Files, folder=site, drops=5, drop_after=1000) as server:
        got = pull(f"{server.url}/pack.h5", tmp_path / "got.h5", patience=hurried())
        assert server.drops == 0
    assert got.path.read_bytes() == pack.read_bytes()
    assert nothing_left(tmp_path)


def test_an_interrupted_pull_goes_on_where_it_was(tmp_path, site, pack):
    """Five calls each end with an error after a few blocks; the sixth finishes, and no block was sent twice."""
    target = tmp_path / "got.h5"
    with servers.serving(servers.Files, folder=site) as server:
        for _ in range(5):
            blocks = []

            def stop(done, total, blocks=blocks):
                blocks.append(done)
                if len(blocks) == 1:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                pull(f"{server.url}/pack.h5", target, on_progress=stop)
            assert not target.exists()
        got = pull(f"{server.url}/pack.h5", target)
        ranges = [one[2] for one in server.requests if one[2] and one[1] == "/pack.h5"]
    assert got.resumed
    assert len(ranges) == len(set(ranges))
    assert target.read_bytes() == pack.read_bytes()
    assert nothing_left(tmp_path)


def test_a_server_that_goes_away_keeps_what_came(tmp_path, site):
    with (
        servers.serving(servers.Files, folder=site, drops=99, drop_after=1000) as server,
        pytest.raises(MerError, match="transfer failed") as caught,
    ):
        pull(f"{server.url}/pack.h5", tmp_path / "got.h5", patience=hurried())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "got.h5").exists()


def test_a_new_version_on_the_server_starts_again(tmp_path, site, pack):
    target = tmp_path / "got.h5"
    partial = tmp_path / "got.h5.partial/got.h5.part"
    with servers.serving(servers.Files, folder=site) as server:

        def stop(done, total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pull(f"{server.url}/pack.h5", target, on_progress=stop)
        assert partial.stat().st_size == remote.BLOCK_BYTES
        content = bytearray(pack.read_bytes())
        content[-1:] = b""
        (site / "pack.h5").write_bytes(content)
        with pytest.raises(MerError, match="sha256"):
            pull(f"{server.url}/pack.h5", target)
        shutil.copy(pack, site / "pack.h5")
        assert pull(f"{server.url}/pack.h5", target).resumed is False
    assert target.read_bytes() == pack.read_bytes()


def test_a_torn_partial_file_is_fetched_again(tmp_path, site, pack):
    target = tmp_path / "got.h5"
    with servers.serving(servers.Files, folder=site) as server:

        def stop(done, total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pull(f"{server.url}/pack.h5", target, on_progress=stop)
        partial = tmp_path / "got.h5.partial/got.h5.part"
        partial.write_bytes(bytes(partial.stat().st_size))
        pull(f"{server.url}/pack.h5", target)
    assert target.read_bytes() == pack.read_bytes()


@pytest.mark.parametrize("announce", [True, False])
def test_a_server_without_ranges(tmp_path, site, pack, announce):
    with servers.serving(
        servers.Files, folder=site, ranges=False, announce=announce, drops=2, drop_after=5000
    ) as server:
        got = pull(f"{server.url}/pack.h5", tmp_path / "got.h5", patience=hurried())
    assert got.path.read_bytes() == pack.read_bytes()


def test_a_lying_server_is_refused(tmp_path, site):
    with servers.serving(servers.Liar, folder=site) as server:
        with pytest.raises(MerError, match=r"sha256 .* was promised.*removed") as caught:
            pull(f"{server.url}/pack.h5", tmp_path / "got.h5")
        assert "\n" not in str(caught.value)
        (site / "pack.h5.sha256").unlink()
        with pytest.raises(MerError, match="checksum"):  # without a sha256 the pack's own checksums find it
            pull(f"{server.url}/pack.h5", tmp_path / "got.h5")
        with pytest.raises(MerError, match="was promised"):
            pull(f"{server.url}/pack.h5", tmp_path / "got.h5", sha256="0" * 64)
    assert [path.name for path in tmp_path.glob("got*")] == []


@pytest.mark.parametrize("sha256", ["abc", "", "g" * 64])
def test_what_is_no_sha256_is_refused_at_once(tmp_path, sha256):
    with pytest.raises(MerError, match="has 64 digits"):
        pull("https://nowhere.invalid/pack.h5", tmp_path / "got.h5", sha256=sha256)


def test_a_pull_without_sha256_says_so(tmp_path, site):
    (site / "pack.h5.sha256").unlink()
    with servers.serving(servers.Files, folder=site) as server:
        assert pull(f"{server.url}/pack.h5", tmp_path / "got.h5").vouched is False


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"", b"\x89HDF\r\n\x1a\n" + bytes(5000)])
def test_what_is_no_pack_is_refused(tmp_path, content):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/x.h5").write_bytes(content)
    with servers.serving(servers.Files, folder=tmp_path / "site") as server, pytest.raises(MerError, match="removed"):
        pull(f"{server.url}/x.h5", tmp_path / "got.h5", patience=hurried())
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_foolish_sidecar_is_refused(tmp_path, site):
    (site / "pack.h5.sha256").write_text("<html>")
    with servers.serving(servers.Files, folder=site) as server, pytest.raises(MerError, match="does not start with"):
        pull(f"{server.url}/pack.h5", tmp_path / "got.h5")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:9/pack.h5", "transfer failed"),
        ("gopher://x/y.h5", "not a URL mer can use"),
        ("simplecache::http://127.0.0.1/x.h5", "not a URL mer can use"),
        ("file:///", "plain file name"),
        ("file:///tmp/..", "plain file name"),
        ("file:///nowhere/at/all.h5", "transfer failed"),
    ],
)
def test_urls_that_cannot_work(tmp_path, url, told):
    with pytest.raises(MerError, match=told) as caught:
        pull(url, tmp_path, patience=Patience(attempts=2, pause_seconds=0.001))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_published(tmp_path, pack):
    with pytest.raises(MerError, match="mer pack"):
        push(tmp_path / "loose/pack.h5", f"file://{tmp_path}/shared/")
    damaged = bytearray(pack.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.h5").write_bytes(damaged)
    with pytest.raises(MerError, match=r"problems|checksum"):
        push(tmp_path / "damaged.h5", f"file://{tmp_path}/shared/")
    with pytest.raises(MerError, match="cannot be written through https"):
        push(pack, "https://127.0.0.1/x.h5")
    with pytest.raises(MerError, match="revision"):
        push(pack, f"file://{tmp_path}/shared/", revision="main")
    assert not (tmp_path / "shared").exists()


# in place, and for training ------------------------------------------------------------------------------------------


def test_reading_in_place_fetches_only_what_is_asked_for(tmp_path, make_pack):
    pack = make_pack(tmp_path, steps=1500)
    local = FeatureStore.open(pack)
    name = local.pick("audio")
    with servers.serving(servers.Files, folder=tmp_path) as server:
        store = FeatureStore.open(f"{server.url}/pack.h5")
        got = store.read(name, "utt030")
        sent = server.sent
    np.testing.assert_array_equal(got.values, local.read(name, "utt030").values)
    assert store.utterances.keys == local.utterances.keys
    assert sent < 0.1 * pack.stat().st_size, f"{sent} of {pack.stat().st_size} bytes were sent"


def test_resolve_features(tmp_path, site, pack, make_pack, caplog):
    kept = tmp_path / "user"
    assert resolve_features(pack, kept) == pack
    assert not kept.exists()
    with servers.serving(servers.Files, folder=site) as server:
        url = f"{server.url}/pack.h5"
        first = resolve_features(url, kept)
        sent = server.sent
        assert resolve_features(url, kept) == first
        assert server.sent - sent < 1000  # the sha256 only
        newer = make_pack(tmp_path / "newer", steps=31)
        shutil.copy(newer, site / "pack.h5")
        (site / "pack.h5.sha256").write_text(remote.sidecar_line(remote.sha256_of(newer), "pack.h5"))
        assert resolve_features(url, kept) == first  # a new version takes the place of the old one
    assert first.read_bytes() == newer.read_bytes()
    assert first.is_relative_to(kept)
    assert first.name == "pack.h5"
    offline = resolve_features(url, kept, patience=Patience(attempts=2, pause_seconds=0.001))
    assert offline == first
    assert "pulled earlier" in caplog.text


# a pack in parts -----------------------------------------------------------------------------------------------------


def test_a_pack_in_parts(tmp_path, parts):
    made = push(parts, f"file://{tmp_path}/shared/meld.h5")
    there = [path for path in (tmp_path / "shared").rglob("*") if path.is_file()]
    assert len(there) > 4
    with servers.serving(servers.Files, folder=tmp_path / "shared", drops=5, drop_after=1000) as server:
        got = pull(f"{server.url}/meld.h5", tmp_path / "got/mine.h5", patience=hurried())
    assert verify(got.path) == []
    assert got.bytes == sum(path.stat().st_size for path in there if path.suffix == ".h5")
    assert FeatureStore.open(got.path).utterances.keys == FeatureStore.open(parts).utterances.keys
    assert nothing_left(tmp_path)
    broken = max((path for path in there if path.name != "meld.h5"), key=lambda path: path.stat().st_size)
    content = bytearray(broken.read_bytes())
    content[300] ^= 1
    broken.write_bytes(content)
    with pytest.raises(MerError) as caught:
        pull(made.url, tmp_path / "other.h5")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "other.h5").exists()


def test_parts_interrupted_are_not_fetched_twice(tmp_path, parts):
    push(parts, f"file://{tmp_path}/shared/meld.h5")
    with servers.serving(servers.Files, folder=tmp_path / "shared") as server:
        calls = []

        def stop(done, total):
            calls.append(done)
            if len(calls) == 60:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pull(f"{server.url}/meld.h5", tmp_path / "got.h5", on_progress=stop)
        assert not (tmp_path / "got.h5").exists()
        got = pull(f"{server.url}/meld.h5", tmp_path / "got.h5")
        ranges = [one[1:] for one in server.requests if one[2] and "/meld.shards/" in one[1]]
    assert len(ranges) == len(set(ranges))
    assert verify(got.path) == []


# s3 ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def s3(monkeypatch):
    """Moto's server, with one bucket."""
    why = "needs the extra test-remote: pip install 'mer-toolkit[test-remote]'"
    pytest.importorskip("s3fs", reason=why)
    threaded = pytest.importorskip("moto.server", reason=why).ThreadedMotoServer
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = threaded("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="lab")
    yield client
    server.stop()


def test_s3(tmp_path, pack, s3):
    made = push(pack, "s3://lab/features/pack.h5")
    there = sorted(one["Key"] for one in s3.list_objects_v2(Bucket="lab")["Contents"])
    assert there == ["features/pack.h5", "features/pack.h5.sha256"]
    got = pull(made.url, tmp_path / "got.h5")
    assert got.path.read_bytes() == pack.read_bytes()
    name = FeatureStore.open(pack).pick("text")
    far = FeatureStore.open(made.url).read(name, "utt001")
    np.testing.assert_array_equal(far.values, FeatureStore.open(pack).read(name, "utt001").values)
    s3.put_object(Bucket="lab", Key="features/pack.h5", Body=pack.read_bytes()[:-100])
    with pytest.raises(MerError, match="promised"):
        pull(made.url, tmp_path / "again.h5", patience=hurried())


# the Hub -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in of the Hub; the client is the real one."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # read once, maybe while other tests had it set
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", "hf_madeup")
    with servers.serving(servers.Hub, folder=tmp_path, repos={}, blobs={}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE  # both are read from HF_ENDPOINT once, at import
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template.replace(constants.ENDPOINT, server.url))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        yield server


httpx_of_the_hub = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
"""huggingface_hub calls its HTTP client in a way the client is about to drop."""


@httpx_of_the_hub
def test_the_hub(tmp_path, pack, hub):
    made = push(pack, "hf://datasets/lab/meld-features", notes="Made for a *test*.")
    assert made.url == "hf://datasets/lab/meld-features/pack.h5"
    files = hub.repos["lab/meld-features"]
    assert sorted(files) == ["README.md", "pack.h5", "pack.h5.sha256"]
    assert files["pack.h5"] == pack.read_bytes()
    page = files["README.md"].decode()
    assert page.startswith('---\npretty_name: "made"\nlicense: cc-by-4.0\n')
    assert "mer pull hf://datasets/lab/meld-features/pack.h5" in page
    assert made.sha256 in page
    got = pull("hf://datasets/lab/meld-features", tmp_path / "got.h5")
    assert got.path.read_bytes() == pack.read_bytes()
    assert got.vouched
    got = pull("hf://datasets/lab/meld-features/pack.h5", tmp_path / "again.h5", revision="main")
    assert got.path.read_bytes() == pack.read_bytes()
    name = FeatureStore.open(pack).pick("text")
    far = FeatureStore.open(made.url).read(name, "utt007")
    np.testing.assert_array_equal(far.values, FeatureStore.open(pack).read(name, "utt007").values)


@httpx_of_the_hub
def test_the_hub_vouches_without_a_sidecar_and_lies_are_refused(tmp_path, pack, hub):
    push(pack, "hf://datasets/lab/x/y.h5")
    files = hub.repos["lab/x"]
    line = files.pop("y.h5.sha256")
    assert pull("hf://datasets/lab/x/y.h5", tmp_path / "got.h5").vouched
    files["y.h5.sha256"] = line.replace(line[:4], b"0000")
    with pytest.raises(MerError, match="promised"):
        pull("hf://datasets/lab/x/y.h5", tmp_path / "bad.h5")


@httpx_of_the_hub
def test_parquet_on_the_hub_and_back(tmp_path, pack, hub, capsys):
    pytest.importorskip("pyarrow", reason="needs mer-toolkit[parquet]")
    from mer.pipeline.cli import main

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            main(list(map(str, arguments)))
        return left.value.code or 0, capsys.readouterr()

    code, said = run("push", pack, "hf://datasets/lab/made", "--parquet")
    assert (code, said.out) == (0, "hf://datasets/lab/made\n")
    files = hub.repos["lab/made"]
    data = ["data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"]
    assert sorted(files) == ["README.md", "croissant.json", *data]
    code, said = run("import", "hf://datasets/lab/made", "-o", tmp_path / "back.h5")
    assert code == 0, said.err
    first, back = FeatureStore.open(pack), FeatureStore.open(tmp_path / "back.h5")
    assert back.utterances.keys == first.utterances.keys
    for one, other in zip(first.sets, back.sets, strict=True):
        assert first.load(one).values.tobytes() == back.load(other).values.tobytes()
    code, said = run("push", pack, "s3://bucket/made", "--parquet")
    assert code == 1
    assert "Parquet is published on the Hub" in said.err
    code, said = run("import", "hf://datasets/lab/nothing", "-o", tmp_path / "none.h5")
    assert code == 1
    assert "the repository cannot be read" in " ".join(said.err.split())


@httpx_of_the_hub
def test_files_in_a_model_repository(tmp_path, hub):
    made = push_files("hf://lab/head", {"run.json": b"{}", "models/a.bin": b"weights"}, {"format": "x"})
    assert made.url == "hf://lab/head"
    assert sorted(hub.repos["lab/head"]) == ["manifest.json", "models/a.bin", "run.json"]
    assert ("POST", "/api/models/lab/head/commit/main", None) in hub.requests
    seen = []
    got = pull_files("hf://lab/head", tmp_path, lambda manifest: seen.append(manifest["format"]), lambda _: None)
    assert seen == ["x"]
    assert got.sha256 == made.sha256
    assert (got.path / "models" / "a.bin").read_bytes() == b"weights"
    hub.repos["lab/head"]["run.json"] = b"[]"
    with pytest.raises(MerError, match="promised"):
        pull_files("hf://lab/head", tmp_path / "other", lambda _: None, lambda _: None)


@httpx_of_the_hub
def test_a_pack_in_parts_on_the_hub(tmp_path, parts, hub):
    push(parts, "hf://datasets/lab/parts")
    got = pull("hf://datasets/lab/parts/pack.h5", tmp_path / "got.h5")
    assert verify(got.path) == []


def test_the_hub_says_no(tmp_path, pack, hub):
    hub.repos["lab/two"] = {"a.h5": b"", "b.h5": b""}
    with pytest.raises(MerError, match=r"2 \.h5 files.*a\.h5, b\.h5"):
        pull("hf://datasets/lab/two", tmp_path / "got.h5")
    with pytest.raises(MerError, match="cannot be read") as caught:
        pull("hf://datasets/lab/none", tmp_path / "got.h5", patience=hurried())
    assert "\n" not in str(caught.value)
    with pytest.raises(MerError, match="transfer failed"):
        pull("hf://datasets/lab/two/c.h5", tmp_path / "got.h5", patience=hurried())


@pytest.mark.parametrize(
    ("url", "repo", "revision", "file"),
    [
        ("hf://datasets/a/b", "a/b", None, None),
        ("hf://datasets/a/b/", "a/b", None, None),
        ("hf://datasets/a/b/c.h5", "a/b", None, "c.h5"),
        ("hf://datasets/a/b@v1.0/sub/c.h5", "a/b", "v1.0", "sub/c.h5"),
        ("hf://datasets/a/b@refs/pr/1/c.h5", "a/b", "refs/pr/1", "c.h5"),
        ("hf://datasets/a/b@refs%2Fpr%2F1", "a/b", "refs/pr/1", None),
    ],
)
def test_hub_addresses(url, repo, revision, file):
    assert HubAddress.parse(url) == HubAddress(repo, revision, file)


@pytest.mark.parametrize(
    "url", ["hf://models/a/b", "hf://datasets/a", "hf://datasets/a/b/../c.h5", "hf://datasets/a/b@"]
)
def test_what_is_no_hub_address(url):
    with pytest.raises(MerError, match="a Hub address is"):
        HubAddress.parse(url)


def test_two_revisions_are_refused():
    with pytest.raises(MerError, match="give one"):
        HubAddress.parse("hf://datasets/a/b@x/c.h5", "y")
    assert HubAddress.parse("hf://datasets/a/b@x/c.h5", "x").revision == "x"


def test_the_page_is_safe_and_complete(pack):
    import yaml

    store = FeatureStore.open(pack)
    store.catalogue.corpus["title"] = 'A "title"\n---\nlicense: mit <script>'
    store.catalogue.datasheet["license"] = "Lab terms: ask\nus"
    page = hub_page(store, "pack.h5", "hf://datasets/a/b/pack.h5", "f" * 64)
    _, header, body = page.split("---\n", 2)
    facts = yaml.safe_load(header)
    assert facts["license"] == "other"
    assert facts["license_name"] == "Lab terms: ask\nus"
    assert facts["size_categories"] == ["n<1K"]
    assert "<script>" not in body
    assert "| emotion | calm | angry \\| \\*loud\\* |" in body
    for name in store.sets:
        assert name in body


# the commands --------------------------------------------------------------------------------------------------------


def test_commands(tmp_path, pack, capsys, monkeypatch):
    import json

    from mer.pipeline.cli import main

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            main([str(one) for one in arguments])
        return left.value.code or 0, capsys.readouterr()

    code, said = run("push", pack, f"file://{tmp_path}/shared/", "--json")
    assert code == 0
    made = json.loads(said.out)
    monkeypatch.chdir(tmp_path / "shared")
    code, said = run("pull", made["url"], "-o", tmp_path / "got.h5", "--json")
    assert code == 0
    assert json.loads(said.out) == {
        "path": str(tmp_path / "got.h5"),
        "sha256": made["sha256"],
        "bytes": pack.stat().st_size,
        "resumed": False,
        "vouched": True,
    }
    code, said = run("pull", made["url"], "--sha256", "0" * 64, "-o", tmp_path / "other.h5")
    assert code == 1
    assert "was promised" in said.err
    code, said = run("push", pack, "hf://datasets/x")
    assert code == 1
    assert "a Hub address is" in said.err


@pytest.mark.parametrize("named_in", ["option", "settings file"])
def test_training_on_a_url_pulls_it(tmp_path, site, pack, capsys, monkeypatch, named_in):
    from mer.pipeline.cli import main

    monkeypatch.setenv("MER_CACHE", str(tmp_path / "user"))
    with servers.serving(servers.Files, folder=site) as server:
        url, settings = f"{server.url}/pack.h5", tmp_path / "run.toml"
        settings.write_text(f'features = "{url}"')
        named = ["--features", url] if named_in == "option" else ["--config", str(settings)]
        with pytest.raises(SystemExit):
            main(["train", *named, "--head", "no-such-head"])
    assert "no-such-head" in capsys.readouterr().err
    (kept,) = (tmp_path / "user/packs").rglob("*.h5")
    assert kept.read_bytes() == pack.read_bytes()
