"""The life of a container that nobody waits for: each command in each status does the right thing, or says in one line why not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import PURE_V2, cli, eventually, start

from pybox import boot, burial, dirs, kept, lifecycle, listing
from pybox.listing import Entry
from pybox.undo import undo

DEAF = "trap '' TERM; echo ready; while :; do sleep 1; done"


@pytest.fixture(autouse=True)
def all_gone(host_unchanged: None, store: dirs.Dirs) -> Iterator[None]:
    """Whatever a test has left running is removed after it, and the host is as before."""
    yield
    burial.mend(store)
    for entry in listing.entries(store):
        assert cli("rm", "-f", entry.identity).returncode == 0


def background(*words: str) -> str:
    """Return the id of `pybox run -d WORDS`."""
    done = cli("run", "-d", *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def seen(word: str) -> Entry:
    return listing.find(dirs.current(), word)


def status(word: str) -> str:
    return seen(word).status


def log(identity: str) -> list[str]:
    """Return the lines of a container's log, without their time."""
    path = Path(kept.folder(dirs.current(), identity), "log")
    return [line.partition(" ")[2] for line in path.read_text(errors="surrogateescape").splitlines()]


def refused(*words: str) -> str:
    """Return the message of a command that must fail with one clear line, and perhaps a hint."""
    done = cli(*words)
    lines = done.stderr.splitlines()
    assert done.returncode == 125 and lines[0].startswith("pybox: error: ") and len(lines) <= 2, done
    return lines[0].removeprefix("pybox: error: ")


def make(state: str) -> str:
    """Return the name of a container in a status."""
    if state == "created":
        assert cli("create", "--name", state, "busybox", "sleep", "60").returncode == 0
    elif state == "exited":
        background("--name", state, "busybox", "sh", "-c", "exit 3")
        assert cli("wait", state).stdout == "3\n"
    elif state == "foreground":
        assert cli("run", "--name", state, "busybox", "sh", "-c", "exit 3").returncode == 3
    elif state == "restarting":
        background("--name", state, "--restart", "always", "busybox", "false")
        count = Path(seen(state).path, "restarts")
        assert eventually(count.exists)
        count.write_text("4")  # the pauses get longer with it: the next one is long enough to look at
        assert eventually(lambda: count.exists() and count.read_text() in ("5", "6") and status(state) == "restarting")
    elif state == "dead":
        background("--name", state, "busybox", "sleep", "60")
        os.kill(int(str(seen(state).journal["owner"])), signal.SIGKILL)
        assert eventually(lambda: status(state) == "dead")
    else:
        background("--name", state, "busybox", "sleep", "60")
    assert status(state) == {"foreground": "exited"}.get(state, state)
    return state


ALL = ("created", "running", "exited", "foreground", "restarting", "dead")


@pytest.mark.parametrize("state", ALL)
def test_start_in_each_status(store: dirs.Dirs, state: str) -> None:
    name = make(state)
    done = cli("start", name)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{name}\n", "")
    assert seen(name).alive == (state not in ("exited", "foreground")) or eventually(lambda: not seen(name).alive)


@pytest.mark.parametrize("state", ALL)
def test_stop_in_each_status(store: dirs.Dirs, state: str) -> None:
    name = make(state)
    done = cli("stop", "-t", "5", name)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{name}\n", "")
    assert status(name) == {"running": "exited", "restarting": "exited", "foreground": "exited"}.get(state, state)
    if state == "running":
        assert (seen(name).result or {})["exit_code"] == 143


@pytest.mark.parametrize("state", ALL)
def test_kill_in_each_status(store: dirs.Dirs, state: str) -> None:
    name = make(state)
    if state in ("running", "restarting"):
        assert cli("kill", name).returncode == 0
        assert eventually(lambda: status(name) == "exited")
        assert (seen(name).result or {})["exit_code"] == (137 if state == "running" else 1)
    else:
        assert refused("kill", name).startswith(f"container {seen(name).identity} is not running")


@pytest.mark.parametrize("state", ALL)
def test_wait_in_each_status(store: dirs.Dirs, state: str) -> None:
    name = make(state)
    waiting = start("wait", name)
    if seen(name).alive:
        time.sleep(0.1)
        assert waiting.poll() is None
        assert cli("stop", name).returncode == 0
    expected = {"created": b"0\n", "running": b"143\n", "restarting": b"1\n", "dead": b"137\n"}.get(state, b"3\n")
    assert waiting.communicate(timeout=30)[0] == expected


