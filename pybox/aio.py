"""pybox.aio: containers for asyncio. A container is waited for by its pidfd in the event loop: no thread, no child watcher.

    result = await pybox.aio.run("busybox", ["sleep", "1"])

    async with await pybox.aio.popen("busybox", ["cat"], stdin=PIPE, stdout=PIPE) as process:
        process.stdin.write(b"hello\\n")
        line = await process.stdout.readline()

Cancelling who waits kills the container and waits until it is gone. Launching itself takes some milliseconds in the loop's thread;
who launches by the hundred may want ``asyncio.to_thread(pybox.run, ...)`` or `run_many`.
"""

from __future__ import annotations

import asyncio
import weakref

from pybox import process as beside
from pybox.result import Result
from pybox.supervise import DEVNULL, PIPE
from pybox.units import parse_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO, Self, Unpack

    from pybox.api import Container
    from pybox.supervise import Sink

_CHUNK = 1 << 16


class Process:
    """A container that runs. Leaving its ``async with`` block kills it; so does forgetting it, and the end of this program.

    ``stdin`` is an asyncio.StreamWriter, ``stdout`` and ``stderr`` are asyncio.StreamReaders, of those streams that were asked for
    with PIPE. Made by `popen`.
    """

    stdin: asyncio.StreamWriter | None = None
    stdout: asyncio.StreamReader | None = None
    stderr: asyncio.StreamReader | None = None

    def __init__(self, process: beside.Process, timeout: float | None) -> None:
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._transports: list[asyncio.BaseTransport] = []
        self.args, self.id, self.pid = process.args, process.id, process.pid
        self._loop.add_reader(process.fileno(), _tell, weakref.ref(self))  # the loop shall not keep what nobody else knows
        self._timer = None if timeout is None else self._loop.call_later(timeout, process.expire)

    async def _connect(self) -> None:
        """Turn the pipes into streams; they are the transports' to close then."""
        process = self._process
        if process.stdin is not None:
            file, process.stdin = process.stdin, None
            protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())  # whoever waits until it is closed asks this one
            transport, _ = await self._loop.connect_write_pipe(lambda: protocol, file)
            self._transports.append(transport)
            self.stdin = asyncio.StreamWriter(transport, protocol, None, self._loop)
        if process.stdout is not None:
            file, process.stdout = process.stdout, None
            self.stdout = await self._reader(file)
        if process.stderr is not None:
            file, process.stderr = process.stderr, None
            self.stderr = await self._reader(file)

    async def _reader(self, file: BinaryIO) -> asyncio.StreamReader:
        reader = asyncio.StreamReader()
        transport, _ = await self._loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
        self._transports.append(transport)
        return reader

    @property
    def result(self) -> Result | None:
        """What happened; None while it runs."""
        return self._process.result

    def poll(self) -> Result | None:
        """Return the Result if the container has ended, else None. Waits for nothing."""
        if self.result is None and beside.readable(self._process.fileno(), 0):
            self._settle()
        return self.result

    async def wait(self, timeout: float | None = None) -> Result:
        """Wait for the end and return the Result. Raises TimeoutError after ``timeout`` seconds; the container goes on then.

        When the waiting is cancelled (so also by asyncio.wait_for), the container is killed and waited for. What the command
        writes to a PIPE must be read by somebody, or it waits for ever: see communicate.
        """
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._ended)
        except TimeoutError:
            raise TimeoutError(f"container {self.id} still runs after {timeout} seconds") from None
        except asyncio.CancelledError:
            self._end()
            raise
        assert self.result is not None
        return self.result

    async def communicate(self, input: bytes | None = None) -> Result:
        """Write ``input`` to stdin, read stdout and stderr to their ends, wait; the Result has what was read.

        When it is cancelled, the container is killed and waited for.
        """
        try:
            read = await asyncio.gather(*(_all(reader) for reader in (self.stdout, self.stderr)), self._feed(input or b""))
        except asyncio.CancelledError:
            self._end()
            raise
        return (await self.wait()).replace(stdout=read[0], stderr=read[1])

    async def _feed(self, data: bytes) -> None:
        if self.stdin is None:
            return
        try:
            for start in range(0, len(data), _CHUNK):
                self.stdin.write(data[start : start + _CHUNK])
                await self.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):  # it does not want the rest: no error, as in a shell
            pass
        finally:
            self.stdin.close()

    def send_signal(self, number: int) -> None:
        """Send a signal to the command. Nothing happens when it has ended."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Ask it to end: SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """End all of its processes now; the Result's reason is ``cancelled``, unless it was quicker."""
        self._process.kill()

    def _settle(self) -> None:
        """Reap it and undo what was done for it; waits if it is not gone yet."""
        if self.result is None:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._process.fileno())
            if self._timer is not None:
                self._timer.cancel()
            try:
                self._process.wait()
            except BaseException as error:  # who waits is to hear of it
                if not self._ended.done() and not self._loop.is_closed():
                    self._ended.set_exception(error)
                raise
        if not self._ended.done() and not self._loop.is_closed():
            self._ended.set_result(None)

    def _end(self) -> None:
        """Kill and wait without the loop: whoever is being cancelled may not wait in it, and it takes no longer than dying does."""
        self.kill()
        self._settle()

    async def close(self) -> None:
        """Kill it if it runs, wait for its end, and close the streams."""
        self.kill()
        try:
            await self.wait()
        finally:
            for transport in self._transports:
                transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __del__(self) -> None:
        process = getattr(self, "_process", None)
        if process is not None and process.mine():
            self._end()

    def __repr__(self) -> str:
        return f"<pybox.aio.Process {self.id} {' '.join(self.args)}>"


def _tell(process: weakref.ref[Process]) -> None:
    found = process()
    if found is not None:
        found._settle()


async def _all(reader: asyncio.StreamReader | None) -> bytes | None:
    return None if reader is None else await reader.read()


async def wait(process: beside.Process) -> Result:
    """Wait for the end of a container of pybox.popen. When the waiting is cancelled, the container is killed and waited for."""
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


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def popen(
    image: str,
    args: Sequence[str] = (),
    *,
    stdin: Sink | None = None,
    stdout: Sink | None = None,
    stderr: Sink | None = None,
    timeout: float | str | None = None,
    name: str = "",
    **container: Unpack[Container],
) -> Process:
    """Start a container and return it; arguments and exceptions are those of pybox.popen. PIPE makes a stream of asyncio's."""
    seconds = parse_seconds("timeout", timeout)  # the loop's clock ends it, not a thread
    process = beside.popen(image, args, stdin=stdin, stdout=stdout, stderr=stderr, name=name, **container)
    made = Process(process, seconds)
    try:
        await made._connect()
    except BaseException:
        await made.close()
        raise
    return made


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
    stdin = DEVNULL if input is None else PIPE
    started = await popen(image, args, stdin=stdin, stdout=PIPE, stderr=PIPE, timeout=timeout, name=name, **container)
    async with started as process:
        result = await process.communicate(input.encode() if isinstance(input, str) else input)
    return result.check() if check else result
