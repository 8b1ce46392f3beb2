"""What a step is. Each kind of step is a small frozen class whose docstring is its lesson: what you get, and why.

A plan is two tuples of steps. ``prepare`` steps change the host before the clone: each says beforehand what it leaves behind, so
that the journal can be written first. ``inside`` steps are lowered to rows and walked by C in the new process.
"""

from __future__ import annotations

import posix as os

from pybox.native import named
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.lowering import Table
    from pybox.network.pool import Lease
    from pybox.seen import Seen


class Step(Record):
    """One effect of a run. ``call`` is the system call it stands for, ``man`` the page to read."""

    call: ClassVar[str] = ""
    man: ClassVar[str] = ""

    def describe(self) -> str:
        """Return what it does in half a line, e.g. ``mount proc on /proc``."""
        raise NotImplementedError

    def calls(self) -> tuple[str, ...]:
        """Return the real system calls as strace prints them; ``<name>`` stands for an fd."""
        return ()

    def check(self, seen: Seen) -> bool:
        """Return whether the kernel shows the effect on a running container: the post-condition."""
        raise NotImplementedError


class ChildStep(Step):
    """A step in the new process, between clone and exec."""

    def lower(self, table: Table) -> None:
        """Add its row."""
        raise NotImplementedError


class Desk:
    """What the prepare steps of one run hand on to the launch: fds by slot name, and what must be closed after it.

    ``reuse`` holds what one process may use for many runs (the sealed pybox-init, user namespaces).
    """

    def __init__(self, identity: str, reuse: dict[str, int], name: str = "") -> None:
        self.identity = identity
        self.name = name  # the container's, "" none
        self.leases: dict[str, Lease] = {}  # its addresses, by network
        self.hosts: list[tuple[str, str]] = []  # (name, address) that its hosts file is to have
        self.fds: dict[str, int] = {}
        self.reuse = reuse
        self.network = -1  # a socket in the network namespace that was made beforehand
        self.dropped: dict[str, str] = {}  # limits that --best-effort gave up, with the reason

    def named(self, text: str) -> str:
        """Put the container's id where the plan has its token."""
        return named(text, self.identity)

    def close(self) -> None:
        """Close the fds of this run."""
        for slot, fd in self.fds.items():
            if slot != "userns":  # reused
                os.close(fd)
        self.fds = {}
        if self.network >= 0:
            os.close(self.network)
            self.network = -1


class HostStep(Step):
    """A step on the host, before the clone. It happens or it does not: there is never half of it to undo."""

    def leaves(self) -> tuple[tuple[str, str], ...]:
        """Return what undoing needs: (verb of undo.py, path), with the id's token in the path. Journalled before apply."""
        return ()

    def apply(self, desk: Desk) -> None:
        """Change the host. Raises OSError, or a PyboxError that knows better."""
        raise NotImplementedError


def flags_text(names: tuple[str, ...]) -> str:
    """Return flags as C and strace write them."""
    return "|".join(names) or "0"


def quote(text: str | None) -> str:
    """Return a string as strace prints it."""
    if text is None:
        return "NULL"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
