"""Debian's docker-registry on a free port of loopback, for the tests."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

from harness import eventually


class Registry:
    """A registry process; ``options`` are further parts of its configuration."""

    def __init__(self, work: Path, **options: object) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.host = f"localhost:{port}"
        http = {"addr": f"127.0.0.1:{port}", "secret": "x", **options.pop("http", {})}  # type: ignore[dict-item]
        settings = {
            "version": "0.1", "log": {"level": "error", "accesslog": {"disabled": False}}, "http": http,
            "storage": {"filesystem": {"rootdirectory": str(work / "registry")}}, **options,
        }  # fmt: skip
        (work / "config.yml").write_text(json.dumps(settings))
        self.log = work / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(["docker-registry", "serve", work / "config.yml"], stdout=log, stderr=log)
        assert eventually(lambda: _answers(port)), self.log.read_text()

    def downloads(self, digest: str) -> int:
        """How often a blob was sent."""
        return self.log.read_text().count(f"GET /v2/tool/blobs/{digest}")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
