"""Images from a real registry (Debian's docker-registry, on loopback): pulled once, pulled whole, pulled when a run needs them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import ten_images
from harness import PURE_V2, TIMEOUT, cli, start
from registry import Registry

import pybox
from pybox import dirs
from pybox.image import archive, changes, export, layerfile, store

pytestmark = pytest.mark.skipif(not shutil.which("docker-registry"), reason="no docker-registry (Debian package)")
# user me, password secret
HTPASSWD = "me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


@pytest.fixture
def run_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Registry]]:
    """Start further registries; they end with the test."""
    running: list[Registry] = []

    def begin(**options: object) -> Registry:
        running.append(Registry(tmp_path_factory.mktemp("registry"), **options))
        return running[-1]

    yield begin
    for registry in running:
        registry.stop()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, store: dirs.Dirs) -> Iterator[Registry]:
    """A registry that holds the test image as tool:latest."""
    made = Registry(tmp_path_factory.mktemp("registry"))
    done = cli("push", "busybox", f"{made.host}/tool")
    assert done.returncode == 0, done.stderr
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def elsewhere(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: dirs.Dirs) -> dirs.Dirs:
    """An empty store, and nobody's passwords."""
    monkeypatch.setenv("PYBOX_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    where = dirs.current()
    for name in ("uppers", "mnt", "scratch"):  # so that the host before and after is the same
        os.makedirs(f"{where.store}/{name}")
    return where


def test_run_pulls_what_is_absent_and_then_asks_nobody(registry: Registry) -> None:
    name = f"{registry.host}/tool"
    done = cli("run", "--rm", name, "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n") and "downloaded" in done.stderr
    before = registry.log.read_text()
    done = cli("run", "--rm", name, "echo", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "") and registry.log.read_text() == before
    done = cli("run", "--rm", "--pull", "always", name, "echo", "hello")
    assert (done.stdout, done.stderr) == ("hello\n", "") and registry.log.read_text().count("\n") > before.count("\n")


def test_run_can_be_told_not_to_pull(registry: Registry, elsewhere: dirs.Dirs) -> None:
    done = cli("run", "--rm", "--pull", "never", f"{registry.host}/tool", "true")
    assert done.returncode == 125 and f"no image {registry.host}/tool" in done.stderr and store.images(elsewhere) == []
    done = cli("run", "--rm", "--pull", "perhaps", "x", "true")
    assert done.returncode == 125 and "missing, always or never" in done.stderr
    done = cli("run", "--rm", f"{registry.host}/tool:absent", "true")
    assert done.returncode == 125 and "no such tag: absent" in done.stderr and "Traceback" not in done.stderr


def test_a_container_in_the_background_pulls_too(registry: Registry, elsewhere: dirs.Dirs) -> None:
    done = cli("create", f"{registry.host}/tool", "true")
    assert done.returncode == 0, done.stderr
    assert cli("rm", done.stdout.strip()).returncode == 0
    shutil.rmtree(f"{elsewhere.store}/containers")
    shutil.rmtree(f"{elsewhere.store}/names", ignore_errors=True)


def big(registry: Registry, work: Path, tag: str) -> None:
    """Push an image that takes a moment to pull."""
    tree = work / f"tree-{tag}"
    tree.mkdir()
    for number in range(8):
        (tree / str(number)).write_bytes(random.randbytes(1 << 20))
    assert cli("import", tag, str(tree)).returncode == 0
    done = cli("push", tag, f"{registry.host}/tool:{tag}")
    assert done.returncode == 0, done.stderr
    assert cli("rmi", tag).returncode == 0


def layer_digests(registry: Registry, tag: str) -> list[str]:
    """Return the digests of the layers of a tag."""
    from pybox.registry import address
    from pybox.registry.client import Client
    from pybox.registry.wire import Manner, Wire

    where = address.parse(f"{registry.host}/tool:{tag}")
    wire = Wire(Manner())
    try:
        document = Client(wire, address.endpoints(where)[0]).manifest(tag)
    finally:
        wire.stop()
    return [str(layer["digest"]) for layer in json.loads(document.data)["layers"]]


def test_two_processes_that_pull_the_same_image_download_it_once(registry: Registry, tmp_path: Path) -> None:
    big(registry, tmp_path, "twice")
    both = [start("pull", "-q", f"{registry.host}/tool:twice") for _ in range(2)]
    said = [process.communicate(timeout=TIMEOUT)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0] and said[0] == said[1] != b""
    assert registry.downloads(*layer_digests(registry, "twice")) == 1


def test_a_pull_that_is_killed_again_and_again_comes_to_an_end(
    registry: Registry, tmp_path: Path, elsewhere: dirs.Dirs, tree: Path
) -> None:
    """At each point the image is there whole or not at all, each layer too, and what was complete is not fetched again."""
    tars = [ten_images.tar(ten_images.entry(f"f{number}", random.randbytes(700_000))) for number in range(6)]
    ten_images.write(tmp_path / "layout", {"killed": tars}, ("none",))
    archive.load(elsewhere, str(tmp_path / "layout"), "killed")
    name, dice, attempts = f"{registry.host}/tool:killed", random.Random(7), 0
    pybox.push("killed", name)
    assert cli("rmi", "killed").returncode == 0
    blobs = dict(zip([f"sha256:{sha256(data).hexdigest()}" for data in tars], layer_digests(registry, "killed"), strict=True))
    complete: dict[str, int] = {}  # diffID: in which attempt it was
    while not store.images(elsewhere):
        attempts += 1
        with start("pull", "-q", name, stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(dice.uniform(0.12, 0.25) * (5 if PURE_V2 else 1))
            except subprocess.TimeoutExpired:
                process.kill()
        for key in os.listdir(elsewhere.layers) if os.path.isdir(elsewhere.layers) else ():
            diff_id = layerfile.read(f"{elsewhere.layers}/{key}").diff_id
            if diff_id not in complete:
                assert f"sha256:{sha256(b''.join(export.layer_tar(elsewhere, diff_id))).hexdigest()}" == diff_id
                complete[diff_id] = attempts
    assert cli("pull", "-q", name).returncode == 0 and complete.keys() == blobs.keys()
    for diff_id, attempt in complete.items():
        assert registry.downloads(blobs[diff_id]) <= attempt
    assert [entry for entry in os.listdir(elsewhere.store) if entry.startswith("tmp-")] == []
    assert changes.sweep(elsewhere) == [] and len(os.listdir(elsewhere.layers)) == len(tars)


def test_gc_removes_the_layers_of_a_pull_that_nobody_completes(registry: Registry, elsewhere: dirs.Dirs) -> None:
    pybox.pull(f"{registry.host}/tool")
    (image,) = store.images(elsewhere)
    for path in Path(elsewhere.images).rglob("*"):  # as it was just before it became visible
        if not path.is_dir():
            path.unlink()
    assert len(changes.sweep(elsewhere)) == len(image.diff_ids) and os.listdir(elsewhere.layers) == []


def test_an_interrupted_pull_says_so_and_leaves_nothing(registry: Registry, tmp_path: Path, elsewhere: dirs.Dirs) -> None:
    stuck = socket.create_server(("127.0.0.1", 0))  # takes connections, and never answers
    process = start("pull", f"localhost:{stuck.getsockname()[1]}/tool", stderr=subprocess.PIPE)
    with process, stuck.accept()[0]:
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 130
    stuck.close()
    assert [entry for entry in os.listdir(elsewhere.store) if entry.startswith("tmp-")] == []


def test_who_has_logged_in_may_pull_and_push(run_registry: Callable[..., Registry], registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    guarded = run_registry(auth={"htpasswd": {"realm": "r", "path": str(tmp_path / "htpasswd")}})
    cli("pull", "-q", f"{registry.host}/tool")
    refused = cli("push", f"{registry.host}/tool", f"{guarded.host}/tool")
    assert refused.returncode == 125 and f"hint: pybox login {guarded.host}" in refused.stderr
    closed = cli("login", "-u", "me", "--password-stdin", guarded.host, stdin=None, preexec_fn=lambda: os.close(0))
    for bad in (closed, cli("login", "-u", "\udcff", "-p", "secret", guarded.host)):
        assert bad.returncode == 125 and bad.stderr.startswith("pybox: error: login: no user or no password")
    wrong = cli("login", "-u", "me", "--password-stdin", guarded.host, input=b"guess\n")
    assert wrong.returncode == 125 and "user or password is wrong" in wrong.stderr and "guess" not in wrong.stderr
    assert cli("login", "-u", "me", "--password-stdin", guarded.host, input=b"secret\n").returncode == 0
    assert cli("push", f"{registry.host}/tool", f"{guarded.host}/tool").returncode == 0
    assert cli("pull", f"{guarded.host}/tool").returncode == 0
    assert cli("logout", guarded.host).returncode == 0
    assert "hint: pybox login" in cli("pull", f"{guarded.host}/tool:other").stderr


def test_tls_is_verified_with_the_authorities_given(
    run_registry: Callable[..., Registry], registry: Registry, tmp_path: Path
) -> None:
    if not shutil.which("openssl"):
        pytest.skip("no openssl")
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", tmp_path / "server.key", "-out", tmp_path / "server.crt")
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    subprocess.run(["openssl", "req", "-x509", *kind, *subject, *files], check=True, capture_output=True)
    paths = {"certificate": str(tmp_path / "server.crt"), "key": str(tmp_path / "server.key")}
    private = run_registry(http={"tls": paths})
    cli("pull", "-q", f"{registry.host}/tool")
    words = ("push", "-q", f"{registry.host}/tool", f"{private.host}/tool")
    refused = cli(*words)
    assert refused.returncode == 125 and "its certificate is not trusted" in refused.stderr and "--cert-dir" in refused.stderr
    (tmp_path / "trusted").mkdir()
    shutil.copy(tmp_path / "server.crt", tmp_path / "trusted/ca.crt")
    assert cli(*words, "--cert-dir", str(tmp_path / "trusted")).returncode == 0
    assert cli("pull", "-q", "--tls-verify=false", f"{private.host}/tool").returncode == 0
