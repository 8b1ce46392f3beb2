"""Joining the person's streams to a container's: bytes, signals and window sizes, until one of both leaves.

attach    over the socket of pybox-monitor; csrc/monitor.h has the messages
relay     between our terminal and the master of one that `pybox exec -t` has made

Both are one loop with another far side. It never waits for the far side to take what was typed: that side may be waiting for us
to take what it wrote, as when a long text is pasted into `cat`.

In a terminal keys make signals, over there. A signal that is sent to pybox itself is passed on too, but for SIGHUP: that is our
terminal's end, and we leave; what becomes of the container then is decided by who owns it.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
from select import POLLIN, POLLOUT, poll

from pybox import native
from pybox.console import Keys, raw_mode, set_window_size, told_of_signals, window_size
from pybox.errors import StateError
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from socket import socket

_CHUNK = 16 << 10
_FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it. Raises BrokenPipeError and other OSErrors."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Wish(Record):
    """What the person wants: stdin passed on, a terminal, the keys to leave by; signals passed on."""

    stdin: bool = True
    tty: bool = False
    keys: bytes = b"\x10\x11"
    proxy: bool = True
    redraw: bool = False  # it has drawn its screen before we came


class Parting(Record):
    """How it ended: the container's wait status, or we have left it, or the connection broke (``status`` is None)."""

    status: int | None = None
    detached: bool = False
    by: int = 0  # the signal that made us leave


class Far:
    """The other side. What is to be sent to it waits in ``outbox`` until it can take it.

    Only ``flush`` takes from the front, and a signal handler only adds at the end, so they can't be in each other's way.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.outbox: list[bytes] = []

    def wants(self) -> Iterator[tuple[int, int]]:
        """Yield (fd, poll events)."""
        if self.fd >= 0:
            yield self.fd, POLLIN | (POLLOUT if self.outbox else 0)

    def flush(self) -> None:
        """Send as much of the outbox as can be without waiting."""
        try:
            while self.outbox:
                taken = self._send(self.outbox[0])
                self.outbox[0] = self.outbox[0][taken:]
                if not self.outbox[0]:
                    self.outbox.pop(0)
        except BlockingIOError:
            pass
        except OSError:  # it has ended: its last word is still to be read
            self.outbox.clear()

    def _send(self, data: bytes) -> int:
        raise NotImplementedError

    def typed(self, data: bytes) -> None:
        """Pass input on."""
        raise NotImplementedError

    def end(self) -> None:
        """There is no more input."""

    def goodbye(self) -> None:
        """We leave."""

    def resize(self, more: int = 0) -> None:
        """Tell it the size of our window, or a larger one."""
        raise NotImplementedError

    def signal(self, number: int) -> None:
        """Pass a signal on. Called in a signal handler."""
        raise NotImplementedError

    def receive(self, ready: dict[int, int]) -> Parting | None:
        """Write out what it says; returns how it ended, None while it goes on."""
        raise NotImplementedError


class _Monitor(Far):
    """pybox-monitor, which looks after a container's streams."""

    def __init__(self, connection: socket) -> None:
        super().__init__(connection.fileno())
        self._connection = connection
        names = ("INPUT", "EOF", "SIZE", "SIGNAL", "DETACH", "STDOUT", "ENDED")
        self._kinds = {name: native.number(f"PB_K_{name}") for name in names}

    def _say(self, kind: str, data: bytes = b"") -> None:
        self.outbox.append(bytes([self._kinds[kind]]) + data)
        if len(self.outbox) == 1:
            self.flush()

    def _send(self, data: bytes) -> int:
        from socket import MSG_DONTWAIT, MSG_NOSIGNAL

        return self._connection.send(data, MSG_DONTWAIT | MSG_NOSIGNAL)

    def typed(self, data: bytes) -> None:
        self._say("INPUT", data)

    def end(self) -> None:
        self._say("EOF")

    def goodbye(self) -> None:
        self._say("DETACH")

    def resize(self, more: int = 0) -> None:
        self._say("SIZE", window(more))

    def signal(self, number: int) -> None:
        self._say("SIGNAL", bytes([number]))

    def receive(self, ready: dict[int, int]) -> Parting | None:
        if not ready.get(self.fd, 0) & ~POLLOUT:
            return None
        try:
            message = self._connection.recv(1 + (64 << 10))
        except ConnectionResetError:  # it has closed without hearing all that we said; what it said comes next, unix(7)
            return None
        if not message:
            return Parting()
        if message[0] == self._kinds["ENDED"]:
            return Parting(status=struct.unpack("i", message[1:5])[0])
        write_all(1 if message[0] == self._kinds["STDOUT"] else 2, message[1:])
        return None


