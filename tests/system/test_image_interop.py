"""skopeo and umoci agree with pybox: what pybox writes they read, what they write pybox loads, and the trees are the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from registry import Registry

from pybox.dirs import Dirs
from pybox.image import archive, export, importing, store
from pybox.image.model import ImageConfig
from pybox.registry.pull import pull

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="overlay mounts, devices and owners need root"),
    pytest.mark.skipif(not (shutil.which("skopeo") and shutil.which("umoci")), reason="skopeo and umoci are not installed"),
]

LIST = f"""cd '{{}}' && {{{{
find . -printf '%P %y %m %U %G %Ts %l\\n'
find . -type f -exec sha256sum {{{{}}}} +
find . '(' -type c -o -type b ')' -exec stat -c '%n %t:%T' {{{{}}}} +
find . '(' -type f -o -type d ')' -exec {sys.executable} -c '
import os, sys
for path in sys.argv[1:]:
    for name in os.listxattr(path):
        print(path, name, os.getxattr(path, name))' {{{{}}}} +
}}}} | sort"""


@pytest.fixture
def here(tmp_path: Path) -> Dirs:
    return Dirs(str(tmp_path / "store"), str(tmp_path / "state"))


def sh(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listing(root: str | Path) -> list[str]:
    """A tree as text: kinds, modes, owners, seconds, links, contents, attributes, devices."""
    return sh("sh", "-c", LIST.format(root)).splitlines()


def merged(here: Dirs, name: str, tmp_path: Path) -> list[str]:
    """The listing of an image as overlayfs shows it, in a mount namespace of its own."""
    lowers = [os.path.relpath(layer, here.store) for layer in store.find(here, name).layers]
    (tmp_path / "merged").mkdir(exist_ok=True)
    (tmp_path / "empty").mkdir(exist_ok=True)  # overlay wants two layers if there is no upper
    stack = ":".join([*lowers, str(tmp_path / "empty")])
    script = f"cd '{here.store}' && mount -t overlay overlay -o 'ro,lowerdir={stack}' '{tmp_path}/merged' && " + LIST.format(
        tmp_path / "merged"
    )
    return sh("unshare", "--mount", "--propagation", "private", "sh", "-c", script).splitlines()


@pytest.fixture
def tool(here: Dirs, tmp_path: Path) -> str:
    """An image of one layer with everything that a tree can hold; returns its id."""
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "bin/tool").write_bytes(os.urandom(300_000))
    (root / "bin/tool").chmod(0o4711)
    os.chown(root / "bin/tool", 12, 34)
    os.link(root / "bin/tool", root / "bin/same")
    (root / "bin/sh").symlink_to("tool")
    os.mkfifo(root / "pipe")
    os.mknod(root / "null", 0o020666, os.makedev(1, 3))
    (root / ("n" * 150)).mkdir()
    (root / ("n" * 150) / ("é" * 60)).write_text("long")
    os.setxattr(root / "bin", "user.note", b"\x00\xff")
    os.setxattr(root / "bin/tool", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    for path in (root / "bin", root / "tmp", root):
        os.utime(path, (1_500_000_000, 1_500_000_000))
    run = ImageConfig(("A=1",), ("/bin/tool",), ("x",), "12", "/tmp", "SIGINT")
    return importing.import_(here, "tool", str(root), run=run)


def edited(here: Dirs, tmp_path: Path) -> Path:
    """An OCI layout in which umoci has put a second layer, with whiteouts, upon the tool."""
    export.save(here, ["tool"], str(tmp_path / "edit"), format="oci-dir", compression="gzip")
    sh("umoci", "unpack", "--image", f"{tmp_path}/edit:latest", f"{tmp_path}/bundle")
    root = tmp_path / "bundle/rootfs"
    (root / "bin/sh").unlink()
    shutil.rmtree(root / ("n" * 150))
    (root / "tmp/new").write_text("new")
    (root / "pipe").unlink()
    (root / "pipe").mkdir()
    (root / "bin/tool").chmod(0o755)
    sh("umoci", "repack", "--image", f"{tmp_path}/edit:edited", f"{tmp_path}/bundle")
    shutil.rmtree(tmp_path / "bundle")
    sh("umoci", "unpack", "--image", f"{tmp_path}/edit:edited", f"{tmp_path}/bundle")
    return tmp_path / "edit"


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_umoci_unpacks_our_layout_to_the_same_tree(here: Dirs, tmp_path: Path, tool: str, compression: str) -> None:
    export.save(here, ["tool"], str(tmp_path / "layout"), format="oci-dir", compression=compression)
    sh("umoci", "unpack", "--image", f"{tmp_path}/layout:latest", f"{tmp_path}/bundle")
    assert listing(tmp_path / "bundle/rootfs") == listing(store.find(here, "tool").layers[0]) == listing(tmp_path / "root")
    assert any("user.note" in line for line in listing(tmp_path / "root"))
    config = json.loads((tmp_path / "bundle/config.json").read_text())
    assert config["process"]["args"] == ["/bin/tool", "x"] and config["process"]["cwd"] == "/tmp"


@pytest.mark.parametrize(
    ("format", "ours", "theirs"),
    [
        ("docker-archive", "docker-archive:{}", "oci:{}:latest"),
        ("docker-archive", "docker-archive:{}", "oci-archive:{}:latest"),
        ("oci-dir", "oci:{}:latest", "docker-archive:{}:tool:latest"),
        ("oci-archive", "oci-archive:{}:latest", "oci:{}:latest"),
    ],
)
def test_skopeo_copies_ours_and_we_load_its_copy(
    here: Dirs, tmp_path: Path, tool: str, format: str, ours: str, theirs: str
) -> None:
    export.save(here, ["tool"], str(tmp_path / "ours"), format=format)
    inspected = json.loads(sh("skopeo", "inspect", ours.format(tmp_path / "ours")))
    assert (inspected["Architecture"], inspected["Env"]) == (store.architecture(), ["A=1"])
    sh("skopeo", "copy", "--quiet", "--insecure-policy", ours.format(tmp_path / "ours"), theirs.format(tmp_path / "theirs"))
    elsewhere = Dirs(str(tmp_path / "elsewhere"), here.state)
    (loaded,) = archive.load(elsewhere, str(tmp_path / "theirs"), "again")
    (mine,), image = store.find(here, "tool").layers, store.find(elsewhere, "again")
    assert image.layers == (mine.replace(here.store, elsewhere.store),)  # the same diffID
    assert listing(image.layers[0]) == listing(mine)
    assert image.config == store.find(here, "tool").config
    assert loaded.id == image.id


def test_what_umoci_wrote_merges_to_what_umoci_unpacks(here: Dirs, tmp_path: Path, tool: str) -> None:
    layout = edited(here, tmp_path)
    loaded = archive.load(here, str(layout))
    assert [image.names for image in loaded] == [("tool:latest",), ("tool:edited",)]
    assert len(store.find(here, "tool:edited").layers) == 2
    assert merged(here, "tool:edited", tmp_path) == listing(tmp_path / "bundle/rootfs")


def test_two_layers_go_through_skopeo_and_back_unchanged(here: Dirs, tmp_path: Path, tool: str) -> None:
    archive.load(here, str(edited(here, tmp_path)))
    export.save(here, ["tool:edited"], str(tmp_path / "two.tar"), format="docker-archive")
    sh("skopeo", "copy", "--quiet", "--insecure-policy", f"docker-archive:{tmp_path}/two.tar", f"oci:{tmp_path}/two:t")
    archive.load(here, str(tmp_path / "two"))
    assert store.find(here, "two:t").layers == store.find(here, "tool:edited").layers
    sh("umoci", "unpack", "--image", f"{tmp_path}/two:t", f"{tmp_path}/again")
    assert listing(tmp_path / "again/rootfs") == merged(here, "two:t", tmp_path)


@pytest.mark.skipif(not shutil.which("docker-registry"), reason="no docker-registry (Debian package)")
def test_what_is_pulled_is_the_tree_that_skopeo_and_umoci_unpack(here: Dirs, tmp_path: Path, tool: str) -> None:
    layout, registry = edited(here, tmp_path), Registry(tmp_path)
    try:
        for number, words in enumerate(((), ("--dest-compress-format", "zstd"), ("--format", "v2s2"))):
            target = f"{registry.host}/tool:{number}"
            flags = ("--quiet", "--insecure-policy", "--dest-tls-verify=false", *words)
            sh("skopeo", "copy", *flags, f"oci:{layout}:edited", f"docker://{target}")
            elsewhere = Dirs(str(tmp_path / f"elsewhere{number}"), here.state)
            pull(elsewhere, target)
            assert merged(elsewhere, target, tmp_path) == listing(tmp_path / "bundle/rootfs")
    finally:
        registry.stop()


def test_a_zstd_layout_is_read_by_skopeo(here: Dirs, tmp_path: Path, tool: str) -> None:
    export.save(here, ["tool"], str(tmp_path / "ours"), format="oci-dir", compression="zstd")
    sh("skopeo", "copy", "--quiet", "--insecure-policy", f"oci:{tmp_path}/ours:latest", f"oci:{tmp_path}/theirs:t")
    elsewhere = Dirs(str(tmp_path / "elsewhere"), here.state)
    archive.load(elsewhere, str(tmp_path / "theirs"))
    assert listing(store.find(elsewhere, "theirs:t").layers[0]) == listing(tmp_path / "root")


def test_gnu_tar_reads_our_layers_and_we_read_its(here: Dirs, tmp_path: Path, tool: str) -> None:
    root = tmp_path / "root"
    with open(root / "hole", "wb") as file:
        file.seek(5 << 20)
        file.write(b"end")
    for format in ("gnu", "pax", "ustar"):
        flags = ["--xattrs", "--xattrs-include=*"] if format == "pax" else []
        skip = ["--exclude=./n*"] if format == "ustar" else []
        sparse = ["--sparse"] if format != "ustar" else []
        sh("tar", f"--format={format}", *flags, *skip, *sparse, "-C", str(root), "-cf", f"{tmp_path}/{format}.tar", ".")
        importing.import_(here, format, f"{tmp_path}/{format}.tar")
        (layer,) = store.find(here, format).layers
        (tmp_path / format).mkdir()
        sh("tar", *flags, "-C", str(tmp_path / format), "-xpf", f"{tmp_path}/{format}.tar")
        assert listing(layer) == listing(tmp_path / format)
        if sparse:
            assert os.stat(f"{layer}/hole").st_blocks < 100
        diff_id = store.stored(here, format).diff_ids[0]
        assert b"".join(export.layer_tar(here, diff_id)) == (tmp_path / f"{format}.tar").read_bytes()
