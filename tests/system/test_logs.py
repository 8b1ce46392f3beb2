"""`pybox logs`: what a container wrote comes back as it was, while it writes, across rotations and restarts, and then it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PYBOX, TIMEOUT, cli, eventually, start

from pybox import dirs, kept

COUNT = "i=0; while [ $i -lt {} ]; do echo line $i; echo error $i >&2; i=$((i+1)); done"


@pytest.fixture
def box() -> Iterator[object]:
    """``box(words...)`` runs a container in the background and returns its id; it is removed at the end."""
    made = []

    def run(*words: str) -> str:
        done = cli("run", "-d", *words)
        assert done.returncode == 0, done.stderr
        made.append(done.stdout.strip())
        return made[-1]

    yield run
    assert cli("rm", "-f", *made).returncode == 0


def ended(identity: str) -> str:
    """Wait for the end of a container."""
    assert cli("wait", identity).returncode == 0
    return identity


def test_each_stream_comes_back_on_its_own(box) -> None:
    identity = ended(box("busybox", "sh", "-c", COUNT.format(100)))
    done = cli("logs", identity)
    assert done.stdout == "".join(f"line {number}\n" for number in range(100))
    assert done.stderr == "".join(f"error {number}\n" for number in range(100))
    last = cli("logs", "-n", "3", identity)
    assert done.stdout.endswith(last.stdout) and done.stderr.endswith(last.stderr)
    assert len((last.stdout + last.stderr).splitlines()) == 3
    assert cli("logs", "--tail=0", identity).stdout == ""


def test_any_bytes_and_lines_of_any_length_come_back(box, tmp_path: Path) -> None:
    wanted = os.urandom(300_000) + b"x" * 100_000 + b"\r\n\0 no end"
    (tmp_path / "data").write_bytes(wanted)
    identity = ended(box("-v", f"{tmp_path}:/data:ro", "busybox", "cat", "/data/data"))
    assert subprocess.run([*PYBOX, "logs", identity], stdout=subprocess.PIPE, check=True).stdout == wanted
    assert cli("logs", "-n", "1", identity).stdout.endswith(" no end")


def test_rotated_files_are_read_in_their_order_and_the_oldest_are_gone(box) -> None:
    identity = ended(box("--log-opt", "max-size=2k", "--log-opt", "max-file=4", "busybox", "seq", "1000"))
    shown = cli("logs", identity).stdout.split()
    assert shown == [str(number) for number in range(1001 - len(shown), 1001)] and 50 < len(shown) < 250


def test_times_choose_and_are_shown(box) -> None:
    identity = ended(box("busybox", "sh", "-c", "echo first; sleep 0.3; echo second"))
    first, second = (line.split(" ") for line in cli("logs", "-t", identity).stdout.splitlines())
    assert (first[1], second[1]) == ("first", "second") and first[0] < second[0]
    assert cli("logs", "--since", second[0], identity).stdout == "second\n"
    assert cli("logs", "--until", first[0], identity).stdout == "first\n"
    assert cli("logs", "--since", "1h", identity).stdout == "first\nsecond\n"
    assert cli("logs", "--since", "0s", identity).stdout == ""
    done = cli("logs", "--since", "yesterday", identity)
    assert done.returncode == 125 and "yesterday" in done.stderr and "Traceback" not in done.stderr


def test_following_shows_what_is_written_as_it_is_written_and_ends_with_the_container(box) -> None:
    identity = box("-i", "busybox", "sh", "-c", "echo begin; while [ ! -e /go ]; do sleep 0.05; done; echo end")
    follower = start("logs", "-f", identity)
    assert follower.stdout is not None
    assert follower.stdout.readline() == b"begin\n"
    assert cli("exec", identity, "touch", "/go").returncode == 0
    assert follower.stdout.read() == b"end\n" and follower.wait(TIMEOUT) == 0
    follower.stdout.close()
    assert cli("logs", "-f", identity).stdout == "begin\nend\n"


def test_following_loses_and_doubles_nothing_across_rotations(box) -> None:
    script = "seq 1 20000; sleep 0.2; seq 20001 21000"
    identity = box("--log-opt", "max-size=512k", "--log-opt", "max-file=3", "busybox", "sh", "-c", f"sleep 0.5; {script}")
    shown = cli("logs", "-f", identity).stdout.split()
    assert shown == [str(number) for number in range(1, 21001)]


def test_following_goes_on_across_restarts(box) -> None:
    script = "echo run; sleep 0.1; exit 3"
    identity = box("--restart", "on-failure:2", "busybox", "sh", "-c", script)
    assert cli("logs", "-f", identity).stdout == "run\n" * 3


def test_following_ends_when_the_container_is_removed() -> None:
    identity = cli("run", "-d", "busybox", "sh", "-c", "echo here; sleep 1000").stdout.strip()
    follower = start("logs", "-f", identity)
    assert follower.stdout is not None and follower.stdout.readline() == b"here\n"
    assert cli("rm", "-f", identity).returncode == 0
    assert follower.stdout.read() == b"" and follower.wait(TIMEOUT) == 0
    follower.stdout.close()


def test_following_until_a_time_ends_then(box) -> None:
    identity = box("busybox", "sleep", "1000")
    assert cli("logs", "-f", "--until", str(time.time() + 0.2), identity).returncode == 0


def test_a_quiet_container_does_not_keep_a_follower_whose_reader_is_gone(box) -> None:
    identity = box("busybox", "sh", "-c", "echo here; sleep 1000")
    follower = start("logs", "-f", identity, stderr=subprocess.PIPE)
    assert follower.stdout is not None and follower.stdout.readline() == b"here\n"
    follower.stdout.close()
    assert follower.communicate(timeout=TIMEOUT)[1] == b"" and follower.returncode == 141


def test_an_interrupted_follower_says_nothing(box) -> None:
    identity = box("busybox", "sh", "-c", "echo here; sleep 1000")
    follower = start("logs", "-f", identity, stderr=subprocess.PIPE)
    assert follower.stdout is not None and follower.stdout.readline() == b"here\n"
    follower.send_signal(signal.SIGINT)
    assert follower.communicate(timeout=TIMEOUT) == (b"", b"") and follower.returncode == 130


def test_a_foreground_run_has_no_log_and_that_is_said_in_one_line() -> None:
    assert cli("run", "--name", "front", "busybox", "true").returncode == 0
    done = cli("logs", "front")
    assert done.returncode == 125 and "has no log" in done.stderr and done.stderr.count("\n") == 2
    assert cli("rm", "front").returncode == 0


def test_a_container_that_has_not_been_started_has_said_nothing() -> None:
    assert cli("create", "--name", "later", "busybox", "true").returncode == 0
    done = cli("logs", "-f", "later")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert cli("rm", "-f", "later").returncode == 0


def test_ps_tells_how_it_was_and_how_it_is(box) -> None:
    running = box("--name", "up", "-l", "team=red", "busybox", "sleep", "1000")
    failed = ended(box("--name", "down", "busybox", "sh", "-c", "exit 3"))
    table = {line.split()[0]: line for line in cli("ps", "-a").stdout.splitlines()}
    assert "Up " in table[running] and "Exited (3) " in table[failed] and " ago" in table[failed].partition("Exited")[2]
    assert cli("ps", "-q", "--filter", "exited=3").stdout.split() == [failed]
    assert cli("ps", "-q", "--filter", "label=team").stdout.split() == [running]
    assert set(cli("ps", "-aq", "--filter", "ancestor=busybox").stdout.split()) >= {running, failed}
    assert cli("ps", "-aq", "--filter", "ancestor=nothing").stdout == ""
    pid = cli("inspect", "-f", "state.pid", running).stdout.strip()
    assert os.readlink(f"/proc/{pid}/ns/pid") == cli("inspect", "-f", "namespaces.pid", running).stdout.strip()
    assert Path(cli("inspect", "-f", "log.path", running).stdout.strip()).parent == Path(kept.folder(dirs.current(), running))
    begun, over = (float(cli("inspect", "-f", f"state.{name}", failed).stdout) for name in ("started", "ended"))
    assert time.time() - 600 < begun <= over <= time.time()


def test_the_size_is_what_it_has_written(box) -> None:
    identity = box("busybox", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null; sync; sleep 1000")

    def size() -> int:
        import json

        (row,) = json.loads(cli("ps", "-s", "--format", "json", "--filter", f"id={identity}").stdout)
        return int(row["size"])

    assert eventually(lambda: 3 << 20 <= size() < 4 << 20)
