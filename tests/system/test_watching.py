"""Running containers seen and steered from outside, on the real kernel: stats, top, pause, update, events, the comparison."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import CGROUPS, CONTROLLERS, PURE_V2, TIMEOUT, Images, cli, eventually, start

from pybox import dirs, listing, state
from pybox.cli.compare import compare
from pybox.errors import StateError
from pybox.kernel import freezer
from pybox.kernel.processes import processes
from pybox.live import held
from pybox.undo import kill_group, remove_group
from pybox.watch import Watcher

MIB = 1 << 20
LIMITS = ("-m", "64M", "--pids-limit", "20")
# a group that can be frozen: with any limit on cgroup v2; on a hybrid host --pid host makes one
FREEZABLE = ("--pids-limit", "20") if PURE_V2 else ("--pid", "host")
needs_limits = pytest.mark.skipif(not {"memory", "pids", "cpu"} <= CONTROLLERS, reason="this kernel has not all the controllers")


@contextmanager
def background(*words: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a container beside the test; yields its id and its pybox. However it is left, paused or ended, nothing stays."""
    name = f"t{time.monotonic_ns()}"
    process = start("run", "--rm", "--name", name, *words, stderr=subprocess.PIPE)
    try:
        assert eventually(lambda: process.poll() is not None or _runs(name)), "it never ran"
        assert process.poll() is None, process.stderr and process.stderr.read()
        entry = listing.find(dirs.current(), name)
        yield entry.identity, process
    finally:
        process.kill()
        process.communicate()
        assert eventually(lambda: bool(state.sweep(dirs.current())) or not os.path.exists(f"{dirs.current().store}/names/{name}"))


def _runs(name: str) -> bool:
    return any(entry.name == name and entry.status == "running" for entry in listing.entries(dirs.current()))


