"""Doctor on the real host: it agrees with what runs do, names the refusal that was arranged for it, and leaves nothing behind.

The fixture around every test (conftest.py) compares mounts, groups, processes, fds, state and storage before and after.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import PURE_V2, PYBOX, TIMEOUT, below, cli, groups, snapshot

from pybox import dirs, host

NOBODY = 65534
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of a plain user's own, which it can reach (pytest's are closed to it)."""
    path = Path(tempfile.mkdtemp(prefix="pybox-doctor."))
    os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


def places(where: Path) -> dict[str, str]:
    return {**os.environ, "PYBOX_STORE": f"{where}/store", "PYBOX_STATE": f"{where}/state", "PYTHONPATH": str(ROOT)}


def as_nobody(home: Path, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return cli(*words, user=NOBODY, group=NOBODY, extra_groups=[], env=places(home), cwd="/", **options)


def items(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert not done.stderr, done.stderr
    shown = json.loads(done.stdout)
    assert shown["schema"] == "pybox.doctor/1"
    assert shown["usable"] == (done.returncode == 0)
    return {item["id"]: item for item in shown["items"]}


def test_doctor_as_root_finds_this_host_usable() -> None:
    done = cli("doctor", "--format", "json")
    found = items(done)
    assert done.returncode == 0
    assert found["run"]["level"] == found["overlay"]["level"] == found["kernel"]["level"] == "ok"
    how = "cgroup v2" if PURE_V2 else "cgroup v1"
    assert {found["limits"]["details"][name] for name in ("memory", "pids", "cpu")} == {how}
    assert set(found["run"]["details"].values()) == {how}
    assert found["cgroup"]["details"]["layout"] == ("v2" if PURE_V2 else "hybrid")
    assert found["cgroup"]["happened"].startswith("v2 at " if PURE_V2 else "HYBRID: v2 is at ")


def test_doctor_as_a_plain_user_finds_this_host_usable_without_limits(home: Path) -> None:
    done = as_nobody(home, "doctor", "--format", "json")
    found = items(done)
    assert done.returncode == 0, done.stdout
    assert found["run"]["level"] == found["userns"]["level"] == found["proc"]["level"] == "ok"
    assert (found["limits"]["level"], found["limits"]["blocks"]) == ("fail", [])
    assert "--memory" in found["limits"]["you_lose"]
    assert found["limits"]["fix"]
    refused = as_nobody(home, "run", "--rm", "-m", "64M", "host", "true")
    assert (refused.returncode, "cannot enforce --memory" in refused.stderr) == (125, True)


def test_doctor_leaves_no_directory_where_none_was(home: Path) -> None:
    assert cli("doctor", env=places(home)).returncode == 0
    assert as_nobody(home, "doctor").returncode == 0
    assert os.listdir(home) == []


def test_a_doctor_that_is_killed_is_cleaned_up_after(home: Path) -> None:
    store, before = home / "store", groups()
    doctor = subprocess.Popen([*PYBOX, "doctor"], env=places(home), stdout=subprocess.DEVNULL)
    limit = time.monotonic() + TIMEOUT
    while not (store.exists() and any(name.startswith("doctor-") for name in os.listdir(store))):
        assert doctor.poll() is None
        assert time.monotonic() < limit
    doctor.send_signal(signal.SIGKILL)
    doctor.wait()
    assert cli("doctor", "leftovers", env=places(home)).stdout.startswith(" ! leftovers  1 record of a killed pybox")
    assert cli("gc", env=places(home)).returncode == 0
    assert not any(name.startswith("doctor-") for name in os.listdir(store))
    assert os.listdir(home / "state") in ([], ["names"])
    while groups() - before and time.monotonic() < limit:  # of tests beside this one
        time.sleep(0.05)


def test_an_unwritable_storage_is_named_and_the_advice_works(home: Path) -> None:
    done = cli("doctor", "--format", "json", user=NOBODY, group=NOBODY, extra_groups=[], env={**places(Path("/root/x"))}, cwd="/")
    found = items(done)
    assert done.returncode == 1
    assert found["storage"]["level"] == "fail"
    assert "Permission denied" in found["storage"]["happened"]
    assert found["run"]["level"] == found["overlay"]["level"] == "n/a"
    assert found["userns"]["level"] == "ok"  # what needs no storage is tried all the same
    advice = dict(word.split("=", 1) for word in found["storage"]["fix"].split() if "=" in word)
    assert set(advice) == {"PYBOX_STORE", "PYBOX_STATE"}
    env = {**places(home), **advice}
    again = cli("doctor", "storage", user=NOBODY, group=NOBODY, extra_groups=[], env=env, cwd="/")
    assert again.returncode == 0, again.stdout


def test_a_covered_proc_is_found_by_mounting_one(home: Path) -> None:
    cover = (
        "mount --make-rprivate / && mount -t tmpfs tmpfs /proc/bus && exec setpriv --reuid 65534 --regid 65534 --clear-groups "
    )
    words = ["unshare", "-m", "sh", "-c", cover + '"$@"', "sh", *PYBOX, "doctor", "proc", "--format", "json"]
    done = subprocess.run(words, env=places(home), cwd="/", capture_output=True, text=True, timeout=TIMEOUT, check=False)
    found = items(done)["proc"]
    assert done.returncode == 1
    assert (found["level"], "too revealing" in found["happened"]) == ("fail", True)
    assert "unmask=ALL" in found["fix"]


def test_user_namespaces_that_are_switched_off_are_found_by_making_one(home: Path) -> None:
    """In a user namespace of our own the switch is ours: user.max_user_namespaces is per namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            libc.unshare(0x10000000)  # CLONE_NEWUSER
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            Path("/proc/sys/user/max_user_namespaces").write_text("0")
            with open(home / "out", "w") as out:
                done = subprocess.run([*PYBOX, "doctor", "userns"], env=places(home), stdout=out, check=False, cwd="/")
            os._exit(done.returncode)
        except BaseException:
            os._exit(99)
    os.read(ready[0], 1)
    for kind in ("uid", "gid"):
        Path(f"/proc/{pid}/{kind}_map").write_text("0 0 65536\n")
    os.write(go[1], b"x")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for fd in (*ready, *go):
        os.close(fd)
    text = (home / "out").read_text()
    assert code == 1, text
    assert "No space left on device [ENOSPC]: user.max_user_namespaces is 0 (it is not about disk space)" in text
    assert "fix        sudo sysctl -w user.max_user_namespaces=10000" in text


def test_forgotten_groups_and_layers_are_counted_and_left_alone() -> None:
    where = dirs.current()
    upper = Path(where.uppers, "0123456789ab")
    upper.mkdir()
    parent = host.probe().cgroups.unified
    group = Path(f"{parent}/pybox-ba9876543210")
    group.mkdir()
    try:
        young = items(cli("doctor", "leftovers", "--format", "json"))["leftovers"]
        assert (young["level"], set(young["details"])) == ("warn", {str(upper)})  # such a group may be a run that is beginning
        os.utime(group, (1, 1))
        old = items(cli("doctor", "leftovers", "--format", "json"))["leftovers"]
        assert set(old["details"]) == {str(upper), str(group)}
        assert upper.is_dir()
        assert group.is_dir()
    finally:
        upper.rmdir()
        group.rmdir()


def test_doctor_sees_the_images_and_the_text_ends_in_the_verdict() -> None:
    done = cli("doctor")
    assert " image" in next(line for line in done.stdout.splitlines() if line.startswith(" ✓ images"))
    assert done.stdout.splitlines()[-1].startswith("Result: `pybox run` works here")
    before = snapshot()
    again = cli("doctor", "images")
    assert again.returncode == 0
    assert "tried      listed the store" in again.stdout
    assert below(dirs.current().store) and snapshot()["store"] == before["store"]
