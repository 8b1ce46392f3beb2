"""Whatever ends, the person's own terminal is as it was: signals to pybox, a kill, detaching and coming back, a window that is closed."""

# ruff: noqa: F811

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from harness import PYBOX, TIMEOUT, cli, eventually
from person import PROMPT, Person
from test_terminal import NAP, _living, cmdline, gone, living, on_terminal, ps, start, watched  # noqa: F401

# --- signals to pybox itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("-i",), ("-t",), ("-i", "-t")], ids=lambda options: "".join(options) or "none")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP])
def test_a_signal_to_pybox_ends_the_command_and_is_told(start: tuple[str, ...], options: tuple[str, ...], number: int) -> None:
    with Person(*on_terminal(start, "sh", "-c", f"echo up; exec {NAP}", options=options)) as person:
        person.expect("up")
        assert eventually(lambda: bool(ps(NAP)))
        assert options != ("-i", "-t") or eventually(lambda: person.raw)
        person.process.send_signal(number)
        assert person.end() == 128 + number
        assert person.mode() == person.before
        assert eventually(lambda: not ps(NAP))
    assert eventually(gone)


def test_a_signal_that_the_command_handles_is_handled(start: tuple[str, ...]) -> None:
    script = "trap 'echo heard; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    with Person(*on_terminal(start, "sh", "-c", script)) as person:
        person.expect("up")
        person.process.terminate()
        person.expect("heard")
        assert person.end() == 3


def test_a_shell_that_stops_pybox_and_continues_it_gets_a_raw_terminal_again(living: str) -> None:
    with Person("-i", command=("sh",)) as person:
        person.type("PS1='host> '\n")
        person.expect("host> ")
        person.expect("host> ")
        person.type(" ".join([*PYBOX, "exec", "-it", living, "sh"]) + "\n")
        person.expect(PROMPT)
        inner = next(pid for pid in os.listdir("/proc") if pid.isdigit() and f"exec\0-it\0{living}" in cmdline(pid))
        os.kill(int(inner), signal.SIGSTOP)
        person.expect("host> ")
        person.type("fg\n")
        person.expect(living)
        assert eventually(lambda: person.read() or person.raw)
        assert person.ask("echo $((40 + 2))").endswith("42")
        person.type("exit\n")
        person.expect("host> ")
        person.type("exit\n")
        person.end()


# --- the person's terminal after the end ---------------------------------------------------------------------------------------


def test_the_terminal_is_restored_when_it_can_not_be_started(start: tuple[str, ...]) -> None:
    with Person(*on_terminal(start, "nosuch")) as person:
        assert person.end() == 127
        assert person.mode() == person.before and "Traceback" not in person.text


def test_the_terminal_is_restored_when_the_container_is_killed() -> None:
    for name in _living("mortal"):
        for words in (("exec", "-it", name, "sh"), ("attach", name)):
            with Person(*words) as person:
                if words[0] == "exec":
                    person.expect(PROMPT)
                    assert cli("kill", name).returncode == 0
                    assert person.end() == 137
                else:
                    person.end()
                assert person.mode() == person.before


def test_the_terminal_is_restored_when_the_monitor_is_killed() -> None:
    with Person("run", "-it", "--rm", "--name", "orphan", "busybox", "sh") as person:
        person.expect(PROMPT)
        owner = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
        monitors = [
            int(line.split()[0]) for line in owner.splitlines() if line.split()[1:] == [str(person.process.pid), "pybox-monitor"]
        ]
        assert len(monitors) == 1
        os.kill(monitors[0], signal.SIGKILL)
        assert person.end() == 137
        assert person.mode() == person.before
    assert cli("gc").returncode == 0
    assert gone()


# --- leaving ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "typed"), [((), "\x10\x11"), (("--detach-keys", "ctrl-a,d"), "\x01d"), (("--detach-keys", "x"), "x")], ids=str
)
def test_the_detach_keys_leave_it_running_and_attach_comes_back(option: tuple[str, ...], typed: str) -> None:
    try:
        with Person("run", "-it", *option, "--name", "left", "busybox", "sh") as person:
            person.expect(PROMPT)
            for key in typed:
                person.type(key)
            assert person.end() == 0
            assert person.mode() == person.before
        with Person("attach", "left") as person:
            person.expect(PROMPT)  # it is drawn again
            person.type("echo $((40 + 2))\n")
            person.expect("42")
            person.type("exit 9\n")
            assert person.end() == 9
            assert person.mode() == person.before
    finally:
        cli("rm", "-f", "left")


