"""What of the host's files is shown inside, and how."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from harness import Images, cli, said, shell

import pybox
from pybox.spec import Mount


def test_a_volume_shows_the_hosts_directory_and_keeps_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host")
    assert said(shell("cat /data/in; echo back >/data/out", mounts={str(tmp_path): "/data"})) == "from the host"
    assert (tmp_path / "out").read_text() == "back\n"


def test_a_read_only_volume_is_read_only_all_the_way_down(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    result = shell("touch /data/x; touch /data/sub/x; mount -o remount,rw /data", mounts=[f"{tmp_path}:/data:ro"])
    assert (result.stderr or b"").count(b"Read-only file system") == 2 and result.exit_code != 0
    assert sorted(os.listdir(tmp_path)) == ["sub"]


def test_a_single_file_can_be_a_volume(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("text")
    assert said(shell("cat /etc/app.conf; echo more >>/etc/app.conf", mounts={str(tmp_path / "f"): "/etc/app.conf"})) == "text"
    assert (tmp_path / "f").read_text() == "textmore\n"


def test_volumes_nest_in_any_order(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    for mounts in ([f"{tmp_path}/a:/v", f"{tmp_path}/b:/v/in"], [f"{tmp_path}/b:/v/in", f"{tmp_path}/a:/v"]):
        assert said(shell("cat /v/name /v/in/name", mounts=mounts)) == "ab"
    assert (tmp_path / "a/in").is_dir()  # as in docker: the mount point is made in the outer volume


def test_a_volume_over_a_symlink_of_the_image_stays_inside(image: Images, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "vol").mkdir()
    (tmp_path / "vol/f").write_text("volume")
    for target in (str(outside), f"../../../../../../..{outside}", "/var"):
        name = image(lambda root, to=target: (root / "data").symlink_to(to))  # type: ignore[misc]
        result = pybox.run(name, ["sh", "-c", "cat /data/f; touch /data/x"], mounts={str(tmp_path / "vol"): "/data"})
        assert said(result) == "volume"
        assert not os.listdir(outside)


def test_a_dangling_symlink_of_the_image_is_no_hindrance(image: Images) -> None:
    """systemd-resolved makes /etc/resolv.conf one: such an image, and the host image on such a host, must run."""

    def dangle(root: Path) -> None:
        (root / "etc/resolv.conf").unlink()
        (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")

    assert said(pybox.run(image(dangle), ["cat", "/etc/resolv.conf"])).startswith("#")


def test_set_user_id_programs_and_devices_of_a_volume_do_not_work(tmp_path: Path, tree: Path) -> None:
    import shutil

    tmp_path.chmod(0o755)
    shutil.copy(tree / "bin/inside", tmp_path / "suid")
    (tmp_path / "suid").chmod(0o4755)
    os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    result = shell("/v/suid ids; cat /v/null", user="alice", mounts={str(tmp_path): "/v"}, no_new_privs=False)
    assert (result.stdout or b"").startswith(b"1000 1000 1000 /")
    assert b"Permission denied" in (result.stderr or b"")


def test_a_missing_source_is_refused_and_not_made(tmp_path: Path) -> None:
    done = cli("run", "--rm", "-v", f"{tmp_path}/missing:/x", "busybox", "true")
    assert (
        done.returncode == 125
        and "No such file or directory on the host" in done.stderr
        and "hint: create it first" in done.stderr
    )
    assert os.listdir(tmp_path) == []


def test_tmpfs_has_its_size_and_mode() -> None:
    done = cli("run", "--rm", "--tmpfs", "/t:size=1m,mode=700", "busybox", "sh", "-c",
               "stat -c %a /t; df -k /t | tail -1 | awk '{print $2}'; dd if=/dev/zero of=/t/f bs=64k count=32 2>&1 | grep -o 'No space.*'")  # fmt: skip
    assert done.stdout.split("\n")[:3] == ["700", "1024", "No space left on device"]


def test_tmpfs_is_noexec_unless_asked() -> None:
    script = "cp /bin/busybox /t/ && /t/busybox echo ran"
    assert b"Permission denied" in (shell(script, mounts=[Mount("/t")]).stderr or b"")
    assert said(shell(script, mounts=[Mount("/t", exec=True)])) == "ran"
