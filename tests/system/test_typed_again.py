"""A command line that is typed again runs from its kept plan, and what has changed meanwhile is seen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import cli

from pybox import dirs

INSTALLED = "import pybox.bundle, sys; pybox.bundle.ID = 'of this test'; from pybox.cli.main import {}"
AGAIN = f"""{INSTALLED.format("main, os")}
def left(status, leave=os._exit):
    open(os.environ[b"LOADED"], "w").write(" ".join(sys.modules))
    leave(status)
os._exit = left
main()"""


@pytest.fixture
def typed(tmp_path: Path, store: dirs.Dirs):
    """``typed(words...)`` runs an installed pybox; returns how it ended, and whether it had to plan."""

    def run(*words: str) -> tuple[subprocess.CompletedProcess[str], bool]:
        told = tmp_path / "loaded"
        done = subprocess.run(
            [sys.executable, "-c", AGAIN, "run", *words],
            check=False,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=60,
            env={**os.environ, "LOADED": str(told)},
        )
        return done, "pybox.plan" in told.read_text().split()

    yield run
    shutil.rmtree(f"{store.state}/plans", ignore_errors=True)


def test_the_second_time_it_is_not_planned_and_does_the_same(typed, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    words = (
        "--rm",
        "-m",
        "64M",
        "-e",
        "A=b",
        "-v",
        f"{tmp_path}/data:/data",
        "busybox",
        "sh",
        "-c",
        "echo $A; id -u; echo x >>/data/f; exit 3",
    )
    first, planned = typed(*words)
    assert planned and (first.stdout, first.returncode, first.stderr) == ("b\n0\n", 3, "")
    second, planned = typed(*words)
    assert not planned and (second.stdout, second.returncode, second.stderr) == ("b\n0\n", 3, "")
    assert (tmp_path / "data/f").read_text() == "x\nx\n"


@pytest.mark.parametrize("init", ["--init", "--no-init"])
def test_other_arguments_need_no_other_plan(typed, init: str) -> None:
    for number, words in enumerate((["a b", ""], ["c"], [], ["-n", "\udcff", "x" * 5000])):
        done, planned = typed("--rm", init, "busybox", "printf", "<%s>", *words)
        assert planned == (number == 0)
        assert (done.returncode, done.stdout) == (0, "".join(f"<{word}>" for word in words) or "<>")


def test_a_failure_of_what_was_not_planned_is_told_in_the_same_words(typed, tmp_path: Path) -> None:
    (tmp_path / "go").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "go").chmod(0o755)
    words = ("--rm", "-v", f"{tmp_path}:/data", "busybox", "/data/go")
    assert typed(*words)[0].returncode == 0
    (tmp_path / "go").unlink()
    again, planned = typed(*words)
    assert planned  # to name the step
    assert (again.returncode, again.stderr) == (127, cli("run", *words).stderr) and "/data/go" in again.stderr
    (tmp_path / "data").mkdir()


def test_its_time_out_and_its_record_are_those_of_any_other(typed) -> None:
    words = ("--timeout", "0.2", "busybox", "sleep", "100")
    for planned in (True, False):
        assert typed(*words)[1] == planned
        (record,) = json.loads(cli("ps", "-a", "--format", "json").stdout)
        assert (record["status"], record["exit_code"], record["args"]) == ("exited", 137, ["sleep", "100"])
        assert cli("rm", record["id"]).returncode == 0


def test_what_another_file_or_our_environment_says_is_read_each_time(typed, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=1\n")
    for _ in range(2):
        assert typed("--rm", "--env-file", f"{tmp_path}/env", "-e", "HOME", "busybox", "true")[1]
        assert typed("--rm", "--status-file", f"{tmp_path}/status", "busybox", "true")[1]
