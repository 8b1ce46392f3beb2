"""A container that runs now, held on to: so that what is read of it under /proc is its own and not that of another process.

A pid is a number that is used again. So a pidfd is opened first and believed second: only if the container's owner still holds its
lock, and the process is that owner's child, is the number not somebody else's by now. Whoever has read something asks ``still``
before it believes it.
"""

from __future__ import annotations

import posix as os
from select import POLLIN, poll

from pybox import listing
from pybox.dirs import Dirs
from pybox.errors import StateError
from pybox.host import read
from pybox.listing import Entry
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.kernel.usage import Groups

RUNNING = ("running", "paused")


class Live(Record):
    """A running container; ``pid`` is its process 1 on the host, and stays so for as long as ``pidfd`` says that it lives."""

    identity: str
    pid: int
    pidfd: int
    groups: Groups

    def still(self) -> bool:
        """Return whether process 1 lives: then what was read of it until now was its own."""
        watch = poll()
        watch.register(self.pidfd, POLLIN)
        return not watch.poll(0)


def running(dirs: Dirs, word: str) -> Entry:
    """Return the record of a container that runs. Raises StateError."""
    entry = listing.find(dirs, word)
    if entry.status not in RUNNING or entry.pid is None:
        raise not_running(entry)
    return entry


def not_running(entry: Entry) -> StateError:
    """Return the error for a container that should run and does not."""
    new = "it is just being started" if entry.alive else "it has not been started yet"
    how = {"created": new, "dead": "its pybox was killed"}.get(entry.status, f"it is {entry.status}")
    return StateError(f"container {entry.identity} is not running: {how}", "`pybox ps` lists those that run")


def pidfd(entry: Entry) -> int:
    """Return a pidfd of a container's process 1. Raises StateError when it does not run (any more)."""
    if entry.pid is None:
        raise not_running(entry)
    try:
        fd = os.pidfd_open(entry.pid)
    except ProcessLookupError:
        raise _just_ended(entry) from None
    parent = read(f"/proc/{entry.pid}/stat").rpartition(")")[2].split()[1:2]
    if parent != [str(entry.journal.get("owner"))] or not listing.owner_lives(entry.path):
        os.close(fd)
        raise _just_ended(entry)
    return fd


def _just_ended(entry: Entry) -> StateError:
    return StateError(f"container {entry.identity} is not running: it has just ended", "`pybox ps` lists those that run")


class Held:
    """Holds on to a running container for as long as the `with` block lasts. A class, for contextlib is a tenth of an exec."""

    def __init__(self, entry: Entry) -> None:
        """Take hold. Raises StateError when it does not run any more."""
        fd = pidfd(entry)
        assert entry.pid is not None
        self._live = Live(entry.identity, entry.pid, fd, entry.groups)

    def __enter__(self) -> Live:
        return self._live

    def __exit__(self, *_: object) -> None:
        os.close(self._live.pidfd)


def held(dirs: Dirs, word: str) -> Held:
    """Hold on to a running container. Raises StateError."""
    return Held(running(dirs, word))
