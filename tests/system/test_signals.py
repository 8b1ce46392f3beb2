"""Signals reach the command, its end is told truly, and a container never outlives its pybox."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen

import pytest
from harness import TIMEOUT, cli, eventually, inside, shell, start

import pybox
from pybox import api
from pybox.native import Child
from pybox.runtime import Options
from pybox.spec import Spec


def line(process: Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


@pytest.mark.parametrize("init", ["--init", "--no-init"])
def test_signals_are_passed_on_to_the_command(init: str) -> None:
    with start("run", "--rm", init, "busybox", "inside", "signals") as process:
        assert line(process) == "ready"
        for name in ("HUP", "INT", "QUIT", "USR1", "USR2", "WINCH"):
            process.send_signal(getattr(signal, f"SIG{name}"))
            assert line(process) == name
        process.send_signal(signal.SIGTERM)
        assert line(process) == "TERM"
        assert process.wait(TIMEOUT) == 7


def test_a_signal_that_comes_as_the_wait_begins_is_not_held_back() -> None:
    """Between Python's last look for signals and its wait is a moment in which only a wake-up fd is heard."""
    for _ in range(40):
        with start("run", "--rm", "busybox", "inside", "signals") as process:
            assert line(process) == "ready"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 7


def test_a_command_without_handlers_is_ended_by_term_under_init() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with start("run", "--rm", "busybox", "sh", "-c", "echo up; exec sleep 1000") as process:
            assert line(process) == "up"
            process.send_signal(number)
            assert process.wait(TIMEOUT) == 128 + number


def test_a_signal_is_never_lost_whenever_it_comes() -> None:
    for step in range(25):
        with start("run", "--rm", "busybox", "sleep", "1000") as process:
            time.sleep(step * 0.006)  # before, while and after the container starts
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT) in (-15, 143), "the signal came before the handlers, or was passed on"
    cli("gc")  # an early one may have killed pybox itself


@pytest.mark.parametrize("number", [1, 2, 3, 6, 9, 10, 11, 13, 14, 15])
def test_the_exit_code_of_a_signal_is_128_and_its_number(number: int) -> None:
    result = pybox.run("busybox", ["inside", "kill", str(number)])
    assert (result.reason, result.signal, result.exit_code) == ("signal", number, 128 + number)


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("code", [0, 1, 125, 126, 127, 137, 255])
def test_the_exit_code_is_the_commands_own(code: int, init: bool) -> None:
    result = shell(f"exit {code}", init=init)
    assert (result.reason, result.signal, result.exit_code) == ("exit", None, code)


def test_orphans_are_reaped() -> None:
    assert inside("orphans", "30") == "ok"


def test_what_a_command_leaves_behind_ends_with_it() -> None:
    result = shell("sleep 1000 & (sleep 1000 &) ; echo done")
    assert (result.exit_code, result.stdout) == (0, b"done\n")


@contextmanager
def killed(*options: str) -> Iterator[str]:
    """Start a container with a grandchild, kill pybox when it runs, yield the name of its mount namespace, clean up."""
    words = ("run", *options, "busybox", "sh", "-c", "sleep 1000 & echo up; sleep 1000")
    with start(*words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        if "--step" in options:
            assert process.stdin is not None
            process.stdin.write(b"g\n")
            process.stdin.flush()
        assert line(process) == "up"
        found = json.loads(cli("ps", "--format", "json").stdout)
        assert len(found) == 1 and found[0]["status"] == "running"
        namespace = os.readlink(f"/proc/{found[0]['pid']}/ns/mnt")
        assert members(namespace)
        process.kill()
        process.wait()
    try:
        yield namespace
    finally:
        cli("gc")


def members(namespace: str) -> list[str]:
    """Return the living processes of a mount namespace."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/ns/mnt") == namespace:
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    "options",
    [(), ("--no-init",), ("--userns",), ("-u", "alice"), ("--pid", "host"), ("--step",), ("--pid", "host", "--step")],
    ids=" ".join,
)
def test_when_pybox_is_killed_the_container_dies_too(options: tuple[str, ...]) -> None:
    with killed(*options) as namespace:
        assert eventually(lambda: not members(namespace), seconds=TIMEOUT if options[:1] != ("--pid",) else 3)


def test_gc_ends_what_a_killed_pybox_left_running_in_the_hosts_pid_namespace() -> None:
    with killed("--pid", "host") as namespace:
        cli("gc")
        assert eventually(lambda: not members(namespace))


def test_gc_forgets_the_container_of_a_killed_pybox() -> None:
    with killed():
        done = cli("gc")
        assert done.returncode == 0 and "its pybox was killed; forgotten" in done.stdout
        assert cli("gc").stdout == "nothing to clean up\n"
        assert json.loads(cli("ps", "-a", "--format", "json").stdout) == []


def test_an_exception_of_a_signal_handler_kills_the_container_and_comes_through() -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for options in ({}, {"capture": False}, {"init": False}, {"timeout": 1000}):
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                pybox.run("busybox", ["sleep", "1000"], **options)  # type: ignore[arg-type]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("init", [True, False])
def test_an_error_of_the_caller_in_started_kills_the_container(init: bool) -> None:
    def started(child: Child, identity: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        api._SHARED.runtime().run(Spec("busybox", ("sleep", "1000"), init=init), Options(), started)


def test_signal_handlers_of_the_caller_never_run_in_the_child() -> None:
    heard = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(os.getpid()))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for _ in range(20):
            assert pybox.run("busybox", ["true"]).ok
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(heard) == {os.getpid()}


def test_the_command_inherits_no_blocked_or_ignored_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        for init in (True, False):
            found = pybox.run("busybox", ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"], init=init)
            assert (found.stdout or b"").split() == [b"SigBlk:", b"0" * 16, b"SigIgn:", b"0" * 16]
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize("word", ["HUP", "INT"])
def test_what_the_caller_ignores_stays_ignored(word: str) -> None:
    """nohup(1) works: a signal that pybox was told to ignore is not passed on."""
    from harness import PYBOX

    words = ["sh", "-c", f"trap '' {word}; exec \"$@\"", "sh", *PYBOX, "run", "--rm", "busybox", "inside", "signals"]
    with Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert line(process) == "ready"
        process.send_signal(getattr(signal, f"SIG{word}"))
        process.send_signal(signal.SIGTERM)
        assert line(process) == "TERM"
        assert process.wait(TIMEOUT) == 7
