"""What the machine's own start and end mean for containers: docs/pybox.service runs both through `pybox boot`.

A shutdown is not a `stop`: nobody has said that a container shall not run. So it goes by the monitor, which then starts nothing again.
Monitors hear it from systemd as well, where they are in the unit's control group; but on a hybrid host the containers are in there with
them, and systemd would send each of their processes SIGTERM, whatever the stop signal of the container is.
"""

from __future__ import annotations

import os

from pybox import joining, kept, lifecycle, listing
from pybox.dirs import Dirs
from pybox.errors import PyboxError, StateError
from pybox.kernel.freezer import thaw
from pybox.listing import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_AT_BOOT = ("always", "unless-stopped")  # restart policies


def arrive(dirs: Dirs) -> Iterator[tuple[Entry, PyboxError | None]]:
    """Start what is to run whenever the machine does: restart policy always, or unless-stopped and nobody has stopped it."""
    for entry in listing.entries(dirs):
        if entry.alive or entry.status == "created":
            continue
        try:
            policy = _policy(dirs, entry)
            if policy not in _AT_BOOT or (policy == "unless-stopped" and kept.is_stopped(dirs, entry.identity)):
                continue
            lifecycle.start(dirs, entry.identity)
            yield entry, None
        except PyboxError as error:
            yield entry, error
        except OSError as error:
            yield entry, PyboxError(f"container {entry.identity}: {error.strerror}: {error.filename or ''}")


def leave(dirs: Dirs, grace: float = lifecycle.GRACE) -> Iterator[tuple[Entry, PyboxError | None]]:
    """End what `arrive` starts, as when the machine goes down: nobody has stopped it, so the next boot starts it again.

    All monitors are told before the first is waited for; what has not ended after ``grace`` seconds is killed.
    """
    from time import monotonic

    told = []
    for entry in listing.entries(dirs):
        try:
            if entry.alive and _policy(dirs, entry) in _AT_BOOT:
                told.append((entry, _tell_monitor(entry)))
        except PyboxError as error:
            yield entry, error
    deadline = monotonic() + grace
    for entry, pid in told:
        yield entry, _await_end(dirs, entry, pid, deadline)


def _await_end(dirs: Dirs, asked: Entry, told: int | None, deadline: float) -> StateError | None:
    from time import monotonic

    while not listing.wait_for_owner(asked.path, 0.05):
        entry = listing.load(dirs, asked.identity, asked.name)
        if entry is None:
            break
        if entry.pid is None or entry.pid != told:  # it was just between two runs, where nobody could be told
            told = _tell_monitor(entry)
        now = monotonic()
        if now > deadline + lifecycle.PATIENCE:
            return StateError(f"container {entry.identity} does not end", "a process of it may hang in the kernel")
        if now > deadline:
            try:
                lifecycle.signal(entry, 9)
            except StateError:  # it was quicker
                pass
    return None


def _policy(dirs: Dirs, entry: Entry) -> str:
    what = kept.load(dirs, entry.identity)
    return what.restart if what is not None else "no"


def _tell_monitor(entry: Entry) -> int | None:
    """Send a monitor SIGTERM: it passes the stop signal on, and starts nothing again (csrc/monitor.c).

    Returns the pid of the container's process 1 that hears it; None when that, or the monitor, is not there right now.
    """
    from signal import SIGTERM, pidfd_send_signal
    from socket import SO_PEERCRED, SOL_SOCKET
    from struct import unpack

    try:
        with joining.connect(entry.path) as connection:  # it knows the monitor also while that waits for the next start
            fd = os.pidfd_open(unpack("3i", connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))[0])
        try:
            if listing.owner_lives(entry.path):  # so the number was still the monitor's when it was opened
                pidfd_send_signal(fd, SIGTERM)
                if entry.status == "paused":
                    thaw(entry.groups)  # so that the container can hear it
                return entry.pid
        finally:
            os.close(fd)
    except (OSError, StateError):  # it was quicker
        pass
    return None
