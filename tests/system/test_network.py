"""A container's network namespace is made beforehand, and is as much its own as one made by its clone."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import DEVNULL, run

import pytest
from harness import PYBOX, cli, eventually, running, said, shell, strace

import pybox
from pybox import native
from pybox.spec import Spec

OWN = os.readlink("/proc/self/ns/net")


def network_of_a_run() -> str:
    return said(shell("readlink /proc/self/ns/net"))


def held() -> list[str]:
    """Return the network namespaces that this process holds: by its threads, then by its fds."""
    found = [os.readlink(path) for path in map(str, Path("/proc/self/task").glob("*/ns/net"))]
    for fd in os.listdir("/proc/self/fd"):
        if os.path.lexists(f"/proc/self/fd/{fd}"):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in found if name.startswith("net:")]


def test_no_two_containers_get_the_same_network() -> None:
    with ThreadPoolExecutor(8) as pool:
        # the numbers of dead namespaces are given out again, so only those that live at the same time can be told apart
        found = list(pool.map(lambda number: said(shell("readlink /proc/self/ns/net; sleep 1")), range(8)))
    assert len({*found, OWN}) == 9


def test_nobody_but_the_container_holds_its_network() -> None:
    """So it dies with it: what holds a namespace are processes in it, fds of it, and mounts of it (network_namespaces(7))."""
    with running(Spec("busybox", ("sleep", "1000"))) as (seen, _, _):
        theirs = seen.namespace("net")
        assert theirs.startswith("net:[") and theirs != OWN
        assert theirs not in held()  # a socket in it is, to give it back with
    assert eventually(lambda: set(held()) >= {OWN} and held().count(OWN) == len(os.listdir("/proc/self/task")))


def test_no_more_networks_are_kept_than_there_were_runs_at_once() -> None:
    network_of_a_run()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        network_of_a_run()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_forked_process_makes_its_own() -> None:
    network_of_a_run()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            inherited = [name for name in held() if name != OWN]
            os.write(writer, f"{inherited} {pybox.run('busybox', ['true']).exit_code}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    assert os.read(reader, 1000) == b"[] 0"
    os.close(reader)
    assert network_of_a_run() != OWN


def test_a_command_that_shares_the_network_makes_none(tmp_path: Path) -> None:
    calls = strace(tmp_path, "unshare,clone3", "run", "--rm", "--network", "host", "busybox", "true")
    assert calls and not any("CLONE_NEWNET" in call or "CLONE_THREAD" in call for call in calls)


def test_a_network_that_cannot_be_made_is_named() -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv (Debian package util-linux)")
    less = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
    done = run([*less, *PYBOX, "run", "--rm", "busybox", "true"], capture_output=True, text=True, stdin=DEVNULL)
    assert done.returncode == 125
    assert "make a network namespace with a loopback interface: unshare: Operation not permitted [EPERM]" in done.stderr
    assert "Traceback" not in done.stderr and cli("ps", "-a", "-q").stdout == ""


def test_what_is_taken_is_a_fresh_network_with_loopback_up() -> None:
    pairs = [native.take_network() for _ in range(3)]
    fds = [fd for fd, _ in pairs]
    try:
        assert len({os.fstat(fd).st_ino for fd in fds} | {os.stat("/proc/self/ns/net").st_ino}) == 4
        assert all(not os.get_inheritable(fd) for fd in fds)
        assert os.readlink("/proc/thread-self/ns/net") == OWN
    finally:
        for fd, socket in pairs:
            os.close(fd)
            os.close(socket)