def shown(*words: str) -> object:
    """Return what a command says as JSON."""
    done = cli(*words, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stats(identity: str) -> dict[str, float | None]:
    """Return the usage of one container."""
    (found,) = shown("stats", "--no-stream", identity)  # type: ignore[misc]
    return found  # type: ignore[no-any-return]


# --- stats -------------------------------------------------------------------------------------------------------------------


@needs_limits
def test_stats_say_what_the_groups_count() -> None:
    with background(*LIMITS, "--cpus", "0.2", "busybox", "sh", "-c", "while :; do :; done & sleep 1000") as (identity, _):
        assert eventually(lambda: bool(stats(identity)["throttled_percent"]))
        seen = stats(identity)
        assert (seen["memory_limit"], seen["pids_limit"], seen["cpus"]) == (64 * MIB, 20, 0.2)
        assert seen["memory"] and 0 < seen["memory"] < 64 * MIB and seen["memory_peak"] and seen["memory_peak"] >= seen["memory"]
        assert seen["pids"] == 3  # pybox-init, the shell in the background, sleep
        assert seen["throttled_percent"] and seen["throttled_percent"] > 0
        assert (seen["cpu_percent"] is not None) == PURE_V2  # v1's cpu controller counts no time
        assert shown("stats", "--no-stream", identity[:6])[0]["id"] == identity  # type: ignore[index]
        table = cli("stats", "--no-stream").stdout.splitlines()
        assert table[0].startswith("CONTAINER ID") and any(identity in line and "/ 64MiB" in line for line in table[1:])


def test_what_nobody_counts_is_unknown_and_not_zero() -> None:
    with background("busybox", "sleep", "1000") as (identity, _):
        seen = stats(identity)
        assert {name for name, value in seen.items() if value is not None} == {"id", "name"}
        line = next(line for line in cli("stats", "--no-stream").stdout.splitlines() if identity in line)
        assert "0" not in line.removeprefix(identity).split(None, 1)[1] and line.count("-") >= 7


def test_stats_of_a_group_that_can_be_frozen_have_its_time() -> None:
    with background(*FREEZABLE, "busybox", "sh", "-c", "while :; do :; done") as (identity, _):
        assert (stats(identity)["cpu_percent"] or 0) > 0


def test_stats_go_on_until_an_interrupt_and_say_nothing_then() -> None:
    with background("busybox", "sleep", "1000") as (identity, _):
        watching = start("stats", "--format", "json", stderr=subprocess.PIPE)
        assert watching.stdout is not None
        lines = [json.loads(watching.stdout.readline()) for _ in range(2)]
        assert all(identity in [view["id"] for view in line] for line in lines)
        watching.send_signal(signal.SIGINT)
        _, complaints = watching.communicate(timeout=TIMEOUT)
        assert (watching.returncode, complaints) == (0, b"")


def test_stats_of_named_containers_end_with_them() -> None:
    with background("busybox", "sleep", "1000") as (identity, process):
        watching = start("stats", identity)
        assert watching.stdout is not None and watching.stdout.readline()
        process.send_signal(signal.SIGTERM)
        watching.communicate(timeout=TIMEOUT)
        assert watching.returncode == 0


# --- top ---------------------------------------------------------------------------------------------------------------------


def hostile(tree: Path) -> None:
    """Make all that a listing could be tempted to run leave a mark."""
    for name in ("bin/ps", "bin/top"):
        (tree / name).unlink(missing_ok=True)
        (tree / name).write_text("#!/bin/sh\ntouch /tmp/was-run\n")
        (tree / name).chmod(0o755)


def test_top_shows_the_processes_without_running_anything_of_the_image(image: Images) -> None:
    with background("--userns", "-u", "1000", image(hostile), "sh", "-c", "sleep 1000; true", "\x1b]0;pwned\x07\n") as (
        identity,
        _,
    ):
        assert eventually(
            lambda: cli("top", identity).stdout.rstrip().endswith("sleep 1000")
        )  # pybox-init, the shell, and what it starts
        done = cli("top", identity)
        assert done.returncode == 0 and "\x1b" not in done.stdout and r"\x1b]0;pwned\x07" in done.stdout
        rows = [line.split() for line in done.stdout.splitlines()]
        assert rows[0][:5] == ["PID", "HOST", "PID", "USER", "S"]
        assert [row[0] for row in rows[1:]] == ["1", "2", "3"] and {row[2] for row in rows[1:]} == {"1000"}
        assert [row[-2:] for row in rows[1:] if row[0] == "3"] == [["sleep", "1000"]]
        with held(dirs.current(), identity) as live:
            assert not os.path.exists(f"/proc/{live.pid}/root/tmp/was-run")
        assert cli("top", identity, "-o", "user,pid").stdout.split()[:4] == ["USER", "PID", "1000", "1"]


def test_the_control_group_and_the_pid_namespace_name_the_same_processes() -> None:
    with (
        background("--pids-limit", "20", "busybox", "sh", "-c", "sleep 1000 & sleep 1000; true") as (identity, _),
        background("busybox", "sleep", "1000"),
        held(dirs.current(), identity) as live,
    ):
        assert eventually(lambda: [process.name for process in processes(live.pid, ())].count("sleep") == 2)
        by_group = [process.host_pid for process in processes(live.pid, live.groups)]
        assert by_group == [process.host_pid for process in processes(live.pid, ())] and len(by_group) == 4


def test_top_finds_those_in_a_pid_namespace_made_inside() -> None:
    nested = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "busybox", "unshare", "-p", "-f", "sleep", "1000")
    with background(*nested) as (identity, _):
        wanted = [["pybox-init"], ["unshare"], ["sleep"]]
        assert eventually(lambda: [view["command"].split()[:1] for view in shown("top", identity)] == wanted)  # type: ignore[attr-defined]


# --- pause -------------------------------------------------------------------------------------------------------------------


def test_a_paused_container_stands_still_until_it_is_unpaused(tmp_path: Path) -> None:
    count = tmp_path / "count"
    script = "while :; do echo >>/data/count; sleep 0.01; done"
    with background(*FREEZABLE, "-v", f"{tmp_path}:/data", "busybox", "sh", "-c", script) as (identity, _):
        assert eventually(lambda: count.exists() and count.stat().st_size > 1)
        done = cli("pause", identity)
        assert (done.returncode, done.stdout) == (0, f"{identity}\n")
        groups = listing.find(dirs.current(), identity).groups
        assert freezer.frozen(groups)
        before = count.stat().st_size
        time.sleep(0.3)
        assert count.stat().st_size == before
        assert "it is paused already" in cli("pause", identity).stderr
        assert cli("unpause", identity).returncode == 0 and not freezer.frozen(groups)
        assert eventually(lambda: count.stat().st_size > before)
        assert "it is not paused" in cli("unpause", identity).stderr


def test_a_container_without_a_group_can_not_be_paused_and_is_told_why() -> None:
    with background("busybox", "sleep", "1000") as (identity, _):
        done = cli("pause", identity)
        assert (
            done.returncode == 125 and "it has no control group that could be frozen" in done.stderr and "hint: " in done.stderr
        )


