"""The person's terminal: raw mode, window size, detach keys, signals. termios(3), ioctl_tty(2)

What is done to the terminal is undone whatever happens. joining.py moves the bytes.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from termios import TCSADRAIN, TIOCGWINSZ, TIOCSWINSZ, error, tcgetattr, tcsetattr
from tty import setraw

from pybox.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DETACH_KEYS = "ctrl-p,ctrl-q"


def parse_keys(text: str | None) -> bytes:
    """Return the bytes of detach keys like ``ctrl-a,d``; None is the usual ctrl-p,ctrl-q, "" none at all. Raises SpecError."""
    found = b""
    text = DETACH_KEYS if text is None else text
    for word in text.split(",") if text else []:
        key = word.removeprefix("ctrl-")
        fine = len(key) == 1 and key.isascii() and key.isprintable()
        if not fine or (key != word and not (key.isalpha() or key in "@[\\]^_")):
            raise SpecError("detach-keys", text, "must be keys like ctrl-p,ctrl-q or ctrl-a,d")
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


def window_size() -> tuple[int, int]:
    """Return rows and columns of the terminal that the person sits at; (0, 0) when none of our streams is one."""
    for fd in (1, 0, 2):
        try:
            rows, columns, _, _ = struct.unpack("HHHH", ioctl(fd, TIOCGWINSZ, b"\0" * 8))
        except OSError:
            continue
        return rows, columns
    return 0, 0


def set_window_size(fd: int, rows: int, columns: int) -> None:
    """Set the size of a terminal; the kernel tells its foreground processes by SIGWINCH."""
    try:
        ioctl(fd, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    except OSError:
        pass


@contextmanager
def raw_mode(fd: int) -> Iterator[Callable[[], None]]:
    """Pass each key on as it is typed, Ctrl-C included: the other terminal interprets them. Restored whatever happens.

    Yields what makes it raw again: a shell gives a job that it continues another mode. fd need not be a terminal.
    """
    try:
        before = tcgetattr(fd)
    except (error, ValueError):  # no terminal, or no fd at all
        yield lambda: None
        return

    def make_raw() -> None:
        try:
            setraw(fd, TCSADRAIN)
        except error:  # it has hung up
            pass

    try:
        make_raw()
        yield make_raw
    finally:
        try:
            tcsetattr(fd, TCSADRAIN, before)
        except error:
            pass


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
