"""A person at a terminal, for the tests: the other end of a pseudo-terminal that pybox believes in. pty(7)"""

from __future__ import annotations

import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from fcntl import ioctl
from types import TracebackType

from harness import PYBOX, TIMEOUT, children

PROMPT = "/ # "
LAST = b"\0that was all\0"


def _sit_down() -> None:
    """Take the terminal as a login would: it controls the session, and no signal is ignored, as a background job's would be."""
    ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


class Person:
    """Starts `pybox WORDS` on a terminal of its own; types, reads the screen, changes the window, goes away."""

    def __init__(self, *words: str, rows: int = 24, columns: int = 80, command: tuple[str, ...] = PYBOX) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.before = self.mode()
        self.screen = bytearray()
        self._seen = 0
        self.process = subprocess.Popen(
            [*command, *words],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=_sit_down,
        )
        self.ended = os.pidfd_open(self.process.pid)

    def __enter__(self) -> Person:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid, state in children().items():  # orphans of a killed pybox are ours; a dead one holds its PID namespace
            if state == "Z":
                os.waitpid(pid, 0)
        self.go_away()
        os.close(self.ended)

    def mode(self) -> list[object]:
        """Return the terminal's settings."""
        return list(termios.tcgetattr(self.slave))

    @property
    def raw(self) -> bool:
        """Whether keys are passed on as they are typed."""
        return not int(str(self.mode()[3])) & termios.ICANON

    def resize(self, rows: int, columns: int) -> None:
        """Give the window another size."""
        ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str | bytes) -> None:
        """Type something."""
        data = text.encode() if isinstance(text, str) else text
        while data:
            self.read(0)  # what is echoed needs room
            if select.select([], [self.master], [], 1)[1]:
                data = data[os.write(self.master, data[:512]) :]

    def read(self, seconds: float = 0.05) -> bool:
        """Read what is on the screen now; False when nothing came."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            self.screen += os.read(self.master, 1 << 16)
        except OSError:
            return False
        return True

    def expect(self, text: str) -> str:
        """Read until a text is on the screen that was not there at the last call; returns what is before it. Fails if it never comes."""
        limit, wanted = time.monotonic() + TIMEOUT, text.encode()
        while (at := self.screen.find(wanted, self._seen)) < 0:
            if not self.read() and (time.monotonic() > limit or (self.process.poll() is not None and not self.read(0.2))):
                raise AssertionError(f"{text!r} never came; on the screen: {bytes(self.screen[self._seen :][-2000:])!r}")
        before = bytes(self.screen[self._seen : at])
        self._seen = at + len(wanted)
        return before.decode(errors="replace")

    def ask(self, command: str) -> str:
        """Type a command at the shell's prompt; returns what it says."""
        self.type(f"{command}\n")
        self.expect("\n")
        return self.expect(PROMPT).strip().replace("\r", "")

    def end(self) -> int:
        """Read to the end, and return the exit status."""
        limit = time.monotonic() + TIMEOUT
        while self.process.poll() is None:
            select.select([self.master, self.ended], [], [], 1)
            self.read(0)
            if time.monotonic() > limit:
                raise AssertionError(f"it does not end; on the screen: {bytes(self.screen[self._seen :][-2000:])!r}")
        while self.read(0):
            pass
        # what was written may still be on its way to us: it comes before what is written after it
        os.write(self.slave, LAST)
        while LAST not in self.screen:
            assert self.read(TIMEOUT)
        del self.screen[self.screen.index(LAST) :]
        return self.process.returncode

    @property
    def text(self) -> str:
        """All that was on the screen."""
        return self.screen.decode(errors="replace").replace("\r", "")

    def go_away(self) -> None:
        """Close the terminal: whoever sits in it hears a hang-up."""
        for fd in {self.master, self.slave} - {-1}:
            os.close(fd)
        self.master = self.slave = -1