def test_a_time_out_kills_a_paused_container() -> None:
    with background(*FREEZABLE, "--timeout", "3" if PURE_V2 else "1", "busybox", "sleep", "1000") as (identity, process):
        assert cli("pause", identity).returncode == 0
        assert process.wait(TIMEOUT) == 137


def test_nothing_is_left_of_a_paused_container_whose_pybox_was_killed() -> None:
    with background(*FREEZABLE, "busybox", "sleep", "1000") as (identity, process):
        assert cli("pause", identity).returncode == 0
        process.kill()
        process.wait()
        assert cli("gc").returncode == 0
        with pytest.raises(StateError, match="no such container"):
            listing.find(dirs.current(), identity)


def test_the_v1_freezer_stops_and_starts_and_its_frozen_can_be_killed() -> None:
    place = dict(CGROUPS.v1).get("freezer")
    if place is None:
        pytest.skip("this host has no v1 freezer")
    path = Path(f"{place}/pybox-{state.new_id()}")
    path.mkdir()
    groups = (("freezer", str(path)),)
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            (path / "cgroup.procs").write_text(str(process.pid))
            freezer.freeze(groups)
            assert freezer.frozen(groups)
            freezer.thaw(groups)
            assert not freezer.frozen(groups) and process.poll() is None
            freezer.freeze(groups)
            kill_group(str(path))
            assert process.wait(TIMEOUT) == -signal.SIGKILL
        finally:
            freezer.thaw(groups)
            process.kill()
            process.wait()
            remove_group(str(path))


# --- update ------------------------------------------------------------------------------------------------------------------


@needs_limits
def test_new_limits_hold_for_a_running_container(tmp_path: Path) -> None:
    script = "while [ ! -e /data/go ]; do sleep 0.05; done; inside forks 100 >/data/forks; sleep 1000"
    with background(*LIMITS, "--cpus", "1", "-v", f"{tmp_path}:/data", "busybox", "sh", "-c", script) as (identity, _):
        done = cli("update", identity, "--pids-limit", "10", "-m", "128M", "--cpus", "0.5")
        assert (done.returncode, done.stdout) == (0, f"{identity}\n")
        seen = stats(identity)
        assert (seen["memory_limit"], seen["pids_limit"], seen["cpus"]) == (128 * MIB, 10, 0.5)
        (tmp_path / "go").touch()
        assert eventually(lambda: (tmp_path / "forks").exists() and "EAGAIN" in (tmp_path / "forks").read_text())
        assert cli("update", "--pids-limit", "-1", identity).returncode == 0 and stats(identity)["pids_limit"] is None


@needs_limits
@pytest.mark.skipif(CGROUPS.swap, reason="this host would swap it out")
def test_memory_can_not_be_lowered_below_what_is_in_use_and_nothing_else_is_changed_then() -> None:
    with background(
        "-m", "256M", "--pids-limit", "20", "busybox", "sh", "-c", "dd if=/dev/zero of=/tmp/x bs=1M count=64; sleep 1000"
    ) as (identity, process):
        assert eventually(lambda: (stats(identity)["memory"] or 0) > 60 * MIB)
        done = cli("update", identity, "--pids-limit", "7", "-m", "8M")
        assert done.returncode == 125 and f"cannot lower --memory to {8 * MIB}" in done.stderr
        seen = stats(identity)
        assert (seen["memory_limit"], seen["pids_limit"]) == (256 * MIB, 20) and process.poll() is None


@needs_limits
def test_a_limit_of_a_controller_it_has_no_group_for_is_refused() -> None:
    asked = ("--cpus", "0.5") if not PURE_V2 else ("--cpuset-cpus", "0")
    with background("--pids-limit", "20", "busybox", "sleep", "1000") as (identity, _):
        if PURE_V2 and all(os.path.exists(f"{path}/cpuset.cpus") for _, path in listing.find(dirs.current(), identity).groups):
            pytest.skip("its one group has all controllers")
        done = cli("update", identity, "--pids-limit", "9", *asked)
        assert done.returncode == 125 and f"cannot change {asked[0]}: the container has no control group" in done.stderr
        assert stats(identity)["pids_limit"] == 20


# --- events ------------------------------------------------------------------------------------------------------------------


@contextmanager
def meanwhile(*words: str) -> Iterator[None]:
    """Run a command while the test looks on."""
    with start(*words, stderr=subprocess.DEVNULL):
        yield