class _Terminal(Far):
    """The master of a terminal, and a process on it that ends."""

    def __init__(self, master: int, process: int) -> None:
        super().__init__(master)
        os.set_blocking(master, False)
        self._master = master
        self._process = process

    def wants(self) -> Iterator[tuple[int, int]]:
        yield from super().wants()
        yield self._process, POLLIN

    def _send(self, data: bytes) -> int:
        return os.write(self._master, data)

    def typed(self, data: bytes) -> None:
        if self.fd >= 0:
            self.outbox.append(data)

    def resize(self, more: int = 0) -> None:
        set_window_size(self._master, *window_size())

    def signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self._process, number)
        except ProcessLookupError:
            pass

    def _copy(self) -> bool:
        try:
            data = os.read(self._master, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last user of the terminal has closed it
            data = b""
        if not data:
            self.fd = -1
            self.outbox.clear()
        write_all(1, data)
        return bool(data)

    def receive(self, ready: dict[int, int]) -> Parting | None:
        if self._process in ready:
            while self.fd >= 0 and self._copy():
                pass
            return Parting()
        if ready.get(self.fd, 0) & ~POLLOUT:
            self._copy()
        return None


# --- both together -----------------------------------------------------------------------------------------------------------


def window(more: int = 0) -> bytes:
    """Return the size of our window as the monitor and whoever makes a terminal read it: rows and columns as two uint16."""
    rows, columns = window_size()
    return struct.pack("HH", rows and rows + more, columns)


def announce_size(connection: int) -> None:
    """Tell a monitor that is yet to be the size of our window: then the terminal has it from the start."""
    os.write(connection, bytes([native.number("PB_K_SIZE")]) + window())


def connect(path: str) -> socket:
    """Return a connection to the monitor whose record is at ``path``. Raises StateError when there is none."""
    from socket import AF_UNIX, SOCK_SEQPACKET, socket

    try:
        here = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise StateError("the container has ended") from None
    connection = socket(AF_UNIX, SOCK_SEQPACKET)
    try:
        connection.connect(f"/proc/self/fd/{here}/attach")
    except OSError:
        connection.close()
        raise StateError("nobody serves its streams", "it runs in the foreground of another pybox") from None
    finally:
        os.close(here)
    return connection


def attach(connection: socket, wish: Wish) -> Parting:
    """Pass stdin and signals to a container, its output to stdout and stderr, until it ends or the detach keys are typed."""
    return _join(_Monitor(connection), wish)


def relay(master: int, process: int, wish: Wish) -> Parting:
    """Join our stdin and stdout to the master of a terminal until ``process`` (a pidfd) has ended or the detach keys are typed."""
    return _join(_Terminal(master, process), wish)


def _join(far: Far, wish: Wish) -> Parting:
    left: list[int] = []  # by which signal

    def react(number: int) -> None:
        if number == signal.SIGWINCH:
            far.resize()
        elif number == signal.SIGCONT:
            make_raw()
            far.resize()
        elif wish.proxy and not (wish.tty and number == signal.SIGHUP):
            far.signal(number)
        else:
            left.append(number)

    numbers = _FORWARDED + ((signal.SIGWINCH, signal.SIGCONT) if wish.tty else ())
    terminal = wish.tty and os.isatty(0)
    with raw_mode(0 if terminal and wish.stdin else -1) as make_raw, told_of_signals(numbers, react) as woken:
        if wish.tty:
            if wish.redraw:
                far.resize(1)  # a full-screen program draws again when it hears of another size
            far.resize()
        try:
            return _move(far, wish, woken, left, terminal)
        except OSError as failed:
            if terminal and failed.errno == errno.EIO:  # there is nobody to write to any more
                return Parting(detached=True, by=signal.SIGHUP)
            raise


def _move(far: Far, wish: Wish, woken: int, left: list[int], terminal: bool) -> Parting:
    keys = Keys(wish.keys if wish.tty else b"")
    reading, leaving = wish.stdin, False
    while True:
        far.flush()
        if left:
            return Parting(detached=True, by=left[0])
        if leaving and not far.outbox:
            if terminal:
                write_all(1, b"\r\n")  # the cursor is somewhere in a line of the container's
            return Parting(detached=True)
        watch = poll()
        for fd, events in far.wants():
            watch.register(fd, events)
        watch.register(woken, POLLIN)
        typing = reading and not leaving and not far.outbox
        if typing or terminal:  # of a terminal we want to hear when it hangs up
            watch.register(0, POLLIN if typing else 0)
        ready = dict(watch.poll())
        if woken in ready:
            os.read(woken, 64)
        if 0 in ready:
            data = os.read(0, _CHUNK) if typing else b""
            if data:
                plain, leaving = keys.feed(data)
                if plain:
                    far.typed(plain)
                if leaving:
                    far.goodbye()
            elif terminal:
                return Parting(detached=True, by=signal.SIGHUP)
            else:
                reading = False
                far.end()
        parting = far.receive(ready)
        if parting is not None:
            return parting
