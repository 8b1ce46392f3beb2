"""What looks after a container that nobody waits for: nothing that was written is lost, and whoever is killed, nothing is left."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import PURE_V2, PYBOX, TIMEOUT, cli, eventually
from test_crash import gone
from test_life import all_gone, background, log, seen, status

from pybox import dirs, kept, listing

pytestmark = pytest.mark.usefixtures("all_gone")
LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([FP]) (.*)", re.DOTALL)
__all__ = ["all_gone"]


def records(identity: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield (stream, tag, text) of all of a container's log files, oldest first; fails for a line that is not CRI."""
    folder = Path(kept.folder(dirs.current(), identity))
    for path in sorted(folder.glob("log*"), key=lambda path: -int(path.suffix[1:] or 0)):
        text = path.read_bytes()
        assert text == b"" or text.endswith(b"\n")
        for line in text.split(b"\n")[:-1]:
            found = LINE.fullmatch(line)
            assert found, line
            yield found[1].decode(), found[2].decode(), found[3]


def written(identity: str, stream: str) -> bytes:
    """Return what a container wrote to a stream, put together from its log."""
    return b"".join(text + (b"\n" if tag == "F" else b"") for name, tag, text in records(identity) if name == stream)


def monitor(identity: str) -> int:
    return int(str(seen(identity).journal["owner"]))


BINARY = 'i=0; while [ $i -lt 256 ]; do printf "\\\\$(printf %03o $i)"; i=$((i+1)); done'
OUTPUTS = {
    "a megabyte in one write": "dd if=/dev/urandom of=/tmp/r bs=1M count=1 2>/dev/null; od -An -tx1 /tmp/r | head -c 1048575 >/tmp/t; echo >>/tmp/t; dd if=/tmp/t bs=1M 2>/dev/null; sha256sum </tmp/t >&2",
    "no end of the last line": "printf 'one\\ntwo' | tee /tmp/t; sha256sum </tmp/t >&2",
    "a line of 100 kB": "head -c 100000 /dev/zero | tr '\\0' x >/tmp/t; echo >>/tmp/t; cat /tmp/t; sha256sum </tmp/t >&2",
    "lines around 16 kB": "for n in 16383 16384 16385 32768 32769; do head -c $n /dev/zero | tr '\\0' y; echo; done >/tmp/t; cat /tmp/t; sha256sum </tmp/t >&2",
    "all bytes": f"({BINARY}; echo) >/tmp/t; cat /tmp/t; sha256sum </tmp/t >&2",
    "empty lines": "printf '\\n\\n\\n' | tee /tmp/t; sha256sum </tmp/t >&2",
    "nothing": ": >/tmp/t; sha256sum </tmp/t >&2",
}


@pytest.mark.parametrize("script", OUTPUTS.values(), ids=OUTPUTS.keys())
def test_all_that_a_command_writes_before_it_ends_is_in_the_log(store: dirs.Dirs, script: str) -> None:
    identity = background("busybox", "sh", "-c", script)
    assert cli("wait", identity).stdout == "0\n"
    told = written(identity, "stderr").split()[0].decode()
    assert hashlib.sha256(written(identity, "stdout")).hexdigest() == told
    assert all(len(text) <= 16384 for _, _, text in records(identity))


def test_the_output_of_two_hundred_short_containers_is_complete_when_wait_returns(store: dirs.Dirs) -> None:
    def one(n: int) -> tuple[str, list[str], str]:
        identity = background("busybox", "sh", "-c", f"echo out {n}; echo err {n} >&2; printf end")
        ended = cli("wait", identity)
        return identity, log(identity), ended.stdout

    count = 20 if PURE_V2 else 200
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, range(count)))
    assert cli("rm", *(identity for identity, _, _ in found)).returncode == 0
    for n, (_, lines, code) in enumerate(found):
        assert (sorted(lines), code) == (sorted([f"stdout F out {n}", f"stderr F err {n}", "stdout P end"]), "0\n")


def test_rotation_loses_no_line(store: dirs.Dirs) -> None:
    identity = background("--log-opt", "max-size=20000", "--log-opt", "max-file=50", "busybox", "seq", "10000")
    assert cli("wait", identity).stdout == "0\n"
    assert written(identity, "stdout") == b"".join(b"%d\n" % n for n in range(1, 10001))
    files = list(Path(kept.folder(store, identity)).glob("log*"))
    assert len(files) > 20 and all(path.stat().st_size <= 20000 for path in files)


def test_the_log_keeps_as_many_files_as_asked(store: dirs.Dirs) -> None:
    for count in (1, 3):
        options = ("--log-opt", "max-size=1000", "--log-opt", f"max-file={count}")
        identity = background(*options, "busybox", "seq", "1000")
        assert cli("wait", identity).stdout == "0\n"
        assert len(list(Path(kept.folder(store, identity)).glob("log*"))) == count
        assert written(identity, "stdout").endswith(b"999\n1000\n")


