"""Local servers for the transfer tests: one with range requests, ill-behaved ones, and a stand-in of the Hub."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@contextmanager
def serving(handler, **state):
    """Run a handler on a free loopback port; yields the server, whose `state` the handler shares."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.__dict__.update(state, requests=[], sent=0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Files(BaseHTTPRequestHandler):
    """Serves `server.folder`. `server.drops` connections are cut after `server.drop_after` bytes of a body."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""

    def do_HEAD(self):
        """Answer with the headers of a GET."""
        self.answer(body=False)

    def do_GET(self):
        """Answer with a file or a part of it."""
        self.answer(body=True)

    def content(self) -> bytes | None:
        """Bytes of the file asked for."""
        path = Path(self.server.folder) / unquote(urlsplit(self.path).path).lstrip("/")
        return path.read_bytes() if path.is_file() else None

    def answer(self, body: bool) -> None:
        """Send a file, honouring `Range` unless the server is told not to."""
        content = self.content()
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        if content is None:
            self.send_bytes(404, b"not found", body)
            return
        ranges = getattr(self.server, "ranges", True)
        headers = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Accept-Ranges": "bytes" if ranges else "none"}
        wanted = self.headers.get("Range") if ranges or getattr(self.server, "announce", True) is False else None
        if wanted and ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else len(content), len(content))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            self.send_bytes(206, content[start:stop], body, headers)
        else:
            if getattr(self.server, "announce", True) is False:
                del headers["Accept-Ranges"]
            self.send_bytes(200, content, body, headers)

    def send_bytes(self, status: int, content: bytes, body: bool = True, headers=None) -> None:
        """Send an answer, or half of one where a drop is due."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not body:
            return
        limit = getattr(self.server, "drop_after", 0)
        if getattr(self.server, "drops", 0) and len(content) > limit and status in (200, 206):
            self.server.drops -= 1
            self.wfile.write(content[:limit])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.server.sent += len(content)
        self.wfile.write(content)


class Liar(Files):
    """Serves other bytes of the right length for everything that ends in `.h5`."""

    def content(self) -> bytes | None:
        """Bytes with one bit changed in the middle."""
        content = super().content()
        if content is None or not self.path.endswith(".h5"):
            return content
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 1
        return bytes(changed)


class Hub(Files):
    """The HTTP calls of huggingface_hub's client that pushing and pulling a dataset file take.

    `server.repos` maps a repository to its files; large files go through the LFS calls. Only the branch `main` and the
    commit it is at exist.
    """

    def send_bytes(self, status: int, content: bytes, body: bool = True, headers=None) -> None:
        """Send an answer with the commit, by which the client knows a Hub."""
        super().send_bytes(status, content, body, {"X-Repo-Commit": "a" * 40, **(headers or {})})

    def read_json(self):
        """Body of the request."""
        return json.loads(self.body() or b"{}")

    def body(self) -> bytes:
        """Body as sent, chunked or not."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send_json(self, value, status=200):
        """Answer with JSON."""
        self.send_bytes(status, json.dumps(value).encode(), True, {"Content-Type": "application/json"})

    def files(self, repo):
        """Files of a repository, or None after having answered that it is missing."""
        if repo in self.server.repos:
            return self.server.repos[repo]
        headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        self.send_bytes(404, b"", True, headers)
        return None

    def entry(self, path, content):
        """A file as the tree and paths-info calls describe it."""
        blob = hashlib.sha1(content).hexdigest()
        entry = {"type": "file", "path": path, "size": len(content), "oid": blob}
        if path.endswith(".h5"):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
        return entry

    def do_POST(self):
        """Create a repository, prepare an upload, describe paths, or commit."""
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(("POST", path, None))
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            told = self.read_json()
            name = "/".join(one for one in (told.get("organization") or "me", told["name"]) if one)
            self.server.repos.setdefault(name, {})
            self.send_json({"url": f"{self.server.url}/datasets/{name}", "name": name})
        elif path == "/api/validate-yaml":
            assert self.read_json()["content"].startswith("---\n")
            self.send_json({"errors": [], "warnings": []})
        elif "preupload" in parts:
            files = [
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(".h5") else "regular"}
                for one in self.read_json()["files"]
            ]
            self.send_json({"files": [{**one, "shouldIgnore": False} for one in files]})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = self.read_json()["objects"]
            action = {"upload": {"href": "", "header": {}}}
            for one in objects:
                one["actions"] = json.loads(json.dumps(action))
                one["actions"]["upload"]["href"] = f"{self.server.url}/upload/{one['oid']}"
            self.send_json({"transfer": "basic", "objects": objects})
        elif "paths-info" in parts:
            files = self.files("/".join(parts[2:4]))
            if files is not None:
                paths = self.read_json()["paths"]
                self.send_json([self.entry(one, files[one]) for one in paths if one in files])
        elif "commit" in parts:
            self.commit("/".join(parts[2:4]))
        else:
            self.send_bytes(404, b"")

    def commit(self, repo):
        """Put the files of a commit into the repository."""
        for line in self.body().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.server.repos[repo][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.server.repos[repo][value["path"]] = self.server.blobs[value["oid"]]
        self.send_json({"commitUrl": f"{self.server.url}/datasets/{repo}/commit/{'a' * 40}", "commitOid": "a" * 40})

    def do_PUT(self):
        """Take the bytes of a large file."""
        content = self.body()
        assert hashlib.sha256(content).hexdigest() == self.path.rsplit("/", 1)[-1]
        self.server.blobs[self.path.rsplit("/", 1)[-1]] = content
        self.send_bytes(200, b"")

    def answer(self, body: bool) -> None:
        """Describe a repository, list its tree, or serve a file of it."""
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] != "api":
            super().answer(body)
            return
        self.server.requests.append((self.command, self.path, None))
        files = self.files("/".join(parts[2:4]))
        if files is None:
            return
        if "revision" in parts and parts[5] not in ("main", "a" * 40):
            self.send_bytes(404, b"", True, {"X-Error-Code": "RevisionNotFound"})
        elif "tree" in parts:
            self.send_json([self.entry(name, content) for name, content in files.items()])
        else:
            siblings = [{"rfilename": name} for name in files]
            facts = {"id": "/".join(parts[2:4]), "sha": "a" * 40, "private": False, "siblings": siblings}
            self.send_json({**facts, "tags": [], "downloads": 0, "likes": 0, "disabled": False, "gated": False})

    def content(self) -> bytes | None:
        """Bytes behind `/datasets/ORG/NAME/resolve/REVISION/FILE`, or the same of a model, without `datasets`."""
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        parts = parts if parts[0] == "datasets" else ["models", *parts]
        if len(parts) < 6 or parts[3] != "resolve" or parts[4] not in ("main", "a" * 40):
            return None
        return self.server.repos.get("/".join(parts[1:3]), {}).get("/".join(parts[5:]))
