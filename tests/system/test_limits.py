"""A limit holds, is billed, and is told apart from other ends; one that can't hold is refused before anything is made."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from harness import CGROUPS, CONTROLLERS, PURE_V2, cli, running, said, shell, start

import pybox
from pybox.result import Result
from pybox.seen import Seen
from pybox.spec import Limits, Spec

VERSION = "cgroup v2" if PURE_V2 else "cgroup v1"
MIB = 1 << 20


def needs(*controllers: str) -> pytest.MarkDecorator:
    missing = [name for name in controllers if name not in CONTROLLERS]
    return pytest.mark.skipif(bool(missing), reason=f"this kernel has no cgroup controller {', '.join(missing)}")


# --- how it ended ------------------------------------------------------------------------------------------------------------


@needs("memory")
@pytest.mark.parametrize("init", [True, False])
def test_running_out_of_memory_is_told_as_such(init: bool) -> None:
    result = pybox.run("busybox", ["inside", "eat", str(256 * MIB)], memory="32M", memory_swap="32M", init=init)
    assert (result.reason, result.exit_code, result.signal) == ("oom", 137, 9)
    assert dict(result.limit_hits)["memory"] > 0
    assert result.memory_peak is not None and 16 * MIB < result.memory_peak <= 33 * MIB


@pytest.mark.parametrize("init", [True, False])
def test_being_killed_is_not_running_out_of_memory(init: bool) -> None:
    with running(Spec("busybox", ("sleep", "1000"), init=init)) as (_, child, _):
        assert child.pid > 0
    result = pybox.run(
        "busybox", ["sh", "-c", "kill -9 $$; sleep 1"] if init else ["true"], memory="64M" if "memory" in CONTROLLERS else None
    )
    assert not init or (result.reason, result.exit_code, result.signal) == ("signal", 137, 9)


@pytest.mark.parametrize("init", [True, False])
def test_a_time_out_kills_the_whole_container_and_is_told_as_such(init: bool) -> None:
    result = shell("sleep 1000 & sleep 1000", timeout=0.3, init=init)
    assert (result.reason, result.exit_code, result.signal) == ("timeout", 137, 9)
    assert result.wall >= 0.3


def test_a_time_out_does_not_wait_for_one_that_ignores_signals() -> None:
    result = shell("trap '' TERM INT HUP; echo said; while :; do sleep 1000; done", timeout=1)
    assert (result.reason, result.stdout) == ("timeout", b"said\n")


def test_ending_with_137_by_itself_is_an_exit() -> None:
    result = shell("exit 137")
    assert (result.reason, result.exit_code, result.signal) == ("exit", 137, None)


@needs("memory")
def test_a_command_that_survives_the_death_of_its_child_has_exited() -> None:
    result = shell(f"inside eat {256 * MIB} 2>/dev/null; exit 3", memory="32M", memory_swap="32M")
    assert (result.reason, result.exit_code) == ("exit", 3)


@needs("memory")
def test_the_command_line_says_what_killed_it() -> None:
    done = cli("run", "--rm", "-m", "32m", "--memory-swap", "32m", "busybox", "inside", "eat", str(256 * MIB))
    assert done.returncode == 137 and "out of memory" in done.stderr
    done = cli("run", "--rm", "--timeout", "0.3", "busybox", "sleep", "1000")
    assert done.returncode == 137 and "time-out" in done.stderr


# --- memory ------------------------------------------------------------------------------------------------------------------


@needs("memory")
def test_the_peak_of_memory_is_what_was_used() -> None:
    result = pybox.run("busybox", ["inside", "eat", str(48 * MIB)], memory="256M")
    assert result.ok and result.memory_peak is not None and 48 * MIB <= result.memory_peak < 64 * MIB


@pytest.mark.parametrize("init", [True, False])
def test_without_a_limit_the_peak_is_that_of_the_largest_process_and_not_pyboxs_own(init: bool) -> None:
    """Until exec the child's memory is pybox's, and the kernel counts that into the child's maximum."""
    ours = bytearray(os.urandom(1)) * (64 * MIB)
    more = (128 if init else 512) * MIB  # 512: than all of this process, which is counted until exec
    result = pybox.run("busybox", ["inside", "eat", str(8 * MIB)], init=init)
    assert result.memory_peak is None or 8 * MIB <= result.memory_peak < 16 * MIB
    assert not init or result.memory_peak is not None
    result = pybox.run("busybox", ["inside", "eat", str(more)], init=init)
    assert result.memory_peak is not None and more <= result.memory_peak < more + 32 * MIB
    del ours


