"""The store on a real kernel: overlayfs agrees with the unpacker, crashes leave nothing, loaders don't meet, plain users work."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.image import archive, changes, export, importing, store

ROOT = Path(store.__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, devices and other users need root")


@pytest.fixture
def here(tmp_path: Path) -> Dirs:
    return Dirs(str(tmp_path / "store"), str(tmp_path / "state"))


def tar(path: Path, *entries: tuple[str, bytes, dict[str, object]]) -> str:
    """Write a tar of (name, content, TarInfo fields)."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        for name, data, fields in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            for field, value in fields.items():
                setattr(info, field, value)
            out.addfile(info, io.BytesIO(data))
    return str(path)


def contents(path: str) -> set[str]:
    return {os.path.relpath(f"{parent}/{name}", path) for parent, folders, files in os.walk(path) for name in folders + files}


def python(code: str, *args: str) -> subprocess.Popen[str]:
    """Start a Python with this pybox and the given code."""
    whole = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    return subprocess.Popen(
        [sys.executable, "-B", "-c", whole, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


LOAD = """
from pybox.dirs import Dirs
from pybox.image import archive
print(archive.load(Dirs(sys.argv[1], sys.argv[1] + "-state"), sys.argv[2])[0].id)
"""


def two_layers(tmp_path: Path, megabytes: int = 1) -> str:
    """A docker-archive of two layers, made by pybox itself and patched together."""
    import hashlib

    lower = Path(tar(tmp_path / "lower.tar", ("d/old", b"old", {}), ("gone", b"x", {}), ("dir/below", b"x", {}))).read_bytes()
    big = [(f"big{number}", os.urandom(1 << 20), {}) for number in range(megabytes)]
    upper = Path(tar(tmp_path / "upper.tar", ("d/new", b"new", {}), (".wh.gone", b"", {}), ("dir/.wh..wh..opq", b"", {}), ("dir/mine", b"y", {}), *big)).read_bytes()  # fmt: skip
    ids = ["sha256:" + hashlib.sha256(data).hexdigest() for data in (lower, upper)]
    config = json.dumps(
        {"architecture": store.architecture(), "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": ["two:1"], "Layers": ["0.tar", "1.tar"]}]).encode()
    files = (("config.json", config, {}), ("0.tar", lower, {}), ("1.tar", upper, {}), ("manifest.json", manifest, {}))
    return tar(tmp_path / "two.tar", *files)


# What the kernel makes of it


@needs_root
def test_overlayfs_shows_the_merged_image(here: Dirs, tmp_path: Path) -> None:
    archive.load(here, two_layers(tmp_path))
    lowers = ":".join(os.path.relpath(layer, here.store) for layer in store.find(here, "two:1").layers)
    (tmp_path / "merged").mkdir()
    script = f"cd {here.store} && mount -t overlay overlay -o ro,lowerdir={lowers} {tmp_path}/merged && cd {tmp_path}/merged && find . -type f | sort"
    out = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script], capture_output=True, text=True)
    assert (out.stdout.split(), out.stderr) == (["./big0", "./d/new", "./d/old", "./dir/mine"], "")


