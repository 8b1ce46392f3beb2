"""pybox.popen: a container that runs beside the program, in the shape of subprocess.Popen. aio.py is the same for asyncio."""

from __future__ import annotations

import os
from select import POLLIN, poll

from pybox.api import Container, options_of, shared, spec_of
from pybox.result import Result
from pybox.runtime import Running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from threading import Timer
    from typing import BinaryIO, Self, Unpack

    from pybox.supervise import Sink


class Process:
    """A container that runs. Leaving its ``with`` block kills it; so does forgetting it, and the end of this program.

    ``stdin``, ``stdout`` and ``stderr`` are binary files, of those streams that were asked for with PIPE.
    """

    def __init__(self, running: Running, args: tuple[str, ...], timeout: float | None) -> None:
        self._running = running
        self._owner = os.getpid()
        self._timer: Timer | None = None
        self._timed_out = False
        self._cancelled = False
        self.args = args
        self.id = running.identity
        self.pid = running.child.pid  # of process 1, on the host
        self.result: Result | None = None
        assert running.streams is not None
        pipes, running.streams.pipes = running.streams.pipes, {}
        self.stdin: BinaryIO | None = open(pipes["stdin"], "wb") if "stdin" in pipes else None  # noqa: SIM115
        self.stdout: BinaryIO | None = open(pipes["stdout"], "rb") if "stdout" in pipes else None  # noqa: SIM115
        self.stderr: BinaryIO | None = open(pipes["stderr"], "rb") if "stderr" in pipes else None  # noqa: SIM115
        if timeout is not None:
            from threading import Timer

            self._timer = Timer(timeout, self.expire)
            self._timer.daemon = True
            self._timer.start()

    def expire(self) -> None:
        """End all of its processes now: its time is over, which the Result's reason will say."""
        if self.result is None:
            self._timed_out = True
            self._running.kill()

    def fileno(self) -> int:
        """Return the pidfd of process 1, which becomes readable when the container has ended: for select(2) and event loops."""
        return self._running.child.pidfd

    def mine(self) -> bool:
        """Whether it runs and is this process's to end: not in a fork of ours, nor when it could not be started."""
        return getattr(self, "_owner", 0) == os.getpid()

    def poll(self) -> Result | None:
        """Return the Result if the container has ended, else None. Waits for nothing."""
        if self.result is None and readable(self.fileno(), 0):
            self._settle()
        return self.result

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for the end and return the Result. Raises TimeoutError after ``timeout`` seconds; the container goes on then.

        What the command writes to a PIPE must be read by somebody, or it waits for ever: see communicate.
        """
        if self.result is None:
            if not readable(self.fileno(), timeout):
                raise TimeoutError(f"container {self.id} still runs after {timeout} seconds")
            self._settle()
        assert self.result is not None
        return self.result

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        running, self._owner = self._running, 0
        result = running.settle(self._timed_out)
        if self._cancelled and not result.ok and not self._timed_out:
            result = result.replace(reason="cancelled")
        self.result = result

    def communicate(self, input: bytes | None = None) -> Result:
        """Write ``input`` to stdin, read stdout and stderr to their ends, wait; the Result has what was read."""
        from threading import Thread

        read: dict[str, bytes] = {}
        files = {"stdout": self.stdout, "stderr": self.stderr}
        threads = [
            Thread(target=lambda name=name, file=file: read.__setitem__(name, file.read()), daemon=True)
            for name, file in files.items()
            if file is not None
        ]
        for thread in threads:
            thread.start()
        if self.stdin is not None:
            try:
                self.stdin.write(input or b"")
                self.stdin.close()
            except BrokenPipeError:  # it does not want the rest: no error, as in a shell
                pass
        for thread in threads:
            thread.join()
        self.result = self.wait().replace(**read)
        return self.result

    def send_signal(self, number: int) -> None:
        """Send a signal to the command. Nothing happens when it has ended."""
        from signal import pidfd_send_signal

        if self.result is None:
            try:
                pidfd_send_signal(self.fileno(), number)
            except ProcessLookupError:
                pass

    def terminate(self) -> None:
        """Ask it to end: SIGTERM."""
        self.send_signal(15)

    def kill(self) -> None:
        """End all of its processes now; the Result's reason is ``cancelled``, unless it was quicker."""
        if self.result is None:
            self._cancelled = True
            self._running.kill()

    def close(self) -> None:
        """Kill it if it runs, wait for its end, and close the files."""
        self.kill()
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                try:
                    file.close()
                except BrokenPipeError:
                    pass
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self.mine():
            self.close()

    def __repr__(self) -> str:
        return f"<pybox.Process {self.id} {' '.join(self.args)}>"


def readable(fd: int, timeout: float | None) -> bool:
    """Return whether an fd becomes readable within some seconds; None waits for ever."""
    watch = poll()
    watch.register(fd, POLLIN)
    return bool(watch.poll(None if timeout is None else max(0.0, timeout) * 1000))


def popen(
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
    """Start a container and return at once.

    Args:
        stdin, stdout, stderr: a file, an fd, or PIPE, DEVNULL, STDOUT as in subprocess; by default the caller's own.
        timeout: seconds, after which the whole container is killed, whether somebody waits or not.
        The others are those of `run`, and so are the exceptions.
    """
    spec = spec_of(image, args, container)
    options = options_of(timeout=timeout, input=None, capture=False, stdout=stdout, stderr=stderr, name=name)
    runtime = shared()
    running = Running(runtime, runtime.ready(spec, options.keep), options.replace(stdin=stdin, timeout=None))
    return Process(running, spec.args, options.timeout)