@needs("memory")
def test_memory_within_the_limit_is_no_hit() -> None:
    result = pybox.run("busybox", ["inside", "eat", str(8 * MIB)], memory="256M")
    assert result.ok and result.limit_hits == ()


def test_a_swap_limit_below_the_memory_limit_is_refused() -> None:
    with pytest.raises(pybox.SpecError, match="must not be less than --memory"):
        shell("true", memory="64M", memory_swap="32M")


# --- processes and CPUs ------------------------------------------------------------------------------------------------------


@needs("pids")
def test_the_pids_limit_stops_a_fork_bomb() -> None:
    result = pybox.run("busybox", ["inside", "forks", "1000"], pids=20)
    made, why = said(result).split()
    assert int(made) < 20 and why == "EAGAIN"
    assert dict(result.limit_hits)["pids"] > 0


@needs("pids")
def test_a_fork_bomb_that_does_not_stop_ends_with_its_container() -> None:
    # exec: a shell that forks for sleep may find that the bomb has taken the last process, and end by itself
    result = shell("bomb() { bomb | bomb & }; bomb; exec sleep 1000", pids=30, timeout=2)
    assert result.reason == "timeout" and dict(result.limit_hits)["pids"] > 0


@needs("pids")
def test_a_pids_limit_too_small_for_init_and_command_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(pybox.PyboxError):
        shell("true", pids=1)
    assert pybox.run("busybox", ["true"], pids=1, init=False).ok


@needs("cpu")
def test_the_cpu_quota_throttles() -> None:
    result = pybox.run("busybox", ["inside", "spin", "300"], cpus=0.1)
    assert result.ok
    assert dict(result.limit_hits)["cpu"] > 0
    assert result.wall > 1.5  # 0.3 s of CPU time at a tenth of a CPU, less the first period


@needs("cpu")
def test_shares_are_set() -> None:
    with running(Spec("busybox", ("sleep", "1000"), limits=Limits(cpu_shares=512))) as (seen, _, identity):
        path = group(seen, "cpu")
        assert path.endswith(f"pybox-{identity}")
        assert Path(path, "cpu.weight" if PURE_V2 else "cpu.shares").read_text().strip() == ("20" if PURE_V2 else "512")


def group(seen: Seen, controller: str) -> str:
    """Return the directory of a control group of a container."""
    for line in seen.file("cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") or (PURE_V2 and not controllers):
            name = path.rsplit("/", 1)[-1]
            base = CGROUPS.unified if PURE_V2 else dict(CGROUPS.v1)[controller]
            return f"{base}/{name}"
    raise AssertionError(f"no group for {controller}")


@needs("cpuset")
def test_the_cpu_set_holds() -> None:
    last = max(os.sched_getaffinity(0))
    assert said(shell("grep Cpus_allowed_list /proc/self/status", cpuset_cpus=str(last))).split()[1] == str(last)


@needs("cpuset")
def test_a_cpu_that_does_not_exist_is_refused_with_the_kernels_reason() -> None:
    with pytest.raises(pybox.LimitError, match=r"cannot enforce --cpuset-cpus: write 4000 to .*cpuset\.cpus"):
        shell("true", cpuset_cpus="4000")


def test_cpu_time_is_billed_for_all_processes() -> None:
    result = shell("inside spin 200 >/dev/null & inside spin 200 >/dev/null; wait")
    assert result.ok and result.cpu_user + result.cpu_system >= 0.35


def test_oom_score_adj_is_set_and_within_bounds() -> None:
    assert said(shell("cat /proc/self/oom_score_adj", oom_score_adj=777)) == "777"
    with pytest.raises(pybox.SpecError, match="oom-score-adj"):
        shell("true", oom_score_adj=1001)


