"""Errors have a code, and blame the cause that this kernel has: each is provoked here as it happens to people."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import CONTROLLERS, PYBOX, TIMEOUT, Images, cli

import pybox
from pybox.explain.stepping import Recorder
from pybox.failures import StepFailed
from pybox.planner import Planned
from pybox.probes import file_system
from pybox.runtime import Options
from pybox.spec import Spec
from pybox.steps.base import Step
from pybox.steps.mounts import MountKernelFs, MountOverlay

OVERLAY_SPEAKS = pytest.mark.skipif(
    tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2]) < (6, 8),
    reason="overlayfs is configured through a context since Linux 6.5, and takes layers one by one since 6.8",
)
ROOT = Path(__file__).resolve().parents[2]
UNSHARE = shutil.which("unshare") or ""


def in_own(namespaces: str, script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in namespaces of its own, where it may mount and set limits; $PYBOX is the command."""
    return subprocess.run(
        [UNSHARE, *namespaces.split(), "sh", "-ec", script],
        capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL, check=False,
        env={**os.environ, "PYBOX": " ".join(PYBOX), **env},
    )  # fmt: skip


def test_the_line_has_the_code_that_why_takes(image: Images) -> None:
    name = image(lambda root: (root / "bin/tool").write_bytes(b"#!/bin/sh\r\n"))
    done = cli("run", "--rm", name, "/bin/tool")
    assert done.returncode == 126 and done.stderr.splitlines()[0].endswith("has no x permission [E-EXEC-NOT-EXECUTABLE]")
    with pytest.raises(pybox.PyboxError) as caught:
        pybox.run(name, ["/bin/tool"])
    error = caught.value
    assert (error.code, error.causes, error.fix) == (
        "E-EXEC-NOT-EXECUTABLE", ("the file has no x permission",), "chmod +x /bin/tool in the image",
    )  # fmt: skip


@pytest.mark.skipif(not UNSHARE, reason="no unshare (Debian package util-linux)")
def test_a_kernel_that_allows_no_more_network_namespaces_is_blamed() -> None:
    script = "echo 0 >/proc/sys/user/max_net_namespaces; exec $PYBOX run --rm busybox true"
    done = in_own("-U --map-root-user", script, PYBOX_STATE=os.environ["PYBOX_STATE"] + "-limited")
    shutil.rmtree(os.environ["PYBOX_STATE"] + "-limited", ignore_errors=True)
    assert done.returncode == 125 and done.stderr.splitlines()[0].endswith("(user.max_*_namespaces is 0) [E-CLONE3-ENOSPC]"), done


@pytest.mark.skipif(not UNSHARE, reason="no unshare (Debian package util-linux)")
def test_why_sees_the_setting_that_forbids_user_namespaces() -> None:
    done = in_own(
        "-U --map-root-user", "echo 0 >/proc/sys/user/max_user_namespaces; exec $PYBOX why --format json E-CLONE3-ENOSPC"
    )
    probed = {cause["cause"]: cause["probed"] for cause in json.loads(done.stdout)["causes"]}
    assert probed == {"no-userns": True, "none-of-a-kind": False}
    done = cli("why", "--format", "json", "E-CLONE3-ENOSPC")
    assert not any(cause["probed"] for cause in json.loads(done.stdout)["causes"])


def test_a_full_disk_is_found_by_why(tmp_path: Path) -> None:
    script = f"mount -t tmpfs -o size=4k,nr_inodes=2 tmpfs {tmp_path}; touch {tmp_path}/x; exec $PYBOX why E-HOST"
    done = in_own("-m", script, PYBOX_STORE=f"{tmp_path}/store")
    assert "probed true: the file system of the store" in done.stdout, done


def test_a_failure_is_json_where_json_was_asked_for() -> None:
    done = cli("explain", "--format", "json", "run", "absent", "true")
    assert done.returncode == 125 and json.loads(done.stderr)["code"] == "E-IMAGE-ABSENT"


# --- what the kernel says of a mount ----------------------------------------------------------------------------------------


def refused(change: Callable[[Step], Step]) -> StepFailed:
    """Return the error of a run of which one step was changed for one that the kernel refuses."""

    def cut(planned: Planned) -> Planned:
        inside = tuple(change(step) for step in planned.plan.inside)
        plan = planned.plan.replace(inside=inside)
        return planned.replace(plan=plan, program=plan.lower())

    recorder = Recorder(cut=cut)
    with pytest.raises(StepFailed) as caught:
        recorder.run(Spec(image="busybox", args=("true",)), Options())
    recorder.close()
    return caught.value


def test_a_mount_that_fails_has_the_kernels_own_words() -> None:
    def bogus(step: Step) -> Step:
        shm = isinstance(step, MountKernelFs) and step.target == "/dev/shm"
        return step.replace(options="mode=1777,bogus=1") if shm else step

    error = refused(bogus)
    assert error.said == "tmpfs: Unknown parameter 'bogus'" and error.code == "E-MOUNT-EINVAL"
    assert error.message.endswith("Invalid argument [EINVAL]: the kernel says: tmpfs: Unknown parameter 'bogus'")


@OVERLAY_SPEAKS
@pytest.mark.parametrize("layers", [1, 9])
def test_an_overlay_that_is_refused_has_the_kernels_own_words_however_many_layers(layers: int) -> None:
    def bogus(step: Step) -> Step:
        return (
            step.replace(lower_dirs=step.lower_dirs * layers, work="scratch/w,bogus") if isinstance(step, MountOverlay) else step
        )

    assert refused(bogus).said == "overlay: Unknown parameter 'bogus'"


