"""Steps of entering a container that runs: its control groups and namespaces are joined, not made."""

from __future__ import annotations

import posix as os

from pybox.paths import is_dir, make_dirs
from pybox.steps.base import ChildStep, Desk, HostStep, flags_text
from pybox.steps.places import OpenTarget
from pybox.steps.process import KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.lowering import Table
    from pybox.seen import Seen


class OpenGroup(HostStep):
    """Open a control group of the running container, for one more process to be born in it or to join it."""

    call: ClassVar[str] = "openat"
    man: ClassVar[str] = "cgroups(7)"
    path: str
    slot: str
    join: str = ""  # as in MakeGroup
    make: bool = False  # it need not be there

    def describe(self) -> str:
        return f"open the control group {self.path}"

    def calls(self) -> tuple[str, ...]:
        flags = "O_WRONLY|O_CLOEXEC" if self.join else "O_RDONLY|O_CLOEXEC|O_DIRECTORY"
        made = (f'mkdir("{self.path}", 0755)',) if self.make else ()
        return (*made, f'openat(AT_FDCWD, "{self._file()}", {flags})')

    def _file(self) -> str:
        return f"{self.path}/{self.join}" if self.join else self.path

    def apply(self, desk: Desk) -> None:
        if self.make:
            make_dirs(self.path, 0o755)
        desk.fds[self.slot] = os.open(
            self._file(), os.O_WRONLY | os.O_CLOEXEC if self.join else os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        )

    def check(self, seen: Seen) -> bool:
        return is_dir(self.path)


class EnterNamespaces(ChildStep):
    """Enter the namespaces of a container, all of its own at once, through a pidfd of its process 1.

    Entering the user namespace comes first in the kernel's own order, and with it the right to enter the others. The PID
    namespace takes effect for children only, so a second clone follows.
    """

    call: ClassVar[str] = "setns"
    man: ClassVar[str] = "setns(2)"
    kinds: tuple[str, ...]
    slot: str = "process"

    def describe(self) -> str:
        return f"enter the container's namespaces ({', '.join(self.kinds)})"

    def _flags(self) -> tuple[str, ...]:
        return tuple(flag for flag, kind in KINDS.items() if kind in self.kinds)

    def calls(self) -> tuple[str, ...]:
        return (f"setns(<{self.slot}>, {flags_text(self._flags())})",)

    def lower(self, table: Table) -> None:
        table.row("PB_SETNS", fd=table.slot(self.slot), x=table.flags(self._flags()))

    def check(self, seen: Seen) -> bool:
        return all(seen.private(kind) for kind in self.kinds)


class OpenWorkdir(OpenTarget):
    """Open the working directory inside the root. In a container that runs nothing is made by the way: it must be there."""

    def lower(self, table: Table) -> None:
        table.row("PB_TARGET", a=table.text(self.path), out=table.slot(self.slot))


class HideMemory(ChildStep):
    """Forbid everybody without rights over the host to look into this process; ptrace(2).

    From its birth in the container's PID namespace until its exec it is a part of pybox that the container can name: its memory
    is pybox's, its /proc/PID/exe the host's Python (CVE-2016-9962, CVE-2019-5736). A plain user's container has that user's id.
    """

    call: ClassVar[str] = "prctl"
    man: ClassVar[str] = "prctl(2)"

    def describe(self) -> str:
        return "hide its memory until it is the command"

    def calls(self) -> tuple[str, ...]:
        return ("prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE)",)

    def lower(self, table: Table) -> None:
        table.row("PB_PRCTL", x=table.number("PR_SET_DUMPABLE"))

    def check(self, seen: Seen) -> bool:
        return bool(seen.file("status"))  # exec makes it dumpable again
