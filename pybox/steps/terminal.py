"""Steps on terminals: a pair of ends that make a program believe that a person sits there. pty(7)"""

from __future__ import annotations

import os

from pybox.steps.base import ChildStep
from pybox.steps.mounts import Cover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.lowering import Table
    from pybox.seen import Seen


class OpenTerminal(ChildStep):
    """Make a terminal in the container's own /dev/pts, and send its master to pybox over a socket.

    What is written to one end is read from the other, and between them sits the kernel's line discipline: it echoes, edits
    lines, and turns Ctrl-C into a signal. The terminal is the container's, so `tty` and /proc name a file that exists inside.
    """

    call: ClassVar[str] = "ioctl"
    man: ClassVar[str] = "pty(7)"
    uid: int
    slot: str = "terminal"

    def describe(self) -> str:
        return "make a terminal, send its master to pybox"

    def calls(self) -> tuple[str, ...]:
        return (
            'openat2(AT_FDCWD, "/dev/pts/ptmx", {flags=O_RDWR|O_NOCTTY|O_NONBLOCK|O_CLOEXEC, resolve=RESOLVE_NO_SYMLINKS}, 24)',
            "recvfrom(<terminal-socket>, ..., 4, MSG_DONTWAIT, NULL, NULL)",
            "ioctl(<fd>, TIOCSWINSZ, {ws_row=..., ws_col=..., ws_xpixel=0, ws_ypixel=0})",
            "ioctl(<fd>, TIOCSPTLCK, [0])",
            "ioctl(<fd>, TIOCGPTPEER, O_RDWR|O_NOCTTY|O_CLOEXEC)",
            f"fchown(<{self.slot}>, {self.uid}, -1)",
            "sendmsg(<terminal-socket>, ..., MSG_NOSIGNAL)",
        )

    def lower(self, table: Table) -> None:
        table.row("PB_TERMINAL", fd=table.slot("terminal-socket"), out=table.slot(self.slot), x=self.uid)

    def check(self, seen: Seen) -> bool:
        return os.path.lexists(seen.inside("/dev/pts/0"))


class ShowConsole(Cover):
    """Show the terminal at /dev/console too, where programs that speak to the machine's operator look for it."""

    def describe(self) -> str:
        return f"show {self.by} at {self.path}"

    def check(self, seen: Seen) -> bool:
        found = seen.mount(self.path)
        return found is not None and found.fstype == "devpts"


class ControlTerminal(ChildStep):
    """Make the terminal the one that controls this session: Ctrl-C, Ctrl-Z and hang-ups become signals; credentials(7)."""

    call: ClassVar[str] = "ioctl"
    man: ClassVar[str] = "ioctl_tty(2)"

    def describe(self) -> str:
        return "make it the controlling terminal"

    def calls(self) -> tuple[str, ...]:
        return ("ioctl(0, TIOCSCTTY, 0)",)

    def lower(self, table: Table) -> None:
        table.row("PB_CONTROL")

    def check(self, seen: Seen) -> bool:
        fields = seen.file("stat").rpartition(")")[2].split()
        return len(fields) > 4 and fields[4] != "0"  # tty_nr, proc_pid_stat(5)
