"""--storage-size where there are no project quotas: the writable layer of a container is a file system of its own, in a file.

What must not happen is that a file has two block devices at once, and that a device outlives what it was made for.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import test_crash
from harness import PYBOX, TIMEOUT, cli, eventually, running, said, shell
from test_explain import pasted
from test_storage_size import FILL, load

import pybox
from pybox import api, dirs, loop
from pybox.errors import LimitError
from pybox.spec import Limits, Spec
from pybox.steps import disk, quota
from pybox.steps.base import Desk

SIZE = ("--storage-size", "2M")
LIMITED = Spec("busybox", ("sleep", "60"), upper="disk", limits=Limits(storage_size=2 << 20))
FULL = "No space left on device\n"


def devices(store: dirs.Dirs) -> list[str]:
    """Return the files of this store that are shown as block devices, one for each device."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found.append(path.read_text().rstrip("\n"))
        except OSError:  # it has none any more
            continue
    return [path for path in found if path.startswith(store.store)]


@pytest.fixture(autouse=True)
def nothing_attached(store: dirs.Dirs) -> Iterator[None]:
    """Skips where a disk is not needed or can't be; afterwards, the kernel has let go of every device."""
    if not quota.problem(store.uppers):
        pytest.skip("the file system of the tests has project quotas")
    load("loop")
    if why := disk.problem():
        pytest.skip(why)
    yield
    assert eventually(lambda: devices(store) == []), devices(store)


def ok(*words: str, **options: object) -> str:
    """Run `pybox WORDS`, which must work; return what it said."""
    done = cli(*words, **options)  # type: ignore[arg-type]
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


@pytest.mark.parametrize("more", [(), ("--userns",)], ids=["", "userns"])
def test_a_kept_container_holds_what_it_may_and_keeps_it(store: dirs.Dirs, more: tuple[str, ...]) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    first = ok("run", *more, "--name", "one", *SIZE, "busybox", "sh", "-c", f"{FILL}; chown 7:8 /f; id -u")
    assert first.startswith(FULL) and 0.95 < int(first.split("\n")[1]) / (2 << 20) < 1.05
    (one,) = json.loads(ok("inspect", "one"))
    assert one["limited_by"] == one["result"]["effective"]["--storage-size"] == "loop"
    assert devices(store) == [] or eventually(lambda: devices(store) == [])
    assert ok("diff", "one") == "A /f\n"
    assert ok("start", "-a", "one").startswith(FULL)
    used = os.stat(store.disk(one["id"])).st_blocks * 512
    assert 0.95 < used / (2 << 20) < 1.5
    assert Path("/proc/self/mountinfo").read_text() == before
    ok("rm", "one")


def test_what_is_deleted_gives_its_room_back_to_the_store(store: dirs.Dirs) -> None:
    script = "dd if=/dev/urandom of=/f bs=1M count=16 2>/dev/null; sync; rm /f"
    ok("run", "--name", "one", "--storage-size", "64M", "busybox", "sh", "-c", script)
    (one,) = json.loads(ok("inspect", "one"))
    assert eventually(lambda: devices(store) == [])
    assert os.stat(store.disk(one["id"])).st_blocks * 512 < 4 << 20
    ok("rm", "one")


def test_a_container_starts_again_by_itself_with_its_files(store: dirs.Dirs) -> None:
    ok(
        "run",
        "-d",
        "--name",
        "one",
        "--restart",
        "on-failure:2",
        *SIZE,
        "busybox",
        "sh",
        "-c",
        "echo x >> /n; wc -l < /n; exit 3",
    )
    assert ok("wait", "one") == "3\n"
    assert ok("logs", "one").split() == ["1", "2", "3"]
    ok("rm", "one")


