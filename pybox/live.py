"""A container that runs now, held on to: so that what is read of it under /proc is its own and not that of another process.

A pid is a number that is used again. So first a pidfd is opened, then the owner's lock is asked for once more: while the owner lives,
it has not let go of the pid. Whoever has read something asks ``still`` before it believes it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from select import POLLIN, poll

from pybox import state
from pybox.dirs import Dirs
from pybox.errors import StateError
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

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


def groups_of(entry: state.Entry) -> Groups:
    """Return (controller, directory) of the control groups of a container; of an older pybox's, none."""
    rows = entry.journal.get("groups")
    if not isinstance(rows, list):
        return ()
    return tuple((str(row[0]), str(row[1])) for row in rows if isinstance(row, list) and len(row) == 2)


def running(dirs: Dirs, word: str) -> state.Entry:
    """Return the record of a container that runs. Raises StateError."""
    entry = state.find(dirs, word)
    if entry.status not in RUNNING or entry.pid is None:
        raise not_running(entry)
    return entry


def not_running(entry: state.Entry) -> StateError:
    """Return the error for a container that should run and does not."""
    how = {"created": "it is just being started", "dead": "its pybox was killed"}.get(entry.status, f"it is {entry.status}")
    return StateError(f"container {entry.identity} is not running: {how}", "`pybox ps` lists those that run")


@contextmanager
def held(dirs: Dirs, word: str) -> Iterator[Live]:
    """Hold on to a running container. Raises StateError."""
    entry = running(dirs, word)
    assert entry.pid is not None
    try:
        pidfd = os.pidfd_open(entry.pid)
    except ProcessLookupError:
        raise StateError(f"container {entry.identity} is not running: it has just ended") from None
    try:
        again = running(dirs, entry.identity)
        if again.pid != entry.pid:
            raise StateError(f"container {entry.identity} is just being started again")
        yield Live(entry.identity, entry.pid, pidfd, groups_of(entry))
    finally:
        os.close(pidfd)