@pytest.mark.parametrize("state", ALL)
def test_rename_and_rm_in_each_status(store: dirs.Dirs, state: str) -> None:
    name = make(state)
    identity = seen(name).identity
    assert cli("rename", name, "other").returncode == 0
    assert seen("other").identity == identity and seen(identity).name == "other"
    assert refused("rm", name) == f"no such container: {name}"
    if seen("other").alive:
        assert refused("rm", "other") == f"container {identity} is {status('other')}"
        done = cli("rm", "-f", "other")
    else:
        done = cli("rm", "other")
    assert (done.returncode, done.stdout, done.stderr) == (0, "other\n", "")
    assert listing.entries(store) == [] and os.listdir(store.uppers) == os.listdir(f"{store.store}/names") == []


def test_a_wrong_word_does_not_keep_the_others(store: dirs.Dirs) -> None:
    for name in ("one", "two"):
        background("--name", name, "busybox", "sleep", "60")
    for command in (("stop", "-t", "5"), ("start",), ("kill",), ("rm", "-f")):
        done = cli(*command, "one", "nobody", "two")
        assert (done.returncode, done.stdout) == (125, "one\ntwo\n")
        assert done.stderr.splitlines()[0] == "pybox: error: no such container: nobody"
        if command[0] == "stop":
            assert cli("wait", "one", "nobody", "two").stdout == "143\n143\n"


def test_an_id_may_be_cut_but_not_be_ambiguous(store: dirs.Dirs) -> None:
    made = [cli("create", "busybox", "true").stdout.strip() for _ in range(17)]
    first = next(letter for letter in "0123456789abcdef" if sum(identity.startswith(letter) for identity in made) > 1)
    assert refused("start", first).startswith(f"{first} is ambiguous: ")
    assert cli("rm", made[0][:11]).stdout == made[0][:11] + "\n"
    assert cli("prune").stdout.split() and listing.entries(store) == []


def test_what_ignores_the_stop_signal_is_killed_after_its_time_and_all_are_asked_at_once(store: dirs.Dirs) -> None:
    names = ["one", "two", "three"]
    for name in names:
        identity = background("--name", name, "busybox", "sh", "-c", DEAF)
        assert eventually(lambda identity=identity: "stdout F ready" in log(identity))
    begun = time.monotonic()
    assert cli("stop", "-t", "1", *names).stdout.split() == names
    assert time.monotonic() - begun >= 1
    assert [(seen(name).result or {})["exit_code"] for name in names] == [137] * 3


def test_stop_sends_the_signal_that_was_asked_for(store: dirs.Dirs) -> None:
    identity = background(
        "--stop-signal", "USR1", "busybox", "sh", "-c", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done"
    )
    assert eventually(lambda: "stdout F ready" in log(identity))
    assert cli("stop", identity).returncode == 0
    assert cli("wait", identity).stdout == "9\n"


def test_wait_tells_how_a_container_ended_that_forgets_itself(store: dirs.Dirs) -> None:
    identity = background("--rm", "--name", "short", "busybox", "sh", "-c", "while [ ! -e /go ]; do sleep 0.05; done; exit 7")
    waiting = [start("wait", "short") for _ in range(5)]
    door = Path(store.state, identity)
    assert eventually(lambda: len(os.listdir(f"/proc/{seen('short').journal['owner']}/fd")) >= 10)
    time.sleep(0.5)
    assert all(one.poll() is None for one in waiting)
    assert cli("exec", "short", "touch", "/go").returncode == 0
    assert [one.communicate(timeout=30)[0] for one in waiting] == [b"7\n"] * 5
    assert not door.exists() and refused("wait", "short") == "no such container: short"


@pytest.mark.parametrize(
    ("policy", "code", "runs"),
    [
        ("no", 1, 1),
        ("on-failure", 0, 1),
        ("on-failure:2", 1, 3),
        ("on-failure", 1, 4),
        ("always", 0, 4),
        ("unless-stopped", 1, 4),
    ],
)
def test_the_restart_policies(store: dirs.Dirs, policy: str, code: int, runs: int) -> None:
    identity = background("--restart", policy, "busybox", "sh", "-c", f"echo run; exit {code}")
    if runs < 4:
        assert cli("wait", identity).stdout == f"{code}\n"
        assert log(identity) == ["stdout F run"] * runs
    else:
        assert eventually(lambda: len(log(identity)) >= runs)
        assert cli("stop", identity).returncode == 0
        assert status(identity) == "exited" and kept.is_stopped(store, identity)


