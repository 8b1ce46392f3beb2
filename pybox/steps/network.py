"""Steps on the network: a namespace with nothing but a loopback interface, made beforehand or by the clone."""

from __future__ import annotations

from pybox import native
from pybox.steps.base import ChildStep, Desk, HostStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.lowering import Table
    from pybox.seen import Seen


class MakeNetwork(HostStep):
    """Make the container's network namespace: no interface of the host's, only a loopback of its own, which is switched on.

    It is a third of what the kernel charges for a container and needs nothing of the job, so a thread of pybox makes it
    beforehand, while the run is planned or the one before is running. The fd keeps it until the new process has entered it.
    A program that runs many jobs gets it back, where nobody can have left a trace in it: see csrc/spare.c.
    """

    call: ClassVar[str] = "unshare"
    man: ClassVar[str] = "network_namespaces(7)"

    def describe(self) -> str:
        return "make a network namespace with a loopback interface"

    def calls(self) -> tuple[str, ...]:
        return (
            "unshare(CLONE_NEWNET)",
            "socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE)",
            'ioctl(<fd>, SIOCSIFFLAGS, {ifr_name="lo", ifr_flags=IFF_UP})',
            "ioctl(<fd>, SIOCGSKNS, NULL)",
        )

    def apply(self, desk: Desk) -> None:
        desk.fds["netns"], desk.network = native.take_network()

    def check(self, seen: Seen) -> bool:
        return _only_loopback(seen)


class EnterNetwork(ChildStep):
    """Enter the network namespace that was made for it. From here on it sees a loopback interface of its own and nothing else."""

    call: ClassVar[str] = "setns"
    man: ClassVar[str] = "network_namespaces(7)"

    def describe(self) -> str:
        return "enter the network namespace"

    def calls(self) -> tuple[str, ...]:
        return ("setns(<netns>, CLONE_NEWNET)",)

    def lower(self, table: Table) -> None:
        table.row("PB_SETNS", fd=table.slot("netns"), x=table.flags(("CLONE_NEWNET",)))

    def check(self, seen: Seen) -> bool:
        return seen.private("net")


class LoopbackUp(ChildStep):
    """Switch on the loopback interface. A new network namespace has nothing else, and even that is down."""

    call: ClassVar[str] = "ioctl"
    man: ClassVar[str] = "netdevice(7)"

    def describe(self) -> str:
        return "bring up the loopback interface"

    def calls(self) -> tuple[str, ...]:
        return (
            "socket(AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, IPPROTO_IP)",
            'ioctl(<fd>, SIOCSIFFLAGS, {ifr_name="lo", ifr_flags=IFF_UP})',
        )

    def lower(self, table: Table) -> None:
        table.row("PB_LOOPBACK")

    def check(self, seen: Seen) -> bool:
        return _only_loopback(seen)


def _only_loopback(seen: Seen) -> bool:
    """Return whether a container has no interface but a loopback that is up."""
    interfaces = [line.split(":")[0].strip() for line in seen.file("net/dev").splitlines()[2:]]
    return interfaces == ["lo"] and not seen.file("net/route").splitlines()[1:] and "127.0.0.1" in seen.file("net/fib_trie")