@OVERLAY_SPEAKS
@pytest.mark.skipif(not UNSHARE, reason="no unshare (Debian package util-linux)")
def test_a_store_on_an_overlay_is_named_by_the_kernel_and_blamed_by_us(tmp_path: Path, tree: Path) -> None:
    script = """
        mount -t tmpfs tmpfs "$BASE"; cd "$BASE"; mkdir l u w m; mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m
        $PYBOX import busybox "$TREE" >/dev/null; exec $PYBOX run --rm --upper disk busybox true
    """
    done = in_own("-m", script, BASE=str(tmp_path), TREE=str(tree), PYBOX_STORE=f"{tmp_path}/m/store")
    first, second = done.stderr.splitlines()
    assert "the kernel says: overlay: filesystem on uppers/" in first and "not supported as upperdir: overlayfs refuses" in first
    assert first.endswith("[E-MOUNT-EINVAL]") and "set PYBOX_STORE to a directory on ext4" in second


# --- what a machine around us forbids: seen as it happens --------------------------------------------------------------------


@pytest.mark.skipif(not UNSHARE, reason="no unshare (Debian package util-linux)")
@pytest.mark.parametrize(
    ("namespaces", "script", "code", "cause"),
    [
        ("-m", "mount -t tmpfs t /proc/sys/fs; exec $RUN --userns busybox true", "E-MOUNT-EPERM", "mount too revealing"),
        (
            "-m -p -f --mount-proc",
            'mkdir "$BASE/root"; mount --rbind / "$BASE/root"; chroot "$BASE/root" $RUN --userns busybox true || exit $?',
            "E-CLONE3-EPERM", "pybox runs in a chroot",
        ),
        (
            "-m",
            'mount --bind "$PYBOX_STORE" "$PYBOX_STORE"; mount -o remount,ro,bind "$PYBOX_STORE"; exec $RUN --upper disk busybox true',
            "E-MKDIR-EROFS", "the store's file system is read-only",
        ),
    ],
    ids=["hidden proc", "chroot", "read-only store"],
)  # fmt: skip
def test_what_the_outside_forbids_is_blamed(namespaces: str, script: str, code: str, cause: str, tmp_path: Path) -> None:
    done = in_own(namespaces, script, BASE=str(tmp_path), RUN=f"{' '.join(PYBOX)} run --rm")
    assert done.returncode == 125 and cause in done.stderr and done.stderr.splitlines()[0].endswith(f"[{code}]"), done


@pytest.mark.skipif(not UNSHARE or not CONTROLLERS, reason="no unshare, or no control groups to limit by")
def test_control_groups_that_are_read_only_are_blamed() -> None:
    script = (
        'for place in $PLACES; do mount -o remount,ro,bind "$place" || mount --bind -o ro "$place" "$place"; done 2>/dev/null\n'
    )
    places = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line}
    done = in_own("-m", script + "exec $PYBOX run --rm -m 64M busybox true", PLACES=" ".join(sorted(places)))
    assert done.returncode == 125 and ("control groups are mounted read-only" in done.stderr or "[E-LIMIT]" in done.stderr), done


@pytest.mark.skipif("pids" not in CONTROLLERS, reason="no pids controller")
def test_a_pids_limit_that_is_too_small_is_blamed() -> None:
    done = cli("run", "--rm", "--pids-limit", "1", "busybox", "true")
    assert done.returncode == 126 and "no more processes are allowed there [E-EXEC-TOO-MANY-PROCESSES]" in done.stderr, done
    assert "--pids-limit" in done.stderr.splitlines()[1]


@pytest.mark.parametrize(
    ("words", "code", "cause"),
    [
        ((), "E-UNSHARE-EPERM", "without CAP_SYS_ADMIN"),
        (("--userns",), "E-CLONE3-ENOSYS", "clone3 is filtered out"),
        (("--cap-add", "SYS_ADMIN"), "E-UNSHARE-EPERM", "without CAP_NET_ADMIN"),
        (("--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN"), "E-MKNOD-EPERM", "without CAP_MKNOD"),
    ],
)
def test_a_pybox_in_a_container_says_what_that_lacks(words: tuple[str, ...], code: str, cause: str) -> None:
    if "--userns" in words and file_system("/") in ("overlay", "hostfs"):
        pytest.skip("this machine's root can't be shown through an id map")
    inner = ("-e", "PYBOX_STATE=/tmp/state", "-e", "PYBOX_STORE=/tmp/store", "host", *PYBOX, "run", "--rm", "host", "true")
    done = cli("run", "--rm", *words, *inner, cwd=ROOT)
    assert done.returncode == 125 and cause in done.stderr and done.stderr.splitlines()[0].endswith(f"[{code}]"), done


def test_the_hint_for_a_pybox_in_a_container_is_true() -> None:
    inner = (
        "-e",
        "PYBOX_STATE=/tmp/state",
        "-e",
        "PYBOX_STORE=/tmp/store",
        "host",
        *PYBOX,
        "run",
        "--rm",
        "host",
        "echo",
        "nested",
    )
    done = cli("run", "--rm", "--cap-add", "ALL", *inner, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "nested\n"), done