@needs_root
def test_root_keeps_owners_devices_and_capabilities(here: Dirs, tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep
    source = tar(
        tmp_path / "root.tar",
        (
            "ping",
            b"#!",
            {
                "uid": 7,
                "gid": 8,
                "mode": 0o4755,
                "pax_headers": {"SCHILY.xattr.security.capability": capability.decode("latin-1")},
            },
        ),
        ("big-owner", b"", {"uid": 3_000_000_000, "gid": 4_000_000_000}),
        ("null", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3, "mode": 0o666}),
        ("disk", b"", {"type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 300}),
        ("link", b"", {"type": tarfile.SYMTYPE, "linkname": "ping", "uid": 9}),
    )
    importing.import_(here, "tool", source)
    (layer,) = store.find(here, "tool").layers
    ping = os.stat(f"{layer}/ping")
    assert (ping.st_uid, ping.st_gid, ping.st_mode) == (7, 8, stat.S_IFREG | 0o4755)
    assert os.getxattr(f"{layer}/ping", "security.capability") == capability
    assert (os.stat(f"{layer}/big-owner").st_uid, os.lstat(f"{layer}/link").st_uid) == (3_000_000_000, 9)
    assert os.stat(f"{layer}/null").st_rdev == os.makedev(1, 3)
    assert os.stat(f"{layer}/disk").st_rdev == os.makedev(8, 300)
    assert stat.S_IMODE(os.stat(here.store).st_mode) == 0o700  # which is what keeps the setuid file to ourselves


# Crashes


@pytest.fixture
def stopped_loader(here: Dirs, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A loader in the middle of the second layer, waiting to be killed."""
    source = Path(two_layers(tmp_path, 8))
    changes.prepare(here)
    loader = python(
        """
import os
import pybox.image.layer as layer
slow = layer._Unpacker._file
def waiting(self, entry, path, attributes):
    if entry.name == "big3":
        print("half", flush=True)
        sys.stdin.read()
    return slow(self, entry, path, attributes)
layer._Unpacker._file = waiting
"""
        + LOAD,
        here.store,
        str(source),
    )
    assert loader.stdout is not None and loader.stdout.readline() == "half\n"
    yield loader
    loader.kill()
    loader.communicate()


def test_a_killed_load_leaves_the_store_as_it_was(here: Dirs, tmp_path: Path, stopped_loader: subprocess.Popen[str]) -> None:
    importing.import_(here, "before", tar(tmp_path / "before.tar", ("f", b"x", {})))
    busy = contents(here.store)
    assert any("fs/big2" in path for path in busy)
    assert changes.sweep(here) == []  # the owner lives
    assert contents(here.store) == busy
    stopped_loader.send_signal(signal.SIGKILL)
    stopped_loader.wait()
    assert [image.names for image in store.images(here)] == [("before:latest",)]
    assert len(changes.sweep(here)) == 2  # its workspace, and the layer that was complete
    changes.remove(here, "before")
    assert contents(here.store) == {"images", "images/names", "layers", "locks"}
    assert archive.load(here, str(tmp_path / "two.tar"))


def test_a_load_killed_at_any_rename_leaves_a_valid_store(here: Dirs, tmp_path: Path) -> None:
    """Every commit is a rename, so dying before the n-th of them is dying everywhere."""
    source = two_layers(tmp_path)
    code = """
import os
left, real = int(sys.argv[3]), os.rename
def rename(*args, **kwargs):
    global left
    if left == 0:
        os.kill(os.getpid(), 9)
    left -= 1
    return real(*args, **kwargs)
os.rename = rename
"""
    died = 0
    for number in range(20):
        loader = python(code + LOAD, here.store, source, str(number))
        loader.communicate()
        changes.sweep(here)
        if loader.returncode == 0:
            break
        assert loader.returncode == -signal.SIGKILL
        died += 1
        for image in store.images(here):  # visible means complete
            export.save(here, [image.id], str(tmp_path / "whole.tar"))
            changes.remove(here, image.id)
        assert contents(here.store) == {"images", "images/names", "layers", "locks"}
    assert died == 5  # two layers, config, record, name
    assert store.find(here, "two:1").id.startswith("sha256:")


# Several at once


def test_many_processes_load_the_same_archive_at_once(here: Dirs, tmp_path: Path) -> None:
    source = two_layers(tmp_path, 4)
    loaders = [python(LOAD, here.store, source) for _ in range(4)]
    outputs = [loader.communicate() for loader in loaders]
    assert [error for _, error in outputs] == [""] * 4
    assert len({out for out, _ in outputs}) == 1
    assert len(os.listdir(here.layers)) == 2
    assert contents(here.store) >= {"locks"} and os.listdir(f"{here.store}/locks") == []
    assert not [name for name in os.listdir(here.store) if name.startswith("tmp-")]


def test_loading_removing_and_sweeping_at_once_never_breaks_an_image(here: Dirs, tmp_path: Path) -> None:
    source = two_layers(tmp_path)
    removing = """
from pybox.dirs import Dirs
from pybox.errors import ImageNotFound
from pybox.image import changes
import time
dirs = Dirs(sys.argv[1], sys.argv[1] + "-state")
end = time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        changes.remove(dirs, "two:1")
    except ImageNotFound:
        pass
    changes.sweep(dirs)
"""
    loading = """
from pybox.dirs import Dirs
from pybox.image import archive, changes
import time
dirs = Dirs(sys.argv[1], sys.argv[1] + "-state")
end = time.monotonic() + 1.5
while time.monotonic() < end:
    archive.load(dirs, sys.argv[2])
"""
    children = [python(loading, here.store, source), python(loading, here.store, source), python(removing, here.store)]
    assert [child.communicate()[1] for child in children] == ["", "", ""]
    archive.load(here, source)
    export.save(here, ["two:1"], str(tmp_path / "whole.tar"))
    changes.remove(here, "two:1")
    assert changes.sweep(here) == []
    assert contents(here.store) == {"images", "images/names", "layers", "locks"}


# A plain user


def as_user(uid: int, code: str, *args: str) -> str:
    def drop() -> None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)

    whole = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    done = subprocess.run([sys.executable, "-B", "-c", whole, *args], preexec_fn=drop, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every user can reach; pytest's own are 0700."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path)


@needs_root
def test_a_plain_user_has_a_store_of_its_own(open_path: Path) -> None:
    home = open_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    source = two_layers(open_path)
    odd = tar(
        open_path / "odd.tar",
        ("shadow", b"secret", {"mode": 0, "uid": 0}),
        ("closed", b"", {"type": tarfile.DIRTYPE, "mode": 0o500}),
        ("closed/f", b"x", {"uid": 1234}),
        ("null", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
        ("d/.wh..wh..opq", b"", {}),
    )
    code = """
import os
from pybox.dirs import Dirs
from pybox.image import archive, changes, export, importing, store
home = sys.argv[1]
dirs = Dirs(home + "/store", home + "/state")
print(archive.load(dirs, sys.argv[2])[0].names)
first = importing.import_(dirs, "odd", sys.argv[3])
layer = store.find(dirs, "odd").layers[0]
print(sorted(os.listdir(layer)), os.stat(layer + "/closed/f").st_uid, oct(os.stat(layer + "/shadow").st_mode))
print(os.getxattr(layer + "/d", "user.overlay.opaque"))
export.save(dirs, ["two:1", "odd"], home + "/out.tar")
changes.remove(dirs, "two:1"); changes.remove(dirs, "odd")
print(os.listdir(dirs.layers))
print(len(archive.load(dirs, home + "/out.tar")), store.find(dirs, "odd").id == first)
"""
    assert as_user(65534, code, str(home), source, odd).splitlines() == [
        "('two:1',)",
        "['closed', 'd', 'shadow'] 65534 0o100000",
        "b'y'",
        "[]",
        "2 True",
    ]


@needs_root
def test_the_same_directory_gives_root_and_a_plain_user_the_same_layer(open_path: Path) -> None:
    code = """
import os
from pybox.dirs import Dirs
from pybox.image import importing, store
home = sys.argv[1]
os.makedirs(home + "/root/bin"); open(home + "/root/bin/x", "w").write("x")
for path in ("/root/bin/x", "/root/bin", "/root"):
    os.utime(home + path, (1, 1))
dirs = Dirs(home + "/store", home + "/state")
importing.import_(dirs, "x", home + "/root")
print(store.images(dirs)[0].diff_ids)
"""
    seen = set()
    for uid in (0, 65534):
        (open_path / str(uid)).mkdir()
        os.chown(open_path / str(uid), uid, uid)
        seen.add(as_user(uid, code, str(open_path / str(uid))))
    assert len(seen) == 1


# The disk and the mounts


@needs_root
def test_a_mount_point_is_packed_as_an_empty_directory(here: Dirs, tmp_path: Path) -> None:
    (tmp_path / "root/mnt").mkdir(parents=True)
    code = f"mount -t tmpfs none {tmp_path}/root/mnt && touch {tmp_path}/root/mnt/inside && exec {sys.executable} -B -c '{{}}'"
    script = f"import sys; sys.path.insert(0, \"{ROOT}\"); from pybox.dirs import Dirs; from pybox.image import importing; importing.import_(Dirs(\"{here.store}\", \"/x\"), \"m\", \"{tmp_path}/root\")"  # fmt: skip
    subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", code.format(script)], check=True)
    assert os.listdir(store.find(here, "m").layers[0] + "/mnt") == []


@needs_root
def test_a_full_disk_is_one_clear_error_and_nothing_is_left(tmp_path: Path) -> None:
    source = tar(tmp_path / "big.tar", *((f"f{number}", os.urandom(1 << 20), {}) for number in range(6)))
    (tmp_path / "small").mkdir()
    script = f"""
import sys, os
sys.path.insert(0, {str(ROOT)!r})
from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.image import ceilings, importing
dirs = Dirs({str(tmp_path / "small/store")!r}, "/x")
try:
    importing.import_(dirs, "x", {source!r})
except ImageError as error:
    print(error.message)
ceilings.current = lambda: ceilings.Ceilings(free=0)
try:
    importing.import_(dirs, "x", {source!r})
except ImageError as error:
    print(error.message)
print([len(files) + len(folders) for _, folders, files in os.walk(dirs.store)])
"""
    (tmp_path / "script.py").write_text(script)
    mount = f"mount -t tmpfs -o size=4m none {tmp_path}/small && exec {sys.executable} -B {tmp_path}/script.py"
    out = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", mount], capture_output=True, text=True)
    refused, full, left = out.stdout.splitlines()
    assert "the disk of the store has only 0 to give" in refused
    assert full.endswith("No space left on device [ENOSPC]")
    assert left == "[3, 0, 1, 0, 0]"


def test_a_read_only_store_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the store /proc/pybox: No such file") as caught:
        changes.prepare(Dirs("/proc/pybox", str(tmp_path)))
    assert caught.value.hint == "PYBOX_STORE=DIR puts it elsewhere"