def test_files_are_within_reach_of_all_at_once_and_have_one_device(store: dirs.Dirs, tmp_path: Path) -> None:
    """Six commands at once, on a container that runs and on one that does not: all are right, and there is never a second device."""
    (tmp_path / "in").write_text("in\n")
    ok("run", "-d", "--name", "one", *SIZE, "busybox", "sh", "-c", "echo hi > /made; rm -r /home; chmod 4755 /made; sleep 1000")
    assert len(devices(store)) == 1
    for state in ("running", "exited"):
        done = threading.Event()
        most = [0]

        def watch(done: threading.Event = done, most: list[int] = most) -> None:
            while not done.is_set():
                found = devices(store)
                most[0] = max([most[0], *(found.count(name) for name in found)])

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            commands = [("diff", "one"), ("cp", "one:/made", f"{tmp_path}/{state}"), ("export", "-o", f"{tmp_path}/{state}.tar", "one"),
                        ("cp", f"{tmp_path}/in", f"one:/{state}"), ("commit", "one", f"of-{state}"), ("diff", "one")]  # fmt: skip
            begun = [
                subprocess.Popen([*PYBOX, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for words in commands
            ]
            answers = [(one.communicate(timeout=TIMEOUT), one.returncode) for one in begun]
        finally:
            done.set()
            watcher.join()
        assert [code for _, code in answers] == [0] * 6, answers
        for (shown, _), _ in (answers[0], answers[5]):
            assert {"A /made", "D /home"} <= set(shown.splitlines()) <= {"A /made", "D /home", "A /running", "A /exited"}
        assert (tmp_path / state).read_text() == "hi\n"
        assert (
            "made\n"
            in subprocess.run(["tar", "tf", f"{tmp_path}/{state}.tar"], capture_output=True, text=True, check=True).stdout
        )
        assert ok("run", "--rm", f"of-{state}", "sh", "-c", "stat -c %a /made; ls -d /home 2>&1 | wc -l") == "4755\n1\n"
        assert f"A /{state}" in ok("diff", "one")
        assert most[0] <= 1
        ok("stop", "-t", "0", "one")
    assert ok("start", "one") == "one\n" and ok("exec", "one", "cat", "/running", "/exited") == "in\nin\n"
    ok("rm", "-f", "one")
    ok("rmi", "of-running", "of-exited")


def test_files_that_are_copied_before_the_first_start_count(store: dirs.Dirs, tmp_path: Path) -> None:
    ok("create", "--name", "one", *SIZE, "busybox", "cat", "/small")
    (tmp_path / "small").write_text("small\n")
    (tmp_path / "big").write_bytes(os.urandom(4 << 20))
    ok("cp", f"{tmp_path}/small", "one:/small")
    done = cli("cp", f"{tmp_path}/big", "one:/big")
    assert done.returncode == 125 and "No space left on device" in done.stderr
    assert ok("start", "-a", "one") == "small\n"
    ok("rm", "one")


def test_the_kernel_shows_each_step(store: dirs.Dirs) -> None:
    for spec in (LIMITED, LIMITED.replace(userns=True)):
        plan = api._SHARED.runtime().plan(spec)
        with running(spec) as (seen, _, _):
            assert eventually(lambda plan=plan, seen=seen: all(step.check(seen) for _, _, step in plan.steps()), seconds=10)
            assert "/dev/loop" not in seen.file("mountinfo") and "/proc/self/fd" not in seen.file("mountinfo")


def test_the_lines_for_a_shell_make_one_too(store: dirs.Dirs) -> None:
    lines = ok("explain", "--shell", "run", *SIZE, "busybox", "sh", "-c", FILL)
    assert "losetup" in lines
    assert pasted(lines).stdout.startswith(FULL)


def test_sigkill_at_any_step_leaves_no_device(store: dirs.Dirs) -> None:
    test_crash.test_sigkill_between_any_two_steps_on_the_host_leaves_nothing_after_gc(store, LIMITED, True)
    test_crash.test_sigkill_while_the_command_runs_ends_it_and_leaves_nothing_after_gc(store, LIMITED, True)


def made(store: dirs.Dirs, name: str) -> Desk:
    """Make a disk that is no container's; remove it with `rm`."""
    desk = Desk(name, {})
    disk.MakeDisk(f"{store.uppers}/CONTAINER-ID", None, 1 << 20).apply(desk)
    return desk


def removed(store: dirs.Dirs, name: str) -> None:
    from pybox.undo import undo

    undo("tree", f"{store.uppers}/{name}")


def test_who_is_killed_with_a_device_in_hand_leaves_none(store: dirs.Dirs) -> None:
    """At each system call of attaching it: before the device is free, before it has the file, and when it has it."""
    made(store, "0" * 12)
    for last in (loop._GET_FREE, loop._CONFIGURE, None):
        pid = os.fork()
        if pid == 0:
            real = loop.ioctl

            def fatal(
                fd: int, request: int, *rest: object, last: int | None = last, real: Callable[..., object] = real
            ) -> object:
                if request == last:
                    os.kill(os.getpid(), 9)
                return real(fd, request, *rest)

            loop.ioctl = fatal  # type: ignore[assignment]
            loop.attach(store.disk("0" * 12), lambda file: None, 4096)
            os.kill(os.getpid(), 9 if devices(store) else 15)
        assert os.waitpid(pid, 0)[1] == 9, last
        assert eventually(lambda: devices(store) == [])
    removed(store, "0" * 12)


def test_two_who_want_the_device_of_a_file_at_once_get_the_same(store: dirs.Dirs) -> None:
    path = store.disk(made(store, "0" * 12).identity)
    for _ in range(5):
        gates, got = os.pipe(), os.pipe()
        hold = os.pipe()
        pids = []
        for _ in range(4):
            pids.append(os.fork())
            if pids[-1] == 0:
                os.close(gates[1]), os.close(hold[1])
                os.read(gates[0], 1)
                os.write(got[1], b"%d\n" % os.fstat(loop.attach(path, lambda file: None, 4096)).st_rdev)
                os.read(hold[0], 1)
                os._exit(0)
        os.close(gates[1])
        said_ = b""
        while said_.count(b"\n") < 4:
            said_ += os.read(got[0], 100)
        assert len(set(said_.split())) == 1 and devices(store) == [path]
        os.close(hold[1])
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
        for fd in (gates[0], *got, hold[0]):
            os.close(fd)
        assert eventually(lambda: devices(store) == [])
    file = os.open(path, os.O_RDWR)
    fcntl.flock(file, fcntl.LOCK_EX)  # somebody has it, but no device: never a second one
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="can't be opened"):
        patch.setattr(loop, "_PATIENCE", 0.0)
        loop.attach(path, lambda file: None, 4096)
    os.close(file)
    removed(store, "0" * 12)


def test_a_disk_that_the_machine_went_down_with_is_mended(store: dirs.Dirs) -> None:
    ok("create", "--name", "one", *SIZE, "busybox", "sh", "-c", "echo x >> /n; cat /n")
    (one,) = json.loads(ok("inspect", "one"))
    assert ok("start", "-a", "one") == "x\n" and eventually(lambda: devices(store) == [])
    path = store.disk(one["id"])
    for change in ("set_super_value state 0", "set_super_value free_blocks_count 77"):  # not unmounted, and wrong
        subprocess.run(["debugfs", "-w", "-R", change, path], check=True, capture_output=True)
    assert ok("start", "-a", "one") == "x\nx\n"
    assert eventually(lambda: devices(store) == [])
    said_of_it = subprocess.run(["e2fsck", "-f", "-n", path], check=False, capture_output=True, text=True)
    assert said_of_it.returncode == 0, said_of_it.stdout
    ok("rm", "one")


def test_where_there_is_no_loop_device_it_is_refused_with_the_reason(store: dirs.Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CONTROL", "/dev/no-loop-control")
    with pytest.raises(
        LimitError, match="no project quotas; there are no loop devices: /dev/no-loop-control: No such file"
    ) as caught:
        pybox.run("busybox", ["true"], storage_size="2M", upper="disk")
    assert "modprobe loop" in str(caught.value.hint)
    result = shell("true", storage_size="2M", upper="disk", best_effort=True)
    assert dict(result.effective)["--storage-size"].startswith("none: the file system of")
    monkeypatch.undo()
    monkeypatch.setattr(disk, "MAKE", ["mkfs.none"])
    with pytest.raises(LimitError, match=r"no project quotas; there is no mkfs\.none") as caught:
        pybox.run("busybox", ["true"], storage_size="2M", upper="disk")
    assert "apt-get install e2fsprogs" in str(caught.value.hint)
    monkeypatch.undo()
    monkeypatch.setattr(disk, "problem", lambda: "")
    monkeypatch.setattr(loop, "CONTROL", "/dev/full")  # there is one, but it has no devices
    with pytest.raises(LimitError, match=r"no loop device for the writable layer .*: Inappropriate ioctl"):
        pybox.run("busybox", ["true"], storage_size="2M", upper="disk")
    assert said(shell("echo on", storage_size="2M")) == "on" and os.listdir(store.uppers) == []


def test_a_container_that_was_kept_without_a_limit_is_not_given_one_behind_its_back(
    store: dirs.Dirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = api._SHARED.runtime()
    spec = LIMITED.replace(best_effort=True)
    given = runtime.planner.inputs(spec, True, True, None, False)
    assert not given.disk and given.no_loop.startswith("it was made without a limit")
    assert runtime.planner.inputs(spec, True, True, None, True).disk
    monkeypatch.setattr(
        quota, "problem", lambda path: ""
    )  # the store was mounted with prjquota meanwhile: what is a disk stays one
    assert runtime.planner.inputs(spec, True, True, None, True).disk and not runtime.planner.inputs(spec, True, True).disk
