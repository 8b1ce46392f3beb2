"""A registry that can misbehave: it speaks the distribution protocol from memory, and a test may answer instead of it."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OCI = "application/vnd.oci.image."
MANIFEST = OCI + "manifest.v1+json"
INDEX = OCI + "index.v1+json"


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def packed(data: bytes) -> bytes:
    """The same bytes every time."""
    return gzip.compress(data, mtime=0)


class Handler(BaseHTTPRequestHandler):
    """Answers from what the server holds."""

    protocol_version = "HTTP/1.1"
    server: Server  # type: ignore[assignment]

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _serve(self) -> None:
        self.given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            self.server.seen.append((self.command, self.path, dict(self.headers)))
        if self.server.instead is not None and self.server.instead(self):
            return
        self.answer()

    def answer(self) -> None:
        """Answer as a registry should."""
        path, _, query = self.path.partition("?")
        parts = path.split("/")
        if path == "/v2/":
            self.reply(200, b"{}")
        elif self.command == "POST":
            self.reply(202, Location=path + "id")
        elif self.command == "PUT" and parts[-2] == "uploads":
            self.server.blobs[sha(self.given)] = self.given
            self.reply(201 if query.endswith(sha(self.given).replace(":", "%3A")) else 400)
        elif self.command == "PUT":
            self.server.put(self.given, self.headers["Content-Type"], parts[-1])
            self.reply(201)
        elif parts[-2] == "manifests" and parts[-1] in self.server.manifests:
            kind, data = self.server.manifests[parts[-1]]
            self.reply(200, data, Content_Type=kind, Docker_Content_Digest=sha(data))
        elif parts[-2] == "blobs" and parts[-1] in self.server.blobs:
            self._blob(self.server.blobs[parts[-1]])
        else:
            code = "MANIFEST_UNKNOWN" if "/manifests/" in path else "BLOB_UNKNOWN"
            self.reply(404, json.dumps({"errors": [{"code": code, "message": "unknown"}]}).encode())

    def _blob(self, data: bytes) -> None:
        start = (self.headers.get("Range") or "").removeprefix("bytes=").rstrip("-")
        if start and self.server.parts:
            self.reply(206, data[int(start) :], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.reply(200, data)

    def cut(self, data: bytes, after: int) -> None:
        """Promise all of the data, send a part, and hang up."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:after])
        self.wfile.flush()
        self.close_connection = True


class Server(ThreadingHTTPServer):
    """What the registry holds, what it was asked, and who answers instead."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.host = f"localhost:{self.server_port}"
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.instead: Callable[[Handler], bool] | None = None
        self.parts = True  # whether it can send a part of a blob

    def put(self, data: bytes, kind: str, *names: str) -> str:
        """Hold a manifest under names and its digest; returns the digest."""
        for name in (*names, sha(data)):
            self.manifests[name] = kind, data
        return sha(data)

    def image(self, *tars: bytes, tag: str = "latest", pack: Callable[[bytes], bytes] = packed, **changes: object) -> str:
        """Hold an image of these layers; returns the digest of its manifest. ``changes`` replace fields of the manifest."""
        blobs = [pack(tar) for tar in tars]
        config = json.dumps(
            {"os": "linux", "config": {"Cmd": ["sh"]}, "rootfs": {"type": "layers", "diff_ids": [sha(tar) for tar in tars]}}
        ).encode()
        self.blobs |= {sha(blob): blob for blob in (*blobs, config)}
        kinds = (OCI + "layer.v1.tar+gzip", OCI + "config.v1+json")
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": kinds[1], "digest": sha(config), "size": len(config)},
            "layers": [{"mediaType": kinds[0], "digest": sha(blob), "size": len(blob)} for blob in blobs],
            **changes,
        }
        return self.put(json.dumps(manifest).encode(), MANIFEST, *((tag,) if tag else ()))

    def asked(self, what: str) -> list[str]:
        """Return the requests whose path holds a text, as METHOD PATH."""
        return [f"{method} {path}" for method, path, _ in self.seen if what in path]

    def authorizations(self) -> list[str | None]:
        """Return what each request said of who sends it."""
        return [headers.get("Authorization") for _, _, headers in self.seen]


@contextmanager
def serving() -> Iterator[Server]:
    """Run a registry while the test does."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
