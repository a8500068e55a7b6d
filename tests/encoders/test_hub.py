"""Fetching from a hub, against a small server that speaks the hub's protocol on this machine."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_checkpoints import vit_fer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """One repository, `someone/fer`, at one commit; `someone/gated` asks for permission."""

    folder: Path
    asked: list[str]

    def log_message(self, *args: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        """Answer about the repository or with one of its files."""
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if "someone/gated" in path:
            return self.reply(403, b"{}", {"X-Error-Code": "GatedRepo"}, with_body)
        if "someone/fer" not in path:
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
        if "/resolve/" in path:
            content = (self.folder / path.rpartition("/")[2]).read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            return self.reply(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'}, with_body)
        files = sorted(file.name for file in self.folder.iterdir())
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": name, "size": (self.folder / name).stat().st_size, "oid": "0" * 40}
                for name in files
            ]
            return self.reply(200, json.dumps(tree).encode(), {}, with_body)
        info = {"id": "someone/fer", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files], "tags": []}
        return self.reply(200, json.dumps(info).encode(), {}, with_body)

    def reply(self, code: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        """Send one answer."""
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    folder = vit_fer(tmp_path / "repository")
    (folder / "README.md").write_text("big and needless")
    (folder / "tf_model.h5").write_bytes(b"needless")
    handler = type("OneHub", (Hub,), {"folder": folder, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    server.server_close()
    thread.join()


PROGRAM = """
import sys
from pathlib import Path
from mer.cache import MerError
from mer.stages.encoders.catalog import make_encoder
try:
    encoder = make_encoder("face", sys.argv[1]).resolve()
    print(encoder.found.revision, sorted(file.name for file in Path(encoder.found.folder).iterdir()))
    print(encoder.spec({}, "float16").name, encoder.spec({}, "float16").fingerprint)
except MerError as error:
    print(error)
"""


def resolve(name: str, endpoint: str, home: Path, **more: str) -> list[str]:
    """Resolve an encoder in a process of its own: the hub's client reads its settings when it is imported."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home / "hf"),
        "MER_CACHE": str(home / "mer"),
        "PATH": "/usr/bin",
        "HF_HUB_DISABLE_XET": "1",
        **more,
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name], capture_output=True, text=True, env=settings, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_only_what_is_needed_is_fetched_once_and_pinned(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, asked = hub
    first = resolve("someone/fer", endpoint, tmp_path)
    assert first[0] == f"{COMMIT} ['config.json', 'model.safetensors', 'preprocessor_config.json']"
    assert first[1].startswith("fer ")
    questions = len(asked)
    again = resolve("someone/fer", "http://127.0.0.1:9", tmp_path)  # nothing answers there, and nothing is asked
    assert again == first
    assert len(asked) == questions
    assert resolve(f"someone/fer@{COMMIT}", "http://127.0.0.1:9", tmp_path) == first


def test_unknown_and_gated_checkpoints_are_told_why(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, _ = hub
    (unknown,) = resolve("someone/nothing", endpoint, tmp_path)
    assert "the hub has no checkpoint 'someone/nothing'" in unknown
    (gated,) = resolve("someone/gated", endpoint, tmp_path)
    assert "accept its terms" in gated


def test_a_snapshot_without_the_settings_of_its_pictures_is_fetched_in_full(
    hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    """What transformers' own `AutoModel.from_pretrained` leaves in the hub's cache."""
    endpoint, _ = hub
    first = resolve("someone/fer", endpoint, tmp_path)
    (settings,) = (tmp_path / "hf").rglob("snapshots/*/preprocessor_config.json")
    settings.unlink()
    (alone,) = resolve("someone/fer", "http://127.0.0.1:9", tmp_path)
    assert "not wholly, on this machine" in alone
    assert resolve("someone/fer", endpoint, tmp_path) == first
