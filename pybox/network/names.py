"""The hosts files by which containers on one network find each other. hosts(5)

    <state>/ID/hosts    shown as /etc/hosts in the container, read-only: its own lines, a mark, and a line for each neighbour

They are rewritten in place, under one lock, whenever a container comes or goes: the mount in the container is of that very file. So
there is no resolver, and nothing that has to run.
"""

from __future__ import annotations

import os
from fcntl import LOCK_EX, flock

from pybox.dirs import ensure
from pybox.host import read
from pybox.network import pool
from pybox.network.pool import Lease

MARK = "# on its networks, kept by pybox:\n"


def own_lines(more: list[tuple[str, str]]) -> str:
    """Return a container's own part of its hosts file; ``more`` are (name, address)."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    return "".join(f"{line}\n" for line in (*lines, *(f"{address}\t{name}" for name, address in more))) + MARK


def refresh(state: str, changed: tuple[str, ...]) -> None:
    """Rewrite the hosts files of all containers on networks where somebody came or went. Raises OSError."""
    lock = os.open(ensure(f"{state}/net"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flock(lock, LOCK_EX)
        places = pool.all_leases(state)
        touched = {one.identity for one in places if one.network in changed}
        # who is on another network, too, keeps the neighbours there
        needed = {one.network for one in places if one.identity in touched}
        texts = {name: "".join(_lines(one) for one in places if one.network == name) for name in needed}
        for identity in touched:
            on = dict.fromkeys(one.network for one in places if one.identity == identity)
            _rewrite(f"{state}/{identity}/hosts", "".join(texts[name] for name in on))
    finally:
        os.close(lock)


def _lines(one: Lease) -> str:
    shown = " ".join((*one.names, one.identity))
    line = f"{one.address}\t{shown}\n"
    return line + f"{one.address6}\t{shown}\n" if one.address6 else line


def _rewrite(path: str, members: str) -> None:
    head, mark, before = read(path).partition(MARK)
    if not mark or before == members:
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:  # it has ended meanwhile
        return
    try:
        data = (head + mark + members).encode()
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)
