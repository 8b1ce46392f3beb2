"""Steps that hand a part of the cgroup2 tree to a container, whose init sorts its services into groups of their own there."""

from __future__ import annotations

import os

from pybox.host import read
from pybox.steps.base import Desk, HostStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.seen import Seen

_FILES = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")  # cgroups(7), delegation


class DelegateGroup(HostStep):
    """Make a group below the container's, with the same controllers, and give it to the container's root.

    The limits are on the group above, which the container does not see: a group's own limits are for its parent to set, so what
    the container writes in its part can only make them narrower. Its process 1 is born in here.
    """

    call: ClassVar[str] = "mkdir"
    man: ClassVar[str] = "cgroups(7)"
    parent: str
    path: str
    owner: int | None = None  # the outside id of the container's root, when that is not the caller
    slot: str = "cgroup"

    def describe(self) -> str:
        return f"make {self.path} and give it to the container"

    def calls(self) -> tuple[str, ...]:
        given = () if self.owner is None else (f'chown("{self.path}", {self.owner}, {self.owner})',)
        return (f'write("{self.parent}/cgroup.subtree_control", "+...")', f'mkdir("{self.path}", 0755)', *given)

    def apply(self, desk: Desk) -> None:
        parent, path = desk.named(self.parent), desk.named(self.path)
        for controller in read(f"{parent}/cgroup.controllers").split():
            _enable(parent, controller)
        os.mkdir(path, 0o755)
        if self.owner is not None:
            # what the kernel says may be given away; cgroups of Linux 4.15 and later have such a list
            for name in ("", *(read("/sys/kernel/cgroup/delegate").split() or _FILES)):
                if os.path.exists(f"{path}/{name}"):
                    os.chown(f"{path}/{name}", self.owner, self.owner)
        desk.fds[self.slot] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def check(self, seen: Seen) -> bool:
        return f"{seen.identity}/{os.path.basename(self.path)}" in seen.file("cgroup")


def _enable(group: str, controller: str) -> None:
    """Let the groups below have a controller. One that can't be is no harm: the container's init sees which it has."""
    fd = os.open(f"{group}/cgroup.subtree_control", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, f"+{controller}".encode())
    except OSError:
        pass
    finally:
        os.close(fd)
