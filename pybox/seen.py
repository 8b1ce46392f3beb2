"""Seen: what the kernel shows of a process, from outside. Post-conditions of steps and `pybox inspect` read it."""

from __future__ import annotations

import os

from pybox.host import lines_of, read
from pybox.native import named
from pybox.record import Record


class MountSeen(Record):
    """A line of /proc/PID/mountinfo, proc_pid_mountinfo(5)."""

    number: str
    device: str  # "8:1"
    root: str
    target: str
    options: frozenset[str]
    peers: tuple[str, ...]  # "shared:1", "master:2"
    fstype: str
    source: str
    super_options: frozenset[str]

    @property
    def shared(self) -> bool:
        """Whether what is mounted below it is seen in other namespaces."""
        return any(peer.startswith("shared:") for peer in self.peers)


def mounts(text: str) -> list[MountSeen]:
    """Return the mounts that a mountinfo file lists, in the order they were made."""
    found = []
    for line in lines_of(text):
        left, _, right = line.partition(" - ")
        number, _, device, root, target, options, *peers = left.split(" ")
        fstype, source, super_options = right.split(" ", 2)
        found.append(
            MountSeen(
                number,
                device,
                _unescaped(root),
                _unescaped(target),
                frozenset(options.split(",")),
                tuple(peers),
                fstype,
                _unescaped(source),
                frozenset(super_options.split(",")),
            )
        )
    return found


class Seen:
    """A live process, looked at through /proc/PID. Reads again at each question: nothing is cached, so nothing is stale."""

    def __init__(self, pid: int, identity: str = "") -> None:
        self.pid = pid
        self.identity = identity

    def file(self, name: str) -> str:
        """Return the text of /proc/PID/name, "" when it is gone."""
        return read(f"/proc/{self.pid}/{name}")

    def status(self, field: str) -> str:
        """Return a field of /proc/PID/status, e.g. ``CapEff``; "" when absent."""
        for line in self.file("status").splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return value.strip()
        return ""

    def namespace(self, kind: str) -> str:
        """Return the identity of a namespace: ``mnt:[4026531841]``; "" when it can't be read."""
        try:
            return os.readlink(f"/proc/{self.pid}/ns/{kind}")
        except OSError:
            return ""

    def private(self, kind: str) -> bool:
        """Return whether a namespace is another one than ours."""
        theirs = self.namespace(kind)
        return theirs not in ("", os.readlink(f"/proc/self/ns/{kind}"))

    def mounts(self) -> list[MountSeen]:
        """Return the mounts of its namespace, in the order they were made."""
        return mounts(self.file("mountinfo"))

    def mount(self, target: str) -> MountSeen | None:
        """Return the topmost mount on a target, None when there is none."""
        found = [mount for mount in self.mounts() if mount.target == target]
        return found[-1] if found else None

    def inside(self, path: str) -> str:
        """Return the host's name of a path of the container. Only for looking: a hostile container may put symlinks there."""
        return f"/proc/{self.pid}/root{'/' if path == '.' else path}"

    def named(self, text: str) -> str:
        """Put the container's id where a plan has its token."""
        return named(text, self.identity)


def _unescaped(text: str) -> str:
    for escape, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escape, char)
    return text
