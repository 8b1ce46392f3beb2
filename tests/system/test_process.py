"""pybox.popen and pybox.aio: a container beside the program; whatever happens to who waits, the container does not stay behind."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

import pybox
from pybox import DEVNULL, PIPE, STDOUT, dirs, listing


def alone() -> bool:
    """Return whether no container runs."""
    return not any(entry.alive for entry in listing.entries(dirs.current()))


def test_it_runs_beside_us_and_its_streams_are_files() -> None:
    with pybox.popen("busybox", ["cat"], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin and process.stdout and process.stderr is None
        assert process.poll() is None
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"hello\n"
        process.stdin.close()
        result = process.wait(timeout=60)
    assert result.ok and process.poll() is result and alone()


def test_communicate_reads_both_streams_to_their_ends() -> None:
    script = "cat; head -c 3000000 /dev/zero >&2; exit 3"
    with pybox.popen("busybox", ["sh", "-c", script], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        result = process.communicate(b"x" * 1_000_000)
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"x" * 1_000_000, b"\0" * 3_000_000)


def test_stderr_may_go_where_stdout_goes_and_both_nowhere() -> None:
    with pybox.popen("busybox", ["sh", "-c", "echo a; echo b >&2"], stdout=PIPE, stderr=STDOUT) as process:
        assert process.communicate().stdout == b"a\nb\n"
    with pybox.popen("busybox", ["sh", "-c", "echo a; echo b >&2"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) as process:
        assert process.wait().ok


def test_leaving_the_block_kills_it_and_waits() -> None:
    with pytest.raises(ZeroDivisionError), pybox.popen("busybox", ["sleep", "1000"]) as process:
        raise ZeroDivisionError
    assert process.result and (process.result.reason, process.result.exit_code) == ("cancelled", 137) and alone()


def test_forgetting_it_kills_it() -> None:
    process = pybox.popen("busybox", ["sleep", "1000"])
    assert not alone()
    del process
    assert alone()


def test_a_fork_of_ours_does_not_kill_it() -> None:
    with pybox.popen("busybox", ["sleep", "1000"]) as process:
        pid = os.fork()
        if pid == 0:
            del process
            os._exit(0)
        os.waitpid(pid, 0)
        assert process.poll() is None


def test_waiting_may_time_out_and_the_container_goes_on() -> None:
    with pybox.popen("busybox", ["sleep", "1000"]) as process:
        with pytest.raises(TimeoutError):
            process.wait(timeout=0.05)
        assert process.poll() is None
        process.terminate()
        assert process.wait().signal == signal.SIGTERM


def test_its_own_time_ends_it_whether_somebody_waits_or_not() -> None:
    process = pybox.popen("busybox", ["sleep", "1000"], timeout=0.2)
    limit = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    assert process.result and process.result.reason == "timeout"


def test_aio_runs_and_captures() -> None:
    async def both() -> list[pybox.Result]:
        jobs = [pybox.aio.run("busybox", ["sh", "-c", f"cat; echo {n}; exit {n}"], input=f"in{n} ") for n in range(8)]
        return list(await asyncio.gather(*jobs))

    results = asyncio.run(both())
    assert [result.exit_code for result in results] == list(range(8))
    assert [result.stdout for result in results] == [f"in{n} {n}\n".encode() for n in range(8)] and alone()


def test_aio_moves_more_than_a_pipe_holds_both_ways() -> None:
    result = asyncio.run(pybox.aio.run("busybox", ["cat"], input=b"x" * 3_000_000))
    assert result.stdout == b"x" * 3_000_000


def test_cancelling_the_task_kills_the_container() -> None:
    async def impatient() -> None:
        await asyncio.wait_for(pybox.aio.run("busybox", ["sleep", "1000"]), 0.3)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(impatient())
    assert alone()


def test_aio_tells_failures_as_run_does() -> None:
    with pytest.raises(pybox.ImageNotFound):
        asyncio.run(pybox.aio.run("nosuch", ["true"]))
    with pytest.raises(pybox.ProgramNotFound):
        asyncio.run(pybox.aio.run("busybox", ["nosuch"]))
    with pytest.raises(pybox.JobError):
        asyncio.run(pybox.aio.run("busybox", ["false"], check=True))


def test_lines_are_handed_on_as_they_are_written() -> None:
    seen: list[tuple[bytes, float]] = []
    result = pybox.run(
        "busybox", ["sh", "-c", "echo one; sleep 0.3; printf two"], stdout=lambda line: seen.append((line, time.monotonic()))
    )
    assert result.ok and result.stdout is None and result.stderr == b""
    assert [line for line, _ in seen] == [b"one\n", b"two"] and seen[1][1] - seen[0][1] > 0.1


def test_who_raises_while_a_line_is_handed_on_kills_the_container() -> None:
    def refuse(line: bytes) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pybox.run("busybox", ["sh", "-c", "echo one; sleep 1000"], stdout=refuse)
    assert alone()


def test_a_file_is_written_by_the_command_itself(tmp_path: object) -> None:
    with open(f"{tmp_path}/out", "wb") as file:
        assert pybox.run("busybox", ["echo", "hello"], stdout=file).stdout is None
    with open(f"{tmp_path}/out", "rb") as file:
        assert file.read() == b"hello\n"
