"""--storage-size: what a container may write into its own layer, enforced by the kernel, or refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PYBOX, TIMEOUT, cli, said, shell
from test_rootless import Person, home, person  # noqa: F401

import pybox
from pybox import dirs, host
from pybox.errors import LimitError, SpecError
from pybox.steps import disk, quota

FILL = "dd if=/dev/zero of=/f bs=64k count=64 2>&1 | grep -o 'No space.*\\|Disk quota.*'; stat -c %s /f"


def load(*modules: str) -> None:
    """Load modules of the kernel, if it has such."""
    modprobe = Path("/proc/sys/kernel/modprobe")  # absent from a kernel without modules; that of tests/uml knows where they are
    for module in modules if modprobe.exists() else ():
        subprocess.run([modprobe.read_text().strip(), "-q", module], check=False)


def test_a_layer_in_memory_is_full_when_its_size_is_reached(person: Person) -> None:  # noqa: F811
    result = shell(FILL, storage_size="2M")
    lines = said(result).splitlines()
    assert lines[0] == "No space left on device" and 1 << 20 < int(lines[1]) <= 2 << 20
    assert dict(result.effective)["--storage-size"] == "tmpfs"
    assert said(shell(FILL)) == str(4 << 20)  # which others don't share
    done = person.pybox("run", "--rm", "--storage-size", "2M", "busybox", "sh", "-c", FILL)
    if host.probe().tmpfs_user_xattr:
        assert done.stdout.startswith("No space left on device\n"), done.stderr
    else:  # it is on disk
        assert done.returncode == 125 and "a plain user can't set quotas" in done.stderr


def test_the_size_is_in_the_plan() -> None:
    assert "size=3145728" in cli("explain", "run", "--rm", "--storage-size", "3M", "busybox", "true").stdout


def test_a_layer_that_cannot_be_limited_is_refused_unless_the_effort_counts(
    store: dirs.Dirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not quota.problem(store.uppers):
        pytest.skip("the file system of the tests has project quotas")
    monkeypatch.setattr(disk, "problem", lambda: "there is no mkfs.ext4")
    result = shell("true", storage_size="2M", upper="disk", best_effort=True)
    assert dict(result.effective)["--storage-size"].startswith("none: the file system of")
    for more, hint in (({"upper": "disk"}, "mount ext4 or xfs with prjquota"), ({"userns": True}, "mount ext4")):
        with pytest.raises(
            LimitError, match=r"cannot enforce --storage-size: .* no project quotas; there is no mkfs.ext4"
        ) as caught:
            pybox.run("busybox", ["true"], storage_size="7M", **more)  # a size that nobody has planned before
        assert str(caught.value.hint).startswith(hint) and str(caught.value.hint).endswith("; or apt-get install e2fsprogs")
    with pytest.raises(SpecError, match="at least 1M"):
        pybox.run("busybox", ["true"], storage_size="64k")


def test_a_layer_on_disk_has_a_project_quota(tree: Path, tmp_path: Path) -> None:
    """On an ext4 of our own, in a mount namespace of our own; the kernel of the machine may lack quotas, that of tests/uml has them."""
    if not shutil.which("mkfs.ext4"):
        pytest.skip("no mkfs.ext4 (Debian package e2fsprogs)")
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(4 << 30)  # sparse; the store leaves some of each disk alone
    subprocess.run(["mkfs.ext4", "-q", "-O", "quota,project,^has_journal", tmp_path / "disk"], check=True)
    (tmp_path / "m").mkdir()
    load("loop", "quota_v2")
    script = 'mount -o loop,prjquota ../disk . 2>&1 && cd . && exec "$@"'
    inside = (
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        f"cd {tmp_path}/m; {script}",
        "sh",
        sys.executable,
        __file__,
    )
    done = subprocess.run([*inside, str(tree), f"{tmp_path}/m"], capture_output=True, text=True, timeout=TIMEOUT)
    if "wrong fs type" in done.stdout or "failed to setup loop" in done.stdout or "No such process" in done.stdout:
        pytest.skip(f"this kernel can't: {done.stdout.splitlines()[0]}")
    assert (done.returncode, done.stdout) == (0, "it holds\n"), done.stdout + done.stderr


def hold(tree: str, place: str) -> None:
    """Be the test above, with a store at ``place``, which has project quotas."""
    os.environ |= {"PYBOX_STORE": f"{place}/store", "PYBOX_STATE": f"{place}/state"}
    where = dirs.current()

    def run(*words: str) -> str:
        done = subprocess.run([*PYBOX, *words], capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    run("import", "busybox", tree)
    assert run("run", "--name", "one", "--storage-size", "2M", "busybox", "sh", "-c", FILL).startswith("Disk quota exceeded\n")
    fd = os.open(f"{where.uppers}/{os.listdir(where.uppers)[0]}", os.O_RDONLY | os.O_DIRECTORY)
    assert quota.project(fd) and native.quota(fd, quota.project(fd)) == 0  # lifted when it has ended
    os.close(fd)
    assert "Disk quota exceeded" in run("start", "-a", "one")  # it counts again, with what is there
    run("rm", "one")
    assert "Disk quota exceeded" in run("run", "--rm", "--userns", "--storage-size", "2M", "busybox", "sh", "-c", FILL)
    assert os.listdir(where.uppers) == []
    print("it holds")


if __name__ == "__main__":
    from pybox import native

    hold(*sys.argv[1:])
