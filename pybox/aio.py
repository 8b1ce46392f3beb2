"""pybox.aio: containers for asyncio. A container is waited for by its pidfd in the event loop: no thread, no child watcher.

    result = await pybox.aio.run("busybox", ["sleep", "1"])

Cancelling the task kills the container and waits until it is gone. Launching itself takes some milliseconds in the loop's thread;
who launches by the hundred may want ``asyncio.to_thread(pybox.run, ...)`` or `run_many`.
"""

from __future__ import annotations

import asyncio
import os

from pybox.api import Container
from pybox.process import Process, popen
from pybox.result import Result
from pybox.supervise import DEVNULL, PIPE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO, Unpack


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def wait(process: Process) -> Result:
    """Wait for the end of a container of `popen`. When the waiting is cancelled, the container is killed and waited for."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(process.fileno(), _wake, ended)
    try:
        await ended
    except asyncio.CancelledError:
        loop.remove_reader(process.fileno())
        process.close()
        raise
    loop.remove_reader(process.fileno())
    return process.wait()


async def _read(file: BinaryIO) -> bytes:
    """Read a pipe to its end in the loop."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    try:
        return await reader.read()
    finally:
        transport.close()


async def _write(file: BinaryIO, data: bytes) -> None:
    """Write all of it and close; a command that does not want the rest is no error."""
    fd = file.fileno()
    os.set_blocking(fd, False)
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    try:
        while view:
            room: asyncio.Future[None] = loop.create_future()
            loop.add_writer(fd, _wake, room)
            try:
                await room
            finally:
                loop.remove_writer(fd)
            view = view[os.write(fd, view[:65536]) :]
    except BrokenPipeError:
        pass
    finally:
        file.close()


async def run(
    image: str,
    args: Sequence[str] = (),
    *,
    input: bytes | str | None = None,
    timeout: float | str | None = None,
    name: str = "",
    check: bool = False,
    **container: Unpack[Container],
) -> Result:
    """Run a container to its end without blocking the loop; arguments, Result and exceptions are those of pybox.run."""
    process = popen(
        image,
        args,
        stdin=DEVNULL if input is None else PIPE,
        stdout=PIPE,
        stderr=PIPE,
        timeout=timeout,
        name=name,
        **container,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        jobs = [asyncio.ensure_future(_read(file)) for file in (process.stdout, process.stderr)]
        feeding = None
        if process.stdin is not None:
            data = input.encode() if isinstance(input, str) else input or b""
            feeding = asyncio.ensure_future(_write(process.stdin, data))
        try:
            result = await wait(process)
            stdout, stderr = [await job for job in jobs]
        finally:
            for job in (*jobs, *([feeding] if feeding is not None else [])):
                job.cancel()
    finally:
        process.close()
    result = result.replace(stdout=stdout, stderr=stderr)
    return result.check() if check else result
