"""The streams of a command are the caller's, byte for byte."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from harness import PURE_V2, PYBOX, TIMEOUT, cli, said, shell

import pybox

MIB = 1 << 20
RUN = " ".join([*PYBOX, "run", "--rm"])


def sh(script: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run a script of the host's shell, in which $RUN is `pybox run --rm`."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": TIMEOUT, **options}
    return subprocess.run(["sh", "-c", script.replace("$RUN", RUN)], **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("init", ["--init", "--no-init"])
def test_a_gigabyte_passes_through_untouched(init: str) -> None:
    count = 256 if PURE_V2 else 1024  # User Mode Linux is slow
    words = ["sh", "-c", f"dd if=/dev/zero bs=1M count={count} 2>/dev/null | {RUN} {init} busybox cat"]
    zeros, size = bytes(MIB), 0
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while part := process.stdout.read(MIB):
            assert part == zeros[: len(part)], f"at byte {size}"
            size += len(part)
    assert (process.returncode, size) == (0, count * MIB)


def test_every_byte_passes_through_on_both_streams() -> None:
    data = bytes(range(256)) * 4096
    done = subprocess.run(
        [*PYBOX, "run", "--rm", "busybox", "sh", "-c", "tee /dev/stderr"], input=data, capture_output=True, timeout=TIMEOUT
    )
    assert done.stdout == data and done.stderr == data


def test_a_file_as_stdin_and_stdout_is_used_directly(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("one\ntwo\n")
    sh(f"$RUN busybox sh -c 'read line; echo got $line' <{tmp_path}/in >>{tmp_path}/out; $RUN busybox echo more >>{tmp_path}/out")
    assert (tmp_path / "out").read_text() == "got one\nmore\n"


def test_input_of_a_run_without_input_is_empty_when_captured() -> None:
    assert said(shell("wc -c")) == "0"


def test_input_is_fed_and_closed() -> None:
    data = os.urandom(10 * MIB)
    result = pybox.run("busybox", ["cat"], input=data)
    assert result.stdout == data
    assert pybox.run("busybox", ["wc", "-c"], input="").stdout == b"0\n"
    assert pybox.run("busybox", ["cat"], input="text").stdout == b"text"


def test_a_command_that_does_not_read_its_input_is_no_error() -> None:
    assert pybox.run("busybox", ["true"], input=bytes(4 * MIB)).ok
    assert said(shell("exec <&-; sleep 0.2; echo fine", input=bytes(4 * MIB))) == "fine"


@pytest.mark.parametrize("init", [True, False])
def test_both_streams_are_captured_whole_however_they_are_interleaved(init: bool) -> None:
    result = pybox.run("busybox", ["inside", "streams", str(10 * MIB)], init=init)
    assert result.ok and result.stdout == b"o" * (10 * MIB) and result.stderr == b"e" * (10 * MIB)


def test_nothing_that_a_short_command_wrote_is_lost() -> None:
    for _ in range(50):
        assert shell("echo out; echo err >&2; exit 3").stdout == b"out\n"


def test_captured_output_ends_with_the_container() -> None:
    assert shell("echo done; sleep 1000 &").stdout == b"done\n"


def test_a_time_out_keeps_what_was_written_until_then() -> None:
    result = shell("echo before; echo also >&2; sleep 1000", timeout=1)
    assert (result.reason, result.stdout, result.stderr) == ("timeout", b"before\n", b"also\n")


def test_without_capture_the_streams_are_none_and_the_callers(capfd: pytest.CaptureFixture[str]) -> None:
    result = shell("echo seen; echo error >&2", capture=False)
    assert (result.stdout, result.stderr) == (None, None)
    assert capfd.readouterr() == ("seen\n", "error\n")


def test_a_reader_that_goes_away_ends_the_command_by_sigpipe() -> None:
    done = sh("($RUN busybox yes; echo status $? >&2) | head -n 1")
    assert done.stdout == b"y\n" and b"status 141" in done.stderr


def test_a_full_device_is_the_commands_own_error() -> None:
    done = sh("$RUN busybox sh -c 'echo x; echo status $? >&2' >/dev/full")
    assert b"No space left on device" in done.stderr and b"status 1" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("init", ["--init", "--no-init"])
def test_closed_streams_of_the_caller_are_no_hindrance(closed: str, init: str, tmp_path: Path) -> None:
    done = sh(f"$RUN {init} -v {tmp_path}:/v busybox sh -c 'inside fds >/v/fds; wc -c >/v/read' {closed}")
    assert done.returncode == 0, done.stderr
    rows = dict(line.split(" ", 1) for line in (tmp_path / "fds").read_text().splitlines())
    assert set(rows) == {"0", "1", "2"}
    assert (tmp_path / "read").read_text() == "0\n"


def test_a_caller_in_python_may_have_closed_its_streams() -> None:
    code = "import os, pybox; [os.close(fd) for fd in (0, 1, 2)]; r = pybox.run('busybox', ['cat'], input='x'); os._exit(r.stdout != b'x')"
    done = subprocess.run([PYBOX[0], "-c", code], timeout=TIMEOUT)
    assert done.returncode == 0


def test_pybox_says_nothing_of_its_own_on_success() -> None:
    done = cli("run", "--rm", "busybox", "true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_arguments_are_passed_as_they_are() -> None:
    words = ["", " ", "a b", "$HOME", "*", "'", '"', "\\", "-x", "--", "é", "\n", "CONTAINER-ID"]
    done = cli("run", "--rm", "busybox", "sh", "-c", 'for a; do printf "%s\\0" "$a"; done', "sh", *words)
    assert done.stdout.split("\0")[:-1] == words


def test_threads_may_run_containers_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: shell(f"echo {n}; cat", input=str(n)), range(64)))
    assert [result.stdout for result in results] == [f"{n}\n{n}".encode() for n in range(64)]
    assert len({result.id for result in results}) == 64