# --- what is enforced --------------------------------------------------------------------------------------------------------


@needs("memory", "pids", "cpu")
def test_effective_says_what_enforces_each_limit() -> None:
    result = shell("true", memory="64M", pids=10, cpus=1)
    assert dict(result.effective) == {"--memory": VERSION, "--pids-limit": VERSION, "--cpus": VERSION}
    assert shell("true").effective == ()


@needs("memory")
def test_the_container_sees_its_own_group_as_the_root_and_cannot_write_to_it() -> None:
    lines = said(shell("cat /proc/self/cgroup", memory="64M")).splitlines()
    assert {line.split(":", 2)[2] for line in lines if "memory" in line or PURE_V2} == {"/"}
    if PURE_V2:
        assert b"Read-only file system" in (shell("echo max >/sys/fs/cgroup/memory.max", memory="64M").stderr or b"")


def test_a_limit_of_nonsense_is_refused_before_anything_is_made() -> None:
    for option, value in (
        ("-m", "-5"), ("-m", "1"), ("-m", "64Q"), ("--cpus", "0"), ("--cpus", "nan"), ("--cpus", "inf"), ("--pids-limit", "0"),
        ("--cpuset-cpus", "3-1"), ("--cpuset-cpus", "a"), ("--timeout", "0"), ("--timeout", "-1"), ("-c", "1"), ("--ulimit", "nofile"),
    ):  # fmt: skip
        done = cli("run", "--rm", option, value, "busybox", "true")
        assert done.returncode == 125 and done.stderr.startswith("pybox: error: ") and "Traceback" not in done.stderr, (
            option,
            value,
        )


# --- the status file ---------------------------------------------------------------------------------------------------------


def test_the_status_file_has_the_fields_of_a_result(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    done = cli("run", "--rm", "--status-file", str(path), "busybox", "sh", "-c", "exit 5")
    found = json.loads(path.read_text())
    assert done.returncode == 5
    assert set(found) == {"schema", *Result._fields} - {"stdout", "stderr"}
    assert (found["schema"], found["reason"], found["exit_code"], found["signal"], found["error"]) == (
        "pybox.result/1",
        "exit",
        5,
        None,
        None,
    )
    assert found["wall"] > 0 and found["args"] == ["sh", "-c", "exit 5"] and found["image"] == "busybox"


def test_the_status_file_tells_why_it_never_ran(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    done = cli("run", "--rm", "--status-file", str(path), "busybox", "no-such-program")
    found = json.loads(path.read_text())
    assert (
        done.returncode == found["exit_code"] == 127
        and found["reason"] == "launch-failed"
        and "no-such-program" in found["error"]
    )


def test_a_status_file_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    done = cli("run", "--rm", "--status-file", "/nonexistent/status", "-v", f"{tmp_path}:/v", "busybox", "touch", "/v/ran")
    assert done.returncode == 125 and "status-file" in done.stderr
    assert os.listdir(tmp_path) == []


def test_the_status_file_says_that_a_signal_ended_it(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    with start("run", "--rm", "--status-file", str(path), "busybox", "sh", "-c", "echo up; sleep 1000") as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + 15
    found = json.loads(path.read_text())
    assert (found["reason"], found["signal"], found["exit_code"]) == ("signal", 15, 143)


def test_a_result_says_what_the_job_used_of_everything() -> None:
    script = "dd if=/dev/zero of=/tmp/x bs=64k count=16 2>/dev/null; sleep 0.1 & sleep 0.1 & wait"
    result = shell(script, pids=20)
    assert result.ok and result.image_id.startswith("sha256:") and len(result.image_id) == 7 + 64
    assert result.io_read is not None and result.io_written is not None
    assert result.pids_peak is None or 4 <= result.pids_peak <= 6  # Linux 6.10; init, the shell and two in the background
    if PURE_V2:
        assert [name for name, _ in result.stall] in (["cpu", "memory", "io"], [])  # none in a kernel without PSI
        assert all(0 <= seconds <= result.wall for _, seconds in result.stall)
