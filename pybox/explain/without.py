"""`run --without pid`: a container that lacks one of its walls, to see what the wall was for.

Only what the host survives: without a mount namespace every mount of the plan would be made on the host itself.
"""

from __future__ import annotations

from pybox.errors import SpecError
from pybox.record import Record
from pybox.spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Loss(Record):
    """What is lost without one part: the change to a Spec, what one sees then, and why."""

    changes: tuple[tuple[str, object], ...]
    lost: str
    why: str


LOSSES = {
    "pid": Loss(
        (("pid", "host"),),
        "it sees the host's processes, and could signal those of its own user",
        "a fresh /proc shows the PID namespace of who mounts it; without an own one it is the host's: pid_namespaces(7)",
    ),
    "net": Loss(
        (("network", "host"),),
        "it uses the host's interfaces, ports and abstract unix sockets",
        "sockets belong to the network namespace they are made in: network_namespaces(7)",
    ),
    "uts": Loss(
        (("uts", "host"),), "its host name is the host's", "the name is a property of the UTS namespace: uts_namespaces(7)"
    ),
    "ipc": Loss(
        (("ipc", "host"),),
        "System V objects, message queues and /dev/shm are the host's",
        "they are found by numbers and names that an IPC namespace keeps apart: ipc_namespaces(7)",
    ),
    "seccomp": Loss(
        (("seccomp", "unconfined"),),
        "every system call reaches the kernel, with all bugs that are in them",
        "a capability check comes after the code that parses the arguments, a filter before: seccomp(2)",
    ),
    "caps": Loss(
        (("cap_add", ("ALL",)), ("cap_drop", ())),
        "its root has all capabilities that pybox has",
        "uid 0 is only a number: what root may do is its capability sets: capabilities(7)",
    ),
    "no-new-privileges": Loss(
        (("no_new_privs", False),),
        "set-user-ID programs of the image give their owner's rights",
        "exec may grant more than its caller has, unless that was given up for good: prctl(2)",
    ),
    "init": Loss(
        (("init", False),),
        "the command is process 1: signals that it has no handler for are ignored, orphans stay zombies",
        "the kernel spares process 1 of a PID namespace the default action of signals: pid_namespaces(7)",
    ),
}
_REFUSED = {
    "mount": "every mount, and the change of root, would be made on the host itself: mount_namespaces(7)",
    "user": "with no user namespace a plain user may make none of the others, and root has none unless --userns says so: user_namespaces(7)",
    "cgroup": "limits are asked for one by one: leave out -m, --cpus and --pids-limit",
}


def without(spec: Spec, words: Sequence[str]) -> Spec:
    """Return the Spec without some of its parts. Raises SpecError for what would touch the host, or is none."""
    for word in words:
        if word in _REFUSED:
            raise SpecError("without", word, _REFUSED[word])
        if word not in LOSSES:
            raise SpecError("without", word, "must be one of " + " ".join(LOSSES))
        spec = spec.replace(**dict(LOSSES[word].changes))
    return spec
