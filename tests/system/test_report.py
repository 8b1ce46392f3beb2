"""`pybox report` of a real run and of a container that lives: the page says what the kernel says."""

from __future__ import annotations

import json
import os
import re
from html import unescape
from pathlib import Path

from harness import PURE_V2, cli

from pybox import dirs

LIMIT = () if PURE_V2 else ("-m", "64M")


def plan_of(page: str) -> dict[str, object]:
    """Return what is embedded in a page."""
    found = re.search(r"<pre id=json>(.*?)</pre>", page, re.S)
    assert found is not None
    return json.loads(unescape(found[1]))  # type: ignore[no-any-return]


def test_a_report_of_a_run_shows_its_steps_and_is_as_that_run(store: dirs.Dirs, tmp_path: Path) -> None:
    words = ("run", "--rm", *LIMIT, "-e", "TOKEN=correct-horse", "busybox", "sh", "-c", "readlink /proc/self/ns/mnt; exit 3")
    done = cli("report", "-o", str(tmp_path / "r.html"), "--", *words)
    assert done.returncode == 3, done.stderr
    page = (tmp_path / "r.html").read_text()
    document = plan_of(page)
    steps = document["steps"]
    assert isinstance(steps, list) and all(step["ok"] for step in steps) and sum(step["took_us"] for step in steps) > 0
    number = re.search(r"\[(\d+)\]", done.stdout)
    assert number is not None and number[1] in page  # the very namespace that the command was in
    assert os.readlink("/proc/self/ns/mnt")[5:-1] in page
    assert "correct-horse" not in page and "TOKEN=" in page
    assert not LIMIT or ("memory.limit_in_bytes" in page and "67108864" in page)


def test_a_report_of_a_container_leaves_it_alone(store: dirs.Dirs, tmp_path: Path) -> None:
    cli("run", "-d", "--name", "box", "busybox", "sleep", "100000")
    try:
        pid = cli("inspect", "-f", "state.pid", "box").stdout.strip()
        assert cli("report", "box", "-o", str(tmp_path / "live")).returncode == 0
        page = (tmp_path / "live").read_text()
        assert os.readlink(f"/proc/{pid}/ns/pid")[5:-1] in page and "without times" in page
        cli("kill", "box")
        cli("wait", "box")
        assert cli("report", "-o", str(tmp_path / "over"), "--no-redact", "box").returncode == 0
        assert "it does not run" in (tmp_path / "over").read_text() and plan_of(page)["steps"]
    finally:
        cli("rm", "-f", "box")


def test_a_report_of_a_run_that_fails_names_the_step(store: dirs.Dirs, tmp_path: Path) -> None:
    done = cli("report", "-o", str(tmp_path / "r"), "run", "--rm", "busybox", "/nothing")
    assert done.returncode == 127 and "no such file" in done.stderr
    page = (tmp_path / "r").read_text()
    assert "<span class=bad>failed</span>" in page and "cannot execute /nothing" in page


def test_a_report_that_has_nowhere_to_go_runs_nothing(store: dirs.Dirs, tmp_path: Path) -> None:
    for words in (("run", "busybox", "true"), ("-o", f"{tmp_path}/no/r", "run", "busybox", "true"), ("-o", str(tmp_path / "r"))):
        done = cli("report", *words)
        assert done.returncode == 125 and "Traceback" not in done.stderr, words
    assert cli("ps", "-a", "-q").stdout == "" and list(tmp_path.iterdir()) == []
