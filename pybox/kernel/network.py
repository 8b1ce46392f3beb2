"""The network of a container that asked for one: which steps, in which order. Loaded for no other.

address, then interfaces, then ports and allow-list: nothing runs yet, so nothing gets out between two of them.
"""

from __future__ import annotations

from pybox.errors import SpecError
from pybox.host import read
from pybox.kernel.inputs import Inputs
from pybox.netspec import Port, family, network_names, parse_ports
from pybox.network import networks, pasta
from pybox.network.networks import Network
from pybox.steps.base import HostStep
from pybox.steps.wiring import BringUpBridge, Fence, JoinNetwork, LeaseAddress, LimitRate, PlugIn, PublishPorts, WriteHosts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.dirs import Dirs
    from pybox.host import Facts
    from pybox.spec import Spec


def prepare(given: Inputs) -> Iterator[HostStep]:
    """Yield what connects it. Raises SpecError for what can't be on this host."""
    spec, net = given.spec, given.spec.net
    if spec.network.startswith("container:"):
        if given.userns:
            raise SpecError("network", spec.network, "can't be together with a user namespace", "leave --userns out, as root")
        yield JoinNetwork(given.dirs, spec.network.removeprefix("container:"))
        return
    if not given.facts.root:
        from pybox.steps.pasta import checked

        yield checked(spec.network, net, f"{given.dirs.state}/CONTAINER-ID/pasta.pid")
        return
    on = given.networks
    wanted = _place(on[0], net.ip)
    for network in on:
        yield BringUpBridge(given.dirs, network)
    for position, network in enumerate(on):
        first = position == 0
        yield LeaseAddress(given.dirs, network, position, wanted if first else 0, (spec.hostname,), net.mac if first else "")
    out = next((position for position, network in enumerate(on) if not network.internal), 0)
    for position, network in enumerate(on):
        first = position == out
        yield PlugIn(
            given.dirs.state,
            network,
            position,
            way_out=first,
            way_out6=first and given.forwards6 and bool(network.subnet6),
        )
        if net.rate is not None:
            yield LimitRate(position, net.rate)
    ports = (*parse_ports(net.ports), *(_exposed(given) if net.publish_all else ()))
    if ports:
        yield PublishPorts(given.dirs, on[out], ports)
    if net.allow:
        yield Fence(given.dirs, on, net.allow)
    yield WriteHosts(given.dirs, tuple(network.name for network in on), on[0].at(1, 4), net.hosts)


def _place(network: Network, wanted: tuple[str, ...]) -> int:
    """Return the place that --ip asks for: IPv4 and IPv6 of one container have the same. Raises SpecError."""
    places = {network.place(address) for address in wanted}
    if len(places) > 1:
        raise SpecError("ip", " ".join(wanted), "the two have different places in their subnets", "give one of them only")
    return places.pop() if places else 0


def _exposed(given: Inputs) -> tuple[Port, ...]:
    found = []
    for word in given.image.config.ports:
        number, _, protocol = word.partition("/")
        if number.isascii() and number.isdigit() and 1 <= int(number) <= 65535 and protocol in ("", "tcp", "udp"):
            found.append(Port("", 0, int(number), protocol or "tcp"))
    return tuple(found)


def joined(dirs: Dirs, spec: Spec, facts: Facts) -> tuple[Network, ...]:
    """Return the networks that a container is to be on; a plain user's are not the host's.

    Raises StateError for one that is none, PyboxError for a plain user without pasta.
    """
    names = network_names(spec.network)
    if facts.root:
        return tuple(networks.load(dirs, name) for name in names)
    if names:
        pasta.find()
    return ()


def forwards6() -> bool:
    """Return whether this host forwards IPv6: a container with a route to nowhere waits for each address it tries."""
    return read("/proc/sys/net/ipv6/conf/all/forwarding").strip() == "1"


def resolvers(spec_dns: tuple[str, ...]) -> str:
    """Return the resolv.conf of a container: what was asked for, else those of the host that can be reached from inside."""
    if spec_dns:
        return "".join(f"nameserver {address}\n" for address in spec_dns)
    own = read("/etc/resolv.conf")
    lines = [line for line in own.splitlines() if line.split()[:1] in (["nameserver"], ["search"], ["options"], ["domain"])]
    servers = [line for line in lines if line.startswith("nameserver")]
    local = [line for line in servers if _is_loopback(([*line.split(), ""])[1])]
    if local and len(local) == len(servers):  # systemd-resolved listens on the host's loopback, and has the real ones here
        lines = [line for line in read("/run/systemd/resolve/resolv.conf").splitlines() if not line.startswith("#")]
    lines = [line for line in lines if not _is_loopback(([*line.split(), "", ""])[1])]
    text = "".join(f"{line}\n" for line in lines if line)
    return text if "nameserver" in text else "# no name server of the host can be reached from here: pybox run --dns\n" + text


def _is_loopback(address: str) -> bool:
    return (family(address) == 4 and address.startswith("127.")) or address == "::1"
