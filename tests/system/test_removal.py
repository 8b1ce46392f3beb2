"""What a container wrote can be removed, whatever it wrote."""

from __future__ import annotations

import os
import subprocess

import pytest
from harness import cli

from pybox import dirs


def kept(*command: str) -> str:
    """Run a command in a container that stays listed; return its id."""
    done = cli("run", "--name", "kept", "busybox", *command)
    assert done.returncode == 0, done.stderr
    return cli("ps", "-a", "-q").stdout.strip()


@pytest.mark.parametrize(
    "command",
    [
        ("sh", "-c", "mkdir -p /a/b; touch /a/b/f; chmod 0 /a/b /a; ln -s / /root-link; mkfifo /fifo; ln /fifo /fifo2"),
        ("sh", "-c", "rm -r /etc /bin/ls; mkdir /etc; touch /etc/f"),
        ("sh", "-c", "touch \"$(printf '/new\\nline')\" \"$(printf '/\\377\\376')\" '/ ' /-rf"),
        ("sh", "-c", "mkdir /tmp/x; cd /tmp/x; i=0; while [ $i -lt 3000 ]; do : >f$i; i=$((i+1)); done"),
        ("sh", "-c", "cd /tmp && inside deep 500"),
        ("sh", "-c", "cd /tmp && inside deep 3000"),
    ],
    ids=["modes", "whiteouts", "names", "many", "deep", "deeper than the stack"],
)
def test_a_kept_container_is_removed_whatever_it_wrote(command: tuple[str, ...]) -> None:
    identity = kept(*command)
    assert os.listdir(dirs.current().uppers) == [identity]
    try:
        done = cli("rm", "kept")
        assert (done.returncode, done.stdout, done.stderr) == (0, "kept\n", "")
        assert os.listdir(dirs.current().uppers) == []
    finally:  # for the tests after this one
        subprocess.run(["rm", "-rf", f"{dirs.current().uppers}/{identity}"], check=True)


def test_a_running_container_is_not_removed() -> None:
    from harness import start

    with start("run", "--rm", "--name", "busy", "busybox", "sh", "-c", "echo up; sleep 1000") as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        done = cli("rm", "busy")
        assert done.returncode == 125 and "is running" in done.stderr
        process.terminate()


def test_a_name_is_taken_until_its_container_is_removed() -> None:
    identity = kept("true")
    done = cli("run", "--name", "kept", "busybox", "true")
    assert done.returncode == 125 and f"taken by container {identity}" in done.stderr and "pybox rm kept" in done.stderr
    assert cli("rm", identity[:5]).stdout == identity[:5] + "\n"
    assert cli("run", "--rm", "--name", "kept", "busybox", "true").returncode == 0


def test_a_container_that_was_never_made_is_named() -> None:
    done = cli("rm", "no-such")
    assert done.returncode == 125 and "no such container: no-such" in done.stderr
