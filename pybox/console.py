"""The person's side of a container's streams: raw mode, window size, detach keys, and moving bytes until the end. termios(3)

attach    over the socket of pybox-monitor; csrc/monitor.h has the messages
relay     between our terminal and the master of one that `pybox exec -t` has made
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from select import POLLIN, poll
from termios import TCSADRAIN, TIOCGWINSZ, TIOCSWINSZ, error, tcgetattr, tcsetattr
from tty import setraw

from pybox import native
from pybox.errors import SpecError, StateError
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

DETACH_KEYS = "ctrl-p,ctrl-q"
_CHUNK = 16 << 10
_FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def parse_keys(text: str) -> bytes:
    """Return the bytes of detach keys like ``ctrl-p,ctrl-q`` or ``ctrl-a,d``; "" for none. Raises SpecError."""
    found = b""
    for word in text.split(",") if text else []:
        key = word.removeprefix("ctrl-")
        if len(key) != 1 or not key.isascii() or not key.isprintable():
            raise SpecError("detach-keys", text, "must be keys like ctrl-p,ctrl-q")
        found += bytes([ord(key.upper()) & 0x1F]) if key != word else key.encode()
    return found


class Keys:
    """Finds the detach keys in what is typed; the beginning of a possible match is held back until it is decided."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what is to be passed on, and whether the keys were typed."""
        if not self._keys:
            return data, False
        data = self._held + data
        self._held = b""
        at = data.find(self._keys)
        if at >= 0:
            return data[:at], True
        for size in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:size]):
                self._held = data[-size:]
                return data[:-size], False
        return data, False


def window_size(fd: int) -> tuple[int, int]:
    """Return rows and columns of a terminal; (0, 0) when it has none."""
    try:
        rows, columns, _, _ = struct.unpack("HHHH", ioctl(fd, TIOCGWINSZ, b"\0" * 8))
    except OSError:
        return 0, 0
    return rows, columns


def set_window_size(fd: int, rows: int, columns: int) -> None:
    """Set the size of a terminal; the kernel tells its foreground processes by SIGWINCH."""
    try:
        ioctl(fd, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    except OSError:
        pass


@contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Pass each key on as it is typed, Ctrl-C included: the other terminal interprets them. Restored whatever happens."""
    try:
        before = tcgetattr(fd)
    except error:
        yield
        return
    setraw(fd, TCSADRAIN)
    try:
        yield
    finally:
        tcsetattr(fd, TCSADRAIN, before)


@contextmanager
def told_of_signals(numbers: tuple[int, ...], react: Callable[[int], None]) -> Iterator[int]:
    """Have ``react`` called for signals; yields an fd that becomes readable when one has come, so that a poll is woken."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = {number: signal.getsignal(number) for number in numbers}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in numbers:
        if before[number] != signal.SIG_IGN:
            signal.signal(number, lambda got, frame: react(got))
    try:
        yield reader
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(reader)
        os.close(writer)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it. Raises BrokenPipeError and other OSErrors."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Wish(Record):
    """What the person wants: stdin passed on, a terminal, the keys to leave by; signals passed on where there is no terminal."""

    stdin: bool = True
    tty: bool = False
    keys: bytes = b"\x10\x11"
    proxy: bool = True


class Parting(Record):
    """How it ended: the container's wait status, or we have left it, or the connection broke (``status`` is None)."""

    status: int | None = None
    detached: bool = False


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
    kinds = {
        name: native.number(f"PB_K_{name}") for name in ("INPUT", "EOF", "SIZE", "SIGNAL", "DETACH", "STDOUT", "STDERR", "ENDED")
    }
    fd = connection.fileno()

    def say(kind: str, data: bytes = b"") -> None:
        try:
            connection.send(bytes([kinds[kind]]) + data)
        except OSError:
            pass  # it has ended: its last word is still to be read

    def react(number: int) -> None:
        if number == signal.SIGWINCH:
            say("SIZE", struct.pack("HH", *window_size(1)))
        elif wish.proxy:
            say("SIGNAL", bytes([number]))

    numbers = ((signal.SIGWINCH,) if wish.tty else ()) + (() if wish.tty or not wish.proxy else tuple(_FORWARDED))
    with told_of_signals(numbers, react) as woken, raw_mode(0) if wish.tty and wish.stdin else _as_it_is():
        if wish.tty:
            react(signal.SIGWINCH)
        keys = Keys(wish.keys if wish.tty else b"")
        watch = poll()
        for source in (fd, woken, *((0,) if wish.stdin else ())):
            watch.register(source, POLLIN)
        while True:
            for source, _ in watch.poll():
                if source == woken:
                    os.read(woken, 64)
                elif source == 0:
                    data = os.read(0, _CHUNK)
                    plain, leave = keys.feed(data)
                    if plain:
                        say("INPUT", plain)
                    if leave:
                        say("DETACH")
                        return Parting(detached=True)
                    if not data:
                        say("EOF")
                        watch.unregister(0)
                else:
                    try:
                        message = connection.recv(1 + (64 << 10))
                    except ConnectionResetError:  # it ended without reading all we said; said once, what it wrote is still there
                        continue
                    if not message:
                        return Parting()
                    if message[0] == kinds["ENDED"]:
                        return Parting(status=struct.unpack("i", message[1:5])[0])
                    write_all(1 if message[0] == kinds["STDOUT"] else 2, message[1:])


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def relay(master: int, ended: int, wish: Wish) -> bool:
    """Join our stdin and stdout to the master of a terminal until ``ended`` (a pidfd) is readable; True when left by the keys."""

    def react(number: int) -> None:
        set_window_size(master, *window_size(1))

    with told_of_signals((signal.SIGWINCH,), react) as woken, raw_mode(0) if wish.stdin else _as_it_is():
        react(signal.SIGWINCH)
        keys = Keys(wish.keys)
        watch = poll()
        for source in (master, woken, ended, *((0,) if wish.stdin else ())):
            watch.register(source, POLLIN)
        open_still = True
        while True:
            for source, _ in watch.poll():
                if source == woken:
                    os.read(woken, 64)
                elif source == 0:
                    data = os.read(0, _CHUNK)
                    plain, leave = keys.feed(data)
                    if plain and open_still:
                        write_all(master, plain)
                    if leave:
                        return True
                    if not data:
                        watch.unregister(0)
                elif source == master:
                    open_still = _copy(master)
                    if not open_still:
                        watch.unregister(master)
                else:
                    os.set_blocking(master, False)
                    while open_still and _copy(master):
                        pass
                    return False


def _copy(master: int) -> bool:
    try:
        data = os.read(master, _CHUNK)
    except BlockingIOError:
        return False
    except OSError:  # EIO: the last user of the terminal has closed it
        return False
    write_all(1, data)
    return bool(data)