def test_without_detach_keys_the_bytes_reach_the_command() -> None:
    with Person(
        "run",
        "-it",
        "--rm",
        "--detach-keys",
        "",
        "busybox",
        "sh",
        "-c",
        "stty raw -echo; echo up; dd bs=1 count=2 2>/dev/null | od -c",
    ) as person:
        person.expect("up")
        person.type("\x10\x11")
        person.expect("020 021")
        assert person.end() == 0


@pytest.mark.parametrize("keys", ["ctrl-", "ctrl-ab", "ab", "ctrl-p,", "ctrl-1", "é", "ctrl-\t"])
def test_detach_keys_that_are_none_are_refused(keys: str, living: str) -> None:
    for words in (("run", "-t", "--detach-keys", keys, "busybox", "true"), ("attach", "--detach-keys", keys, living)):
        done = cli(*words)
        assert done.returncode == 125 and "detach-keys" in done.stderr and "Traceback" not in done.stderr


def test_closing_the_terminal_ends_the_container_that_was_started_in_it() -> None:
    with Person("run", "-it", "--rm", "busybox", "sh", "-c", f"trap '' HUP; echo up; exec {NAP}") as person:
        person.expect("up")
        person.go_away()
        person.process.wait(TIMEOUT)
    assert eventually(lambda: not ps(NAP)) and eventually(gone)


def test_closing_the_terminal_ends_what_exec_runs_in_it(living: str, watched: str) -> None:
    for name in (living, watched):
        with Person("exec", "-it", name, "sh", "-c", f"trap '' HUP; echo up; exec {NAP}") as person:
            person.expect("up")
            person.go_away()
            person.process.wait(TIMEOUT)
        assert eventually(lambda: not ps(NAP))


def test_closing_the_terminal_of_who_attached_leaves_the_container_alone() -> None:
    try:
        assert cli("run", "-d", "-i", "-t", "--name", "stays", "busybox", "sh").returncode == 0
        with Person("attach", "stays") as person:
            person.type("echo $((40 + 2))\n")
            person.expect("42")
            person.go_away()
            person.process.wait(TIMEOUT)
        with Person("attach", "stays") as person:
            person.type("echo $((40 + 3))\n")
            person.expect("43")
            person.type("\x10\x11")
            assert person.end() == 0
    finally:
        cli("rm", "-f", "stays")


def test_killing_pybox_ends_the_container_that_it_owns(start: tuple[str, ...]) -> None:
    with Person(*on_terminal(start, "sh", "-c", f"echo up; exec {NAP}")) as person:
        person.expect("up")
        person.process.kill()
        person.process.wait(TIMEOUT)
        assert eventually(lambda: not ps(NAP))
    assert eventually(gone)


def test_two_who_are_attached_see_the_same() -> None:
    try:
        assert cli("run", "-d", "-i", "-t", "--name", "shared", "busybox", "sh").returncode == 0
        with Person("attach", "shared") as one, Person("attach", "shared") as two:
            for person in (one, two):
                person.type("\n")
                person.expect(PROMPT)
            one.type("echo $((40 + 2))\n")
            one.expect("42\r\n")
            two.expect("42\r\n")
            two.type("exit 4\n")
            assert (one.end(), two.end()) == (4, 4)
    finally:
        cli("rm", "-f", "shared")


@pytest.mark.parametrize("state", ["stopped", "unknown"])
def test_attaching_to_what_does_not_run_is_one_clear_line(state: str) -> None:
    assert cli("create", "--name", "idle", "busybox", "sh").returncode == 0
    try:
        done = cli("attach", "idle" if state == "stopped" else "nobody")
        lines = done.stderr.splitlines()
        assert done.returncode == 125 and lines[0].startswith("pybox: error: ") and len(lines) <= 2
    finally:
        cli("rm", "-f", "idle")
