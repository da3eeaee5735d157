"""A Hugging Face hub on this machine: the few endpoints that huggingface_hub fetches models by.

GET  /api/models/OWNER/NAME/revision/REVISION     the commit and the names of its files
HEAD /OWNER/NAME/resolve/REVISION/FILE            the commit, the file's digest and size
GET  /OWNER/NAME/resolve/REVISION/FILE            the file
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Serves folders as commits of repositories, and remembers what was asked for."""

    def __init__(self):
        self.commits: dict[tuple[str, str], Path] = {}  # (repository, commit) -> its files
        self.refs: dict[tuple[str, str], str] = {}  # (repository, branch or tag) -> commit
        self.closed: dict[str, tuple[int, str]] = {}  # repository -> (HTTP status, error code)
        self.requests: list[str] = []  # "METHOD path"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def push(self, repository: str, folder: Path, *refs: str) -> str:
        """Makes a folder the newest commit of these branches; returns the commit."""
        commit = hashlib.sha1(f"{repository} {folder} {len(self.commits)}".encode()).hexdigest()
        self.commits[repository, commit] = folder
        self.refs |= {(repository, ref): commit for ref in refs or ("main",)}
        return commit

    def fetched(self) -> list[str]:
        """The files that were downloaded, each as often as it was."""
        requests = [r for r in self.requests if r.startswith("GET ") and "/resolve/" in r]
        return [request.split("/", 5)[5] for request in requests]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        self.requests.append(f"{method} {path}")
        parts = [unquote(part) for part in path.removeprefix("/api/models").split("/")[1:]]
        if len(parts) < 4:  # the library counts its uses (api/telemetry), which nobody needs
            return 404, {}, b"no"
        repository, (kind, revision), file = "/".join(parts[:2]), parts[2:4], "/".join(parts[4:])
        if repository in self.closed:
            status, code = self.closed[repository]
            return status, {"X-Error-Code": code}, b"no"
        if not any(repository == known for known, _ in self.commits):
            return 404, {"X-Error-Code": "RepoNotFound"}, b"no"
        commit = self.refs.get((repository, revision), revision)
        if (repository, commit) not in self.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"no"
        folder = self.commits[repository, commit]
        if kind == "revision":
            names = [str(f.relative_to(folder)) for f in sorted(folder.rglob("*")) if f.is_file()]
            siblings = [{"rfilename": name} for name in names]
            body = json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode()
            return 200, {"Content-Type": "application/json"}, body
        if not (folder / file).is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b"no"
        body = (folder / file).read_bytes()
        etag = hashlib.sha256(body).hexdigest()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, body

    def _handler(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _reply(self):
                status, headers, body = hub.answer(self.command, urlsplit(self.path).path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_GET = do_HEAD = _reply  # noqa: N815, as http.server calls them

            def log_message(self, *arguments):
                pass

        return Handler
