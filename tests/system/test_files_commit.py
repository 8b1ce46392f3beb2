"""export, diff and commit: what a container's files have become, and images made of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from harness import CGROUPS, PURE_V2, Images, cli, eventually
from test_files import EACH, alive, binary, box, ended, good, members, refused

from pybox import dirs

# --- export ----------------------------------------------------------------------------------------------------------------------


@EACH
def test_an_export_is_the_merged_root_in_order_and_the_same_twice(tmp_path: Path, kind: str) -> None:
    script = "rm /etc/group; echo x >/new; ln /new /same; rm -r /home; mkdir /home; touch /home/only"
    with box(kind, script) as container:
        first = good("export", container)
        good("export", "-o", str(tmp_path / "out.tar"), container)
        assert "no such" in refused("export", "-o", str(tmp_path / "none/x"), container).lower()
    assert first == (tmp_path / "out.tar").read_bytes()
    found = members(first)
    names = list(found)
    assert names == sorted(names, key=lambda name: name.split("/")) and "./etc/group" not in found
    assert (found["./same"].type, found["./same"].linkname) == (tarfile.LNKTYPE, "./new")
    assert [name for name in names if name.startswith("./home/")] == ["./home/only"]
    assert not [name for name in names if name.startswith(("./proc/", "./sys/", "./dev/"))]
    assert os.listdir(tmp_path) == ["out.tar"]


def test_capabilities_of_files_are_in_an_export_and_in_an_image(image: Images) -> None:
    value = bytes.fromhex("0100000200200000000000000000000000000000")
    name = image(lambda root: os.setxattr(root / "bin/inside", "security.capability", value))
    with ended(image=name, script="cp -p /bin/inside /other; mv /bin/inside /moved") as container:
        found = members(good("export", container))["./moved"]
        assert found.pax_headers["SCHILY.xattr.security.capability"].encode("utf-8", "surrogateescape") == value
        good("commit", container, "capable")
    layer = json.loads(cli("image", "inspect", "capable").stdout)[0]["Layers"][0]
    assert os.getxattr(f"{layer}/moved", "security.capability") == value
    good("rmi", "capable")


def test_an_export_can_be_imported_and_runs() -> None:
    with ended(script="echo mine >/mine") as container:
        data = good("export", container)
    good("import", "exported", "-", input=data)
    assert cli("run", "--rm", "exported", "cat", "/mine").stdout == "mine\n"
    good("rmi", "exported")


# --- diff ------------------------------------------------------------------------------------------------------------------------

CHANGES = (
    "rm /etc/group; echo x >>/etc/passwd; mkdir -p /new/deep; touch /new/deep/f; rm -r /home; mkdir /home; touch /home/only; "
    "rm -r /var; ln -s /tmp /var; chmod 700 /usr/bin; touch /tmp/gone; rm /tmp/gone; mv /bin/inside /bin/outside"
)
CHANGED = """C /bin
D /bin/inside
A /bin/outside
C /etc
D /etc/group
C /etc/passwd
C /home
D /home/alice
A /home/only
A /new
A /new/deep
A /new/deep/f
C /tmp
C /usr
C /usr/bin
C /var
"""


@EACH
def test_diff_lists_what_docker_lists(kind: str) -> None:
    with box(kind, CHANGES) as container:
        assert good("diff", container).decode() == CHANGED
        rows = json.loads(good("diff", "--format", "json", container))
        assert rows[0] == {"kind": "C", "path": "/bin"} and len(rows) == CHANGED.count("\n")


@EACH
def test_diff_of_a_container_that_changed_nothing_is_empty(kind: str) -> None:
    with box(kind) as container:
        assert good("diff", container) == b""


def test_what_is_copied_over_the_files_that_pybox_mounts_is_told_and_committed(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 mine\n")
    with ended() as container:
        good("cp", str(tmp_path / "hosts"), f"{container}:/etc/")
        assert good("diff", container) == b"C /etc\nC /etc/hosts\n"
        good("commit", container, "hosts")
    layer = json.loads(cli("image", "inspect", "hosts").stdout)[0]["Layers"][0]
    assert Path(layer, "etc/hosts").read_text() == "127.0.0.1 mine\n"
    good("rmi", "hosts")


def test_diff_of_the_machines_own_root_is_told_from_the_disk_and_refused_in_memory() -> None:
    with ended(image="host", script="echo x >/pybox-new") as container:
        assert good("diff", container) == b"A /pybox-new\n"
    with alive("--rm", image="host") as container:
        assert "can't be told" in refused("diff", container)
        assert "machine's own root" in refused("commit", container, "x")


# --- commit ----------------------------------------------------------------------------------------------------------------------


@EACH
def test_a_commit_runs_and_has_the_changes_and_nothing_else(kind: str) -> None:
    with box(kind, CHANGES) as container:
        words = (
            "-m",
            "why",
            "-a",
            "me",
            "-c",
            'CMD ["cat", "/etc/passwd"]',
            "-c",
            "ENV A=1",
            "-c",
            "USER alice",
            "-c",
            "WORKDIR /tmp",
        )
        printed = good("commit", *words, container, "committed:v1").decode().strip()
    found = json.loads(cli("image", "inspect", "committed:v1").stdout)[0]
    assert found["Id"] == printed and len(found["RootFS"]["Layers"]) == 2
    assert (found["History"][-1]["comment"], found["History"][-1]["author"]) == ("why", "me")
    assert cli("run", "--rm", "committed:v1").stdout.endswith("x\n")
    script = (
        "id -u; pwd; echo $A; ls /home /new/deep; readlink /var; stat -c %a /usr/bin; ls /etc/group /bin/inside; ls /bin/outside"
    )
    done = cli("run", "--rm", "committed:v1", "sh", "-c", script)
    assert done.stdout.split() == ["1000", "/tmp", "1", "/home:", "only", "/new/deep:", "f", "/tmp", "700", "/bin/outside"]
    with ended(image="committed:v1") as again:
        assert good("diff", again) == b""
    good("rmi", "committed:v1")


@pytest.mark.skipif(not (shutil.which("skopeo") and shutil.which("umoci")), reason="skopeo and umoci are not installed")
def test_skopeo_and_umoci_read_a_committed_image(tmp_path: Path) -> None:
    with ended(script=f"{CHANGES}; truncate -s 5M /holes; echo end >>/holes") as container:
        good("commit", container, "committed")
        exported = members(good("export", container))
    good("save", "-o", f"{tmp_path}/archive", "committed")
    subprocess.run(
        ["skopeo", "copy", f"docker-archive:{tmp_path}/archive", f"oci:{tmp_path}/oci:x"], check=True, capture_output=True
    )
    subprocess.run(["umoci", "unpack", "--image", f"{tmp_path}/oci:x", f"{tmp_path}/bundle"], check=True, capture_output=True)
    root = tmp_path / "bundle/rootfs"
    assert sorted(os.listdir(root / "home")) == ["only"] and not (root / "etc/group").exists() and (root / "var").is_symlink()
    assert (root / "holes").stat().st_size == (5 << 20) + 4 and (root / "holes").read_bytes().endswith(b"\0end\n")
    unpacked = {f"./{path.relative_to(root)}" for path in root.rglob("*")}
    assert {name for name in exported if name != "."} - {"./dev", "./proc", "./sys"} == unpacked - {"./dev", "./proc", "./sys"}
    good("rmi", "committed")


def test_a_commit_of_a_commit_keeps_what_the_image_said() -> None:
    with ended(script="echo 1 >/one") as container:
        good("commit", "-c", "LABEL a=1", "-c", "EXPOSE 80", container, "first")
    with ended(image="first", script="rm /one; echo 2 >/two") as container:
        good("commit", "-c", "LABEL b=2", container, "second")
    config = json.loads(cli("image", "inspect", "second").stdout)[0]["Config"]
    assert config["Labels"] == {"a": "1", "b": "2"} and config["ExposedPorts"] == {"80/tcp": {}} and config["Cmd"] == ["sh"]
    assert cli("run", "--rm", "second", "ls", "/").stdout.split().count("two") == 1
    assert "one" not in cli("run", "--rm", "second", "ls", "/").stdout.split()
    good("rmi", "second")
    good("rmi", "first")


def test_a_name_that_means_a_whiteout_is_not_committed() -> None:
    where = dirs.current()
    with ended(script="touch /.wh.etc") as container:
        before = sorted(os.listdir(where.images)), sorted(os.listdir(where.layers))
        assert "means a whiteout" in refused("commit", container, "bad")
    assert (sorted(os.listdir(where.images)), sorted(os.listdir(where.layers))) == before


def test_a_running_container_stands_still_while_it_is_committed_and_goes_on_after() -> None:
    if not PURE_V2 and CGROUPS.unified is None:
        pytest.skip("no cgroup2 tree here")
    words = ("--pids-limit", "50") if PURE_V2 else ("--pid", "host")  # what brings a cgroup2 group
    script = "{ i=0; while :; do i=$((i+1)); echo $i >/one; echo $i >/two; done & }"
    with alive(*words, script=script) as container:
        for turn in range(3):
            good("commit", container, f"still{turn}")
            shown = cli("run", "--rm", f"still{turn}", "cat", "/one", "/two").stdout.split()
            assert len(shown) <= 2 and (len(shown) < 2 or int(shown[0]) - int(shown[1]) in (0, 1))
            good("rmi", f"still{turn}")
        before = binary("cp", f"{container}:/one", "-").stdout
        assert eventually(lambda: binary("cp", f"{container}:/one", "-").stdout != before)