def test_a_kill_that_is_to_end_it_ends_a_restarting_container_for_good(store: dirs.Dirs) -> None:
    background("--name", "always", "--restart", "always", "busybox", "sleep", "60")
    first = seen("always").pid
    assert cli("kill", "-s", "USR1", "always").returncode == 0  # not the end that somebody wants: it comes back
    assert eventually(lambda: seen("always").pid not in (None, first))
    assert cli("kill", "always").returncode == 0
    assert cli("wait", "always").stdout == "137\n" and status("always") == "exited"


def test_rm_f_ends_what_waits_for_its_next_start(store: dirs.Dirs) -> None:
    name = make("restarting")
    assert cli("rm", "-f", name).returncode == 0
    assert listing.entries(store) == []


def test_after_a_reboot_all_is_listed_named_and_started_as_its_policy_says(store: dirs.Dirs, tmp_path: Path) -> None:
    make("created")
    make("exited")
    for name, policy in (("always", "always"), ("unless", "unless-stopped"), ("stopped", "unless-stopped"), ("no", "no")):
        identity = background("--name", name, "--restart", policy, "busybox", "sh", "-c", "echo x >>/n; echo wrote; sleep 60")
        assert eventually(lambda identity=identity: log(identity) == ["stdout F wrote"])
    assert cli("stop", "stopped").returncode == 0
    for name in ("always", "unless", "no"):
        os.kill(int(str(seen(name).journal["owner"])), signal.SIGKILL)
        assert eventually(lambda name=name: status(name) == "dead")
    groups = [path for entry in listing.entries(store) for _, path in entry.groups]
    os.rename(store.state, tmp_path / "before")  # what was on tmpfs is gone, and so are the control groups
    for path in groups:
        undo("group", path)  # what was in it may still be dying
    assert {name: status(name) for name in ("created", "exited", "always", "unless", "stopped", "no")} == {
        "created": "created", "exited": "exited", "always": "exited", "unless": "exited", "stopped": "exited", "no": "exited",
    }  # fmt: skip
    assert (seen("exited").result or {})["exit_code"] == 3 and (seen("no").result or {})["reason"] == "lost"
    assert refused("create", "--name", "no", "busybox").startswith("the name 'no' is taken by container ")
    booted = cli("boot")
    assert (booted.returncode, booted.stdout.split()) == (0, ["always", "unless"])
    assert {name: status(name) for name in ("created", "stopped", "no", "always", "unless")} == {
        "created": "created", "stopped": "exited", "no": "exited", "always": "running", "unless": "running",
    }  # fmt: skip
    assert eventually(lambda: cli("exec", "always", "sh", "-c", "wc -l </n").stdout.strip() == "2")  # its writable layer was kept
    assert cli("boot").stdout == ""


def test_what_a_boot_starts_the_machines_end_ends_and_the_next_boot_starts_again(store: dirs.Dirs) -> None:
    for name, policy in (("always", "always"), ("unless", "unless-stopped"), ("paused", "always"), ("no", "no")):
        script = f"trap 'echo {name} heard it; exit' USR1; echo up; while :; do sleep 0.02; done"
        identity = background("--name", name, "--restart", policy, "--stop-signal", "USR1", "busybox", "sh", "-c", script)
        assert eventually(lambda identity=identity: log(identity) == ["stdout F up"])
    make("restarting")
    assert cli("pause", "paused").returncode == 0
    due = {"always", "unless", "paused", "restarting"}
    done = cli("boot", "--stop")
    assert (done.returncode, set(done.stdout.split()), done.stderr) == (0, due, "")
    assert {name: status(name) for name in (*due, "no")} == {**dict.fromkeys(due, "exited"), "no": "running"}
    for name in ("always", "unless", "paused"):
        assert cli("logs", name).stdout == f"up\n{name} heard it\n"
    assert cli("boot", "--stop").stdout == ""
    assert set(cli("boot").stdout.split()) == due
    assert cli("kill", "-s", "STOP", "always").returncode == 0  # it hears nothing
    assert {entry.name: error for entry, error in boot.leave(store, grace=0.5)} == dict.fromkeys(due)
    assert (seen("always").result or {})["reason"] == "signal"
    assert refused("boot", "always").startswith("boot: 'always': takes no arguments")