SCRIPTS = {
    "state": """
        id=$(pybox create busybox true)
        fill
        pybox start $id 2>&1 && exit 1
        pybox ps -a | grep -q Created
        pybox run -d --name n busybox true 2>&1 && exit 1
        rm $PYBOX_STATE/../filler
        ls $PYBOX_STATE
        pybox start $id >/dev/null
        pybox wait $id
        pybox rm $id >/dev/null
    """,
    "store": """
        pybox import busybox $TREE >/dev/null
        id=$(pybox run -d -v $CONTROL:/c busybox sh -c 'wait_for() { until [ -e /c/$1 ]; do sleep 0.05; done; }
            wait_for go; seq 100000; touch /c/done; wait_for more; echo the end; exit 4')
        fill
        touch $CONTROL/go
        until [ -e $CONTROL/done ]; do sleep 0.1; done
        pybox ps | grep -q ' Up '
        pybox run -d busybox true 2>&1 && exit 1
        truncate -s -65536 $PYBOX_STORE/../filler
        touch $CONTROL/more
        until grep -q 'the end' $PYBOX_STORE/containers/$id/log; do sleep 0.1; fill; done
        pybox wait $id
        grep -c 'lines are missing here' $PYBOX_STORE/containers/$id/log
        tail -1 $PYBOX_STORE/containers/$id/log | cut -d' ' -f2-
        pybox rm $id >/dev/null
        ls $PYBOX_STORE/containers $PYBOX_STORE/uppers $PYBOX_STATE
    """,
}


@pytest.mark.parametrize("place", ["store", "state"])
def test_a_full_disk_hurts_nothing_but_the_log(store: dirs.Dirs, tree: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "small").mkdir()
    script = f"""
        set -e
        mount -t tmpfs -o size=400m tmpfs {tmp_path}/small
        export PYBOX_{place.upper()}={tmp_path}/small/x
        pybox() {{ {" ".join(PYBOX)} "$@"; }}
        fill() {{ dd if=/dev/zero of={tmp_path}/small/filler bs=4k 2>/dev/null || :; }}
        mkdir {tmp_path}/small/x {tmp_path}/control
        {SCRIPTS[place]}
    """
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TREE": str(tree), "CONTROL": f"{tmp_path}/control"}
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], env=env, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0 and done.stderr == "", done
    errors = [line for line in done.stdout.splitlines() if line.startswith("pybox: error: ")]
    lines = [line for line in done.stdout.splitlines() if not line.startswith("pybox: ")]
    assert len(errors) == (1 if place == "store" else 2) and all("No space left on device" in line for line in errors)
    if place == "state":
        assert lines == ["0"]
    else:
        assert lines[0] == "4" and int(lines[1]) >= 1 and lines[2] == "stdout F the end"
        assert all(line.endswith(":") or not line for line in lines[3:])  # ls: nothing in any of the directories


def pss(pid: int) -> int:
    """Return the proportional set size of a process, in kB."""
    return sum(int(n) for n in re.findall(r"^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE))


def test_a_monitor_is_small_also_while_it_waits_for_the_next_start(store: dirs.Dirs) -> None:
    identity = background("busybox", "sh", "-c", "seq 10000; sleep 60")
    assert eventually(lambda: len(log(identity)) == 10000)
    assert pss(monitor(identity)) < 400
    again = background("--restart", "always", "busybox", "false")
    owner = monitor(again)  # the same process all the time
    program = Path(f"/proc/{owner}/exe")
    for _ in range(6):
        assert eventually(lambda: status(again) == "restarting" and program.resolve().name == "pybox-monitor")
        time.sleep(0.3)
    assert eventually(lambda: program.resolve().name == "pybox-monitor" and pss(owner) < 400)


def test_the_end_of_a_monitor_is_the_end_of_its_container_and_is_recorded(store: dirs.Dirs) -> None:
    identity = background("--name", "one", "--restart", "always", "busybox", "sh", "-c", "echo x >/n; echo said; sleep 60")
    assert eventually(lambda: log(identity) == ["stdout F said"])
    pid = seen(identity).pid
    os.kill(monitor(identity), signal.SIGKILL)
    assert pid is not None and eventually(lambda: gone(pid)) and status(identity) == "dead"
    assert cli("gc").stdout.splitlines()[-1] == f"{identity}: its pybox was killed; kept as it is"
    assert (status(identity), (seen(identity).result or {})["reason"], log(identity)) == ("exited", "lost", ["stdout F said"])
    assert os.listdir(store.state) == [] and cli("gc").stdout == "nothing to clean up\n"
    assert cli("boot").stdout == "one\n"  # its policy has nobody else to keep it
    assert cli("exec", "one", "cat", "/n").stdout.startswith("x\n")


def test_a_monitor_that_is_asked_to_end_lets_its_container_end_and_not_come_back(store: dirs.Dirs) -> None:
    identity = background(
        "--restart", "always", "busybox", "sh", "-c", "trap 'echo bye; exit 6' TERM; echo up; while :; do sleep 0.1; done"
    )
    assert eventually(lambda: log(identity) == ["stdout F up"])
    os.kill(monitor(identity), signal.SIGTERM)
    assert cli("wait", identity).stdout == "6\n"
    assert log(identity) == ["stdout F up", "stdout F bye"] and status(identity) == "exited"
    assert not kept.is_stopped(store, identity)  # so `boot` will start it


def test_a_client_that_takes_nothing_hinders_nobody_from_removing_the_container(store: dirs.Dirs) -> None:
    slow = subprocess.Popen(
        [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:], lambda fd: __import__('time').sleep(600))",
         *PYBOX, "run", "-t", "--name", "slow", "busybox", "sh", "-c", "seq 1000000"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        assert eventually(lambda: any(entry.name == "slow" and entry.pid for entry in listing.entries(store)))
        time.sleep(1)
        assert cli("rm", "-f", "slow").returncode == 0
    finally:
        os.killpg(slow.pid, signal.SIGKILL)
        slow.wait()
        for pid in os.listdir("/proc"):
            if pid.isdigit() and b"--name\0slow\0busybox" in _cmdline(pid):
                os.kill(int(pid), signal.SIGKILL)


def _cmdline(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