def told(watcher: Watcher, last: str) -> list[tuple[str, int | None]]:
    """Return (event, exit code) up to one of a kind."""
    found: list[tuple[str, int | None]] = []
    while not found or found[-1][0] != last:
        new = watcher.wait(TIMEOUT)
        assert new, found
        found += [(event.kind, event.exit_code) for event in new]
    return found


KNOWS_EXITS = tuple(int(word) for word in os.uname().release.split(".")[:2]) >= (6, 15)


# it lives until it has been seen: of one that is gone before its files are read there is less to tell
UNTIL_SEEN = "until [ -e /data/seen ]; do sleep 0.02; done; exit 7"


def test_events_tell_the_life_of_a_container_that_is_forgotten(tmp_path: Path) -> None:
    words = ("run", "--rm", "-v", f"{tmp_path}:/data", "busybox", "sh", "-c", UNTIL_SEEN)
    with Watcher(dirs.current()) as watcher, meanwhile(*words):
        assert told(watcher, "start") == [("create", None), ("start", None)]
        (tmp_path / "seen").touch()
        assert told(watcher, "destroy") == [("die", 7 if KNOWS_EXITS else None), ("destroy", None)]


def test_events_tell_the_life_of_a_container_that_is_kept(tmp_path: Path) -> None:
    words = ("run", "--name", "kept", "-v", f"{tmp_path}:/data", "busybox", "sh", "-c", UNTIL_SEEN)
    with Watcher(dirs.current()) as watcher:
        with meanwhile(*words):
            assert told(watcher, "start") == [("create", None), ("start", None)]
            (tmp_path / "seen").touch()
            assert told(watcher, "die") == [("die", 7)]
        with meanwhile("rm", "kept"):
            assert told(watcher, "destroy") == [("destroy", None)]


@needs_limits
def test_events_tell_of_a_pause_and_of_running_out_of_memory() -> None:
    words = (*FREEZABLE, "-m", "32M", "--memory-swap", "32M", "busybox", "sh", "-c")
    with Watcher(dirs.current()) as watcher:
        with background(*words, "sleep 1000; true") as (identity, _):
            told(watcher, "start")
            for verb in ("pause", "unpause"):
                with meanwhile(verb, identity):
                    assert told(watcher, verb) == [(verb, None)]
        told(watcher, "destroy")
        with background(*words, f"inside eat {256 * MIB}; sleep 1000; true"):
            assert [kind for kind, _ in told(watcher, "oom")] == ["create", "start", "oom"]
        assert [kind for kind, _ in told(watcher, "destroy")] == ["die", "destroy"]


def test_events_are_printed_as_they_happen_until_an_interrupt() -> None:
    watching = start("events", "--filter", "event=start", "--format", "json", stderr=subprocess.PIPE)
    assert watching.stdout is not None
    begun: list[str] = []
    while not begun:  # it takes a moment until it watches
        os.set_blocking(watching.stdout.fileno(), False)
        cli("run", "--rm", "busybox", "sleep", "0.2")
        begun += (watching.stdout.read() or b"").decode().splitlines()
    event = json.loads(begun[0])
    assert (event["event"], event["image"]) == ("start", "busybox")
    watching.send_signal(signal.SIGINT)
    _, complaints = watching.communicate(timeout=TIMEOUT)
    assert (watching.returncode, complaints) == (0, b"")


# --- the comparison ----------------------------------------------------------------------------------------------------------


def test_the_comparison_says_what_is_still_shared(capsys: pytest.CaptureFixture[str]) -> None:
    with background("--network", "host", "--pids-limit", "20", "-v", "/etc:/data:ro", "busybox", "sleep", "1000") as (
        identity,
        _,
    ):
        assert compare(dirs.current(), ["--host", identity]) == 0
        text = capsys.readouterr().out
        shared = text.splitlines()[-1]
        assert shared.startswith("still shared with the host: the kernel")
        assert (
            "network interfaces" in shared
            and "all memory" in shared
            and "process ids" not in shared
            and "processes" not in shared
        )
        assert compare(dirs.current(), [identity, "--format", "json"]) == 0
        rows = {row["what"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
        assert rows["net namespace"]["container"] == "= same" and rows["pid namespace"]["container"].isdigit()
        assert (rows["no_new_privs"]["host"], rows["no_new_privs"]["container"]) == ("0", "1")
        assert rows["capabilities"]["container"] == "11" and rows["processes"]["container"] == "20"
        assert "/data" in rows["mounts"]["means"] and f"pybox-{identity}" in rows["control group"]["container"]
