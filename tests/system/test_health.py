"""Health checks: they find out what they are to find out, and whatever they do, nothing of them is left."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import cli, eventually

from pybox import api, checking, dirs, health, listing
from pybox.health import TIMED_OUT

OFTEN = ("--health-interval", "50ms")
SELDOM = ("--health-interval", "1h")


@pytest.fixture
def box() -> Iterator[object]:
    """``box(words...)`` runs a container in the background and returns its id; it is removed at the end."""
    made = []

    def run(*words: str) -> str:
        done = cli("run", "-d", *words)
        assert done.returncode == 0, done.stderr
        made.append(done.stdout.strip())
        return made[-1]

    yield run
    assert cli("rm", "-f", *made).returncode == 0


def record(identity: str) -> str:
    return f"{dirs.current().state}/{identity}"


def ask(identity: str) -> health.Check | None:
    """Make one check, here and now."""
    return checking.check(api._SHARED.runtime(), identity)


def status(identity: str) -> str:
    return health.load(record(identity)).status


def processes(identity: str) -> int:
    """Return how many processes a container has."""
    entry = listing.find(dirs.current(), identity)
    namespace = os.readlink(f"/proc/{entry.pid}/ns/pid")
    found = 0
    for name in os.listdir("/proc"):
        try:
            found += name.isdigit() and os.readlink(f"/proc/{name}/ns/pid") == namespace
        except OSError:
            pass
    return found


def test_it_is_starting_then_healthy_then_unhealthy_then_healthy_again(box) -> None:
    identity = box(
        "--health-cmd",
        "test -e /fine",
        *OFTEN,
        "--health-retries",
        "2",
        "--health-start-period",
        "1h",
        "busybox",
        "sleep",
        "1000",
    )
    assert "(health: starting)" in cli("ps").stdout
    cli("exec", identity, "touch", "/fine")
    assert cli("wait", "--condition", "healthy", identity).stdout == "healthy\n"
    assert "(healthy)" in cli("ps", "--filter", "health=healthy").stdout
    cli("exec", identity, "rm", "/fine")
    assert eventually(lambda: status(identity) == "unhealthy")
    assert cli("ps", "-q", "--filter", "health=unhealthy").stdout.split() == [identity]
    shown = json.loads(cli("inspect", "-f", "health", identity).stdout)
    assert shown["failing"] >= 2 and shown["checks"][-1]["exit_code"] == 1
    cli("exec", identity, "touch", "/fine")
    assert eventually(lambda: status(identity) == "healthy")


def test_the_results_say_what_the_check_wrote_cut_at_4_kb(box) -> None:
    command = "echo to stdout; echo to stderr >&2; yes"
    identity = box("--health-cmd", command, *SELDOM, "--health-timeout", "300ms", "busybox", "sleep", "1000")
    made = ask(identity)
    assert made is not None and made.exit_code == TIMED_OUT and made.start < made.end
    text = made.output.partition(": ")[2]
    assert text.startswith("to stdout\nto stderr\ny\n") and len(text) == health.OUTPUT
    assert health.load(record(identity)).checks == (made,)


def test_a_check_that_hangs_is_killed_with_its_descendants(box) -> None:
    command = "sleep 1000 & setsid sleep 1000 & (trap '' TERM; sleep 1000) & sleep 1000"
    identity = box("--health-cmd", command, *SELDOM, "--health-timeout", "300ms", "busybox", "sleep", "1000")
    before = processes(identity)
    made = ask(identity)
    assert made is not None and made.exit_code == TIMED_OUT and "longer than 0.3 seconds" in made.output
    assert eventually(lambda: processes(identity) == before)


def test_what_a_check_leaves_running_is_killed_and_nothing_else(box) -> None:
    identity = box("--health-cmd", "setsid sleep 1000 & echo fine", *SELDOM, "busybox", "sh", "-c", "sleep 1000 & wait")
    assert eventually(lambda: processes(identity) == 3)  # pybox-init, sh, sleep
    made = ask(identity)
    assert made is not None and (made.exit_code, made.output) == (0, "fine\n")
    assert eventually(lambda: processes(identity) == 3)


def test_a_check_is_one_of_the_container_with_its_user_and_its_environment(box) -> None:
    identity = box("--health-cmd", "id -un; echo $COLOUR; pwd; cat /proc/1/comm", "-e", "COLOUR=red", "-u", "alice", "-w", "/var",
                   *SELDOM, "busybox", "sleep", "1000")  # fmt: skip
    made = ask(identity)
    assert made is not None and made.output == "alice\nred\n/var\npybox-init\n"


def test_a_check_that_can_not_be_executed_is_a_failed_one(box, image) -> None:
    name = image(lambda tree: (tree / "bin/sh").unlink())
    identity = box("--health-cmd", "true", *SELDOM, name, "sleep", "1000")
    made = ask(identity)
    assert made is not None and made.exit_code == 127 and "/bin/sh" in made.output


def test_a_container_that_ends_during_a_check_takes_the_check_with_it(box) -> None:
    identity = box("--health-cmd", "sleep 1000", *OFTEN, "busybox", "sleep", "1000")
    entry = listing.find(dirs.current(), identity)
    monitor = int(str(entry.journal["owner"]))
    children = Path(f"/proc/{monitor}/task/{monitor}/children")
    assert eventually(lambda: len(children.read_text().split()) == 2)
    checker = next(pid for pid in children.read_text().split() if int(pid) != entry.pid)
    assert cli("kill", identity).returncode == 0
    assert cli("wait", identity).stdout == "137\n"
    assert not os.path.exists(f"/proc/{checker}")
    assert "(health" not in cli("ps", "-a").stdout and cli("inspect", "-f", "state.health", identity).stdout == "none\n"


def test_a_monitor_that_is_killed_takes_the_check_with_it(box) -> None:
    identity = box("--rm", "--health-cmd", "sleep 1000", *OFTEN, "busybox", "sleep", "1000")
    entry = listing.find(dirs.current(), identity)
    monitor = int(str(entry.journal["owner"]))
    children = Path(f"/proc/{monitor}/task/{monitor}/children")
    assert eventually(lambda: len(children.read_text().split()) == 2)
    both = children.read_text().split()
    os.kill(monitor, 9)
    assert eventually(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in both))


def test_never_two_checks_at_once(box) -> None:
    command = "mkdir /lock || echo twice >>/failed; sleep 0.1; rmdir /lock"
    identity = box("--health-cmd", command, "--health-interval", "1ms", "busybox", "sleep", "1000")
    assert eventually(lambda: len(health.load(record(identity)).checks) == health.REMEMBERED)
    assert cli("exec", identity, "test", "-e", "/failed").returncode == 1


def test_a_new_run_starts_anew(box) -> None:
    identity = box("--health-cmd", "test ! -e /ill", *OFTEN, "busybox", "sleep", "1000")
    assert cli("wait", "--condition", "healthy", identity).returncode == 0
    assert cli("stop", "-t", "0", identity).returncode == 0
    done = cli("wait", "--condition", "healthy", identity)
    assert done.returncode == 125 and "not running" in done.stderr
    assert cli("start", identity).returncode == 0
    assert cli("wait", "--condition", "healthy", identity).returncode == 0


def test_a_container_without_checks_has_none(box) -> None:
    identity = box("busybox", "sleep", "1000")
    assert ask(identity) is None
    done = cli("wait", "--condition", "healthy", identity)
    assert done.returncode == 125 and "not checked" in done.stderr
    assert cli("inspect", "-f", "health", identity).stdout == "null\n"


def test_many_checks_leave_nothing_behind(box) -> None:
    identity = box("--health-cmd", "setsid sleep 1000 & exit 0", *SELDOM, "busybox", "sleep", "1000")
    before = processes(identity)
    for _ in range(int(os.environ.get("PYBOX_TEST_CHECKS", "30"))):
        made = ask(identity)
        assert made is not None and made.exit_code == 0
    assert eventually(lambda: processes(identity) == before)
    groups = dict(listing.find(dirs.current(), identity).groups)
    if "" in groups:
        assert not [name for name in os.listdir(groups[""]) if os.path.isdir(f"{groups['']}/{name}")]


def test_a_check_that_is_killed_at_any_moment_leaves_no_zombie_that_would_hold_its_container(box) -> None:
    """Neither of the two processes of its start tells the other's number any more when the group of both is killed."""
    identity = box("--health-cmd", "true", *SELDOM, "busybox", "sleep", "1000")
    group = dict(listing.find(dirs.current(), identity).groups).get("")
    if group is None:
        pytest.skip("no control group of cgroup v2 to kill")
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before, over = children.read_text(), threading.Event()

    def killer() -> None:
        while not over.wait(random.uniform(0, 0.003)):
            try:
                Path(f"{group}/pybox-check/cgroup.kill").write_text("1")
            except OSError:
                pass  # between two checks

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        killed = 0
        for _ in range(100):
            made = ask(identity)
            killed += made is not None and made.exit_code != 0
            assert children.read_text() == before
    finally:
        over.set()
        thread.join()
    assert killed
