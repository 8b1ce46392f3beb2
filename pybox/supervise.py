"""While the command runs: its streams, its time, its end. poll(2), pidfd_open(2), wait4(2)"""

from __future__ import annotations

import posix as os
from select import POLLERR, POLLHUP, POLLIN, POLLOUT, poll
from sys import byteorder
from time import monotonic

from pybox import native
from pybox.errors import SpecError
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from select import epoll
    from typing import Protocol

    class HasFileno(Protocol):
        """A file."""

        def fileno(self) -> int:
            """Return its fd."""

    Sink = int | HasFileno | Callable[[bytes], object]  # an fd, a file, or who is called with each line

PIPE, STDOUT, DEVNULL = -1, -2, -3  # what they are in subprocess, too
_CHUNK = 1 << 16
_MESSAGE = (0, 4), (4, 8), (8, 16)  # struct pb_message


class End(Record):
    """How the command ended: its wait status, whether pybox had to kill it, what it wrote, what it used."""

    status: int  # as wait(2) gives it
    timed_out: bool
    usage: native.Usage
    stdout: bytes | None
    stderr: bytes | None
    wall: float  # seconds
    peak: int | None  # bytes of the largest process; None when it can't be told from pybox itself


class Streams:
    """The parent's ends of the captured streams. ``feed`` is written to stdin, then it is closed.

    ``owner`` (uid, gid on the host) is given the pipes; None leaves them ours. ``stdout`` and ``stderr`` go before capture."""

    def __init__(
        self,
        capture: bool,
        feed: bytes | None,
        owner: tuple[int, int] | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        stdin: Sink | None = None,
    ) -> None:
        self.given: dict[str, int] = {"stdin": 0, "stdout": 1, "stderr": 2}
        self.readers: dict[int, bytearray | Lines] = {}
        self.names: dict[str, int] = {}
        self.pipes: dict[str, int] = {}  # our ends of those asked for by PIPE; whoever takes them out closes them
        self.feed = memoryview(feed) if feed else None
        self.writer = -1
        self._theirs: list[int] = []
        self._owner = owner
        if feed is not None:
            theirs, self.writer = os.pipe2(os.O_CLOEXEC)
            self._lend("stdin", theirs)
            os.set_blocking(self.writer, False)
            if not feed:
                os.close(self.writer)
                self.writer = -1
        elif stdin is not None or capture:
            self._place("stdin", DEVNULL if stdin is None else stdin)
        for name, sink in (("stdout", stdout), ("stderr", stderr)):
            if sink is not None and not callable(sink):
                self._place(name, sink)
            elif capture or sink is not None:
                ours, theirs = os.pipe2(os.O_CLOEXEC)
                self._lend(name, theirs)
                self.readers[ours] = bytearray() if sink is None else Lines(sink)
                self.names[name] = ours

    def _place(self, name: str, sink: Sink) -> None:
        """Give a stream a file, or what a number stands for; those of subprocess."""
        assert not callable(sink)
        fd = sink if isinstance(sink, int) else sink.fileno()
        if fd == PIPE:
            ends = os.pipe2(os.O_CLOEXEC)
            theirs, self.pipes[name] = ends if name == "stdin" else ends[::-1]
            self._lend(name, theirs)
        elif fd == DEVNULL:
            self.given[name] = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            self._theirs.append(self.given[name])
        elif fd == STDOUT and name == "stderr":
            self.given[name] = self.given["stdout"]
        elif fd >= 0:
            self.given[name] = fd
        else:
            raise SpecError(name, fd, "not a file")

    def _lend(self, name: str, fd: int) -> None:
        self.given[name] = fd
        self._theirs.append(fd)
        if self._owner is not None:
            # else the command could not open /dev/stdout, which is this pipe by another name
            os.fchown(fd, *self._owner)

    def handed_over(self) -> None:
        """Close the child's ends in this process, once the child has them."""
        while self._theirs:
            os.close(self._theirs.pop())

    def close(self) -> None:
        """Close everything that is still open."""
        self.handed_over()
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1
        for fd in (*self.names.values(), *self.pipes.values()):
            os.close(fd)
        self.names, self.pipes = {}, {}

    def captured(self, name: str) -> bytes | None:
        """Return what was read of a stream, None when it was not captured."""
        found = self.readers[self.names[name]] if name in self.names else None
        return bytes(found) if isinstance(found, bytearray) else None

    def flush(self) -> None:
        """Hand on the last line of each stream that has no newline at its end."""
        for reader in self.readers.values():
            if isinstance(reader, Lines):
                reader.flush()


