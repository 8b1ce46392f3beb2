"""How fast does an image come in? pybox, podman and skopeo with umoci, from one registry on loopback, interleaved.

    pull.py --pybox PROGRAM [--rounds N] [--megabytes N] [--gate]

The image has six layers of real files of this machine's /usr. Each pull begins with an empty store of its own; skopeo and umoci
together do what one pull of the others does. A row is the median over the rounds of the ratio to podman within one round. The
last line is the CPU of a pull that finds all up to date, less that of an interpreter that does nothing. ``--gate`` makes the
exit status say whether the bars of issue 7 hold: 1.0 of podman's time, 50 ms.

All of it happens in a mount namespace of its own and below one temporary directory.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

PYTHON = "/usr/bin/python3"
LAYERS = 6
NAME = "bench/pulled"


def files() -> list[Path]:
    """Return regular files of this machine, in an order that mixes large and small ones."""
    found = []
    for root in ("/usr/lib/python3", "/usr/lib/x86_64-linux-gnu", "/usr/share", "/usr/bin"):
        for folder, _, names in os.walk(root):
            found += [Path(folder, name) for name in names]
    return sorted(
        (path for path in found if path.is_file() and not path.is_symlink()), key=lambda path: hashlib.md5(bytes(path)).digest()
    )


def make_image(layout: Path, size: int) -> None:
    """Write an OCI layout of about ``size`` bytes of files."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> tuple[str, int]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return f"sha256:{digest}", len(data)

    source, diff_ids, layers = iter(files()), [], []
    for _ in range(LAYERS):
        plain, used = layout / "layer.tar", 0
        with tarfile.open(plain, "w", format=tarfile.PAX_FORMAT) as tar:
            while used < size / LAYERS:
                path = next(source)
                tar.add(path, str(path).lstrip("/"), recursive=False)
                used += path.stat().st_size
        data = plain.read_bytes()
        diff_ids.append(f"sha256:{hashlib.sha256(data).hexdigest()}")
        digest, length = put(gzip.compress(data, 6, mtime=0))
        layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": length})
        plain.unlink()
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    digest, length = put(json.dumps(config).encode())
    kind = "application/vnd.oci.image.manifest.v1+json"
    settings = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": length}
    digest, length = put(json.dumps({"schemaVersion": 2, "mediaType": kind, "config": settings, "layers": layers}).encode())
    note = {"org.opencontainers.image.ref.name": "latest"}
    index = {"schemaVersion": 2, "manifests": [{"mediaType": kind, "digest": digest, "size": length, "annotations": note}]}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


class Registry:
    """Debian's docker-registry on a free port of loopback."""

    def __init__(self, work: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.host = f"localhost:{free.getsockname()[1]}"
        port = self.host.partition(":")[2]
        (work / "registry.json").write_text(
            json.dumps(
                {
                    "version": "0.1",
                    "log": {"level": "error"},
                    "storage": {"filesystem": {"rootdirectory": str(work / "registry")}},
                    "http": {"addr": f"127.0.0.1:{port}"},
                }
            )
        )
        program = ("docker-registry", "serve", str(work / "registry.json"))
        self.process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                socket.create_connection(("127.0.0.1", int(port)), 1).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit("docker-registry does not start") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def run(*argv: str, **environment: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(f"{argv[0]}: {done.stderr.strip()}")


def contenders(work: Path, reference: str, pybox: str) -> dict[str, Callable[[Path], None]]:
    """Return who pulls into a fresh directory, and how."""

    def with_pybox(store: Path) -> None:
        run(pybox, "pull", "-q", reference, PYBOX_STORE=str(store), PYBOX_STATE=str(work / "state"))

    def with_podman(store: Path) -> None:
        place = ("--root", str(store / "root"), "--runroot", str(store / "run"), "--storage-driver", "overlay")
        run("podman", *place, "pull", "-q", "--tls-verify=false", reference)

    def with_umoci(store: Path) -> None:
        run("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{reference}", f"oci:{store}/layout:latest")
        run("umoci", "unpack", "--image", f"{store}/layout:latest", f"{store}/bundle")

    return {"pybox": with_pybox, "podman": with_podman, "skopeo+umoci": with_umoci}


def cpu(argv: list[str], **environment: str) -> float:
    """Return the CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*argv, **environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(work: Path, options: argparse.Namespace) -> bool:
    """Print the table; return whether the bars hold."""
    registry = Registry(work)
    try:
        make_image(work / "layout", options.megabytes << 20)
        reference = f"{registry.host}/{NAME}"
        run("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{work}/layout:latest", f"docker://{reference}:latest")
        known = contenders(work, reference, options.pybox)
        seconds: dict[str, list[float]] = {name: [] for name in known}
        for round_ in range(options.rounds + 1):
            order = list(known)[round_ % len(known) :] + list(known)[: round_ % len(known)]
            for name in order:
                store = work / "fresh"
                store.mkdir()
                os.sync()
                start = time.perf_counter()
                known[name](store)
                seconds[name].append(time.perf_counter() - start)
                if name == "pybox" and round_ == options.rounds:
                    there = {"PYBOX_STORE": str(store), "PYBOX_STATE": str(work / "state")}
                    spent = [
                        cpu([options.pybox, "pull", "-q", reference], **there) - cpu([PYTHON, "-I", "-S", "-c", ""])
                        for _ in range(15)
                    ]
                subprocess.run(["umount", "-l", f"{store}/root/overlay"], stderr=subprocess.DEVNULL)
                shutil.rmtree(store)
        rows = {
            name: [mine / peer for mine, peer in zip(times[1:], seconds["podman"][1:], strict=True)]
            for name, times in seconds.items()
        }
        print(
            f"| pull + unpack, {options.megabytes} MB of files in {LAYERS} layers | median seconds | of podman's |\n| --- | --- | --- |"
        )
        for name, times in seconds.items():
            print(f"| {name} | {median(times[1:]):.2f} | {median(rows[name]):.2f} |")
        print(f"\npull of what is up to date: {median(spent) * 1e3:.0f} ms of CPU besides the interpreter's start")
        return median(rows["pybox"]) <= 1.0 and median(spent) <= 0.050
    finally:
        registry.stop()


def main() -> None:
    """Measure within a mount namespace of our own: podman mounts its store upon itself."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pybox", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--gate", action="store_true")
    options = parser.parse_args()
    if "BENCH_PULL" not in os.environ:
        os.environ["BENCH_PULL"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory(prefix="pybox-pull-") as work:
        held = measure(Path(work), options)
    sys.exit(0 if held or not options.gate else 1)


if __name__ == "__main__":
    main()
