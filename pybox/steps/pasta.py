"""The step that connects a plain user's container: by a program of his own, for interfaces of the host are not his to make."""

from __future__ import annotations

from pybox.errors import SpecError
from pybox.netspec import Port, parse_ports
from pybox.network import pasta
from pybox.spec import Net
from pybox.steps.base import Desk, HostStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.seen import Seen


class RunPasta(HostStep):
    """Start pasta, which makes an interface in the container's network namespace and carries what comes out of it to the world.

    It opens a connection of the user's own for each of the container's: no rights are needed, and no more can be reached than
    any program of the user's reaches. The host's own 127.0.0.1 is not among it.
    """

    call: ClassVar[str] = "execve"
    man: ClassVar[str] = "pasta(1)"
    pid_file: str
    ports: tuple[Port, ...]

    def describe(self) -> str:
        return "start pasta, the container's way to the network"

    def calls(self) -> tuple[str, ...]:
        line = pasta.words(self.ports, self.pid_file, "/proc/self/fd/200", "/proc/self/fd/201")
        return (f'execve("{pasta.PROGRAM}", [{", ".join(line)}], ...)',)

    def leaves(self) -> tuple[tuple[str, str], ...]:
        return (("pasta", self.pid_file),)

    def apply(self, desk: Desk) -> None:
        pasta.start(self.ports, desk.named(self.pid_file), desk.fds["userns"], desk.fds["netns"])

    def check(self, seen: Seen) -> bool:
        return "eth0:" in seen.file("net/dev")


def checked(network: str, net: Net, pid_file: str) -> RunPasta:
    """Return the step. Raises SpecError for what needs root."""
    if network != "pybox":
        raise SpecError("network", network, "is for root: a plain user has `pybox` only", "it is the way out, without neighbours")
    refused = (
        ("ip", net.ip),
        ("mac-address", net.mac),
        ("allow-net", net.allow),
        ("net-rate", net.rate),
        ("publish-all", net.publish_all),
    )
    for option, value in refused:
        if value:
            raise SpecError(option, "", "can't be enforced for a plain user's container", "run it as root")
    if any(word.endswith(":host-gateway") for word in net.hosts):
        raise SpecError("add-host", "host-gateway", "a plain user's container does not reach the host")
    return RunPasta(pid_file, parse_ports(net.ports))