class Lines:
    """Hands on a stream line by line, each as soon as it is complete."""

    def __init__(self, call: Callable[[bytes], object]) -> None:
        self._call = call
        self._rest = b""

    def extend(self, data: bytes) -> None:
        """Take the next bytes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._call(line + b"\n")

    def flush(self) -> None:
        """Hand on what has no newline."""
        rest, self._rest = self._rest, b""
        if rest:
            self._call(rest)


def follow(
    child: native.Child, streams: Streams, leash: int, timeout: float | None, kill: Callable[[], None], woken: int = -1
) -> End:
    """Serve the streams until the command has ended, kill the container when its time is over, and reap it.

    Captured output is read to its end before this returns: nothing that a short-lived command wrote is lost. An exception
    (KeyboardInterrupt, a signal handler's) kills the container too, and is passed on when it is gone. ``woken``: of the Forwarder.
    """
    deadline = None if timeout is None else child.report.begun / 1e9 + timeout
    timed_out = False
    reaped = False
    try:
        if deadline is not None or streams.readers or streams.writer >= 0 or woken >= 0:
            timed_out = not _serve(child.pidfd, streams, deadline, woken)
            if timed_out:
                kill()
        usage = native.wait(child.pid)
        reaped = True
        return _end(child, streams, leash, timed_out, usage)
    finally:
        if not reaped:
            kill()
            native.wait(child.pid)


def conclude(child: native.Child, streams: Streams, leash: int, timed_out: bool) -> End:
    """Reap a command that has ended or was killed; its output is read by others, or is read to its end here."""
    return _end(child, streams, leash, timed_out, native.wait(child.pid))


def _end(child: native.Child, streams: Streams, leash: int, timed_out: bool, usage: native.Usage) -> End:
    wall = monotonic() - child.report.begun / 1e9
    if streams.readers:
        _drain(streams)
        streams.flush()
    told = None if timed_out else _said(leash)
    # the memory of pybox, shared until exec, is in the child's maximum: only what is above it can be the child's
    own = usage.maxrss if leash < 0 and usage.maxrss > _own_peak() else None
    status, peak = told or (usage.status, own)
    return End(status, timed_out, usage, streams.captured("stdout"), streams.captured("stderr"), wall, peak)


def _said(leash: int) -> tuple[int, int] | None:
    """Return the wait status of the command and the bytes of its largest process, as pybox-init told them; None when it was
    killed before it could tell."""
    if leash < 0:
        return None
    try:
        os.set_blocking(leash, False)
        while message := os.read(leash, 16):
            word, status, maxrss = (int.from_bytes(message[at:end], byteorder) for at, end in _MESSAGE)
            if word == native.number("PB_ENDED"):
                return status & 0xFFFF, maxrss * 1024
    except OSError:
        pass
    return None


def _own_peak() -> int:
    from resource import RUSAGE_SELF, getrusage

    return getrusage(RUSAGE_SELF).ru_maxrss * 1024


def _serve(pidfd: int, streams: Streams, deadline: float | None, woken: int) -> bool:
    """Move bytes until the process has ended; False when the deadline came first."""
    watch = poll()
    watch.register(pidfd, POLLIN)
    if woken >= 0:
        watch.register(woken, POLLIN)
    for fd in streams.readers:
        watch.register(fd, POLLIN)
    if streams.writer >= 0:
        watch.register(streams.writer, POLLOUT)
    while True:
        left = None if deadline is None else (deadline - monotonic()) * 1000
        if left is not None and left <= 0:
            return False
        ended = False
        for fd, event in watch.poll(left):
            if fd == pidfd:
                ended = True
            elif fd == woken:
                os.read(woken, 64)  # its handler has run by now
            elif fd == streams.writer:
                push(streams, watch, event)
            elif not pull(streams, fd):
                watch.unregister(fd)
        if ended:
            return True


def pull(streams: Streams, fd: int) -> bool:
    """Read what a stream has now; False at its end. Raises what the caller's function raises."""
    data = os.read(fd, _CHUNK)
    streams.readers[fd].extend(data)
    return bool(data)


def push(streams: Streams, watch: poll | epoll, event: int) -> None:
    """Write what stdin takes now; when there is no more, or nobody wants it, it is no longer watched, and closed."""
    try:
        if event & (POLLERR | POLLHUP) or streams.feed is None:
            raise BrokenPipeError
        written = os.write(streams.writer, streams.feed[:_CHUNK])
        streams.feed = streams.feed[written:]
        done = not streams.feed
    except BlockingIOError:
        return
    except BrokenPipeError:
        done = True  # the command does not want the rest: no error, as with a shell's pipe
    if done:
        watch.unregister(streams.writer)
        os.close(streams.writer)
        streams.writer = -1


def _drain(streams: Streams) -> None:
    """Read what is still in the pipes. The container is gone; whoever else holds the other end is not waited for."""
    for fd in streams.readers:
        os.set_blocking(fd, False)
        try:
            while pull(streams, fd):
                pass
        except BlockingIOError:
            pass


def kill(child: native.Child, groups: tuple[tuple[str, str], ...]) -> None:
    """End all processes of a container: by its process 1, or by its control group where it has the host's PID namespace."""
    for controller, path in groups:
        if controller in ("", "freezer"):  # in a frozen v1 group nobody would hear of his end
            from pybox.undo import kill_group  # nearly every container ends by itself

            try:
                kill_group(path)
            except OSError:
                pass
    from _signal import pidfd_send_signal

    try:
        pidfd_send_signal(child.pidfd, 9)
    except ProcessLookupError:
        pass
