"""`pybox why-denied`: what the filter refuses is told, and the container notices nothing of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import cli

import pybox
from pybox import dirs, native
from pybox.explain.denied import Watch
from pybox.failures import StepFailed
from pybox.runtime import Options
from pybox.spec import Spec
from pybox.steps.base import Desk
from pybox.steps.network import MakeNetwork

SCRIPT = "mount -t tmpfs none /tmp; unshare -U true; chroot / true; echo $?; exit 7"


def test_each_refused_call_is_named_with_its_arguments_its_rule_and_its_flag(tmp_path: Path) -> None:
    out = tmp_path / "report"
    plain = cli("run", "--rm", "busybox", "sh", "-c", SCRIPT)
    done = cli("why-denied", "--format", "json", "-o", str(out), "--", "run", "--rm", "busybox", "sh", "-c", SCRIPT)
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr) and done.returncode == 7
    found = json.loads(out.read_text())
    assert found["exit_code"] == 7
    shown = [(one["call"], one["errno"], one["program"], one["times"], one["allow"].split(" (")[0]) for one in found["denied"]]
    assert shown == [
        ("mount", "EPERM", "mount", 1, "--cap-add SYS_ADMIN"),
        ("unshare", "EPERM", "unshare", 1, "--cap-add SYS_ADMIN"),
    ]
    assert found["denied"][0]["arguments"].startswith('"none", "/tmp", "tmpfs", ')


@pytest.mark.parametrize("init", ["--init", "--no-init"])
def test_many_processes_are_answered_at_once(init: str) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do (for j in 1 2 3 4 5; do unshare -U true; done) 2>/dev/null & done; wait; echo over"
    done = cli("why-denied", "--", "run", "--rm", init, "busybox", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "over\n")
    assert "unshare(0x10000000) = EPERM   by unshare   40 times" in done.stderr


def test_the_flag_that_is_named_lets_the_call_through() -> None:
    done = cli("why-denied", "--", "run", "--rm", "--cap-add", "SYS_ADMIN", "busybox", "mount", "-t", "tmpfs", "none", "/tmp")
    assert done.returncode == 0 and "refused nothing" in done.stderr


def test_a_filter_that_is_installed_early_is_listened_to_as_well() -> None:
    done = cli(
        "why-denied",
        "run",
        "--rm",
        "--security-opt",
        "no-new-privileges=false",
        "busybox",
        "sh",
        "-c",
        "unshare -U true || exit 5",
    )
    assert done.returncode == 5 and "unshare(0x10000000) = EPERM" in done.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("run", "--security-opt", "seccomp=unconfined", "busybox", "true"), "without a filter nothing is refused"),
        (("run", "-d", "busybox", "true"), "is for a run in the foreground"),
        (("exec", "x", "true"), "must be followed by a run"),
        (("--format", "yaml", "run", "busybox", "true"), "must be text or json"),
        (("-o", "/nowhere/x", "run", "busybox", "true"), "No such file or directory"),
    ],
)
def test_what_can_not_be_watched_is_refused_before_anything_is_made(words: tuple[str, ...], why: str) -> None:
    done = cli("why-denied", *words)
    assert done.returncode == 125 and why in done.stderr and "Traceback" not in done.stderr


def test_a_command_that_can_not_be_executed_is_told_as_ever() -> None:
    done = cli("why-denied", "--", "run", "--rm", "busybox", "nothing")
    assert done.returncode == 127 and "[E-EXEC-MISSING]" in done.stderr and "Traceback" not in done.stderr


def test_a_filter_that_can_not_be_listened_to_ends_the_run_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pidfd: int, fd: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(native, "copy_fd", refuse)
    spec = Spec(image="busybox", args=("true",))
    with pytest.raises(pybox.PyboxError, match="cannot listen to the container's filter: Operation not permitted"):
        Watch(dirs.current(), spec).watch(spec, Options())


def test_a_step_on_the_host_that_fails_is_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(step: MakeNetwork, desk: Desk) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MakeNetwork, "apply", refuse)
    spec = Spec(image="busybox", args=("true",))
    with pytest.raises(StepFailed, match="as many network namespaces"):
        Watch(dirs.current(), spec).watch(spec, Options())