def test_twenty_commands_on_one_container_at_once_leave_it_whole(store: dirs.Dirs) -> None:
    background("--name", "one", "busybox", "sleep", "5")  # for which a wait waits, when a start comes last
    identity = seen("one").identity
    words = [("stop", "-t", "0"), ("start",), ("kill",), ("restart", "-t", "0"), ("wait",)]
    with ThreadPoolExecutor(20) as pool:
        jobs = [pool.submit(cli, *words[n % 5], identity) for n in range(16)]
        jobs += [pool.submit(cli, "rename", identity, f"name{n}") for n in range(4)]
        cli("stop", identity)
        done = [job.result() for job in jobs]
    for one in done:
        assert one.returncode in (0, 125) and "Traceback" not in one.stderr, one
        assert len(one.stderr.splitlines()) <= 2, one
    assert listing.find(store, identity).status in ("running", "exited")
    assert len(os.listdir(f"{store.store}/names")) == 1
    with ThreadPoolExecutor(8) as pool:
        removals = [*pool.map(lambda _: cli("rm", "-f", identity), range(8))]
    assert sum(one.returncode == 0 for one in removals) >= 1
    assert listing.entries(store) == [] and os.listdir(f"{store.store}/names") == os.listdir(store.uppers) == []


def test_fifty_at_once_are_all_started_under_their_own_names(store: dirs.Dirs) -> None:
    many = 8 if PURE_V2 else 50  # the slow kernel (User Mode Linux) starts one a second
    with ThreadPoolExecutor(many) as pool:
        made = [*pool.map(lambda n: background("--name", f"c{n}", "busybox", "sh", "-c", f"echo {n}; sleep 60"), range(many))]
    entries = listing.entries(store)
    assert len(entries) == many and {entry.status for entry in entries} == {"running"}
    assert [seen(f"c{n}").identity for n in range(many)] == made
    assert eventually(lambda: all(log(identity) == [f"stdout F {n}"] for n, identity in enumerate(made)))
    assert cli("rm", "-f", *made).stdout.split() == made
    assert listing.entries(store) == []


def test_a_start_that_is_refused_leaves_the_container_and_says_why(store: dirs.Dirs) -> None:
    identity = cli("create", "busybox", "nonsense").stdout.strip()
    done = cli("start", identity)
    assert done.returncode == 125 or done.returncode == 127
    assert "nonsense" in done.stderr and len(done.stderr.splitlines()) <= 2
    result = json.loads(cli("inspect", identity).stdout)[0]["result"]
    assert (result["reason"], result["exit_code"]) == ("launch-failed", 127) and "nonsense" in result["error"]
    assert os.listdir(store.state) == []
    assert cli("run", "-d", "--name", "never", "busybox", "nonsense").returncode == 127
    assert refused("rm", "never") == "no such container: never"


def test_a_paused_container_is_stopped(store: dirs.Dirs) -> None:
    identity = background("busybox", "sleep", "60")
    unified = next((path for controller, path in seen(identity).groups if controller == ""), "")
    if not os.path.exists(f"{unified}/cgroup.freeze"):
        pytest.skip("no cgroup.freeze here")
    Path(unified, "cgroup.freeze").write_text("1")
    assert eventually(lambda: status(identity) == "paused")
    assert refused("start", identity) == f"container {identity} is paused"
    assert cli("stop", "-t", "5", identity).returncode == 0
    assert (seen(identity).result or {})["exit_code"] == 143
    assert lifecycle.wait(store, seen(identity)) == 143


def test_it_can_be_interrupted_while_it_waits(store: dirs.Dirs) -> None:
    identity = background("busybox", "sleep", "60")
    waiting = start("wait", identity, stderr=subprocess.PIPE)
    time.sleep(0.5)
    waiting.send_signal(signal.SIGINT)
    assert (waiting.wait(30), waiting.communicate()[1]) == (130, b"")
    assert status(identity) == "running"
