"""pybox.aio.popen: a container beside a program that waits in an event loop; however the waiting ends, the container does not stay."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Awaitable, Callable

import pytest
from test_process import alone

import pybox
from pybox import DEVNULL, PIPE, STDOUT
from pybox.aio import Process, popen

FOREVER = ["sleep", "1000"]


def test_it_runs_beside_us_and_its_streams_are_asyncios() -> None:
    async def talk() -> pybox.Result:
        async with await popen("busybox", ["cat"], stdin=PIPE, stdout=PIPE) as process:
            assert process.stdin and process.stdout and process.stderr is None and process.poll() is None
            process.stdin.write(b"hello\n")
            assert await process.stdout.readline() == b"hello\n"
            process.stdin.close()
            await process.stdin.wait_closed()
            result = await process.wait()
            assert process.poll() is process.result is result
        return result

    assert asyncio.run(talk()).ok and alone()


def test_communicate_moves_more_than_a_pipe_holds() -> None:
    async def talk() -> pybox.Result:
        script = "cat; head -c 3000000 /dev/zero >&2; exit 3"
        async with await popen("busybox", ["sh", "-c", script], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
            return await process.communicate(b"x" * 1_000_000)

    result = asyncio.run(talk())
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"x" * 1_000_000, b"\0" * 3_000_000)


def test_a_command_that_does_not_want_its_input_is_no_error() -> None:
    async def talk() -> pybox.Result:
        async with await popen("busybox", ["true"], stdin=PIPE, stdout=PIPE, stderr=STDOUT) as process:
            return await process.communicate(b"x" * 1_000_000)

    result = asyncio.run(talk())
    assert result.ok and (result.stdout, result.stderr) == (b"", None)


def test_leaving_the_block_kills_it_and_waits() -> None:
    async def leave() -> Process:
        async with await popen("busybox", FOREVER, stdout=PIPE) as process:
            pass
        return process

    result = asyncio.run(leave()).result
    assert result and (result.reason, result.exit_code) == ("cancelled", 137) and alone()


async def _waits(process: Process) -> object:
    return await process.wait()


async def _communicates(process: Process) -> object:
    return await process.communicate(b"x")


async def _reads(process: Process) -> object:
    assert process.stdout
    return await process.stdout.read()


@pytest.mark.parametrize("stuck", [_waits, _communicates, _reads])
def test_cancelling_who_waits_ends_the_whole_container(stuck: Callable[[Process], Awaitable[object]]) -> None:
    async def cancelled() -> Process:
        begun: asyncio.Future[Process] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            async with await popen("busybox", ["sh", "-c", "sleep 1000 & sleep 1000"], stdin=PIPE, stdout=PIPE) as process:
                begun.set_result(process)
                await stuck(process)

        task = asyncio.create_task(work())
        process = await begun
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return process

    process = asyncio.run(cancelled())
    assert process.result and process.result.reason == "cancelled" and alone()


def test_waiting_may_time_out_and_the_container_goes_on() -> None:
    async def wait() -> pybox.Result:
        async with await popen("busybox", FOREVER) as process:
            with pytest.raises(TimeoutError, match="still runs after"):
                await process.wait(timeout=0.02)
            assert process.poll() is None
            process.terminate()
            return await process.wait()

    assert asyncio.run(wait()).signal == signal.SIGTERM


def test_its_own_time_ends_it_without_a_thread() -> None:
    async def wait() -> pybox.Result:
        async with await popen("busybox", FOREVER, timeout=0.1) as process:
            assert threading.active_count() == before
            return await process.wait()

    before = threading.active_count()
    assert asyncio.run(wait()).reason == "timeout"


def test_many_may_wait_for_one_and_one_for_many() -> None:
    async def wait() -> list[pybox.Result]:
        processes = [await popen("busybox", ["sh", "-c", f"exit {n}"], stdin=DEVNULL) for n in range(5)]
        return [*await asyncio.gather(*(process.wait() for process in (*processes, processes[0])))]

    assert [result.exit_code for result in asyncio.run(wait())] == [0, 1, 2, 3, 4, 0] and alone()


def test_forgetting_it_kills_it_and_so_does_the_end_of_the_loop() -> None:
    async def forget() -> None:
        process = await popen("busybox", FOREVER, stdin=DEVNULL)
        assert not alone()
        del process
        gc.collect()
        assert alone()

    async def leave() -> Process:
        return await popen("busybox", FOREVER, stdin=DEVNULL)

    asyncio.run(forget())
    process = asyncio.run(leave())
    assert process.poll() is None
    process.kill()
    assert process._process.wait().reason == "cancelled" and alone()


def test_what_can_not_be_started_raises_as_popen_does() -> None:
    with pytest.raises(pybox.ImageNotFound):
        asyncio.run(popen("nosuch", ["true"]))
    with pytest.raises(pybox.ProgramNotFound):
        asyncio.run(popen("busybox", ["nosuch"], stdout=PIPE))
    with pytest.raises(pybox.SpecError):
        asyncio.run(popen("busybox", ["true"], timeout="soon"))
